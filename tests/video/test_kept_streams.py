"""Streams of cameras, recorders and archives are kept; what cannot be kept is named in advance."""

from fractions import Fraction

import av
import numpy as np
import pytest
from support.clips import Film

from varfix.engine.errors import ExitCode, PlanError
from varfix.engine.events import ItemFail, ItemProgress, Warn
from varfix.engine.video.clip import WHOLE
from varfix.engine.video.mux.iso_boxes import track_descriptions
from varfix.engine.video.mux.matroska_header import chapters_of
from varfix.engine.video.mux.trial import try_muxing
from varfix.engine.video.probe import probe_clip

from .conftest import contents, facts, images, settings_for, times


def offset(path, index):
    """Seconds from the first frame to the first packet of another stream."""
    return contents(path, index)[1][0] - contents(path, 0)[1][0]


def sound_film(path, codec, *, channels=2, rate=48000, container=None):
    """A clip with a sound whose order of speakers the container does not store."""
    with av.open(str(path), "w", format=container) as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream(codec, rate=rate)
        sound.codec_context.bit_rate = 64000
        sound.layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
        film = Film()
        for number in range(10):
            out.mux(video.encode(film.frame(number)))
        size = sound.codec_context.frame_size or 1024
        for at in range(0, rate * 2 // 5, size):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, size * channels), "<i2"), "s16", sound.layout.name
            )
            frame.sample_rate, frame.pts = rate, at
            out.mux(sound.encode(frame))
        for stream in (video, sound):
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_without_an_order_of_speakers_is_copied(tmp_path, restore, channels):
    source = sound_film(tmp_path / "capture.avi", "pcm_s16le", channels=channels)
    made = restore(source, codec="h264")
    assert made.summary.exit_code == ExitCode.OK
    assert contents(made.path, 1)[0] == contents(source, 1)[0] != b""


@pytest.mark.parametrize("codec", ["pcm_alaw", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav", "wmav2"])
@pytest.mark.parametrize("name", ["capture.avi", "it's a |cap\\ture.mkv"])
def test_matroska_holds_every_sound_that_windows_has_a_number_for(
    tmp_path, restore, ffmpeg, codec, name
):
    source = sound_film(tmp_path / "plain.avi", codec, channels=1, rate=44100)
    if name.endswith(".mkv"):
        target = tmp_path / name
        ffmpeg("-i", source, "-c", "copy", "-strict", "-1", target)
        source = target
    made = restore(source, tmp_path / f"result of {name}.mkv", codec="ffv1")
    assert made.summary.exit_code == ExitCode.OK
    (data, at), (wanted, due) = contents(made.path, 1), contents(source, 1)
    assert data == wanted
    assert max(abs(a - b) for a, b in zip(at, due, strict=True)) <= Fraction(1, 1000)
    assert images(made.path)[0][1] == images(source)[0][1]


def test_chapters_and_fonts_come_along_with_such_a_sound(film, tmp_path, restore, ffmpeg):
    rich = film("rich.mkv", chapters=True, attachment=b"font" * 99, audio=("pcm_s16le",))
    source = tmp_path / "alaw.mkv"
    ffmpeg("-i", rich, "-map", 0, "-c", "copy", "-c:a", "pcm_alaw", "-strict", "-1", source)
    made = restore(source)
    with av.open(str(source)) as before, av.open(str(made.path)) as after:
        assert [chapter["start"] * chapter["time_base"] for chapter in before.chapters()] == [
            chapter["start"] * chapter["time_base"] for chapter in after.chapters()
        ]
        assert [chapter["metadata"] for chapter in before.chapters()] == [
            chapter["metadata"] for chapter in after.chapters()
        ]
        assert [bytes(stream.data) for stream in after.streams.attachments] == [b"font" * 99]
    assert contents(made.path, 1)[0] == contents(source, 1)[0]
    assert chapters_of(made.path.read_bytes())


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("stereo_pcm.avi", ".mp4"),
        ("pal_ffv1_pcm.mkv", ".mkv"),
        ("cctv_alaw.mkv", ".mkv"),
        ("djmd.mp4", ".mp4"),
        ("font_then_cover.mkv", ".mkv"),
        ("mebx_like.mov", ".mov"),
    ],
)
def test_reported_clips_keep_every_stream(shared, restore, name, suffix):
    source = shared(name)
    made = restore(source, codec="auto")
    assert made.summary.exit_code == ExitCode.OK
    assert not made.of(Warn)
    assert made.path.suffix == suffix
    assert times(made.path) == times(source)
    assert facts(made.path)["aspect"] == facts(source)["aspect"]
    with av.open(str(source)) as clip:
        kinds = sorted(
            (stream.type, stream.metadata.get("filename", "")) for stream in clip.streams
        )
    with av.open(str(made.path)) as clip:
        assert (
            sorted((stream.type, stream.metadata.get("filename", "")) for stream in clip.streams)
            == kinds
        )
    if kinds[0][0] == "audio":
        assert contents(made.path, 1)[0] == contents(source, 1)[0]
        assert abs(offset(made.path, 1) - offset(source, 1)) < Fraction(1, 1000)


@pytest.mark.parametrize("name", ["djmd.mp4", "mebx_like.mov"])
def test_a_cameras_data_tracks_keep_their_types_and_bytes(shared, restore, name):
    source = shared(name)
    made = restore(source, codec="h264")
    wanted, found = track_descriptions(source), track_descriptions(made.path)
    with av.open(str(source)) as clip:
        data = [stream.index for stream in clip.streams.data]
    assert data
    for index in data:
        assert found[index] == wanted[index]
        assert contents(made.path, index) == contents(source, index)


def test_data_that_the_container_cannot_hold_is_named_before_the_first_frame(
    shared, restore, tmp_path
):
    made = restore(shared("djmd.mp4"), tmp_path / "out.mkv", codec="h264")
    (lost,) = [event for event in made.of(Warn) if event.code == "stream_lost"]
    assert "stream 2 (data)" in lost.message
    kinds = [type(event) for event in made.events]
    assert kinds.index(Warn) < kinds.index(ItemProgress)
    assert made.summary.exit_code == ExitCode.OK


def test_cover_images_and_fonts_are_compared_whatever_their_order(shared, restore):
    source = shared("font_then_cover.mkv")
    made = restore(source)
    with av.open(str(source)) as before, av.open(str(made.path)) as after:
        assert [bytes(stream.data) for stream in before.streams.attachments] == [
            bytes(stream.data) for stream in after.streams.attachments
        ]
        (cover,) = [stream for stream in after.streams.video if stream.disposition & 0x400]
        assert cover.metadata["mimetype"] == "image/jpeg"
        place = cover.index
    assert contents(made.path, place)[0] == contents(source, 3)[0]


def test_a_trial_finds_what_a_container_does_not_hold(film, tmp_path):
    source = film("rich.mkv", subtitles="ass", audio=("aac", "libopus"))
    settings = settings_for(codec="h264").video
    clip = probe_clip(source)
    assert try_muxing(clip, source, tmp_path / "x.mkv", settings, WHOLE).refused == ()
    refused = try_muxing(clip, source, tmp_path / "x.mp4", settings, WHOLE).refused
    assert refused == ("stream 3 (subtitle, ssa, eng)",)
    assert list(tmp_path.iterdir()) == [source]


def test_nothing_is_restored_for_a_container_that_does_not_hold_it(film, restore, tmp_path):
    source = film("rich.mkv", subtitles="ass", audio=("aac",))
    with pytest.raises(PlanError, match=r"mp4 cannot hold stream 2") as caught:
        restore(source, tmp_path / "x.mp4", codec="h264")
    assert caught.value.hint == (
        "name a file that ends in .mkv, or add --streams none to leave out what is not images"
    )
    made = restore(source, tmp_path / "x.mp4", codec="h264", streams="none")
    assert not made.of(ItemFail)
