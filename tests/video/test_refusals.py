"""Clips that would not come out right are refused, with a way out; nothing is published."""

from fractions import Fraction

import av
import numpy as np
import pytest
from support.identity import IdentityRestorer

from varfix.engine.errors import (
    DecodeEmptyError,
    DecodeError,
    DecodeTruncatedError,
    DecodeUnknownError,
    DecodeUnsupportedError,
    ExitCode,
    NonFiniteError,
    PlanError,
)
from varfix.engine.events import ItemFail, Warn
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.video.clip import TimeRange
from varfix.engine.video.probe import probe_clip
from varfix.engine.video.refusals import check_frame
from varfix.engine.video.sources.truncation import container_of, expected_end

from .conftest import images


def test_interlaced_is_refused_with_a_hint_and_can_be_overruled(film):
    source = film(interlaced=True, options={"crf": "10", "x264-params": "tff=1"})
    with pytest.raises(DecodeUnsupportedError, match="interlaced") as caught:
        probe_clip(source)
    assert "--deinterlace" in caught.value.hint
    assert probe_clip(source, interlaced="ignore").frames == 10


def test_a_frame_that_is_interlaced_later_on_fails_the_clip(film, restore, monkeypatch):
    from varfix.engine.video import reader

    seen: list = []

    def check(frame, interlaced):
        seen.append(frame)
        if len(seen) == 5:
            raise DecodeUnsupportedError("is interlaced")
        check_frame(frame, interlaced)

    monkeypatch.setattr(reader, "check_frame", check)
    made = restore(film("clip.mkv"))
    assert made.summary.exit_code == ExitCode.PARTIAL
    assert not made.path.exists()


def test_frames_over_the_limit_are_refused(film):
    with pytest.raises(DecodeUnsupportedError, match="exceed the limit of 1000 pixels"):
        probe_clip(film(), max_pixels=1000)


def test_sound_alone_is_refused(film, tmp_path):
    source = tmp_path / "song.mkv"
    with av.open(str(source), "w") as out:
        sound = out.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), "<i2"), "s16", "mono")
        frame.sample_rate = 8000
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    with pytest.raises(DecodeUnsupportedError, match="no video stream"):
        probe_clip(source)


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.mp4"
    path.write_bytes(b"")
    with pytest.raises(DecodeEmptyError, match="0 bytes"):
        probe_clip(path)


@pytest.mark.parametrize("data", [b"hello, this is text", bytes(5000), b"\x1aE\xdf\xa3"])
def test_what_is_no_clip(tmp_path, data):
    path = tmp_path / "text.mp4"
    path.write_bytes(data)
    with pytest.raises((DecodeUnknownError, DecodeTruncatedError)):
        probe_clip(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_known_before_any_work(film, name, share):
    source = film(name, codec="mpeg4", options={}, count=20, audio=("mp3",))
    assert probe_clip(source).frames
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DecodeTruncatedError, match="ends early") as caught:
        probe_clip(source)
    if name in ("a.mp4", "a.mov"):
        assert "the index" in caught.value.hint
    else:
        assert f"ffmpeg -i {source} -c copy" in caught.value.hint


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_the_existing_part_of_a_truncated_file_can_be_extracted(film, restore, run_hint, name):
    more = {} if name != "a.mp4" else {"container": {"movflags": "faststart"}}
    source = film(name, count=30, **more)
    source.write_bytes(source.read_bytes()[:-500])
    with pytest.raises(DecodeTruncatedError, match="ends early") as caught:
        probe_clip(source)
    # AVI cuts the last frame.
    made = restore(run_hint(caught.value.hint, "part.mkv"), damaged="conceal")
    assert made.summary.exit_code == ExitCode.OK
    assert 20 < len(images(made.path)) <= 30


def test_no_command_is_promised_for_a_part_without_its_index(shared):
    with pytest.raises(DecodeTruncatedError, match="ends early") as caught:
        probe_clip(shared("no_moov.mp4"))
    assert "`" not in caught.value.hint


def test_nothing_remains_of_a_range_without_frames(film, restore, tmp_path):
    range_ = TimeRange(Fraction("0.381"), Fraction("0.383"))
    made = restore(film("clip.mkv"), tmp_path / "out.mkv", cut=range_)
    (failed,) = made.of(ItemFail)
    assert "no frame in this time range" in failed.message
    assert not list(tmp_path.glob("out*"))


def test_a_recording_without_its_index(film):
    source = film()
    data = bytearray(source.read_bytes())
    at = data.index(b"moov")
    data[at : at + 4] = b"lost"
    source.write_bytes(data)
    with pytest.raises(DecodeTruncatedError, match="index is missing"):
        probe_clip(source)


def damaged(source):
    """Overwrite the middle of a frame with noise."""
    with av.open(str(source)) as clip:
        packets = [packet for packet in clip.demux(video=0) if packet.size]
        place, size = packets[5].pos, packets[5].size
    data = bytearray(source.read_bytes())
    data[place + size // 3 : place + size] = np.random.default_rng(1).bytes(size - size // 3)
    source.write_bytes(data)
    return source


def test_damage_inside_fails_the_clip_by_number_and_can_be_concealed(film, restore):
    source = damaged(film("clip.mkv", codec="ffv1", options={"slicecrc": "1"}))
    made = restore(source)
    (failed,) = made.of(ItemFail)
    assert failed.code == "decode_truncated"
    assert "damaged at frame 5" in failed.message
    assert "video.damaged=conceal" in failed.hint
    assert not made.path.exists()
    again = restore(source, damaged="conceal")
    assert again.summary.exit_code == ExitCode.OK
    assert again.of(Warn)
    assert len(images(again.path)) >= 9


def test_a_failure_on_one_frame_leaves_no_file(film, restore):
    class Failing(IdentityRestorer):
        done = 0

        def restore(self, tiles, prior):
            self.done += 1
            if self.done == 7:
                raise NonFiniteError("the model produced invalid values", tile=0)
            return RestoredTiles(tiles)

    made = restore(film("clip.mkv"), restorer=Failing())
    assert made.summary.exit_code == ExitCode.PARTIAL
    (failed,) = made.of(ItemFail)
    assert failed.code == "model_nonfinite"
    assert "frame 6" in failed.message
    assert not made.path.exists()


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"codec": "nonsense"}, "unknown encoder"),
        ({"codec": "aac"}, "unknown encoder"),
        ({"codec": "ffv1", "crf": 20}, "not available for ffv1"),
        ({"codec": "h264", "encoder_options": "profile=nonsense"}, "cannot be opened"),
        ({"codec": "h264", "speed": "lightning"}, "cannot be opened"),
    ],
)
def test_encoders_are_tried_before_any_work(film, restore, video, message):
    with pytest.raises(PlanError, match=message):
        restore(film("clip.mkv"), **video)


def test_the_source_is_never_the_target(film, restore):
    source = film("clip.mkv")
    with pytest.raises(PlanError, match="the source itself"):
        restore(source, source, overwrite=True)


def test_an_existing_file_is_kept_without_overwrite(film, restore):
    source = film("clip.mkv")
    source.with_name("clip.varfix.mkv").write_bytes(b"mine")
    with pytest.raises(PlanError, match="exists") as caught:
        restore(source)
    assert "--overwrite" in caught.value.hint
    made = restore(source, overwrite=True)
    assert images(made.path) == images(source)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi"])
def test_containers_state_where_they_end(film, kind):
    source = film(f"a.{kind}", codec="mpeg4", options={})
    with source.open("rb") as file:
        assert container_of(file.read(12)) == kind
        assert expected_end(file) == source.stat().st_size


def test_a_live_recording_need_not_state_its_end(film, restore):
    source = film("live.mkv", container={"live": "1"})
    with source.open("rb") as file:
        assert expected_end(file) is None
    made = restore(source)
    assert len(images(made.path)) == 10


@pytest.mark.parametrize("seed", range(20))
def test_noise_never_does_worse_than_a_decode_error(tmp_path, film, restore, seed):
    source = film("clip.mp4" if seed % 2 else "clip.mkv", audio=("aac",))
    rng = np.random.default_rng(seed)
    data = bytearray(source.read_bytes())
    for at in rng.integers(0, len(data), 20):
        data[at] = rng.integers(256)
    source.write_bytes(data)
    try:
        probe_clip(source)
    except DecodeError:
        return
    try:
        made = restore(source, tmp_path / "out.mkv", streams="none")
    except PlanError:
        return
    assert made.summary.exit_code in (ExitCode.OK, ExitCode.PARTIAL)
    assert all("unexpected" not in event.message for event in made.of(ItemFail))
