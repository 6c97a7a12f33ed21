"""All streams besides the frames are copied untouched, or reported as lost."""

import os
from fractions import Fraction
from typing import Any

import av
import pytest

from varfix.engine.errors import ExitCode, PlanError
from varfix.engine.events import Warn
from varfix.engine.video.clip import TimeRange
from varfix.engine.video.mux import assemble as video_mux

from .conftest import contents, times


def streams(path):
    """Of every stream: its kind, codec, language and disposition."""
    with av.open(str(path)) as clip:
        return [
            (
                stream.type,
                stream.codec_context.codec.canonical_name if stream.codec_context else "",
                stream.metadata.get("language", "und"),
                int(stream.disposition),
            )
            for stream in clip.streams
            if int(stream.discard) != 48
        ]


def chapters(path):
    with av.open(str(path)) as clip:
        return [
            (
                chapter["start"] * chapter["time_base"],
                chapter["end"] * chapter["time_base"],
                chapter["metadata"],
            )
            for chapter in clip.chapters()
        ]


def tags(path):
    with av.open(str(path)) as clip:
        return {key.lower(): value for key, value in clip.metadata.items()}


RICH = {
    "audio": ("aac", "libopus"),
    "metadata": {"title": "A walk", "artist": "Somebody"},
    "chapters": True,
}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("rich.mkv", {"subtitles": "subrip", "attachment": os.urandom(3000)}),
        ("rich.mp4", {"subtitles": "mov_text"}),
        ("rich.mov", {"subtitles": "mov_text", "audio": ("aac", "pcm_s16le")}),
    ],
)
def test_all_other_streams_are_copied(film, restore, name, more):
    source = film(name, **{**RICH, **more})
    made = restore(source, codec="h264", segment_seconds=0.1)
    assert made.path.suffix == source.suffix
    assert not made.summary.failed
    assert streams(made.path) == streams(source)
    assert chapters(made.path) == chapters(source) != []
    expected: Any = RICH["metadata"]
    assert tags(made.path).items() >= expected.items()
    for index, (kind, *_) in enumerate(streams(source)):
        if kind in ("audio", "subtitle"):
            before, after = contents(source, index), contents(made.path, index)
            assert before[0] == after[0] != b""
            assert before[1] == after[1]


def test_attachments_are_copied(film, restore):
    font = os.urandom(5000)
    made = restore(film("font.mkv", attachment=font))
    with av.open(str(made.path)) as clip:
        (kept,) = clip.streams.attachments
        assert (kept.metadata["filename"], kept.mimetype) == ("font.ttf", "font/ttf")
        assert bytes(kept.data) == font


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cover_image_is_copied(film, restore, tmp_path, suffix):
    plain, source = film(f"plain.{suffix}"), tmp_path / f"cover.{suffix}"
    with av.open(str(plain)) as clip, av.open(str(source), "w") as out:
        copy = out.add_stream_from_template(clip.streams.video[0])
        cover = out.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p"
        cover.disposition = 0x400
        for packet in clip.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
        image = av.VideoFrame(16, 16, "yuvj420p")
        out.mux(cover.encode(image))
        out.mux(cover.encode(None))
    made = restore(source, codec="h264")
    assert streams(made.path) == streams(source)
    assert contents(made.path, 1)[0] == contents(source, 1)[0]
    assert times(made.path) == times(plain)


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv"])
def test_audio_longer_than_the_frames_is_kept_whole(film, restore, name):
    source = film(name, audio=("aac",), seconds=1.5)
    made = restore(source, codec="h264")
    assert contents(made.path, 1) == contents(source, 1)
    assert contents(source, 1)[1][-1] > 1


def test_the_order_of_streams_is_kept(film, restore, tmp_path):
    source = film("two.mkv", audio=("aac", "aac"))
    made = restore(source)
    assert [stream[2] for stream in streams(made.path)] == ["und", "eng", "deu"]


def test_without_copies_only_images_are_left(film, restore):
    made = restore(film("rich.mkv", **RICH), streams="none")
    assert [kind for kind, *_ in streams(made.path)] == ["video"]


def test_avi_becomes_mp4(film, restore):
    source = film("old.avi", codec="mpeg4", options={}, audio=("mp3",))
    made = restore(source, codec="h264")
    assert made.path.name == "old.varfix.mp4"
    assert contents(made.path, 1)[0] == contents(source, 1)[0]


def test_streams_that_mp4_cannot_hold_select_mkv_with_a_note(film, restore):
    source = film("old.avi", codec="mpeg4", options={}, audio=("pcm_u8",))
    made = restore(source, codec="h264")
    assert made.path.name == "old.varfix.mkv"
    assert made.note == "writing old.varfix.mkv: mp4 cannot hold stream 1 (audio, pcm_u8)"
    assert contents(made.path, 1)[0] == contents(source, 1)[0]


def test_a_named_container_that_cannot_hold_a_stream_is_refused(film, restore, tmp_path):
    source = film("rich.mkv", subtitles="ass")
    with pytest.raises(
        PlanError, match=r"mp4 cannot hold stream 1 \(subtitle, ssa, eng\)"
    ) as caught:
        restore(source, tmp_path / "out.mp4", codec="h264")
    assert ".mkv" in caught.value.hint
    assert "--streams none" in caught.value.hint


def test_a_cameras_timecode_is_that_of_the_result(film, restore, tmp_path):
    source = film("clip.mov", metadata={"timecode": "10:20:30:04"})
    whole = restore(source, codec="h264")
    for path in (source, whole.path):
        with av.open(str(path)) as clip:
            (data,) = clip.streams.data
            assert data.metadata["timecode"] == "10:20:30:04"
    part = restore(source, tmp_path / "part.mov", cut=TimeRange(Fraction(1, 10)), codec="h264")
    with av.open(str(part.path)) as clip:
        assert not clip.streams.data
    assert [warning.code for warning in part.of(Warn)] == ["stream_lost"]


def test_a_second_video_stream_is_copied(film, restore, tmp_path):
    first = film("first.mp4", count=20)
    # Matroska does not keep when frames out of order are decoded.
    second = film("second.mp4", count=20, options={"preset": "medium", "bf": "3"}, size=(96, 64))
    both = tmp_path / "both.mkv"
    with av.open(str(first)) as a, av.open(str(second)) as b, av.open(str(both), "w") as out:
        ways = [(clip, out.add_stream_from_template(clip.streams.video[0])) for clip in (a, b)]
        for clip, stream in ways:
            for packet in clip.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    made = restore(both)
    assert contents(made.path, 1) == contents(both, 1)
    assert times(made.path) == times(both)


def test_a_container_for_other_encoders_names_one(film, restore, tmp_path):
    with pytest.raises(PlanError, match=r"webm cannot hold libx264 streams") as caught:
        restore(film("clip.mp4"), tmp_path / "out.webm", codec="h264")
    assert caught.value.hint == "name a file that ends in .mkv, or add --codec av1"
    with pytest.raises(PlanError, match=r"webm cannot hold stream 1 \(audio, aac") as caught:
        restore(film("sound.mp4", audio=("aac",)), tmp_path / "out.webm", codec="av1")
    assert "--codec" not in caught.value.hint


def test_an_unknown_container_is_refused(film, restore, tmp_path):
    with pytest.raises(PlanError, match=r"out.wmv: not a video container that varfix writes"):
        restore(film(), tmp_path / "out.wmv")


def test_a_part_takes_its_sound_and_chapters_along(film, restore, tmp_path):
    source = film("clip.mkv", count=20, audio=("pcm_s16le",), chapters=True)
    made = restore(source, tmp_path / "part.mkv", cut=TimeRange(Fraction(1, 10), Fraction(3, 10)))
    assert len(times(made.path)) == 5
    sound = contents(made.path, 1)[1]
    assert 0 <= sound[0] < Fraction(1, 20)
    assert sound[-1] < Fraction(1, 5)
    ((begin, end, facts),) = chapters(made.path)
    assert (begin, end, facts["title"]) == (0, Fraction(1, 10), "Part 1")


def test_a_lost_packet_is_noticed_and_nothing_is_published(film, restore, monkeypatch):
    source = film("clip.mkv", audio=("pcm_s16le",))
    original = video_mux.assemble

    def assemble(wrapping, pieces, part):
        wrapped = original(wrapping, pieces, part)
        for digest in wrapped.digests.values():
            digest._hash.update(b"more was in the source")
        return wrapped

    monkeypatch.setattr("varfix.engine.video.restore_clip.assemble", assemble)
    made = restore(source)
    assert made.summary.exit_code == ExitCode.PARTIAL
    assert "stream 1 differs from the source" in made.summary.failures[0].message
    assert not made.path.exists()


def test_a_lost_frame_is_noticed(film, restore, monkeypatch):
    original = video_mux._Assembly._frames

    def frames(self, stream):
        made = list(original(self, stream))
        yield from made[:-1] if len(made) > 3 else made  # the trial has three

    monkeypatch.setattr(video_mux._Assembly, "_frames", frames)
    made = restore(film("clip.mkv"))
    assert "wrote 9 frames, expected 10" in made.summary.failures[0].message
    assert not made.path.exists()


def test_a_moved_frame_is_noticed(film, restore, monkeypatch):
    original = video_mux._Assembly._frames

    def frames(self, stream):
        for at, packet in original(self, stream):
            if packet.pts == 200:  # the trial ends before it
                packet.pts += 9
            yield at, packet

    monkeypatch.setattr(video_mux._Assembly, "_frames", frames)
    made = restore(film("clip.mkv"))
    assert "frame 5 is at 0.2090 s, expected 0.2000 s" in made.summary.failures[0].message
    assert not made.path.exists()
