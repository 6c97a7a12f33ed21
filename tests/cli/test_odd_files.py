"""Unusual files and folders on the command line: exit codes and messages."""

import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

FILES = Path(__file__).parents[3] / "shared/data/files"


def run(*arguments, **variables):
    """Run `varfix ARGUMENTS` as a process, whose stderr is really descriptor 2."""
    line = [sys.executable, "-m", "varfix.cli", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)


def noisy_files(folder):
    """Write files about which libraries print lines of their own."""
    deep = np.random.default_rng(0).integers(0, 65536, (40, 60, 3)).astype(np.uint16)
    png = bytearray(cv2.imencode(".png", deep)[1].tobytes())
    png[len(png) // 2] ^= 1
    (folder / "crc.png").write_bytes(bytes(png))
    out = io.BytesIO()
    Image.fromarray((deep >> 8).astype(np.uint8)).save(out, "TIFF", compression="tiff_lzw")
    tiff = bytearray(out.getvalue())
    tiff[len(tiff) // 2 : len(tiff) // 2 + 60] = b"\xff" * 60
    (folder / "lzw.tif").write_bytes(bytes(tiff))
    tags = [(42113, 2, 6, b"-9999\x00", True), (65000, 3, 1, 7, True)]
    tifffile.imwrite(
        folder / "geo.tif", (deep >> 8).astype(np.uint8), photometric="rgb", extratags=tags
    )
    exif = b"Exif\x00\x00II*\x00\xff\xff\x00\x00"
    Image.fromarray((deep >> 8).astype(np.uint8)).save(folder / "exif.jpg", exif=exif)


def test_libraries_print_nothing_to_stderr(tmp_path, identity):
    source = tmp_path / "in"
    source.mkdir()
    noisy_files(source)
    for path in FILES.glob("*") if FILES.exists() else ():
        (source / path.name).write_bytes(path.read_bytes())
    done = run("dir", "-q", "--model", identity, "-f", "tiff", source, tmp_path / "out")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines
    strange = [line for line in lines if not (str(source) in line or line.startswith("  "))]
    assert strange == []


def test_warnings_name_the_file(tmp_path, identity):
    source = tmp_path / "in"
    source.mkdir()
    noisy_files(source)
    done = run("dir", "--model", identity, source, tmp_path / "out")
    assert f"{source / 'exif.jpg'}: the EXIF block is damaged" in done.stderr
    assert f"{source / 'crc.png'}: file is damaged" in done.stderr


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_restoring_in_place_keeps_modes(tmp_path, varfix, identity, image, mode):
    path = image(tmp_path / "d" / "a.png")
    path.chmod(mode)
    done = varfix("dir", "--overwrite", "--model", identity, path.parent, path.parent)
    assert done.exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_restoring_in_place_follows_links_and_names_hard_links(tmp_path, varfix, identity, image):
    real = image(tmp_path / "elsewhere" / "real.png")
    before = real.stat().st_ino
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "link.png").symlink_to(real)
    linked = image(folder / "a.png", seed=2)
    (tmp_path / "other.png").hardlink_to(linked)
    done = varfix("dir", "--overwrite", "--model", identity, folder, folder)
    assert done.exit_code == 0
    assert (folder / "link.png").is_symlink()
    assert real.stat().st_ino != before
    assert "a.png: another hard link keeps the file as it was before" in done.stderr.replace(
        "\n", " "
    )


def test_an_image_and_a_link_to_it_are_restored_once(tmp_path, varfix, identity, image):
    path = image(tmp_path / "d" / "a.png")
    (path.parent / "b.png").symlink_to(path)
    done = varfix("dir", "--overwrite", "--model", identity, path.parent, path.parent)
    assert done.exit_code == 0
    assert "1 restored" in done.stderr
    assert (path.parent / "b.png").is_symlink()


def test_a_result_that_is_a_link_to_its_source_never_changes_the_source(
    tmp_path, varfix, identity, image
):
    path = image(tmp_path / "in" / "a.png")
    before = path.read_bytes(), path.stat().st_ino
    target = tmp_path / "out" / "a.png"
    target.parent.mkdir()
    target.symlink_to(path)
    done = varfix("dir", "--overwrite", "--model", identity, path.parent, target.parent)
    assert done.exit_code == 0
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert not target.is_symlink()


def test_dir_and_image_name_each_other(tmp_path, varfix, image):
    path = image(tmp_path / "d" / "a.png")
    clip = tmp_path / "a.mp4"
    clip.touch()
    assert "use 'varfix image'" in varfix("dir", path, tmp_path / "out").stderr
    assert "use 'varfix video'" in varfix("dir", clip, tmp_path / "out").stderr
    assert "use 'varfix dir'" in varfix("image", path.parent, tmp_path / "out").stderr


def test_unknown_variables_are_a_warning_with_the_nearest_known_one(
    tmp_path, varfix, identity, image, monkeypatch
):
    path = image(tmp_path / "a.png")
    monkeypatch.setenv("VARFIX_TILE_OVERLP", "3")
    monkeypatch.setenv("VARFIX_OFFLINE", "1")
    done = varfix("image", "--model", identity, path, tmp_path / "b.png")
    assert done.exit_code == 0
    text = " ".join(done.stderr.split())
    assert 'unknown variable VARFIX_TILE_OVERLP; did you mean "VARFIX_TILE_OVERLAP"?' in text
    assert "VARFIX_OFFLINE" not in text


def test_ignored_files_are_counted_at_the_end(tmp_path, varfix, identity, image):
    path = image(tmp_path / "d" / "a.png")
    for name in ("b.pdf", "c.zip", "d.mp3", "notes.txt"):
        (path.parent / name).touch()
    (path.parent / "e.jpg").symlink_to("gone.jpg")
    done = varfix("dir", "--model", identity, path.parent, tmp_path / "out")
    assert done.exit_code == 0
    assert "1 restored, 5 files ignored" in done.stderr


def test_a_folder_that_cannot_be_read_ends_with_1(tmp_path, varfix, identity, image, monkeypatch):
    path = image(tmp_path / "d" / "a.png")
    image(tmp_path / "d" / "private" / "b.png")
    real = os.scandir

    def guarded(place):
        if Path(place).name == "private":
            raise PermissionError(13, "Permission denied")
        return real(place)

    monkeypatch.setattr(os, "scandir", guarded)
    done = varfix("dir", "--model", identity, path.parent, tmp_path / "out")
    assert done.exit_code == 1
    assert "private: permission denied, skipped" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_out_of_memory_at_the_start_ends_with_5(error, varfix, monkeypatch, image, tmp_path):
    path = image(tmp_path / "a.png")

    def lacking(*arguments, **options):
        raise error

    monkeypatch.setattr("varfix.onnx.inference.open_model.open_restorer", lacking)
    done = varfix("image", path, tmp_path / "b.png")
    assert done.exit_code == 5
    assert "not enough memory to start" in done.stderr


def test_a_folder_with_a_bmp_that_has_alpha_is_restored(tmp_path, varfix, identity, image):
    path = image(tmp_path / "d" / "a.png")
    array = np.random.default_rng(0).integers(1, 255, (16, 24, 4)).astype(np.uint8)
    (path.parent / "b.bmp").write_bytes(cv2.imencode(".bmp", array)[1].tobytes())
    done = varfix("dir", "--model", identity, path.parent, tmp_path / "out")
    assert done.exit_code == 0
    result = np.asarray(Image.open(tmp_path / "out" / "b.bmp"))
    assert np.array_equal(result, array[..., [2, 1, 0, 3]])
