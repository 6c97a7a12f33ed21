"""`varfix diagnose` from end to end, with the shipped model."""

import json
import os
import shutil
from pathlib import Path

import pytest

from varfix.engine.errors import ExitCode

PICTURES = Path(__file__).parents[1] / "pictures"
HAZY, NOISY = PICTURES / "places" / "tunnel-haze.jpg", PICTURES / "animals" / "kitten-noise.png"


@pytest.fixture
def folder(tmp_path):
    """A folder with a hazy and a noisy image."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    shutil.copy(HAZY, tmp_path / "in" / "a.jpg")
    shutil.copy(NOISY, tmp_path / "in" / "sub" / "b.png")
    return tmp_path / "in"


@pytest.fixture
def diagnose(varfix, folder):
    return lambda *options: varfix("diagnose", folder, "-d", "cpu", *options)


def test_a_table_has_a_line_for_each_image_and_counts_by_kind(diagnose, folder):
    before = sorted(folder.parent.rglob("*"))
    result = diagnose()
    assert result.exit_code == 0, result.stderr
    header, *images, counts = (line.split() for line in result.stdout.splitlines())
    assert header == ["noise", "rain", "haze", "lowlight", "blur", "snow", "image"]
    rows = {line[-1]: dict(zip(header, line, strict=True)) for line in images}
    assert rows["a.jpg"]["haze"].endswith("*")
    assert rows["a.jpg"]["noise"] == "."
    assert rows["sub/b.png"]["noise"] == "100*"
    totals = dict(zip(header[:-1], counts, strict=False))
    assert (totals["haze"], totals["noise"], totals["snow"]) == ("1", "1", "0")
    assert counts[6:] == ["2", "of", "2", "images", "would", "be", "treated"]
    assert "2 judged in " in result.stderr
    assert sorted(folder.parent.rglob("*")) == before


def test_json_lines_say_the_same(diagnose, line_schema):
    result = diagnose("--json", "-q")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    for line in lines:
        line_schema.validate(line)
    judged = {line["src"]: line for line in lines if line["event"] == "item.judged"}
    assert judged["a.jpg"]["applied"] == ["haze"]
    assert judged["a.jpg"]["found"]["haze"] > 0.9
    assert (judged["a.jpg"]["width"], judged["a.jpg"]["height"]) == (480, 320)
    assert lines[0]["command"] == "diagnose"
    assert lines[-1]["applied"] == {"haze": 1, "noise": 1}
    assert result.stderr == ""


def test_what_cannot_be_read_is_named_and_changes_the_exit_code(diagnose, folder):
    (folder / "broken.png").touch()
    result = diagnose("-q")
    assert result.exit_code == ExitCode.PARTIAL
    assert result.stderr == f"Error: {folder}/broken.png: empty file (0 bytes)\n"
    assert len(result.stdout.splitlines()) == 4


def test_a_folder_without_images_is_3(varfix, tmp_path):
    assert varfix("diagnose", tmp_path, "-d", "cpu").exit_code == ExitCode.NOTHING


def test_a_model_that_judges_nothing_is_a_usage_error(varfix, folder, identity):
    result = varfix("diagnose", folder, "-m", identity, "-d", "cpu")
    assert result.exit_code == ExitCode.USAGE
    assert "net does not judge images; add --model varformer-s" in result.stderr


def test_the_reader_of_the_table_may_go(process, folder):
    readable, writable = os.pipe()
    os.close(readable)
    running = process("diagnose", folder, "-d", "cpu", stdout=writable)
    os.close(writable)
    running.communicate(timeout=300)
    assert running.returncode == ExitCode.SIGPIPE
