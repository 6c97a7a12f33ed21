"""Videos whose times or colors are stored in unusual ways."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from varfix.engine.errors import DecodeUnsupportedError, ExitCode
from varfix.engine.events import ItemFail, Warn
from varfix.engine.video.probe import probe_clip
from varfix.engine.video.sources.dolby_vision import needs_dolby_vision

from .conftest import contents, facts, images, offset, times


def steps(found):
    return {b - a for a, b in itertools.pairwise(found)}


def test_frames_of_a_packed_bitstream_are_even(shared, restore):
    source = shared("xvid_packed.avi")
    made = restore(source, codec="h264")
    assert not made.of(Warn)
    assert steps(times(made.path)) == {Fraction(1, 25)}
    assert len(times(made.path)) == 23


def test_a_packed_bitstream_without_its_first_frames_fits_into_mkv(shared, restore, tmp_path):
    made = restore(shared("xvid_packed.avi"), tmp_path / "out.mkv", codec="h264")
    assert [event.message for event in made.of(ItemFail)] == []
    assert (len(times(made.path)), times(made.path)[0]) == (23, Fraction(4, 25))


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("rate", ["25", "24000/1001", "12"])
def test_xvid_with_frames_out_of_order_fits_into_mkv(ffmpeg, restore, tmp_path, rate, sound):
    source = tmp_path / "xvid.avi"
    begin = ("-itsoffset", "0.4") if sound else ()
    tone = ("-f", "lavfi", "-i", "sine", "-c:a", "libmp3lame") if sound else ()
    images = (*begin, "-f", "lavfi", "-i", f"testsrc2=size=96x64:rate={rate}")
    ffmpeg(*images, *tone, "-t", 1, "-c:v", "mpeg4", "-bf", 2, "-vtag", "XVID", source)
    made = restore(source, tmp_path / "out.mkv", codec="h264")
    assert [event.message for event in made.of(ItemFail)] == []


@pytest.mark.parametrize(("source", "target"), [("late.mkv", "a.mkv"), ("late.mp4", "a.mkv")])
def test_frames_that_begin_long_after_the_sound_keep_their_times(
    ffmpeg, restore, tmp_path, source, target
):
    images = ("-itsoffset", "1.5", "-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25")
    tone = ("-f", "lavfi", "-i", "sine", "-c:a", "aac")
    ffmpeg(*images, *tone, "-t", 2.5, "-c:v", "libx264", tmp_path / source)
    made = restore(tmp_path / source, tmp_path / target, codec="h264")
    assert [event.message for event in made.of(ItemFail)] == []
    assert abs(offset(made.path) - offset(tmp_path / source)) < Fraction(1, 500)
    assert len(times(made.path)) == len(times(tmp_path / source))
    assert abs(probe_clip(tmp_path / source).frames - len(times(made.path))) <= 1


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_out_of_order_in_avi_are_even(film, restore, codec):
    options = {"libx264": {"crf": "10", "bf": "3"}, "mpeg4": {"bf": "2"}}[codec]
    source = film("clip.avi", codec=codec, options=options, count=20, audio=("mp3",))
    made = restore(source, codec="h264", segment_seconds=0.2)
    assert not made.of(Warn)
    assert steps(times(made.path)) == {Fraction(1, 25)}
    assert len(times(made.path)) == 20


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_frames_before_zero_are_kept_in_time_with_the_sound(shared, restore, tmp_path, name):
    made = restore(shared("negative_start.mkv"), tmp_path / name, codec="h264")
    assert made.summary.exit_code == ExitCode.OK
    assert not made.of(Warn)
    assert len(times(made.path)) == 25
    assert steps(times(made.path)) == {Fraction(1, 25)}
    # In the source the frames begin at -300 ms, and the sound at -323 ms.
    shift = times(made.path)[0] - contents(made.path, 1)[1][0]
    assert abs(shift - Fraction(23, 1000)) <= Fraction(1, 1000)


def test_a_palette_without_transparency_is_opaque(shared, restore):
    source = shared("pal8.avi")
    made = restore(source, codec="ffv1")
    assert made.summary.exit_code == ExitCode.OK
    assert len(images(made.path)) == 10
    assert facts(made.path)["format"] == "yuv444p"


def test_opaque_alpha_is_no_alpha(tmp_path, restore):
    source = tmp_path / "screen.mov"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("qtrle", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "argb"
        pixels = np.random.default_rng(1).integers(0, 255, (48, 64, 4)).astype(np.uint8)
        pixels[..., 3] = 255
        out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        out.mux(stream.encode(None))
    assert restore(source).summary.exit_code == ExitCode.OK


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_dolby_vision_without_a_base_is_refused_with_a_command_that_works(
    shared, restore, ffmpeg, run_hint, tmp_path, suffix
):
    source = shared("dolby_vision_p5.mov")
    if suffix == ".mkv":
        ffmpeg("-i", source, "-map", 0, "-c", "copy", tmp_path / "dv.mkv")
        source = tmp_path / "dv.mkv"
    assert needs_dolby_vision(source)
    with pytest.raises(DecodeUnsupportedError, match="Dolby Vision") as caught:
        probe_clip(source)
    made = restore(run_hint(caught.value.hint), codec="h264")
    assert not made.of(ItemFail)
    assert facts(made.path)["tags"][:3] == (1, 1, 1)


def test_no_other_file_needs_dolby_vision(film, shared):
    assert not needs_dolby_vision(film("a.mp4"))
    assert not needs_dolby_vision(film("a.mkv"))
    assert not needs_dolby_vision(film("a.avi", codec="mpeg4", options={}))
    assert not needs_dolby_vision(shared("djmd.mp4"))
