"""Memory that runs out and values that are no numbers cost time, never a wrong image."""

import numpy as np
import pytest
from support.sessions import ON_CPU, Exhausted, Faulty, noise, restorer_of, text_of

from varfix.engine.errors import DeviceError, DeviceMemoryError, ExitCode, NonFiniteError
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restorer import Retries
from varfix.onnx.inference import memory_guard as guard
from varfix.onnx.inference.hardware import Gpu
from varfix.onnx.inference.open_model import open_restorer
from varfix.onnx.inference.restorer import Graphs, OnnxRestorer, Placement
from varfix.onnx.inference.runtime import CPU
from varfix.onnx.inference.signature import Signature


@pytest.mark.parametrize(
    "message",
    [
        "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer",
        "BFCArena::AllocateRawInternal Available memory of 0 is smaller than requested bytes",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
    ],
)
def test_out_of_memory_errors_halve_the_batch_until_it_fits(shelf, message):
    session = Faulty(most=3, message=message)
    restorer, codes = restorer_of(shelf, session)
    tiles = noise(8)
    restored = restorer.restore(tiles, None)
    assert np.array_equal(restored.pixels, tiles)
    assert session.batches == [8, 4, 2, 2, 2, 2]
    assert restorer.batch == 2
    assert restored.retries == Retries(oom=2)
    assert codes == ["batch_halved", "batch_halved"]


def test_a_batch_that_fits_stays_for_the_next_tiles(shelf):
    session = Faulty(most=4)
    restorer, _ = restorer_of(shelf, session)
    restorer.restore(noise(8), None)
    session.batches.clear()
    assert restorer.restore(noise(8), None).retries == Retries()
    assert session.batches == [4, 4]


def test_a_late_shortage_loses_and_repeats_no_tile(shelf):
    class Later(Faulty):
        def run(self, names, feeds):
            self.most = 4 if not self.batches else 1
            return super().run(names, feeds)

    restorer, _ = restorer_of(shelf, Later(), batch=4)
    tiles = noise(9)
    assert np.array_equal(restorer.restore(tiles, None).pixels, tiles)


def test_no_memory_for_one_tile_is_an_error_with_the_numbers(shelf, monkeypatch):
    monkeypatch.setattr(guard, "find_gpu", lambda index: Gpu("small", 1900, 4000))
    restorer, _ = restorer_of(shelf, Faulty(most=0))
    with pytest.raises(DeviceMemoryError) as caught:
        restorer.restore(noise(8), None)
    assert text_of(caught.value) == (
        "out of GPU memory at batch 1 (tile 64, 0.9 GB needed, 1.9 GB free); "
        "close other programs, or use --device cpu"
    )
    assert caught.value.exit_code == ExitCode.DEVICE


def test_no_memory_on_the_cpu_does_not_blame_a_gpu(shelf):
    restorer, _ = restorer_of(shelf, Faulty(most=0), device=CPU, batch=1)
    with pytest.raises(DeviceMemoryError, match=r"out of memory at batch 1 \(tile 64\)"):
        restorer.restore(noise(1), None)


def test_no_memory_for_the_prior_is_a_device_error_too(shelf):
    graphs = Graphs(Faulty(), Signature("tile", "restored", (), None), prior=Exhausted())
    placement = Placement("cpu", CPU, tile=64, step=64, batch=1)
    restorer = OnnxRestorer(shelf.card(), graphs, placement, lambda code, text: None)
    with pytest.raises(DeviceMemoryError):
        restorer.prior(PriorInput(noise(1, 256)[0], "auto"))


def test_another_failure_of_the_gpu_is_not_taken_for_memory(shelf):
    session = Faulty(most=0, message="CUDA failure 700: an illegal memory access\nstack")
    restorer, codes = restorer_of(shelf, session)
    with pytest.raises(DeviceError, match=r"cuda:0 failed: CUDA failure 700: .*access$"):
        restorer.restore(noise(8), None)
    assert (session.batches, codes) == ([8], [])


def test_a_tile_that_overflows_in_fp16_is_repeated_in_fp32_and_alone(shelf):
    tiles = noise(5)
    half, exact = Faulty(bad=[tiles[3].flat[0]]), Faulty()
    restorer, codes = restorer_of(shelf, exact, half)
    assert restorer.used.precision == "fp16"
    restored = restorer.restore(tiles, None)
    assert np.array_equal(restored.pixels, tiles)
    assert (half.batches, exact.batches) == ([5], [1])
    assert restored.retries == Retries(fp32=1)
    assert codes == ["fp16_overflow"]


def test_after_an_overflow_the_run_continues_in_fp32(shelf):
    tiles = noise(2)
    half, exact = Faulty(bad=[tiles[0].flat[0]]), Faulty()
    restorer, codes = restorer_of(shelf, exact, half)
    restorer.restore(tiles, None)
    restorer.restore(tiles, None)
    assert restorer.used.precision == "fp32"
    assert (half.batches, exact.batches) == ([2], [1, 2])
    assert codes == ["fp16_overflow"]


def test_the_prior_of_the_repeated_tile_goes_with_it(shelf):
    class Shifted(Faulty):
        def run(self, names, feeds):
            (restored,) = super().run(names, feeds)
            return [restored + feeds["prior"].mean(axis=(1, 2, 3), keepdims=True)]

    tiles = noise(3) / 2
    prior = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((1, 2, 4, 4)) / 8
    half = Shifted(bad=[tiles[2].flat[0]])
    restorer, _ = restorer_of(shelf, Shifted(), half)
    expected = tiles + np.arange(3).reshape(3, 1, 1, 1) / 8
    assert np.allclose(restorer.restore(tiles, prior).pixels, expected)


def test_a_tile_invalid_even_in_fp32_fails_and_is_named(shelf):
    tiles = noise(5)
    bad = [tiles[3].flat[0]]
    restorer, _ = restorer_of(shelf, Faulty(bad=bad), Faulty(bad=bad))
    with pytest.raises(NonFiniteError, match="invalid values in tile 3 even in fp32"):
        restorer.restore(tiles, None)


def test_an_invalid_tile_on_fp32_fails_at_once(shelf):
    tiles = noise(2)
    exact = Faulty(bad=[tiles[1].flat[0]])
    restorer, _ = restorer_of(shelf, exact)
    with pytest.raises(NonFiniteError, match="tile 1"):
        restorer.restore(tiles, None)
    assert exact.batches == [2]


def test_a_graph_that_divides_by_zero_fails_instead_of_returning_black(shelf):
    path = shelf.restore(nodes=[("Div", ["tile", "tile"], ["restored"], {})])
    restorer = open_restorer(str(path), ON_CPU)
    tiles = np.stack([np.ones((64, 64, 3), np.float32), np.zeros((64, 64, 3), np.float32)])
    with pytest.raises(NonFiniteError, match="tile 1"):
        restorer.restore(tiles, None)


def test_values_beyond_the_range_are_clipped_not_wrapped(shelf):
    nodes = [
        ("Sub", ["tile", "c1"], ["below"], {}),
        ("Mul", ["below", "c2"], ["far_below"], {}),
        ("Add", ["far_below", "c2"], ["moved"], {}),
        ("Mul", ["moved", "c2"], ["far"], {}),
        ("Sub", ["far", "c1"], ["restored"], {}),  # 4 x - 1
    ]
    restorer = open_restorer(str(shelf.restore(nodes=nodes)), ON_CPU)
    restored = restorer.restore(noise(1), None).pixels
    assert restored.min() == 0.0
    assert restored.max() == 1.0
