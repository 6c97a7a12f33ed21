"""Interlaced video becomes progressive on demand; frames and times are those of the source."""

from fractions import Fraction

import av
import numpy as np
import pytest
from support.cli import move_home, run_here

from varfix.engine.errors import DecodeUnsupportedError, ExitCode
from varfix.engine.video.clip import TimeRange
from varfix.engine.video.deinterlace import combing, is_telecined
from varfix.engine.video.probe import probe_clip

from .conftest import contents, facts, images, times

X264 = {"crf": "10", "x264-params": "tff=1"}


def test_one_frame_for_each_frame(film, restore):
    source = film(interlaced=True, options=X264, count=12, audio=("aac",))
    made = restore(source, source.with_name("out.mp4"), interlaced="frames")
    assert made.summary.exit_code == ExitCode.OK
    assert times(made.path) == times(source)
    assert contents(made.path, 1) == contents(source, 1)
    assert probe_clip(made.path).frames == 12


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_one_frame_for_each_field(film, restore, name):
    source = film(name, interlaced=True, options=X264, count=12)
    made = restore(source, interlaced="fields", segment_seconds=0.1)
    assert made.summary.exit_code == ExitCode.OK
    assert times(made.path) == [Fraction(n, 50) for n in range(24)]
    assert facts(made.path)["size"] == (64, 48)


def test_fields_in_ticks_of_whole_frames(film, restore, ffmpeg, tmp_path):
    source = tmp_path / "dv.avi"
    dv = ("-c:v", "dvvideo", "-flags", "+ilme+ildct", "-pix_fmt", "yuv420p", "-s", "720x576")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=d=0.4:r=25", "-vf", "setfield=bff", *dv, source)
    made = restore(source, interlaced="fields")
    assert made.summary.exit_code == ExitCode.OK
    assert [round(float(at), 3) for at in times(made.path)] == [n / 50 for n in range(20)]


def test_progressive_frames_stay_bit_for_bit(film, restore):
    source = film("clip.mkv")
    made = restore(source, interlaced="fields")
    assert images(made.path) == images(source)


def test_fields_are_taken_apart(restore, ffmpeg, tmp_path):
    """A combed frame gives two that are not: the lines of each are of one moment."""
    moving, source = tmp_path / "moving.mkv", tmp_path / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=d=0.4:r=50:s=320x240", "-c:v", "ffv1", moving)
    flags = ("-c:v", "libx264", "-crf", "4", "-flags", "+ilme+ildct")
    ffmpeg("-i", moving, "-vf", "tinterlace=interleave_top", *flags, source)
    woven = restore(source, tmp_path / "woven.mkv", interlaced="ignore")
    apart = restore(source, tmp_path / "apart.mkv", interlaced="fields")
    before, after, wanted = (lumas(path) for path in (woven.path, apart.path, moving))
    assert len(before) == 10 and len(after) == len(wanted) == 20
    extra = [np.mean([combing(luma) for luma in found]) for found in (before, after, wanted)]
    assert extra[1] - extra[2] < 0.2 * (extra[0] - extra[2])


def lumas(path):
    with av.open(str(path)) as clip:
        return [frame.to_ndarray(format="gray") for frame in clip.decode(video=0)]


def test_a_part_and_a_resumed_run_have_the_same_frames(film, restore, tmp_path):
    source = film("clip.mkv", interlaced=True, options={**X264, "g": "4"}, count=30)
    whole = images(restore(source, tmp_path / "whole.mkv", interlaced="fields").path)
    cut = TimeRange(Fraction(1, 2), Fraction(4, 5))
    part = restore(source, tmp_path / "part.mkv", interlaced="fields", cut=cut)
    wanted = [crc for at, crc in whole if Fraction(1, 2) <= at < Fraction(4, 5)]
    assert [crc for _, crc in images(part.path)] == wanted


def test_telecined_film_is_named(ffmpeg, tmp_path):
    source = tmp_path / "film.mkv"
    flags = ("-c:v", "libx264", "-flags", "+ilme+ildct", "-preset", "ultrafast")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=d=3:r=24000/1001:s=320x240",
        "-vf",
        "telecine",
        *flags,
        source,
    )
    with pytest.raises(DecodeUnsupportedError, match="telecined film") as caught:
        probe_clip(source)
    assert "fieldmatch,decimate" in caught.value.hint


def test_noise_is_no_telecine():
    rng = np.random.default_rng(1)
    assert not is_telecined(rng.integers(0, 255, (60, 48, 64)).astype(np.uint8))
    assert not is_telecined(np.zeros((60, 48, 64), np.uint8))
    assert not is_telecined([])


@pytest.fixture
def video(shelf, monkeypatch, tmp_path_factory):
    move_home(monkeypatch, tmp_path_factory.mktemp("home"))
    model = ("-m", shelf.foreign(), "-d", "cpu", "--set", "video.deflicker_window=0")
    return lambda *arguments: run_here("video", *arguments, *model)


def test_the_hint_of_the_refusal_works(film, video):
    source = film("clip.mkv", interlaced=True, options=X264, count=6)
    refused = video(source)
    assert refused.exit_code == 1 and "add --deinterlace" in refused.stderr
    assert video("--deinterlace", source).exit_code == 0
    assert times(source.with_name("clip.varfix.mkv")) == times(source)
    fields = video("--deinterlace", "--set", "video.interlaced=fields", "--overwrite", source)
    assert fields.exit_code == 0
    assert len(times(source.with_name("clip.varfix.mkv"))) == 12
