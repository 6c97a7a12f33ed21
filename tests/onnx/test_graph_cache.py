"""Optimized graphs are kept for next time, change no result, and are never needed."""

import os
import stat
import threading
import time

import numpy as np
import pytest

from varfix.engine.errors import ModelContractError
from varfix.onnx.inference import graph_cache as warm
from varfix.onnx.inference.graph_cache import start_cached
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

TILE = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of the test's own, in which even small graphs are worth their place."""
    monkeypatch.setattr(warm, "_WORTHWHILE", range(1, 1 << 20))
    monkeypatch.setattr(warm, "graph_cache_folder", lambda: tmp_path / "cache" / "graphs")
    return tmp_path / "cache" / "graphs"


@pytest.fixture
def model(shelf):
    nodes = [("Mul", ["tile", "c2"], ["x"], {}), ("Sigmoid", ["x"], ["restored"], {})]
    return shelf.restore(nodes=nodes)


def results(model, **dims):
    return start(model, SessionPlan(CPU, dims)).run(["restored"], {"tile": TILE})[0]


def test_the_second_start_reads_what_the_first_has_kept_and_computes_the_same(
    model, sources, folder
):
    first, second = results(model), results(model)
    np.testing.assert_array_equal(first, second)
    assert [source.optimized for source in sources] == [False, True]
    assert sources[1].graph.parent == folder
    assert model != sources[1].graph


def test_nothing_but_finished_graphs_stays(model, folder):
    results(model)
    assert [path.suffix for path in folder.iterdir()] == [".onnx"]


def test_another_graph_size_or_runtime_has_a_kept_graph_of_its_own(model, shelf, folder, sources):
    results(model)
    results(model, height=16, width=16)
    results(shelf.restore("other.onnx"))
    assert len(list(folder.iterdir())) == 3
    assert not any(source.optimized for source in sources)


def test_the_same_graph_under_another_name_is_the_same(model, sources):
    results(model)
    results(model.rename(model.with_name("renamed.onnx")))
    assert sources[-1].optimized


@pytest.mark.parametrize("damage", [b"", b"not a graph", b"\x08\x07"])
def test_a_damaged_one_is_made_again(model, folder, sources, damage):
    expected = results(model)
    (kept,) = folder.iterdir()
    kept.write_bytes(damage)
    np.testing.assert_array_equal(results(model), expected)
    results(model)
    assert sources[-1].optimized


def test_where_the_folder_cannot_be_made_sessions_start_as_ever(model, folder, sources):
    folder.parent.write_text("a file in its place")
    expected = results(model)
    np.testing.assert_array_equal(results(model), expected)
    assert not any(source.optimized or source.keep for source in sources)


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere"
)
def test_where_the_folder_may_not_be_written_sessions_start_as_ever(model, folder, sources):
    folder.mkdir(parents=True)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    results(model)
    assert not any(source.keep for source in sources)


def test_a_nearly_full_disk_is_left_alone(model, folder, monkeypatch, sources):
    monkeypatch.setattr(warm, "_ROOM", 1 << 60)
    results(model)
    assert list(folder.iterdir()) == []


def test_a_graph_that_cannot_be_written_down_starts_all_the_same(model, folder):
    def begin(source):
        if source.keep is not None:
            source.keep.write_bytes(b"half of it")
            raise RuntimeError("this provider's graphs cannot be saved")
        return source

    assert start_cached(model, list, begin).keep is None
    assert list(folder.iterdir()) == []


def test_a_broken_model_is_refused_as_without_a_cache(shelf, folder):
    path = shelf.folder / "broken.onnx"
    path.write_bytes(shelf.restore().read_bytes()[:40])
    with pytest.raises(ModelContractError):
        start(path, SessionPlan(CPU))
    assert not folder.exists() or list(folder.iterdir()) == []


def test_many_that_start_at_once_keep_one(model, folder):
    expected, found = results(model), []
    (kept,) = folder.iterdir()
    kept.unlink()
    threads = [
        threading.Thread(target=lambda: found.append(results(model)), daemon=True) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 6
    assert all(np.array_equal(result, expected) for result in found)
    assert list(folder.iterdir()) == [kept]


def test_what_was_not_used_for_longest_goes_first(model, folder, monkeypatch):
    monkeypatch.setattr(warm, "_KEPT", 2)
    results(model)
    (kept,) = folder.iterdir()
    for age, name in ((500, "old.onnx"), (100, "young.onnx"), (10**6, ".lost.part")):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (time.time() - age,) * 2)
    os.utime(kept, (time.time() - 1000,) * 2)
    results(model)  # used again: not the oldest any more
    results(model, height=16, width=16)
    names = {path.name for path in folder.iterdir()}
    assert kept.name in names
    assert len(names) == 2
    assert not names & {"old.onnx", "young.onnx", ".lost.part"}


@pytest.mark.parametrize("size", [100, 1 << 30])
def test_graphs_that_start_at_once_or_are_huge_are_not_kept(model, folder, monkeypatch, size):
    monkeypatch.setattr(warm, "_WORTHWHILE", range(1 << 20, 256 << 20))
    with model.open("r+b") as file:
        file.truncate(size)
    assert start_cached(model, list, lambda source: source) == warm.GraphSource(model)
    assert not folder.exists()
