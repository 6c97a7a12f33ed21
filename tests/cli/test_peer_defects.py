"""Defects that users of other tools reported and that must not occur here.

Those about formats, names, metadata and kills have their tests beside the code that prevents them.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.clips import Film

from varfix.onnx.inference.restorer import OnnxRestorer


class Exhausted:
    """Runs a session, but not in every call: as if others took the device's memory meanwhile."""

    def __init__(self, inner, most, at):
        self.inner, self.most, self.at = inner, most, at
        self.calls = 0

    def run(self, names, feeds):
        self.calls += 1
        (tiles,) = (value for key, value in feeds.items() if key != "prior")
        if self.calls in self.at and len(tiles) > self.most:
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer")
        return self.inner.run(names, feeds)


@pytest.fixture
def inverting(shelf):
    """A model whose work shows in every pixel: 1 - x."""
    return shelf.restore(nodes=[("Sub", ["c1", "tile"], ["restored"], {})])


@pytest.fixture
def photo(tmp_path):
    """An image of many tiles, each of which differs from all others."""
    pixels = np.random.default_rng(4).integers(0, 256, (200, 330, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    return pixels


@pytest.fixture
def short_of_memory(monkeypatch):
    """Let the session of the next model fail in these calls, where it gets more tiles than that."""

    def arrange(*at, most=0):
        real = OnnxRestorer.__init__

        def starved(self, card, graphs, placement, warn):
            session = Exhausted(graphs.restore, most, at)
            real(self, card, replace(graphs, restore=session), placement, warn)

        monkeypatch.setattr(OnnxRestorer, "__init__", starved)

    return arrange


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_after_memory_ran_out_no_tile_is_an_older_one(
    varfix, tmp_path, inverting, photo, short_of_memory, pixels, call
):
    """Real-ESRGAN goes on and pastes the tile before."""
    short_of_memory(call, most=1)
    where = ("dir", tmp_path / "in", tmp_path / "out", "-m", inverting, "-d", "cpu")
    result = varfix(*where, "--batch", "4")
    assert result.exit_code == 0, result.stderr
    assert "out of memory at batch" in result.stderr
    assert np.array_equal(pixels(tmp_path / "out" / "a.png"), 255 - photo)


@pytest.mark.parametrize("call", [1, 3])
def test_without_memory_for_one_tile_there_is_no_image(
    varfix, tmp_path, inverting, photo, short_of_memory, call
):
    short_of_memory(*range(call, 99))
    where = ("dir", tmp_path / "in", tmp_path / "out", "-m", inverting, "-d", "cpu")
    assert varfix(*where, "--batch", "4").exit_code == 5
    assert not [path for path in (tmp_path / "out").iterdir() if path.name != ".varfix"]


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine without a GPU, which does not know its cores either."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "cpu_count", lambda: None)


@pytest.mark.parametrize(
    "words",
    [
        ("dir", "in", "out", "-m", "{model}"),
        ("image", "in/a.png", "b.png", "-m", "{model}"),
        ("video", "clip.mp4", "b.mp4", "-m", "{model}"),
        ("eval", "--degrade", "noise:25", "in", "-m", "{model}"),
        ("models", "list"),
        ("doctor",),
    ],
    ids=lambda words: words[0],
)
def test_every_command_works_without_a_gpu(
    varfix, no_gpu, tmp_path, inverting, photo, monkeypatch, words
):
    """Real-ESRGAN counts its GPUs, and starts a pool of none."""
    monkeypatch.chdir(tmp_path)
    Film(count=3).write(tmp_path / "clip.mp4")
    result = varfix(*(word.format(model=inverting) for word in words))
    assert result.exit_code == 0, result.stderr or result.stdout


@pytest.mark.parametrize("cores", [None, 1, 64])
def test_there_is_always_a_thread_to_read_and_one_to_write(
    varfix, tmp_path, identity, photo, monkeypatch, cores
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    where = ("dir", tmp_path / "in", tmp_path / "out", "-m", identity)
    assert varfix(*where, "-d", "cpu").exit_code == 0


@pytest.mark.parametrize("preset", ["{bad json", '{"tile": {"overlap": 32}', "tile: {overlap: }}"])
def test_an_invalid_preset_is_not_the_default(varfix, tmp_path, identity, photo, preset):
    """Rembg takes its defaults in silence."""
    (tmp_path / "p.yaml").write_text(preset)
    where = ("dir", tmp_path / "in", tmp_path / "out", "-m", identity, "-d", "cpu")
    result = varfix(*where, "-p", tmp_path / "p.yaml")
    assert result.exit_code == 2
    assert "p.yaml" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["dir", "image"])
def test_an_unreadable_image_is_a_failure(varfix, tmp_path, identity, verb):
    """The ncnn family prints a line and leaves with 0."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbut nothing more")
    ends = {
        "dir": (tmp_path / "in", tmp_path / "out"),
        "image": (tmp_path / "in" / "a.png", tmp_path / "out.png"),
    }
    assert varfix(verb, *ends[verb], "-m", identity, "-d", "cpu").exit_code == 1
    assert not (tmp_path / "out.png").exists()


def test_a_frame_that_cannot_be_restored_is_not_dropped(varfix, tmp_path, shelf):
    """Real-ESRGAN drops the frame, goes on, and leaves with 0: sound and images part."""
    model = shelf.restore(
        # 1 / (1 - the brightest sample): only for a white frame is that no number.
        nodes=[
            ("ReduceMax", ["tile"], ["most"], {"keepdims": 1}),
            ("Sub", ["c1", "most"], ["left"], {}),
            ("Div", ["left", "left"], ["one"], {}),
            ("Mul", ["tile", "one"], ["restored"], {}),
        ]
    )
    flash = Film(count=8, white=(5,), tags=(1, 1, 1, 2), pix_fmt="yuvj420p")
    source, target = flash.write(tmp_path / "clip.mkv"), tmp_path / "out.mkv"
    result = varfix(
        "video", source, target, "-m", model, "-d", "cpu", "--set", "video.deflicker_window=0"
    )
    assert result.exit_code == 1
    assert "frame 5" in result.stderr
    assert not target.exists()
