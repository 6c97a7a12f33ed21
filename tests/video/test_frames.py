"""Every frame comes back: its samples, its time, its shape, its colors."""

import time
from fractions import Fraction

import av
import numpy as np
import pytest
from support.identity import IdentityRestorer
from support.judging import DARK, HAZY, Judging

from varfix.engine.errors import ExitCode
from varfix.engine.events import ItemDone, ItemProgress, ItemStart, Warn
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.types import Settings
from varfix.engine.video.clip import TimeRange
from varfix.engine.video.deflicker import DeflickerSettings
from varfix.engine.video.frame_pipeline import deflicker_settings

from .conftest import facts, images, times

UNEVEN = (0, 40, 70, 200, 201, 350, 500, 520, 900, 901)


def test_frames_and_times_come_back_exactly(film, restore):
    source = film("clip.mkv")
    made = restore(source)
    assert made.summary.exit_code == ExitCode.OK
    assert made.path == source.with_name("clip.varfix.mkv")
    assert images(made.path) == images(source)
    assert len(images(source)) == 10


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
@pytest.mark.parametrize("segment", [0.1, 10])
def test_a_variable_rate_is_kept_tick_for_tick(film, restore, name, segment):
    source = film(name, times=UNEVEN)
    assert times(source) == [Fraction(tick, 1000) for tick in UNEVEN]
    made = restore(source, codec="h264", segment_seconds=segment)
    assert times(made.path) == times(source)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(60), Fraction(25, 2)])
def test_rates_are_kept(film, restore, rate):
    source = film(rate=rate, count=7)
    made = restore(source, codec="h264", segment_seconds=0.1)
    assert times(made.path) == times(source) == [n / rate for n in range(7)]
    with av.open(str(made.path)) as out:
        assert out.streams.video[0].average_rate == rate
        assert out.streams.video[0].frames == 7


def test_duration_stays_to_the_tick(film, restore):
    source = film(times=UNEVEN)
    made = restore(source, codec="h264")
    lengths = []
    for path in (source, made.path):
        with av.open(str(path)) as clip:
            lengths.append(clip.streams.video[0].duration * clip.streams.video[0].time_base)
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "ffv1"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_depth_and_times_survive_every_codec(film, restore, tmp_path, codec, pix_fmt):
    source = film("deep.mkv", pix_fmt=pix_fmt, count=5, codec="ffv1", options={})
    made = restore(source, tmp_path / "out.mkv", codec=codec)
    assert facts(made.path)["format"] == pix_fmt
    assert times(made.path) == times(source)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "chosen"),
    [
        ("libx264", "yuv420p", "h264"),
        ("libx264", "yuv420p10le", "hevc"),
        ("ffv1", "yuv420p10le", "ffv1"),
        ("mpeg4", "yuv420p", "h264"),
        ("libvpx-vp9", "yuv420p", "av1"),
    ],
)
def test_auto_takes_the_clips_own_codec_or_its_successor(film, restore, codec, pix_fmt, chosen):
    source = film("clip.mkv", codec=codec, pix_fmt=pix_fmt, count=2, options={})
    made = restore(source, codec="auto")
    with av.open(str(made.path)) as out:
        assert out.streams.video[0].codec_context.codec.canonical_name == chosen


@pytest.mark.parametrize("size", [(65, 49), (65, 48), (1, 1), (17, 33)])
@pytest.mark.parametrize("codec", ["ffv1", "h264"])
def test_odd_sizes_stay(film, restore, tmp_path, size, codec):
    source = film("odd.mkv", size=size, codec="ffv1", options={}, count=3)
    made = restore(source, tmp_path / "out.mkv", codec=codec)
    assert facts(made.path)["size"] == size
    if codec == "ffv1":
        assert images(made.path) == images(source)
    else:
        (reported,) = [event for event in made.of(Warn) if event.code == "pixel_format"]
        assert "yuv420p" in reported.message


def test_one_frame(film, restore):
    source = film("one.mkv", count=1)
    assert images(restore(source).path) == images(source)


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("name", ["phone.mp4", "phone.mkv"])
def test_a_turned_clip_stays_turned(film, restore, rotation, name):
    source = film(name, rotation=rotation)
    made = restore(source, codec="h264")
    assert facts(made.path)["rotation"] == facts(source)["rotation"] != 0
    assert facts(made.path)["size"] == (64, 48)


def test_the_model_sees_a_turned_clip_upright(film, restore):
    tall = []

    class Watching(IdentityRestorer):
        def restore(self, tiles, prior):
            # The bars, which stand side by side, lie one above the other when turned.
            tall.append(bool(np.ptp(tiles[0, 20:60, 8], axis=0).max() > 0.5))
            return RestoredTiles(tiles)

    upright, turned = film("a.mp4", size=(64, 64)), film("b.mp4", size=(64, 64), rotation=90)
    restore(upright, restorer=Watching(), codec="h264")
    assert not any(tall)
    tall.clear()
    restore(turned, restorer=Watching(), codec="h264")
    assert all(tall)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        *(("h264", ".mp4"), ("av1", ".mp4"), ("ffv1", ".mp4")),
        *(("h264", ".mkv"), ("hevc", ".mkv"), ("av1", ".mkv"), ("ffv1", ".mkv")),
        *(("libvpx-vp9", ".mkv"), ("libvpx-vp9", ".webm"), ("av1", ".webm")),
    ],
)
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(10, 11)])
def test_pixel_aspect_stays(film, restore, tmp_path, codec, suffix, aspect):
    source = film(aspect=aspect, count=2)
    made = restore(source, tmp_path / f"out{suffix}", codec=codec, streams="none")
    assert facts(made.path)["aspect"] == aspect
    assert len(images(made.path)) == 2


@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (6, 6, 6, 1), (5, 1, 5, 2), (9, 1, 9, 1)])
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_color_tags_stay(film, restore, tmp_path, tags, codec):
    source = film("bars.mkv", tags=tags, count=2)
    made = restore(source, tmp_path / "out.mkv", codec=codec)
    assert facts(made.path)["tags"] == facts(source)["tags"] == tags


@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (6, 6, 6, 1), (5, 1, 5, 2), (2, 2, 2, 0)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_color_bars_come_back_code_for_code(film, restore, tags, pix_fmt):
    source = film("bars.mkv", codec="ffv1", options={}, tags=tags, pix_fmt=pix_fmt, count=2)
    assert images(restore(source).path) == images(source)


def test_an_edit_list_with_b_frames(film, restore, tmp_path):
    whole = film("whole.mp4", count=30, options={"crf": "10", "g": "10", "bf": "3"})
    source = tmp_path / "edited.mp4"
    with av.open(str(whole)) as clip, av.open(str(source), "w") as out:
        copy = out.add_stream_from_template(clip.streams.video[0])
        shift = round(Fraction(1, 5) / clip.streams.video[0].time_base)
        for packet in clip.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                out.mux(packet)
    shown = times(source)
    assert len(shown) < 30  # what lies before the list's beginning is not shown
    made = restore(source, codec="h264", segment_seconds=0.2)
    assert times(made.path) == shown


def test_a_part_begins_at_nothing(film, restore, tmp_path):
    source = film("clip.mkv", count=20, audio=("aac",))
    made = restore(source, tmp_path / "part.mkv", cut=TimeRange(Fraction(1, 5), Fraction(3, 5)))
    all_, part = images(source), images(made.path)
    assert [crc for _, crc in part] == [
        crc for at, crc in all_ if Fraction(1, 5) <= at - all_[0][0] < Fraction(3, 5)
    ]
    assert part[0][0] == 0


def test_progress_and_totals_count_frames(film, restore):
    made = restore(film("clip.mkv"))
    (start,) = made.of(ItemStart)
    assert (start.width, start.height, start.frames) == (64, 48, 10)
    last = made.of(ItemProgress)[-1]
    assert (last.done, last.total, last.unit, last.eta) == (10, 10, "frame", 0)
    assert last.fps > 0
    (done,) = made.of(ItemDone)
    assert set(done.stage) == {"decode", "infer", "encode"}
    assert done.bytes == made.path.stat().st_size


def test_findings_of_a_video_are_those_of_its_key_frames(film, restore):
    restorer = Judging(given=(HAZY, DARK))
    (done,) = restore(film("clip.mkv"), restorer=restorer).of(ItemDone)
    assert restorer.calls == 10  # frames that nothing connects are key frames
    assert done.found == {"haze": 0.48, "noise": 0.61}
    assert set(done.applied) == {"haze", "noise"}


def test_frame_progress_is_reported_at_most_twice_a_second(film, restore):
    class Slow(IdentityRestorer):
        def restore(self, tiles, prior):
            time.sleep(0.06)
            return RestoredTiles(tiles)

    made = restore(film("clip.mkv", count=40), restorer=Slow())
    (done,), reported = made.of(ItemDone), made.of(ItemProgress)
    assert 3 <= len(reported) <= 2 + 2 * done.seconds
    for progress in reported:
        assert 0 < progress.fps < 1 / 0.06 + 1
        assert progress.eta == pytest.approx((40 - progress.done) / progress.fps, abs=0.2)


def test_what_the_model_changes_is_changed_in_the_clips_own_colors(film, restore, tmp_path):
    class Darker(IdentityRestorer):
        def restore(self, tiles, prior):
            return RestoredTiles(tiles * np.float32(0.5))

    source = film("bars.mkv", codec="ffv1", options={}, count=1)
    made = restore(source, restorer=Darker())
    shown = []
    for path in (source, made.path):
        with av.open(str(path)) as clip:
            frame = next(clip.decode(video=0))
            rgb = frame.reformat(
                format="rgb24", src_colorspace=1, src_color_range=1, dst_color_range=2
            )
            shown.append(rgb.to_ndarray()[30:40, 16:20].mean((0, 1)))
    np.testing.assert_allclose(shown[1], shown[0] / 2, atol=1.5)


def test_the_default_settings_enable_the_deflicker_filter():
    assert deflicker_settings(Settings()) == DeflickerSettings(denoise_window=3)
