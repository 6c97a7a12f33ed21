"""The manifest knows what is done, from what, and by which recipe."""

import errno
import io
import json
import os
import threading

import numpy as np
import pytest
from PIL import Image

from varfix.engine.errors import DiskFullError
from varfix.engine.settings.types import (
    IoSettings,
    ModelSettings,
    OutputSettings,
    Settings,
    TileSettings,
)
from varfix.engine.storage import manifest as module
from varfix.engine.storage.manifest import Entry, Manifest, digest, recipe_of


def png(seed=0, side=12):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.png"
    path.write_bytes(png(1))
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def entry(source, data, dst="a.png", recipe="r1", src="a.png"):
    facts = source.stat()
    return Entry(
        dst, src, facts.st_size, facts.st_mtime_ns, recipe, len(data), digest(data), seconds=0.5
    )


def finish(out, source, data=None, **facts):
    """Write a result and enter it, as a run does."""
    data = png(2) if data is None else data
    one = entry(source, data, **facts)
    manifest = Manifest(out)
    (out / one.dst).write_bytes(data)
    manifest.append(one)
    manifest.close()
    return one


def state(out, source, recipe="r1", dst="a.png"):
    return Manifest(out).state(dst, source.stat() if source else None, recipe)


def test_what_is_not_there_is_missing(out, source):
    assert state(out, source) == "missing"


def test_an_entry_without_its_file_is_missing(out, source):
    finish(out, source)
    (out / "a.png").unlink()
    assert state(out, source) == "missing"


def test_a_result_of_the_same_source_and_recipe_is_done(out, source):
    finish(out, source)
    assert state(out, source) == "done"


def test_another_recipe_makes_it_stale(out, source):
    finish(out, source)
    assert state(out, source, recipe="r2") == "stale"


def test_a_changed_source_makes_it_stale(out, source):
    finish(out, source)
    os.utime(source, ns=(1, 1))
    assert state(out, source) == "stale"


def test_a_source_that_is_gone_makes_it_stale(out, source):
    finish(out, source)
    assert state(out, None) == "stale"


def test_a_file_that_is_not_in_the_manifest_is_foreign(out, source):
    (out / "a.png").write_bytes(b"mine")
    assert state(out, source) == "foreign"


def test_a_folder_in_its_place_is_foreign(out, source):
    (out / "a.png").mkdir()
    assert state(out, source) == "foreign"


def test_a_file_that_grew_is_foreign(out, source):
    finish(out, source)
    (out / "a.png").write_bytes(png(2) + b"more")
    assert state(out, source) == "foreign"


@pytest.mark.parametrize("left", [0, 1, 60, 200])
def test_a_truncated_result_is_missing(out, source, left):
    finish(out, source)
    data = (out / "a.png").read_bytes()
    assert left < len(data)
    (out / "a.png").write_bytes(data[:left])
    assert state(out, source) == "missing"


def test_a_result_that_another_program_made_smaller_is_foreign(out, source):
    """Somebody optimized it: to redo it would replace their work."""
    finish(out, source, png(2, side=40))
    (out / "a.png").write_bytes(png(2, side=8))
    assert state(out, source) == "foreign"


def test_in_place_a_result_is_done_although_the_source_is_gone(out, source):
    finish(out, source)
    result = out / "a.png"
    assert state(out, result) == "done"
    assert state(out, result, recipe="r2") == "stale"


def test_in_place_a_new_picture_of_the_same_size_is_foreign(out, source):
    finish(out, source)
    data = bytearray((out / "a.png").read_bytes())
    data[-20] ^= 1
    (out / "a.png").write_bytes(data)
    assert state(out, out / "a.png") == "foreign"


def test_the_last_entry_for_a_name_counts(out, source):
    finish(out, source, recipe="r1")
    finish(out, source, recipe="r2")
    assert state(out, source, recipe="r2") == "done"
    assert len((out / ".varfix" / "run.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("torn", [b'{"dst": "b.png", "sr', b"\x00\x00\xff", b"5", b"{}", b"[1]"])
def test_a_torn_last_line_is_ignored_and_not_glued_to_the_next(out, source, torn):
    finish(out, source)
    with (out / ".varfix" / "run.jsonl").open("ab") as file:
        file.write(torn)
    assert state(out, source) == "done"
    finish(out, source, dst="b.png")
    assert state(out, source) == "done"
    assert state(out, source, dst="b.png") == "done"


def test_a_line_holds_what_was_promised(out, source):
    finish(out, source)
    line = json.loads((out / ".varfix" / "run.jsonl").read_text())
    facts = source.stat()
    assert line == {
        "dst": "a.png",
        "src": "a.png",
        "size": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        "recipe": "r1",
        "out_size": len(png(2)),
        "out_sha256": digest(png(2)),
        "seconds": 0.5,
    }


def test_names_that_are_no_text_are_remembered(out, source):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        finish(out, source, dst=name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert state(out, source, dst=name) == "done"


def test_threads_do_not_tear_each_others_lines(out, source):
    manifest = Manifest(out)

    def append(worker):
        for number in range(50):
            manifest.append(entry(source, b"data", dst=f"{worker}-{number}.png"))

    threads = [threading.Thread(target=append, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest.close()
    lines = (out / ".varfix" / "run.jsonl").read_text().splitlines()
    assert len({json.loads(line)["dst"] for line in lines}) == 200


def test_a_full_disk_is_told_once_and_closing_is_quiet(out, source, monkeypatch):
    class Full(io.BytesIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.flush()

    monkeypatch.setattr(module, "_open_for_append", lambda path: Full())
    manifest = Manifest(out)
    with pytest.raises(DiskFullError):
        manifest.append(entry(source, b"data"))
    manifest.close()


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 5, (2 << 20) + 5])
def test_the_digest_is_of_the_first_and_last_mebibyte(tmp_path, size):
    data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    data = data[:size]
    (tmp_path / "file").write_bytes(data)
    assert module.digest_of_file(tmp_path / "file") == digest(data)
    if size > 2 << 20:
        middle = bytearray(data)
        middle[(1 << 20) + 2] ^= 1
        assert digest(bytes(middle)) == digest(data)


@pytest.mark.parametrize(
    "changed",
    [
        Settings(strength=0.5),
        Settings(model=ModelSettings(task="rain")),
        Settings(tile=TileSettings(overlap=8)),
        Settings(output=OutputSettings(format="png")),
        Settings(output=OutputSettings(jpeg_quality=80)),
        Settings(output=OutputSettings(metadata="none")),
    ],
)
def test_what_changes_results_changes_the_recipe(changed):
    assert recipe_of(changed, "sha", 512) != recipe_of(Settings(), "sha", 512)


def test_the_model_and_its_tile_change_the_recipe():
    recipes = {recipe_of(Settings(), *facts) for facts in (("a", 512), ("b", 512), ("a", 256))}
    assert len(recipes) == 3


@pytest.mark.parametrize(
    "changed",
    [
        Settings(device="cpu"),
        Settings(tile=TileSettings(batch=1)),
        Settings(io=IoSettings(jobs=7, queue_mb=9)),
    ],
)
def test_what_changes_speed_alone_does_not(changed):
    assert recipe_of(changed, "sha", 512) == recipe_of(Settings(), "sha", 512)
