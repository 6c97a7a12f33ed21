"""Several GPUs share every batch, and give what one of them would give."""

import threading

import numpy as np
import pytest
from support.sessions import CUDA, Exhausted, Faulty, noise, restorer_of

from varfix.engine.errors import DeviceMemoryError, NonFiniteError
from varfix.engine.restoration.restorer import Retries
from varfix.onnx.inference.multi_gpu import MultiGpuRestorer
from varfix.onnx.inference.open_model import open_restorer


def spread(shelf, *sessions, batches=(4, 4)):
    crew = [
        restorer_of(shelf, session, batch=batch)[0]
        for session, batch in zip(sessions, batches, strict=True)
    ]
    return MultiGpuRestorer(crew, "cuda:0,1")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("batches", [(4, 4), (6, 2)])
def test_results_come_in_the_order_of_the_tiles(shelf, count, batches):
    tiles = noise(count)
    restorer = spread(shelf, Faulty(), Faulty(), batches=batches)
    assert restorer.batch == 8
    np.testing.assert_array_equal(restorer.restore(tiles, None).pixels, tiles)


def test_tiles_are_dealt_out_by_what_each_can_take(shelf):
    first, second = Faulty(), Faulty()
    spread(shelf, first, second, batches=(6, 2)).restore(noise(8), None)
    assert (first.batches, second.batches) == ([6], [2])


def test_all_work_at_the_same_time(shelf):
    meeting = threading.Barrier(2, timeout=20)

    class Meeting(Faulty):
        def run(self, names, feeds):
            meeting.wait()  # breaks, and fails the test, where one waits for the other
            return super().run(names, feeds)

    spread(shelf, Meeting(), Meeting()).restore(noise(8), None)


def test_a_bad_tile_is_named_by_its_place_among_all(shelf):
    tiles = noise(8)
    restorer = spread(shelf, Faulty(), Faulty(bad=(tiles[6].flat[0],)))
    with pytest.raises(NonFiniteError, match="tile 6") as caught:
        restorer.restore(tiles, None)
    assert caught.value.tile == 6


def test_one_that_runs_out_of_memory_fails_the_batch_and_is_counted(shelf):
    restorer = spread(shelf, Faulty(most=2), Faulty())
    assert restorer.restore(noise(8), None).retries == Retries(oom=1)
    assert restorer.batch == 6
    with pytest.raises(DeviceMemoryError):
        spread(shelf, Faulty(), Exhausted()).restore(noise(8), None)


def test_it_reports_its_devices(shelf, monkeypatch):
    restorer = spread(shelf, Faulty(), Faulty())
    assert restorer.used.requested == "cuda:0,1"
    assert restorer.used.device == "cuda:0,0"  # the doubles all pretend to be the first
    assert restorer.used.provider == CUDA.provider


def test_a_model_opens_on_every_device_named(shelf, on_cuda):
    from varfix.engine.settings.types import Settings

    restorer = open_restorer(str(shelf.restore()), Settings(device="cuda:0,1"))
    assert isinstance(restorer, MultiGpuRestorer)
    assert len(on_cuda) == 2
    tiles = noise(5)
    np.testing.assert_array_equal(restorer.restore(tiles, None).pixels, tiles)
