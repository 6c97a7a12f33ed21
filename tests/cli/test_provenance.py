"""Results say in their XMP what made them, in every format that stores XMP."""

import json
import shutil
import subprocess

import pytest
from PIL import Image

from varfix.engine.formats import FORMATS

pytestmark = pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")


@pytest.fixture
def model(shelf):
    return shelf.restore()


def read(path):
    """What exiftool reads of the properties, and its warnings."""
    ask = ["exiftool", "-j", "-struct", "-XMP:all", "-warning", str(path)]
    (found,) = json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)
    return found


@pytest.mark.parametrize(
    "name", [name for name, form in FORMATS.items() if form.exif and form.available]
)
def test_a_result_says_what_made_it(varfix, image, model, tmp_path, name):
    source = image(tmp_path / "in" / "a.png")
    target = tmp_path / f"out{FORMATS[name].extensions[0]}"
    done = varfix("image", "-s", "0.7", source, target, "-m", model, "-d", "cpu")
    assert done.exit_code == 0, done.stderr
    found = read(target)
    assert found["CreatorTool"].startswith("varfix ")
    assert found["Source"] == "a.png"
    (event,) = found["History"]
    assert event["SoftwareAgent"] == found["CreatorTool"]
    assert event["Parameters"] == "model.name=hand-made; model.task=auto; strength=0.7"
    assert "Warning" not in found


@pytest.mark.parametrize("policy", ["safe", "none"])
def test_the_policy_of_metadata_leaves_it_out(varfix, image, model, tmp_path, policy):
    source, target = image(tmp_path / "a.png"), tmp_path / "b.png"
    more = ("--set", f"output.metadata={policy}", "-m", model, "-d", "cpu")
    assert varfix("image", source, target, *more).exit_code == 0
    assert "History" not in read(target)


def test_a_format_without_xmp_has_no_warning(varfix, image, model, tmp_path):
    source, target = image(tmp_path / "a.bmp"), tmp_path / "b.bmp"
    done = varfix("image", source, target, "-m", model, "-d", "cpu")
    assert done.exit_code == 0
    assert "XMP" not in done.stderr


def test_a_pipe_has_no_name(varfix, image, model, tmp_path):
    data = image(tmp_path / "a.png").read_bytes()
    done = varfix("image", "-", tmp_path / "b.png", "-m", model, "-d", "cpu", stdin=data)
    assert done.exit_code == 0
    found = read(tmp_path / "b.png")
    assert "History" in found
    assert "Source" not in found


def test_properties_of_the_source_stay(varfix, image, model, tmp_path):
    source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
    Image.open(image(tmp_path / "a.png")).save(source)
    tags = ["-XMP-xmp:CreatorTool=Camera 1", "-XMP-dc:Title=Häuser", "-XMP-xmp:Rating=4"]
    command = ["exiftool", "-q", "-overwrite_original", *tags, str(source)]
    subprocess.run(command, check=True)
    assert varfix("image", source, target, "-m", model, "-d", "cpu").exit_code == 0
    found = read(target)
    assert (found["CreatorTool"], found["Title"], found["Rating"]) == ("Camera 1", "Häuser", 4)
    assert len(found["History"]) == 1
