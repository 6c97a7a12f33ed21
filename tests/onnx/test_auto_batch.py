"""The batch on a GPU comes from memory: measured once, load_line, fitted to what is free."""

import numpy as np
import pytest
from support.sessions import CUDA, Faulty, noise, restorer_of

from varfix.onnx.inference import auto_batch as batching
from varfix.onnx.inference.auto_batch import MemoryLine, measured_batch
from varfix.onnx.inference.hardware import Gpu

TOTAL = 16000


@pytest.fixture(autouse=True)
def book(tmp_path, monkeypatch):
    path = tmp_path / "cache" / "batches.json"
    monkeypatch.setattr(batching, "measurements_path", lambda: path)
    return path


class Card(Faulty):
    """A GPU whose memory fills with what runs on it, and stays taken as in an arena."""

    def __init__(self, base=300, each=500, free=8000, **facts):
        super().__init__(message="Failed to allocate memory", **facts)
        self.base, self.each, self.free, self.taken, self.asked = base, each, free, 0, 0

    def run(self, names, feeds):
        results = super().run(names, feeds)
        self.taken = max(self.taken, self.base + self.each * len(feeds["tile"]))
        return results

    def look(self, index):
        self.asked += 1
        return Gpu("GPU", self.free - self.taken, TOTAL)


def restorer_on(shelf, gpu):
    restorer, codes = restorer_of(shelf, gpu, batch=4)
    restorer._card = shelf.card(sha256="abc")
    return restorer, codes


@pytest.mark.parametrize(
    ("line", "free", "batch"),
    [
        (MemoryLine(800, 1300), 8000, 8),
        (MemoryLine(800, 1300), 100_000, 32),
        (MemoryLine(800, 1300), 900, 1),
        (MemoryLine(800, 1300), 0, 1),
        (MemoryLine(1, 1), 8000, 32),
    ],
)
def test_the_batch_is_the_largest_power_of_two_that_fits(line, free, batch):
    assert line.largest(free) == batch


def test_what_one_and_two_tiles_take_decides(shelf):
    gpu = Card()
    restorer, _ = restorer_on(shelf, gpu)
    assert measured_batch(restorer, CUDA, gpu.look) == 8
    assert gpu.batches == [1, 2]


def test_it_is_measured_once_and_then_fitted_to_what_is_free(shelf):
    first, later = Card(), Card(free=3000)
    measured_batch(restorer_on(shelf, first)[0], CUDA, first.look)
    assert measured_batch(restorer_on(shelf, later)[0], CUDA, later.look) == 4
    assert later.batches == []


def test_another_model_or_gpu_is_measured_by_itself(shelf):
    first, other = Card(), Card()
    measured_batch(restorer_on(shelf, first)[0], CUDA, first.look)
    restorer, _ = restorer_on(shelf, other)
    restorer._card = shelf.card(sha256="def")
    measured_batch(restorer, CUDA, other.look)
    assert other.batches == [1, 2]


@pytest.mark.parametrize("most", [0, 1])
def test_where_two_do_not_fit_one_is_run_and_nothing_is_remembered(shelf, book, most):
    gpu = Card(most=most)
    restorer, _ = restorer_on(shelf, gpu)
    assert measured_batch(restorer, CUDA, gpu.look) == 1
    assert not book.exists()


def test_the_memory_in_a_card_is_used(shelf):
    gpu = Card()
    restorer, _ = restorer_of(shelf, gpu, batch=16)
    assert restorer.card.vram_mb
    assert measured_batch(restorer, CUDA, gpu.look) == 16
    assert gpu.batches == []


def test_a_silent_driver_changes_nothing(shelf):
    restorer, _ = restorer_on(shelf, Card())
    assert measured_batch(restorer, CUDA, lambda index: None) == 4


@pytest.mark.parametrize("text", ["", "[]", "{", '{"abc/64/fp32/GPU/CUDAExecutionProvider": 3}'])
def test_a_damaged_book_is_measured_anew(shelf, book, text):
    book.parent.mkdir()
    book.write_text(text)
    gpu = Card()
    assert measured_batch(restorer_on(shelf, gpu)[0], CUDA, gpu.look) == 8
    again = Card()
    measured_batch(restorer_on(shelf, again)[0], CUDA, again.look)
    assert again.batches == []


def test_where_nothing_can_be_written_it_is_measured_each_time(shelf, book):
    book.parent.write_text("a file in its place")
    gpu = Card()
    restorer, _ = restorer_on(shelf, gpu)
    assert measured_batch(restorer, CUDA, gpu.look) == 8
    restorer.set_batch(8)
    np.testing.assert_array_equal(restorer.restore(noise(3), None).pixels, noise(3))
