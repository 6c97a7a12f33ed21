"""What exiftool and ImageMagick read of JPEG files is the same before and after a run."""

import json
import os
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

PICTURES = Path(__file__).parents[1] / "pictures"
LONG_AGO = 1_111_111_111
QUALITIES, SUBSAMPLINGS = (60, 75, 85, 92, 96), ("4:4:4", "4:2:2", "4:2:0")

needs_exiftool = pytest.mark.skipif(not shutil.which("exiftool"), reason="needs exiftool")
needs_identify = pytest.mark.skipif(not shutil.which("identify"), reason="needs ImageMagick")


@pytest.fixture
def mixed(tmp_path):
    """A folder of real images in every quality and subsampling, half of them progressive."""
    photos = sorted(PICTURES.rglob("*.jpg"))
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, (quality, subsampling) in enumerate(product(QUALITIES, SUBSAMPLINGS)):
        path = folder / f"{number}.jpg"
        with Image.open(photos[number % len(photos)]) as photo:
            image = photo.convert("RGB").resize((640, 480))
        coding = {"subsampling": subsampling, "progressive": number % 2 == 0, "optimize": True}
        image.save(path, quality=quality, **coding)
        path.chmod(0o600 + number)
        os.utime(path, (LONG_AGO + number, LONG_AGO + number))
    return folder


@pytest.fixture
def unchanged(varfix, shelf, mixed):
    """Restore at strength 0."""
    model = shelf.restore()

    def run(*ends):
        done = varfix("dir", "-s", "0", *ends, "-m", model, "-d", "cpu")
        assert done.exit_code == 0, done.stderr

    return run


def by_exiftool(folder, *tags):
    command = ["exiftool", "-j", *(f"-{tag}" for tag in tags), str(folder)]
    read = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    facts = {Path(found.pop("SourceFile")).name: found for found in read}
    assert len(facts) == len(QUALITIES) * len(SUBSAMPLINGS)
    return facts


def by_identify(folder):
    form = "%f %Q %[jpeg:sampling-factor] %[interlace] %wx%h %[colorspace]\n"
    command = ["identify", "-format", form, *sorted(map(str, folder.glob("*.jpg")))]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


@needs_exiftool
def test_exiftool_reads_the_same_tables_process_and_times(unchanged, mixed, tmp_path):
    tags = "JPEGDigest", "YCbCrSubSampling", "EncodingProcess", "ImageSize", "FileModifyDate"
    before = by_exiftool(mixed, *tags)
    unchanged(mixed, tmp_path / "out")
    assert by_exiftool(tmp_path / "out", *tags) == before
    assert all(set(found) == set(tags) for found in before.values())


@needs_exiftool
def test_in_place_exiftool_reads_the_same_modes_and_times(varfix, unchanged, mixed):
    tags = "FilePermissions", "FileModifyDate", "JPEGDigest"
    before, data = by_exiftool(mixed, *tags), {p: p.read_bytes() for p in mixed.glob("*.jpg")}
    unchanged("--in-place", mixed)
    assert by_exiftool(mixed, *tags) == before
    assert all(path.read_bytes() != old for path, old in data.items())
    assert varfix("undo", mixed).exit_code == 0
    assert by_exiftool(mixed, *tags) == before
    assert all(path.read_bytes() == old for path, old in data.items())


@needs_identify
def test_imagemagick_reads_the_same_quality_and_subsampling(unchanged, mixed, tmp_path):
    before = by_identify(mixed)
    assert before.count("\n") == len(QUALITIES) * len(SUBSAMPLINGS)
    unchanged(mixed, tmp_path / "out")
    assert by_identify(tmp_path / "out") == before


def test_files_grow_by_a_few_percent_at_most(unchanged, mixed, tmp_path):
    unchanged(mixed, tmp_path / "out")
    growth = [
        (tmp_path / "out" / path.name).stat().st_size / path.stat().st_size - 1
        for path in mixed.glob("*.jpg")
    ]
    assert sum(growth) / len(growth) < 0.05
