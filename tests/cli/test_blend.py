"""`varfix blend` gives what `varfix dir -s` gives, without the model."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.color_profiles import ADOBE
from support.runs import opened

LONG_AGO = 1_111_111_111
STRIPS = (273, 279)
"""TIFF tags: places and sizes of compressed data."""


@pytest.fixture
def model(shelf):
    """A model that brightens every image."""
    return shelf.restore(nodes=[("Sqrt", ["tile"], ["restored"], {})])


@pytest.fixture
def tree(tmp_path, image):
    """A folder with lossless images of several kinds, each with its metadata."""
    source = tmp_path / "in"
    image(source / "a.png")
    exif = Image.Exif()
    exif[0x013B], exif[0x0112] = "Ada", 6
    samples = np.random.default_rng(5).integers(60, 190, (20, 30, 3), np.uint8)
    drawn = Image.fromarray(samples)
    (source / "b").mkdir()
    drawn.save(source / "b" / "turned.png", exif=exif)
    drawn.save(source / "b" / "wide.tif", icc_profile=ADOBE)
    drawn.save(source / "c.webp", lossless=True, exif=exif)
    drawn.convert("L").save(source / "gray.png")
    drawn.convert("RGBA").save(source / "clear.png")
    deep = np.random.default_rng(6).integers(0, 65536, (20, 30, 3), np.uint16)
    tifffile.imwrite(source / "deep.tif", deep, photometric="rgb")
    for path in source.rglob("*.*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return source


def samples(path):
    if path.name == "deep.tif":
        return tifffile.imread(path).astype(np.int64) / 257
    return np.asarray(opened(path)).astype(np.int64)


def said(path):
    """Everything that exiftool reads, but for file system and places of compressed data."""
    try:
        left_out = ("File:all", "System:all", "StripByteCounts", "StripOffsets")
        options = [word for tag in left_out for word in ("-x", tag)]
        command = ["exiftool", "-a", "-G1", *options, str(path)]
        return subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError:
        found = opened(path)
        tags = {tag: value for tag, value in found.getexif().items() if tag not in STRIPS}
        return found.info.get("icc_profile"), tags, found.mode, found.size


STRENGTHS = [
    ("-s", "0"),
    ("-s", "0.37"),
    ("-s", "1"),
    ("--set", "strength.luma=0.6", "--set", "strength.chroma=1"),
    ("--set", "strength.chroma=0.2"),
]


@pytest.mark.parametrize("strength", STRENGTHS, ids=" ".join)
def test_a_blend_is_the_result_of_that_strength(varfix, tree, model, tmp_path, strength):
    common = ("-m", model, "-d", "cpu")
    assert varfix("dir", tree, tmp_path / "full", *common).exit_code == 0
    assert varfix("dir", *strength, tree, tmp_path / "direct", *common).exit_code == 0
    result = varfix("blend", *strength, tree, tmp_path / "full", tmp_path / "blend")
    assert result.exit_code == 0, result.stderr
    names = sorted(p.relative_to(tree) for p in tree.rglob("*.*"))
    assert len(names) == 7
    for name in names:
        direct, blended = tmp_path / "direct" / name, tmp_path / "blend" / name
        assert np.abs(samples(direct) - samples(blended)).max() <= 1, name
        assert said(direct) == said(blended)
        assert blended.stat().st_mtime == LONG_AGO


def test_a_blend_needs_a_strength(varfix, tree, tmp_path):
    shutil.copytree(tree, tmp_path / "full")
    result = varfix("blend", tree, tmp_path / "full", tmp_path / "blend")
    assert result.exit_code == 2
    assert "Missing option '-s' / '--strength'" in result.stderr


def test_at_half_strength_it_is_neither(varfix, tree, model, tmp_path):
    varfix("dir", tree, tmp_path / "full", "-m", model, "-d", "cpu")
    varfix("blend", "-s", "0.5", tree, tmp_path / "full", tmp_path / "blend")
    source, full, blended = (
        samples(folder / "a.png") for folder in (tree, tmp_path / "full", tmp_path / "blend")
    )
    assert np.abs(blended - (source + full) / 2).max() <= 1
    assert np.abs(source - full).max() > 2


def test_a_jpeg_is_blended_but_for_its_losses(varfix, model, tmp_path):
    ramp = np.linspace(40, 200, 96, dtype=np.uint8)
    Image.fromarray(np.dstack([np.tile(ramp, (64, 1))] * 3)).save(tmp_path / "a.jpg", quality=95)
    varfix("image", tmp_path / "a.jpg", tmp_path / "full.jpg", "-m", model, "-d", "cpu")
    varfix("image", "-s", "0.37", tmp_path / "a.jpg", tmp_path / "d.jpg", "-m", model, "-d", "cpu")
    out = tmp_path / "b.jpg"
    assert (
        varfix("blend", "-s", "0.37", tmp_path / "a.jpg", tmp_path / "full.jpg", out).exit_code == 0
    )
    assert np.abs(samples(tmp_path / "d.jpg") - samples(out)).mean() < 1
    assert opened(out).quantization == opened(tmp_path / "d.jpg").quantization


def test_at_strength_0_a_jpeg_is_the_same_file(varfix, model, tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (40, 56, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=70)
    common = ("-m", model, "-d", "cpu")
    for strength, name in (("1", "full.jpg"), ("0", "direct.jpg")):
        varfix("image", "-s", strength, tmp_path / "a.jpg", tmp_path / name, *common)
    ends = [tmp_path / name for name in ("a.jpg", "full.jpg", "blend.jpg")]
    assert varfix("blend", "-s", "0", *ends).exit_code == 0
    assert (tmp_path / "blend.jpg").read_bytes() == (tmp_path / "direct.jpg").read_bytes()


def test_results_of_another_format_are_found(varfix, tree, model, tmp_path):
    varfix("dir", "-f", "png", tree, tmp_path / "full", "-m", model, "-d", "cpu")
    result = varfix("blend", "-s", "0.5", tree, tmp_path / "full", tmp_path / "blend")
    assert result.exit_code == 0, result.stderr
    assert opened(tmp_path / "blend" / "c.png").format == "PNG"


def test_a_repeated_blend_does_nothing_and_another_strength_needs_overwrite(varfix, tree, tmp_path):
    shutil.copytree(tree, tmp_path / "full")
    ends = (tree, tmp_path / "full", tmp_path / "blend")
    assert "7 blended" in varfix("blend", "-s", "0.5", *ends).stderr
    assert "7 up to date" in varfix("blend", "-s", "0.5", *ends).stderr
    again = varfix("blend", "-s", "0.6", *ends)
    assert again.exit_code == 0
    assert "7 existing files are left alone" in again.stderr
    assert "7 blended" in varfix("blend", "-s", "0.6", "--overwrite", *ends).stderr


def test_messages_count_one_file_and_one_video_as_one(varfix, tmp_path, image):
    image(tmp_path / "in" / "a.png"), image(tmp_path / "full" / "a.png")
    (tmp_path / "in" / "clip.mp4").touch()
    ends = (tmp_path / "in", tmp_path / "full", tmp_path / "out")
    first = varfix("blend", "-s", "0.5", *ends)
    assert "1 video is skipped: only images are blended" in first.stderr
    assert "Blending 1 image..." in first.stderr
    again = varfix("blend", "-s", "0.6", *ends)
    assert "1 existing file is left alone; use --overwrite to replace it" in again.stderr


def test_animations_are_skipped_as_videos_are(varfix, tmp_path, image):
    """`varfix dir` restores them as clips, whose results are videos."""
    image(tmp_path / "in" / "a.png"), image(tmp_path / "full" / "a.png")
    frames = [Image.new("RGB", (16, 12), color) for color in ("teal", "gold")]
    for name in ("b.gif", "c.webp"):
        for folder in ("in", "full"):
            path = tmp_path / folder / name
            frames[0].save(path, save_all=True, append_images=frames[1:])
    ends = (tmp_path / "in", tmp_path / "full", tmp_path / "out")
    result = varfix("blend", "-s", "0.5", *ends)
    assert result.exit_code == 0, result.stderr
    assert "2 videos are skipped: only images are blended" in result.stderr
    assert "1 blended" in result.stderr


def test_an_image_without_a_result_is_named(varfix, tree, tmp_path, image):
    image(tmp_path / "full" / "a.png")
    result = varfix("blend", "-s", "0.5", tree, tmp_path / "full", tmp_path / "blend")
    assert result.exit_code == 1
    assert "gray.png: " in result.stderr
    assert "holds no result" in result.stderr
    visible = [path.name for path in (tmp_path / "blend").iterdir() if path.name != ".varfix"]
    assert visible == ["a.png"]


def replaced_source(folder, image):
    image(folder / "in" / "a.png", seed=7)


def replaced_result(folder, image):
    image(folder / "full" / "a.png", seed=7)


def changed_times(folder, image):
    os.utime(folder / "in" / "a.png", (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize(
    ("replace", "reason"),
    [
        (replaced_source, "full/a.png was made from another image"),
        (changed_times, "full/a.png was made from another image"),
        (replaced_result, "full/a.png is not as varfix wrote it"),
    ],
)
@pytest.mark.parametrize("blended", [False, True], ids=["first", "again"])
def test_images_that_do_not_belong_together_are_not_mixed(
    varfix, tmp_path, image, model, replace, reason, blended
):
    image(tmp_path / "in" / "a.png"), image(tmp_path / "in" / "b.png", seed=1)
    ends = [tmp_path / name for name in ("in", "full", "out")]
    assert varfix("dir", *ends[:2], "-m", model, "-d", "cpu").exit_code == 0
    if blended:
        varfix("blend", "-s", "0.5", *ends)
    replace(tmp_path, image)
    result = varfix("blend", "-s", "0.5", *ends)
    assert result.exit_code == 1
    assert f"Error: {ends[0]}/a.png: {tmp_path}/{reason}" in result.stderr
    assert f"use 'varfix dir --overwrite {ends[0]} {ends[1]}' to restore it" in result.stderr
    assert f"1 {'up to date' if blended else 'blended'}, 1 failed" in result.stderr
    assert (ends[2] / "a.png").exists() == blended


def test_a_result_of_another_image_is_not_taken_for_its_name(varfix, tmp_path, image, model):
    image(tmp_path / "in" / "a.bmp")
    ends = [tmp_path / name for name in ("in", "full", "out")]
    assert varfix("dir", "-f", "png", *ends[:2], "-m", model, "-d", "cpu").exit_code == 0
    image(tmp_path / "in" / "a.png", seed=7)
    result = varfix("blend", "-s", "0.5", *ends)
    assert result.exit_code == 1
    assert f"{ends[0] / 'a.png'}: {ends[1]} holds no result of this image" in result.stderr
    assert "1 blended" in result.stderr


def test_without_a_manifest_and_by_name_any_pair_is_blended(varfix, tmp_path, image, model):
    image(tmp_path / "in" / "a.png")
    ends = [tmp_path / name for name in ("in", "full", "out")]
    varfix("dir", *ends[:2], "-m", model, "-d", "cpu")
    replaced_source(tmp_path, image)
    files = [end / "a.png" for end in ends[:2]]
    assert varfix("blend", "-s", "0.5", *files, tmp_path / "named.png").exit_code == 0
    shutil.rmtree(tmp_path / "full" / ".varfix")
    assert varfix("blend", "-s", "0.5", *ends).exit_code == 0


def test_a_result_of_another_size_fails_alone(varfix, tmp_path, image):
    image(tmp_path / "in" / "a.png"), image(tmp_path / "in" / "b.png")
    image(tmp_path / "full" / "a.png", size=(9, 9)), image(tmp_path / "full" / "b.png")
    ends = (tmp_path / "in", tmp_path / "full", tmp_path / "out")
    result = varfix("blend", "-s", "0.5", *ends)
    assert result.exit_code == 1
    assert "a.png is not its result (it has 9 x 9 px, the image 24 x 16 px)" in result.stderr
    assert (tmp_path / "out" / "b.png").exists()
    assert not (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize("third", ["in", "full"])
def test_the_output_folder_must_be_separate(varfix, tmp_path, image, third):
    image(tmp_path / "in" / "a.png"), image(tmp_path / "full" / "a.png")
    ends = (tmp_path / "in", tmp_path / "full", tmp_path / third)
    assert varfix("blend", "-s", "0.5", *ends).exit_code == 2


def test_nothing_to_blend_is_exit_code_3(varfix, tmp_path, image):
    image(tmp_path / "in" / "a.png"), image(tmp_path / "full" / "b.png")
    assert (
        varfix("blend", "-s", "0.5", tmp_path / "in", tmp_path / "full", tmp_path / "o").exit_code
        == 3
    )


def test_an_existing_file_is_not_replaced(varfix, tmp_path, image):
    image(tmp_path / "a.png"), image(tmp_path / "b.png"), image(tmp_path / "c.png")
    ends = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    assert varfix("blend", "-s", "0.5", *ends).exit_code == 2
    assert varfix("blend", "-s", "0.5", "--overwrite", *ends).exit_code == 0
