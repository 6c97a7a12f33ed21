"""Transparency is kept where the result can hold it, or a color is put under it."""

import av
import numpy as np
import pytest
from PIL import Image

from varfix.engine.errors import DecodeUnsupportedError, ExitCode, PlanError
from varfix.engine.events import ItemFail
from varfix.engine.video.probe import probe_clip


def clear_film(path, codec="ffv1", pix_fmt="yuva444p", opaque=0, count=3):
    """A clip with a slope of alpha; the first frames may be opaque."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        rng = np.random.default_rng(1)
        for number in range(count):
            pixels = np.repeat(rng.integers(30, 220, (1, 64, 4)), 48, 0).astype(np.uint8)
            pixels[..., 3] = 255 if number < opaque else np.linspace(0, 255, 64).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
            out.mux(stream.encode(frame.reformat(format=pix_fmt)))
        out.mux(stream.encode(None))
    return path


def planes(path, number=0):
    """The planes of the alpha and of Y of a frame, and its format."""
    with av.open(str(path)) as clip:
        frame = list(clip.decode(video=0))[number]
        rgba = frame.reformat(format="rgba").to_ndarray()
        return rgba[..., 3], rgba[..., :3], frame.format.name


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "encoder"),
    [
        ("a.mov", "prores_ks", "yuva444p10le", "prores"),
        ("a.mov", "qtrle", "argb", "prores"),
        ("a.mkv", "ffv1", "yuva420p", "ffv1"),
        ("a.avi", "png", "rgba", "ffv1"),
    ],
)
def test_alpha_is_kept(tmp_path, restore, name, codec, pix_fmt, encoder):
    source = clear_film(tmp_path / name, codec, pix_fmt)
    assert probe_clip(source).layout.alpha
    made = restore(source, codec="auto")
    assert made.summary.exit_code == ExitCode.OK
    with av.open(str(made.path)) as clip:
        assert clip.streams.video[0].codec_context.codec.canonical_name == encoder
    before, after = planes(source), planes(made.path)
    assert "yuva" in after[2]
    near = {"prores": 2, "ffv1": 1}[encoder]  # rounding between RGB and Y'CbCr
    assert np.abs(before[0].astype(int) - after[0]).max() <= near
    assert np.abs(before[1].astype(int) - after[1]).mean() < 4


def test_numbered_images_keep_their_alpha(tmp_path, restore):
    for number in range(2):
        pixels = np.full((24, 40, 4), 120, np.uint8)
        pixels[:, :20, 3] = 40 * number
        Image.fromarray(pixels).save(tmp_path / f"{number:03d}.png")
    made = restore(tmp_path / "%03d.png", tmp_path / "out.mkv", codec="auto")
    assert made.summary.exit_code == ExitCode.OK
    assert set(np.unique(planes(made.path, 1)[0])) == {40, 120}


def test_an_encoder_without_alpha_is_refused_with_other_ways(tmp_path, restore):
    source = clear_film(tmp_path / "a.mkv")
    with pytest.raises(PlanError, match="libx264 does not store transparency") as caught:
        restore(source, codec="h264")
    assert "output.flatten=black" in caught.value.hint


@pytest.mark.parametrize(("color", "level"), [("white", 255), ("#000000", 0)])
@pytest.mark.parametrize("pix_fmt", ["yuva444p", "yuva420p"])
def test_a_color_under_it(tmp_path, restore, color, level, pix_fmt):
    source = clear_film(tmp_path / "a.mkv", pix_fmt=pix_fmt)
    made = restore(source, tmp_path / "out.mkv", codec="ffv1", flatten=color)
    assert made.summary.exit_code == ExitCode.OK
    alpha, rgb, _ = planes(source)
    found = planes(made.path)
    assert (found[0] == 255).all()
    share = alpha[..., np.newaxis] / 255
    wanted = share * rgb + (1 - share) * level
    assert np.abs(found[1] - wanted).mean() < (3 if pix_fmt == "yuva444p" else 12)


def test_alpha_that_begins_late_is_found(tmp_path, restore):
    source = clear_film(tmp_path / "a.mkv", opaque=5, count=8)
    assert probe_clip(source).layout.alpha
    late = clear_film(tmp_path / "late.mkv", opaque=105, count=108)
    assert not probe_clip(late).layout.alpha
    made = restore(late)
    (failed,) = made.of(ItemFail)
    assert "frame 105 is transparent" in failed.message
    assert "video.alpha=keep" in failed.hint
    again = restore(late, alpha="keep")
    assert again.summary.exit_code == ExitCode.OK
    assert planes(again.path, 107)[0].min() == 0


def test_alpha_that_is_zero_everywhere_means_nothing(tmp_path, restore):
    with av.open(str(tmp_path / "screen.avi"), "w") as out:
        stream = out.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
        pixels = np.random.default_rng(1).integers(0, 255, (48, 64, 4)).astype(np.uint8)
        pixels[..., 3] = 0
        out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgra")))
        out.mux(stream.encode(None))
    assert not probe_clip(tmp_path / "screen.avi").layout.alpha
    assert restore(tmp_path / "screen.avi").summary.exit_code == ExitCode.OK


def test_alpha_of_vp9_is_refused_with_a_command_that_keeps_it(ffmpeg, run_hint, tmp_path, restore):
    clear_film(tmp_path / "a.mkv", pix_fmt="yuva420p")
    source = tmp_path / "a.webm"
    ffmpeg("-i", tmp_path / "a.mkv", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", source)
    with pytest.raises(DecodeUnsupportedError, match="transparent video in vp9") as caught:
        probe_clip(source)
    made = restore(run_hint(caught.value.hint), codec="auto")
    assert made.summary.exit_code == ExitCode.OK
    found = planes(made.path)[0]
    assert found.min() < 4 and found.max() > 251


def test_a_color_must_be_one(tmp_path, restore):
    made = restore(clear_film(tmp_path / "a.mkv"), codec="ffv1", flatten="nocolor")
    (failed,) = made.of(ItemFail)
    assert '"nocolor" is not a color' in failed.message
