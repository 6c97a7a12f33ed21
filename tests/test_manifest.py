"""The manifest tells a finished output from an old, a foreign and a broken one."""

import os
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from varfix.engine.manifest import FOLDER, Entry, Manifest, digest, recipe_of
from varfix.engine.settings import (
    IoSettings,
    LimitSettings,
    ModelSettings,
    OutputSettings,
    Settings,
    TileSettings,
)

DATA = b"result" * 100


@pytest.fixture
def done(tmp_path):
    """A destination with one finished output `a.png`, and the stat of its source."""
    source = tmp_path / "in.png"
    source.write_bytes(b"source")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.png").write_bytes(DATA)
    stat = source.stat()
    entry = Entry(
        dst="a.png", src="in.png", size=stat.st_size, mtime_ns=stat.st_mtime_ns, recipe="r",
        out_size=len(DATA), out_sha256=digest(DATA), seconds=1.0,
    )  # fmt: skip
    manifest = Manifest(folder)
    manifest.append(entry)
    manifest.close()
    return folder, source, entry


def state(folder, source, recipe="r", name="a.png"):
    return Manifest(folder).state(name, source.stat(), recipe)


def test_an_output_of_this_source_and_recipe_is_done(done):
    folder, source, _ = done
    assert state(folder, source) == "done"


def test_another_recipe_or_source_makes_it_stale(done):
    folder, source, _ = done
    assert state(folder, source, "other") == "stale"
    os.utime(source, ns=(1, 1))
    assert state(folder, source) == "stale"


def test_a_lost_or_cut_output_is_missing(done):
    folder, source, _ = done
    (folder / "a.png").write_bytes(DATA[:50])
    assert state(folder, source) == "missing"
    (folder / "a.png").unlink()
    assert state(folder, source) == "missing"


def test_a_file_that_varfix_did_not_write_is_foreign(done):
    folder, source, _ = done
    (folder / "b.png").write_bytes(b"mine")
    assert state(folder, source, name="b.png") == "foreign"
    (folder / "a.png").write_bytes(DATA + b"edited by hand")
    assert state(folder, source) == "foreign"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 400))
def test_a_torn_last_line_costs_that_line_only(done, cut):
    folder, source, entry = done
    path = folder / FOLDER / "run.jsonl"
    line = path.read_bytes().splitlines(keepends=True)[0]
    (folder / "b.png").write_bytes(DATA)
    torn = line.replace(b"a.png", b"b.png")[:cut].rstrip(b"\n")
    whole = torn.endswith(b"}")
    path.write_bytes(line + torn)
    assert state(folder, source) == "done"
    assert state(folder, source, name="b.png") == ("done" if whole else "foreign")
    again = Manifest(folder)
    again.append(replace(entry, dst="b.png"))
    again.close()
    assert state(folder, source, name="b.png") == "done"


@pytest.mark.parametrize("line", [b"\x00\xff", b"[1]", b"{}", b'{"dst": 3', b"null", b"7"])
def test_lines_that_are_no_entries_are_passed_over(done, line):
    folder, source, _ = done
    path = folder / FOLDER / "run.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes() + line + b"\n")
    assert state(folder, source) == "done"


def test_names_of_any_bytes_survive(done):
    folder, source, entry = done
    name = os.fsdecode(b"caf\xe9\n\xff.png")
    (folder / name).write_bytes(DATA)
    manifest = Manifest(folder)
    manifest.append(replace(entry, dst=name))
    manifest.close()
    assert state(folder, source, name=name) == "done"


def test_reading_creates_nothing(tmp_path):
    assert Manifest(tmp_path / "out").state("a.png", None, "r") == "missing"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"strength": 0.5},
        {"model": ModelSettings(task="rain")},
        {"tile": TileSettings(overlap=8)},
        {"output": OutputSettings(jpeg_quality=80)},
    ],
)
def test_what_changes_pixels_changes_the_recipe(change):
    plain = Settings()
    changed = msgspec.structs.replace(plain, **change)
    assert recipe_of(plain, "m", 64) != recipe_of(changed, "m", 64)


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cpu"},
        {"io": IoSettings(jobs=3)},
        {"tile": TileSettings(batch=2)},
        {"limits": LimitSettings(max_pixels=5)},
    ],
)
def test_what_changes_only_speed_keeps_the_recipe(change):
    plain = Settings()
    assert recipe_of(plain, "m", 64) == recipe_of(msgspec.structs.replace(plain, **change), "m", 64)


def test_another_model_or_tile_changes_the_recipe():
    recipes = {recipe_of(Settings(), *facts) for facts in [("m", 64), ("n", 64), ("m", 128)]}
    assert len(recipes) == 3
