"""Streams can be chosen; plain subtitles are converted where the container needs it."""

from fractions import Fraction

import av
import numpy as np
import pytest
from support.cli import move_home, run_here

from varfix.engine.errors import ConfigError, ExitCode, PlanError
from varfix.engine.events import Warn
from varfix.engine.settings.resolve import resolve, set_layer

from .conftest import contents, images, offset


def kinds(path):
    with av.open(str(path)) as clip:
        return [(stream.type, stream.metadata.get("language", "")) for stream in clip.streams]


ENGLISH, GERMAN, TEXT = ("audio", "eng"), ("audio", "deu"), ("subtitle", "eng")


@pytest.mark.parametrize(
    ("selection", "kept"),
    [
        ("copy", [ENGLISH, GERMAN, TEXT]),
        ("none", []),
        ("0:a", [ENGLISH, GERMAN]),
        ("a:1", [GERMAN]),
        ("0:a:0,0:s:0", [ENGLISH, TEXT]),
        ("0:a:m:language:deu", [GERMAN]),
        ("m:language:eng", [ENGLISH, TEXT]),
        ("0:3", [TEXT]),
        ("v", []),
    ],
)
def test_only_the_named_streams_are_copied(film, restore, selection, kept):
    source = film("rich.mkv", audio=("aac", "aac"), subtitles="subrip", count=5)
    made = restore(source, codec="h264", streams=selection)
    assert made.summary.exit_code == ExitCode.OK
    assert not made.of(Warn)
    assert kinds(made.path)[1:] == kept
    if ENGLISH in kept:
        assert contents(made.path, 1) == contents(source, 1)


def test_a_stream_that_does_not_exist_is_named(film, restore):
    with pytest.raises(PlanError, match="--streams 0:a:2: no such stream") as caught:
        restore(film("rich.mkv", audio=("aac", "aac")), streams="a:0,0:a:2")
    assert "stream 2 (audio, aac, deu)" in caught.value.hint


@pytest.mark.parametrize("text", ["0:x", "bogus", "a,,s", "1:a", "0:a?", ""])
def test_other_selections_are_refused_with_the_forms_that_are_allowed(text):
    with pytest.raises(ConfigError, match=r"video\.streams") as caught:
        resolve([set_layer([f"video.streams={text}"])])
    told = "expected all (or copy), none, or a list such as 0:a:0,0:s:m:language:eng;"
    assert caught.value.message.endswith(f'{told} got "{text}"')
    assert "0:s:0" in caught.value.hint


def test_all_is_another_word_for_copy():
    layers = [set_layer([f"video.streams={text}"]) for text in ("all", "copy")]
    assert {resolve([layer]).settings.video.streams for layer in layers} == {"copy"}


@pytest.mark.parametrize(
    ("source", "form", "end", "wanted"),
    [
        ("a.mkv", "subrip", ".mp4", "mov_text"),
        ("a.mkv", "subrip", ".mov", "mov_text"),
        ("a.mp4", "mov_text", ".mkv", "subrip"),
        ("a.mp4", "mov_text", ".webm", "webvtt"),
    ],
)
def test_subtitles_are_converted(film, restore, tmp_path, ffprobe, source, form, end, wanted):
    path = film(source, subtitles=form, audio=("libopus" if end == ".webm" else "aac",))
    made = restore(path, tmp_path / f"out{end}", codec="av1" if end == ".webm" else "h264")
    assert made.summary.exit_code == ExitCode.OK
    (warning,) = made.of(Warn)
    assert warning.code == "stream_converted"
    assert warning.message.endswith(f"is converted to {wanted}")
    assert ffprobe(made.path, "codec_name", "s:0") == wanted
    data, at = contents(made.path, 2)
    assert b"Line 0" in data and b"Line 1" in data
    assert len(at) == len(contents(path, 2)[1]) == 2
    for number in (1, 2):  # sound and text
        assert abs(offset(made.path, number) - offset(path, number)) <= Fraction(1, 1000)


def test_italics_survive_both_ways(ffmpeg, tmp_path, restore):
    (tmp_path / "a.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nHello <i>you</i>\n")
    scene = ("-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.4:r=25", "-i", tmp_path / "a.srt")
    ffmpeg(*scene, "-c:v", "libx264", "-c:s", "subrip", tmp_path / "a.mkv")
    there = restore(tmp_path / "a.mkv", tmp_path / "b.mp4", codec="h264").path
    back = restore(there, tmp_path / "c.mkv", codec="h264").path
    assert contents(back, 1)[0] == contents(tmp_path / "a.mkv", 1)[0] == b"Hello <i>you</i>"


@pytest.mark.parametrize("rotation", [0, 90, 180])
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_a_preview_shows_the_source_on_the_left(film, restore, tmp_path, rotation, size):
    pix_fmt = "yuv420p" if size[0] % 2 == 0 else "yuv444p"
    source = film("a.mp4", size=size, rotation=rotation, pix_fmt=pix_fmt, count=3)
    made = restore(source, codec="ffv1", compare=True)
    assert made.path.name == "a.preview.mkv"
    with av.open(str(made.path)) as clip, av.open(str(source)) as before:
        joined = [frame.to_ndarray(format="gray") for frame in clip.decode(video=0)]
        wanted = [frame.to_ndarray(format="gray") for frame in before.decode(video=0)]
    axis = 0 if rotation == 90 else 1
    for both, frame in zip(joined, wanted, strict=True):
        for half in np.split(both, 2, axis):
            assert np.array_equal(half, frame)


def test_a_preview_of_a_few_seconds(film, shelf, tmp_path, monkeypatch):
    move_home(monkeypatch, tmp_path)
    source = film("clip.mp4", count=50, audio=("aac",))
    model = ("-m", shelf.foreign(), "-d", "cpu", "--set", "video.deflicker_window=0")
    result = run_here("video", source, "--preview", "0.4", *model)
    assert result.exit_code == 0, result.stderr
    made = source.with_name("clip.preview.mp4")
    assert len(images(made)) == 10
    assert run_here("video", source, "--from", "1.6", "--preview", "9", *model).exit_code == 2
    later = source.with_name("later.mp4")
    line = ("video", source, later, "--from", "1.6", "--preview", "0.2", *model)
    assert run_here(*line).exit_code == 0
    assert len(images(later)) == 5
