"""Encoders receive the requested options, or reject them; equal frames give equal bytes."""

import os
import subprocess
import sys

import av
import numpy as np
import pytest

from varfix.engine.errors import DeviceUnavailableError, PlanError
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.clip import Clip, Layout
from varfix.engine.video.encode.encoder_check import check_encoders
from varfix.engine.video.encode.encoders import ENCODERS, hardware_encoders
from varfix.engine.video.encode.writer import SegmentEncoder, encoding_for

ENCODE = """
import hashlib, sys
from pathlib import Path
import numpy as np
from varfix.engine.video.clip import Clip, Layout
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.encode.writer import SegmentEncoder, encoding_for
count, depth = int(sys.argv[3]), int(sys.argv[4])
layout, rng = Layout(80, 48, depth), np.random.default_rng(0)
settings = VideoSettings(codec=sys.argv[2])
writer = SegmentEncoder(Path(sys.argv[1]), encoding_for(Clip(layout), settings))
base = rng.integers(16, 235, (48, 80))
for number in range(count):
    # Flicker, which x264 weighs by what it finds between the frames.
    luma = (np.roll(base, number, 1) * (0.6 + 0.4 * rng.random())).astype(layout.dtype)
    writer.add((luma, *(np.full((24, 40), 128, layout.dtype),) * 2))
writer.finish()
print(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc fills memory on request")
@pytest.mark.parametrize(
    ("codec", "count", "depth"),
    [("h264", 8, 8), ("hevc", 8, 8), ("av1", 8, 8), ("ffv1", 8, 8), ("hevc", 2, 10)],
)
def test_the_contents_of_memory_change_no_result(tmp_path, codec, count, depth):
    found = set()
    for filling in ("0", "85"):
        line = [sys.executable, "-c", ENCODE, tmp_path / "a.mkv", codec, str(count), str(depth)]
        env = {**os.environ, "MALLOC_PERTURB_": filling}
        found.add(subprocess.run(line, env=env, check=True, capture_output=True).stdout)
    assert len(found) == 1


CLIP = Clip(Layout(96, 64))


def encoding(**video):
    return encoding_for(CLIP, VideoSettings(**video))


@pytest.mark.parametrize("codec", ENCODERS)
def test_an_encoder_named_as_ffmpeg_does_is_the_same_one(codec):
    assert encoding(codec=ENCODERS[codec].name) == encoding(codec=codec)


@pytest.mark.parametrize(
    "video",
    [
        {"codec": "h264", "encoder_options": "tune=grain,aq-mode=3", "speed": "slow"},
        {"codec": "libvpx-vp9", "crf": 30},
        {"codec": "mpeg4", "encoder_options": "b=2M"},
        {"codec": "rawvideo"},
        {"codec": "huffyuv"},
    ],
    ids=lambda video: video["codec"],
)
def test_options_of_an_encoder_are_accepted(video):
    if "encoder_options" in video:
        asked = dict(pair.split("=") for pair in video["encoder_options"].split(","))
        assert asked.items() <= encoding(**video).options.items()
    assert encoding(**video).encoder in (video["codec"], "libx264")


@pytest.mark.parametrize(
    ("video", "words"),
    [
        # At its default an encoder without --crf would make 200 kbit/s of anything.
        ({"codec": "mpeg4"}, "mpeg4 has no --crf"),
        ({"codec": "mpeg4", "crf": 20, "encoder_options": "b=2M"}, "mpeg4 has no --crf"),
        ({"codec": "rawvideo", "crf": 3}, "rawvideo has no --crf"),
        ({"codec": "ffv1", "crf": 3}, "not available for ffv1"),
        ({"codec": "prores_ks", "crf": 3}, "not available for prores_ks .its profile"),
        ({"codec": "h264", "encoder_options": "tunes=grain"}, "libx264 has no option tunes"),
        ({"codec": "h264", "speed": "fastish"}, "libx264 cannot be opened"),
        ({"codec": "ffv1", "speed": "slow"}, "video.speed: slow: the encoder ffv1"),
        ({"codec": "ffv1", "encoder_options": "preset=slow"}, "video.encoder_options: preset"),
        ({"codec": "mp3"}, "unknown encoder"),
    ],
)
def test_what_an_encoder_does_not_know_is_refused_and_not_ignored(video, words):
    with pytest.raises(PlanError, match=words):
        encoding(**video)


def test_a_nested_option_list_is_appended_to_varfixs_part():
    given = encoding(codec="hevc", encoder_options="x265-params=aq-mode=3").options["x265-params"]
    assert given.endswith(":aq-mode=3")
    assert "open-gop=0" in given


@pytest.mark.parametrize(
    ("codec", "layout", "profile"),
    [
        ("prores", Layout(64, 48), "HQ"),
        ("prores_ks", Layout(64, 48, 10, 2, 1), "HQ"),
        ("prores", Layout(64, 48, 10, 1, 1), "4444"),
    ],
)
def test_editing_codecs_need_no_quality(tmp_path, codec, layout, profile):
    chosen = encoding_for(Clip(layout), VideoSettings(codec=codec))
    writer = SegmentEncoder(tmp_path / "a.mkv", chosen)
    writer.add(tuple(np.full(shape, 90, chosen.layout.dtype) for shape in chosen.layout.shapes))
    writer.finish()
    with av.open(str(tmp_path / "a.mkv")) as clip:
        context = clip.streams.video[0].codec_context
        assert context.profile == profile


@pytest.mark.parametrize("codec", ["h264", "hevc", "ffv1", "av1"])
def test_chroma_stays_where_jpeg_has_it(film, restore, ffprobe, codec):
    source = film("clip.mov", codec="mjpeg", pix_fmt="yuvj420p", options={}, tags=(1, 1, 5, 2))
    assert ffprobe(source, "chroma_location") == "center"
    made = restore(source, codec=codec)
    assert ffprobe(made.path, "chroma_location") == "center"


def test_missing_hardware_encoders_are_reported_with_a_workaround():
    works = {fact.encoder for fact in check_encoders() if fact.works}
    missing = [name for name in hardware_encoders() if name not in works]
    assert missing or works > {encoder.name for encoder in ENCODERS.values()}
    for name in missing:
        with pytest.raises(DeviceUnavailableError, match=f"^encoder {name} cannot") as caught:
            encoding(codec=name)
        assert "use --codec hevc or --codec h264" in caught.value.hint
        assert "avcodec" not in caught.value.message


@pytest.mark.parametrize("codec", ["mpeg4", "libvpx-vp9"])
def test_other_encoders_of_ffmpeg_can_be_named(tmp_path, codec):
    options = "b=2M" if codec == "mpeg4" else ""
    chosen = encoding(codec=codec, encoder_options=options)
    writer = SegmentEncoder(tmp_path / "a.mkv", chosen)
    writer.add(tuple(np.full(shape, 90, np.uint8) for shape in chosen.layout.shapes))
    writer.finish()
    with av.open(str(tmp_path / "a.mkv")) as piece:
        name = {"libvpx-vp9": "vp9"}.get(codec, codec)
        assert piece.streams.video[0].codec_context.codec.canonical_name == name
        assert len(list(piece.decode(video=0))) == 1
