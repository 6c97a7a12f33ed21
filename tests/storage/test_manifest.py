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
from varfix.engine.storage import manifest as module
from varfix.engine.storage.manifest import Entry, FileManifest
from varfix.engine.system.digests import edge_digest


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
        dst,
        src,
        facts.st_size,
        facts.st_mtime_ns,
        recipe,
        len(data),
        edge_digest(data),
        seconds=0.5,
    )


def finish(out, source, data=None, **facts):
    """Write a result and enter it, as a run does."""
    data = png(2) if data is None else data
    added = entry(source, data, **facts)
    manifest = FileManifest(out)
    (out / added.dst).write_bytes(data)
    manifest.append(added)
    manifest.close()
    return added


def status(out, source, recipe="r1", dst="a.png"):
    return FileManifest(out).status(dst, source.stat() if source else None, recipe)


def test_what_is_not_there_is_missing(out, source):
    assert status(out, source) == "missing"


def test_an_entry_without_its_file_is_missing(out, source):
    finish(out, source)
    (out / "a.png").unlink()
    assert status(out, source) == "missing"


def test_a_result_of_the_same_source_and_recipe_is_done(out, source):
    finish(out, source)
    assert status(out, source) == "done"


def test_another_recipe_makes_it_stale(out, source):
    finish(out, source)
    assert status(out, source, recipe="r2") == "stale"


def test_a_changed_source_makes_it_stale(out, source):
    finish(out, source)
    os.utime(source, ns=(1, 1))
    assert status(out, source) == "stale"


def test_a_source_that_is_gone_makes_it_stale(out, source):
    finish(out, source)
    assert status(out, None) == "stale"


def test_a_file_that_is_not_in_the_manifest_is_foreign(out, source):
    (out / "a.png").write_bytes(b"mine")
    assert status(out, source) == "foreign"


def test_a_folder_in_its_place_is_foreign(out, source):
    (out / "a.png").mkdir()
    assert status(out, source) == "foreign"


def test_a_file_that_grew_is_foreign(out, source):
    finish(out, source)
    (out / "a.png").write_bytes(png(2) + b"more")
    assert status(out, source) == "foreign"


def test_a_truncated_result_is_smaller(out, source):
    finish(out, source)
    (out / "a.png").write_bytes((out / "a.png").read_bytes()[:60])
    assert status(out, source) == "smaller"


def test_in_place_a_result_is_done_although_the_source_is_gone(out, source):
    finish(out, source)
    result = out / "a.png"
    assert status(out, result) == "done"
    assert status(out, result, recipe="r2") == "stale"


def test_in_place_a_new_image_of_the_same_size_is_foreign(out, source):
    finish(out, source)
    data = bytearray((out / "a.png").read_bytes())
    data[-20] ^= 1
    (out / "a.png").write_bytes(data)
    assert status(out, out / "a.png") == "foreign"


def test_the_last_entry_for_a_name_counts(out, source):
    finish(out, source, recipe="r1")
    finish(out, source, recipe="r2")
    assert status(out, source, recipe="r2") == "done"
    assert len((out / ".varfix" / "run.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("torn", [b'{"dst": "b.png", "sr', b"\x00\x00\xff", b"5", b"{}", b"[1]"])
def test_a_torn_last_line_is_ignored_and_not_glued_to_the_next(out, source, torn):
    finish(out, source)
    with (out / ".varfix" / "run.jsonl").open("ab") as file:
        file.write(torn)
    assert status(out, source) == "done"
    finish(out, source, dst="b.png")
    assert status(out, source) == "done"
    assert status(out, source, dst="b.png") == "done"


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
        "out_sha256": edge_digest(png(2)),
        "seconds": 0.5,
    }


def test_names_that_are_no_text_are_remembered(out, source):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        finish(out, source, dst=name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert status(out, source, dst=name) == "done"


def test_threads_do_not_tear_each_others_lines(out, source):
    manifest = FileManifest(out)

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


def test_a_full_disk_is_reported_once_and_closing_is_quiet(out, source, monkeypatch):
    class Full(io.BytesIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.flush()

    monkeypatch.setattr(module, "_open_for_append", lambda path: Full())
    manifest = FileManifest(out)
    with pytest.raises(DiskFullError):
        manifest.append(entry(source, b"data"))
    manifest.close()
