"""Videos of cameras, discs, recorders and browsers, and numbered images, are read as they are."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from support.cli import move_home, run_here

from varfix.engine.errors import (
    DecodeError,
    DecodeUnsupportedError,
    ExitCode,
    NothingToDoError,
)
from varfix.engine.events import Warn
from varfix.engine.formats import is_transport_stream
from varfix.engine.image.animation import is_animated
from varfix.engine.storage.scan import Filters, scan
from varfix.engine.video.probe import probe_clip
from varfix.engine.video.reader import ClipReader, ReadOptions
from varfix.engine.video.sources.numbered_images import frame_rate, numbered_images

from .conftest import CLIPS, contents, facts, images, offset, times

SCENE = ("-f", "lavfi", "-i", "testsrc2=s=96x64:d=0.6:r=25", "-f", "lavfi", "-i", "sine=d=0.6")
CODECS = {
    "a.mts": ("libx264", "ac3"),
    "a.m2ts": ("libx264", "ac3", "-mpegts_m2ts_mode", "1"),
    "a.ts": ("mpeg2video", "mp2", "-output_ts_offset", "5000"),
    "a.mpg": ("mpeg2video", "mp2"),
    "a.vob": ("mpeg2video", "ac3"),
    "a.wmv": ("wmv2", "wmav2"),
    "a.flv": ("flv", "mp3", "-ar", "44100"),
    "a.3gp": ("mpeg4", "aac"),
}
RESULTS = {"a.wmv": ".mkv"}


@pytest.fixture
def source(ffmpeg, tmp_path):
    def make(name):
        video, audio, *more = CODECS[name]
        ffmpeg(*SCENE, "-c:v", video, "-c:a", audio, *more, tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", CODECS)
def test_common_containers(source, restore, name):
    made = restore(source(name), codec="auto")
    assert made.summary.exit_code == ExitCode.OK
    assert not made.of(Warn)
    assert made.path.suffix == RESULTS.get(name, ".mp4")
    assert made.note.startswith(f"writing {made.path.name}: ")
    before, after = times(source(name)), times(made.path)
    assert [b - a for a, b in itertools.pairwise(before)] == pytest.approx(
        [b - a for a, b in itertools.pairwise(after)], abs=1e-3
    )
    number = 1 if name != "a.flv" else 0
    assert contents(made.path, number)[0] == contents(source(name), number)[0]
    assert abs(offset(made.path, number) - offset(source(name), number)) <= Fraction(1, 1000)
    assert min(after[0], contents(made.path, number)[1][0]) < Fraction(1, 10)


def test_a_transport_stream_resumes_without_seeking(source, restore, tmp_path):
    path = source("a.ts")
    clip = probe_clip(path)
    assert clip.is_stream
    whole = restore(path, tmp_path / "a.mkv", segment_seconds=0.2)
    again = restore(path, tmp_path / "b.mkv", segment_seconds=0.2)
    assert images(whole.path) == images(again.path)


def test_dv(ffmpeg, tmp_path, restore, ffprobe):
    path = tmp_path / "tape.dv"
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=720x576:d=0.2:r=25"),
        *("-f", "lavfi", "-i", "sine=d=0.2:r=48000", "-ac", "2", "-target", "pal-dv", path),
    )
    with pytest.raises(DecodeUnsupportedError, match="interlaced"):
        probe_clip(path)
    made = restore(path, codec="auto", interlaced="frames")
    assert made.summary.exit_code == ExitCode.OK
    assert ffprobe(made.path, "sample_aspect_ratio") == "16:15"
    assert contents(made.path, 1)[0] == contents(path, 1)[0]


def frames_of(count=4, size=(40, 24), color="RGB"):
    rng = np.random.default_rng(1)
    depth = len(color)
    return [
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], depth), np.uint8).repeat(1, 0))
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_animations_keep_their_times(tmp_path, restore, name):
    path = tmp_path / name
    first, *rest = frames_of()
    durations = [100, 250, 40, 500]
    first.save(path, save_all=True, append_images=rest, duration=durations, lossless=True)
    made = restore(path, tmp_path / "out.mp4", codec="h264")
    assert made.summary.exit_code == ExitCode.OK
    starts = list(itertools.accumulate([0, *durations]))
    assert times(made.path) == [Fraction(at, 1000) for at in starts[:-1]]
    made = restore(path, tmp_path / "out.mkv")
    with av.open(str(made.path)) as clip:
        last = [packet for packet in clip.demux(video=0) if packet.size][-1]
        assert (last.pts + last.duration) * last.time_base == Fraction(starts[-1], 1000)


def test_the_frames_of_webp_are_those_that_pillow_decodes(tmp_path, restore):
    path = tmp_path / "a.webp"
    first, *rest = frames_of()
    first.save(path, save_all=True, append_images=rest, duration=100, lossless=True)
    made = restore(path, codec="ffv1")
    with av.open(str(made.path)) as clip:
        found = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    for pixels, image in zip(found, [first, *rest], strict=True):
        assert np.abs(pixels.astype(int) - np.asarray(image)).max() <= 2


@pytest.mark.parametrize("start", [0, 1, 98])
def test_numbered_images(tmp_path, restore, start):
    folder = tmp_path / "100%d shots"
    folder.mkdir()
    for number, image in enumerate(frames_of(), start):
        image.save(folder / f"{number:04d}.png")
    (folder / "x0007.png").write_bytes(b"another name")
    made = restore(folder / "%04d.png", codec="auto", fps=23.976)
    assert made.path == tmp_path / "100%d shots.varfix.mp4"
    assert times(made.path) == [Fraction(1001 * n, 24000) for n in range(4)]
    assert facts(made.path)["format"] == "yuv444p"


def test_a_missing_image_is_named(tmp_path, restore):
    for number in (1, 2, 4):
        frames_of(1)[0].save(tmp_path / f"f{number}.png")
    with pytest.raises(NothingToDoError, match=r"f3.png is missing") as caught:
        run = tmp_path / "f%d.png"
        numbered(run)
    assert "f%d.png" in caught.value.message
    with pytest.raises(NothingToDoError, match="no image has such a name"):
        numbered(tmp_path / "g%d.png")


def numbered(path):
    from varfix.engine.batch.plan_clip import check_source

    check_source(path)


def test_numbered_images_are_identified_together(tmp_path):
    for number in range(3):
        frames_of(1)[0].save(tmp_path / f"{number}.png")
    found = numbered_images(tmp_path / "%d.png")
    assert (found.first, found.count) == (0, 3)
    before = found.identity
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes() + b"x")
    assert found.identity != before


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (None, Fraction(25)),
        (24, Fraction(24)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (12.5, Fraction(25, 2)),
    ],
)
def test_rates_of_ntsc_are_exact(given, rate):
    assert frame_rate(given) == rate


def test_the_content_decides_where_the_extension_does_not(source, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    source("a.ts").rename(folder / "a.ts")
    (folder / "code.ts").write_text("let x: number = 1;" * 40)
    first, *rest = frames_of()
    for name in ("a.gif", "a.webp"):
        first.save(folder / f"still.{name[2:]}")
        first.save(folder / name, save_all=True, append_images=rest)
    found = scan(folder, None, Filters())
    assert found.moving == {"a.ts", "a.gif", "a.webp"}
    assert found.sources == ["a.gif", "a.ts", "a.webp", "still.webp"]
    assert found.ignored == ["code.ts", "still.gif"] or set(found.ignored) == {
        "code.ts",
        "still.gif",
    }
    assert not is_animated(folder / "a.ts")
    assert not is_transport_stream(b"G")


def test_a_folder_takes_them_and_counts_the_rest(source, tmp_path, shelf, monkeypatch):
    move_home(monkeypatch, tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    source("a.mts").rename(folder / "a.mts")
    first, *rest = frames_of()
    first.save(folder / "b.webp", save_all=True, append_images=rest)
    (folder / "code.ts").write_text("let x: number = 1;")
    model = ("-m", shelf.foreign(), "-d", "cpu", "--set", "video.deflicker_window=0")
    result = run_here("dir", folder, tmp_path / "out", *model)
    assert result.exit_code == 0, result.stderr
    assert "2 restored, 1 file ignored" in result.stderr
    assert {path.name for path in (tmp_path / "out").glob("*.mkv")} == {"a.mkv", "b.mkv"}
    again = run_here("dir", folder, tmp_path / "out", *model)
    assert "2 skipped (2 up to date)" in again.stderr


def test_a_rate_is_for_numbered_images_only(film, tmp_path, monkeypatch):
    move_home(monkeypatch, tmp_path)
    result = run_here("video", film("clip.mkv"), "--fps", "24")
    assert result.exit_code == 2
    assert "--fps is for numbered images" in result.stderr
    missing = run_here("video", tmp_path / "none/%04d.png", "--fps", "24")
    assert missing.exit_code == 3


def test_a_gif_with_one_frame_is_a_short_video(tmp_path, monkeypatch, shelf):
    move_home(monkeypatch, tmp_path)
    frames_of(1)[0].save(tmp_path / "still.gif")
    result = run_here("video", tmp_path / "still.gif", "-m", shelf.foreign(), "-d", "cpu")
    assert result.exit_code == 0, result.stderr
    assert len(images(tmp_path / "still.varfix.mp4")) == 1


REFUSED = {"dolby_vision_p5.mov": "Dolby Vision", "no_moov.mp4": "ends early"}


@pytest.mark.parametrize("path", sorted(CLIPS.glob("*")), ids=lambda path: path.name)
def test_every_reported_video_is_restored_or_refused_in_advance(path, restore, tmp_path):
    words = REFUSED.get(path.name)
    if words is not None:
        with pytest.raises(DecodeError, match=words):
            restore(path, tmp_path, codec="auto")
        return
    made = restore(path, tmp_path, codec="auto")
    assert made.summary.exit_code == ExitCode.OK
    assert len(times(made.path)) == len(times_of(path))
    assert not list(tmp_path.glob("*.varfix*"))


def times_of(path):
    clip = probe_clip(path)
    reader = ClipReader(path, clip, ReadOptions(clip.layout))
    return [frame.pts for frame in reader.frames()]
