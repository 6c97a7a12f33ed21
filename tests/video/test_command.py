"""`varfix video` and clips in `varfix dir`, from outside."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction

import av
import jsonschema
import numpy as np
import pytest
from PIL import Image
from support.cli import move_home, run_here
from support.event_schema import event_schema

from varfix.engine.video.clip import Clip, Frame, Layout
from varfix.engine.video.y4m import Y4mReader, Y4mWriter

from .conftest import contents, facts, images, times


@pytest.fixture(autouse=True)
def own_settings(monkeypatch, tmp_path_factory):
    move_home(monkeypatch, tmp_path_factory.mktemp("home"))


@pytest.fixture
def run(shelf):
    """Run `varfix VERB ...` here with a model that does nothing."""
    model = shelf.foreign()

    def start(verb, *arguments, stdin=None):
        model_and_device = ("-m", model, "-d", "cpu", "--set", "video.deflicker_window=0")
        return run_here(verb, *arguments, *model_and_device, stdin=stdin)

    return start


@pytest.fixture
def video(run):
    return lambda *arguments, **more: run("video", *arguments, **more)


def events(result, kind=None):
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return [line for line in lines if kind in (None, line["event"])]


def test_the_result_is_next_to_the_video(film, video):
    source = film("clip.mp4", audio=("aac",))
    result = video(source)
    assert result.exit_code == 0, result.stderr
    assert "1 restored" in result.stderr
    target = source.with_name("clip.varfix.mp4")
    assert times(target) == times(source)
    assert contents(target, 1) == contents(source, 1)
    assert {path.name for path in source.parent.iterdir()} >= {"clip.mp4", "clip.varfix.mp4"}
    assert not source.with_name("clip.varfix.mp4.varfix").exists()


def test_a_finished_command_is_done(film, video, tmp_path):
    source, target = film("clip.mkv"), tmp_path / "out.mkv"
    for end in ([], [target]):
        assert video(source, *end).exit_code == 0
    written = target.stat().st_ino, target.stat().st_mtime_ns
    again = video(source, target, "--json")
    assert again.exit_code == 0
    assert [event["reason"] for event in events(again, "item.skip")] == ["done"]
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == written
    assert "done already" in video(source).stderr
    assert "skip (done)" in video(source, "-n").stdout
    assert video(source, target, "--overwrite").exit_code == 0
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns
    assert video(source, target, "--json").exit_code == 0


def test_only_the_same_result_is_done(film, video, tmp_path):
    source, target = film("clip.mkv"), tmp_path / "out.mkv"
    assert video(source, target).exit_code == 0
    other = video(source, target, "--crf", "30")
    assert other.exit_code == 2
    assert "made with other settings" in other.stderr
    assert "--overwrite" in other.stderr
    os.utime(source, (1, 1))
    assert video(source, target).exit_code == 2
    assert video(source, target, "--overwrite").exit_code == 0
    data = bytearray(target.read_bytes())
    data[-3] ^= 1
    target.write_bytes(data)
    assert video(source, target).exit_code == 2
    target.unlink()
    assert video(source, target).exit_code == 0


@pytest.mark.skipif(os.name == "nt", reason="the limit is that of POSIX file systems")
@pytest.mark.parametrize("length", [237, 244, 251])
def test_long_names(film, video, length):
    source = film("clip.mkv")
    source = source.rename(source.with_name("ä" * 50 + "b" * (length - 104) + ".mkv"))
    result = video(source)
    assert result.exit_code == 0, result.stderr
    (made,) = source.parent.glob("*.varfix.mkv")
    assert images(made)
    assert video(source).exit_code == 0


@pytest.mark.parametrize(
    ("name", "codec", "end"),
    [("clip.mp4", "ffv1", ".mkv"), ("clip.mp4", "prores", ".mov"), ("clip.avi", "auto", ".mp4")],
)
def test_the_usual_container_is_chosen_and_said(film, video, name, codec, end):
    source = film(name, count=3)
    result = video(source, "--codec", codec)
    assert result.exit_code == 0, result.stderr
    note = next(line for line in result.stderr.splitlines() if f"clip.varfix{end}: " in line)
    assert note.startswith("writing ")
    assert not note.endswith(".")
    assert images(source.with_name(f"clip.varfix{end}"))


def test_the_result_has_the_time_of_the_video(film, video, tmp_path):
    source = film("clip.mkv")
    os.utime(source, (1_111_111_111, 1_111_111_111))
    assert video(source, tmp_path / "kept.mkv").exit_code == 0
    assert (tmp_path / "kept.mkv").stat().st_mtime == 1_111_111_111
    assert video(source, tmp_path / "now.mkv", "--set", "output.times=now").exit_code == 0
    assert (tmp_path / "now.mkv").stat().st_mtime > 1_111_111_111


def test_events_are_those_of_images_counted_in_frames(film, video, tmp_path):
    result = video(film("clip.mkv"), tmp_path / "out.mkv", "--json", "--codec", "ffv1")
    reported = events(result)
    for line in reported:
        jsonschema.validate(line, event_schema())
    kinds = [line["event"] for line in reported]
    assert kinds[:3] == ["run.start", "plan", "item.start"]
    assert kinds[-2:] == ["item.done", "run.end"]
    assert reported[0]["command"] == "video"
    assert reported[1]["pixels"] == 64 * 48 * 10
    assert reported[2]["frames"] == 10
    progress = [line for line in reported if line["event"] == "item.progress"]
    assert (progress[-1]["done"], progress[-1]["total"]) == (10, 10)
    assert progress[-1]["unit"] == "frame"
    assert reported[-1]["exit"] == result.exit_code == 0
    assert set(reported[-1]["busy"]) == {"decode", "infer", "encode"}


def test_a_refusal_is_an_event_with_a_hint_and_exit_code_1(film, video):
    source = film(interlaced=True, options={"crf": "10", "x264-params": "tff=1"})
    result = video(source, "--json")
    (failed,) = events(result, "item.fail")
    assert failed["code"] == "decode_unsupported"
    assert "interlaced" in failed["message"]
    assert failed["hint"]
    assert result.exit_code == 1
    assert not source.with_name("clip.varfix.mp4").exists()


def test_dry_run_writes_nothing_and_prints_the_plan(film, video):
    source = film()
    result = video(source, "-n")
    assert result.exit_code == 0
    assert "clip.mp4 ->" in result.stdout
    assert "clip.varfix.mp4  64x48, 10 frames" in result.stdout
    assert "to restore" in result.stdout
    assert [path.name for path in source.parent.glob("clip*")] == ["clip.mp4"]
    source.write_bytes(b"no clip")
    refused = video(source, "-n")
    assert refused.exit_code == 1
    assert f"{source}: not a video" in refused.stderr


def test_codec_and_quality_are_settings(film, video, tmp_path):
    source = film(count=3)
    result = video(source, "-nv", "--codec", "hevc", "--crf", "21")
    assert "video.codec = hevc  (--codec)" in result.stdout
    assert "video.crf = 21  (--crf)" in result.stdout
    video(source, tmp_path / "small.mp4", "--codec", "h264", "--crf", "40")
    video(source, tmp_path / "large.mp4", "--codec", "h264", "--crf", "5")
    assert (tmp_path / "small.mp4").stat().st_size < (tmp_path / "large.mp4").stat().st_size
    with av.open(str(tmp_path / "large.mp4")) as clip:
        assert clip.streams.video[0].codec_context.codec.canonical_name == "h264"


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        (("--from", "0.2", "--to", "0:00.6"), 10),
        (("--from", "0.6"), 10),
        (("--to", "0.2"), 5),
        (("--sample", "0.2"), 5),
        (("--sample", "1:00"), 25),
    ],
)
def test_parts(film, video, tmp_path, options, frames):
    source, target = film("clip.mkv", count=25), tmp_path / "part.mkv"
    assert video(source, target, "--codec", "ffv1", *options).exit_code == 0
    assert len(times(target)) == frames
    assert times(target)[0] == 0
    assert {crc for _, crc in images(target)} <= {crc for _, crc in images(source)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--from", "2", "--to", "1"), "not after"),
        (("--from", "99"), "only 0.4 s long"),
        (("--from", "x"), "not a time such as"),
        (("--from", "1:99"), "'1:99' has 99 in it: minutes and seconds are below 60"),
        (("--to", "0:60:00"), "'0:60:00' has 60 in it: minutes and seconds are below 60"),
        (("--sample", "0"), "more than 0"),
        (("--sample", "1", "--from", "1"), "cannot be combined with --from"),
        (("--codec", "nonsense"), "unknown encoder"),
        (("--codec", "h265"), "use --codec hevc"),
        (("--crf", "99"), "99"),
        (("--set", "video.segmnt=3"), 'did you mean "video.segment_seconds"'),
        (("nowhere.wmv",), "not a video container that varfix writes"),
    ],
)
def test_wrong_usage_is_reported_before_any_work(film, video, options, words):
    source = film()
    result = video(source, *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not source.with_name("clip.varfix.mp4").exists()


def test_no_such_file(video, tmp_path):
    result = video(tmp_path / "gone.mp4")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def y4m(count=4, layout=None, **more):
    layout, out = layout or Layout(32, 24), io.BytesIO()
    writer = Y4mWriter(out, Clip(layout, rate=Fraction(24), **more), layout)
    rng = np.random.default_rng(3)
    for number in range(count):
        planes = tuple(rng.integers(0, 255, shape).astype(layout.dtype) for shape in layout.shapes)
        writer.add(Frame(planes, number, 1), planes)
    return out.getvalue()


def test_a_pipe_to_a_pipe(video):
    data = y4m(aspect=Fraction(4, 3))
    result = video("-", "-", stdin=data)
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes == data


def test_a_pipe_to_a_file(video, tmp_path):
    target = tmp_path / "out.mkv"
    result = video("-", target, "--codec", "ffv1", stdin=y4m(aspect=None))
    assert result.exit_code == 0, result.stderr
    assert times(target) == [Fraction(round(number * 1000 / 24), 1000) for number in range(4)]
    assert not list(tmp_path.glob("*.varfix"))


def test_a_file_to_a_pipe(film, video):
    source = film("clip.mkv", codec="ffv1", options={}, aspect=Fraction(4, 3))
    result = video(source, "-")
    reader = Y4mReader(io.BytesIO(result.stdout_bytes))
    assert reader.clip.aspect == facts(source)["aspect"]
    assert len(list(reader.frames())) == 10


def test_odd_frames_from_a_pipe_into_a_file(video, tmp_path):
    data = y4m(layout=Layout(31, 23))
    result = video("-", tmp_path / "out.mp4", "--codec", "h264", stdin=data)
    assert result.exit_code == 0, result.stderr
    assert facts(tmp_path / "out.mp4")["size"] == (31, 23)


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", 1, "stdin: empty stream (0 bytes)"),
        (b"GIF89a", 1, "stdin: not a y4m stream"),
        (y4m()[:-5], 1, "stdin: the stream ends inside frame 3"),
    ],
)
def test_what_is_wrong_with_a_pipe(video, tmp_path, data, code, words):
    result = video("-", tmp_path / "out.mkv", stdin=data)
    assert result.exit_code == code
    assert words in result.stderr
    assert not (tmp_path / "out.mkv").exists()


def test_streams_that_cannot_carry_a_clip(film, video):
    assert "both need stdout" in video(film(), "-", "--json").stderr
    assert "DST is missing" in video("-", stdin=y4m()).stderr


def test_a_reader_that_goes_away_ends_the_run_quietly(film, shelf):
    source = film("clip.mkv", count=60, size=(320, 240))
    line = [sys.executable, "-m", "varfix.cli", "video", source, "-", "-m", shelf.foreign()]
    process = subprocess.Popen(
        [*map(str, line), "-d", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.read(5000)
    process.stdout.close()
    assert process.wait(60) == 141
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="POSIX signals")
def test_the_same_command_resumes_after_ctrl_c(film, shelf, tmp_path):
    source, target = film("clip.mkv", count=60, size=(160, 120)), tmp_path / "out.mkv"
    line = [sys.executable, "-m", "varfix.cli", "video", source, target, "-m", shelf.foreign()]
    line = [*map(str, line), "-d", "cpu", "--codec", "ffv1", "--set", "video.segment_seconds=0.2"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE)
    parts = tmp_path / "out.mkv.varfix"
    deadline = time.monotonic() + 60
    while not list(parts.glob("seg-*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    if process.returncode == 0:
        pytest.skip("too fast to be interrupted")
    assert process.returncode == 130
    assert b"stopping after the current frame; press Ctrl-C again" in said
    assert not target.exists()
    kept = len(list(parts.glob("seg-*.json")))
    assert kept
    assert subprocess.run(line, check=False, stderr=subprocess.DEVNULL).returncode == 0
    assert images(target) == images(source)


def test_a_folder_of_images_and_videos(film, run, tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    Image.new("RGB", (20, 10), "red").save(source / "a.png")
    for name, more in (("b.mkv", {}), ("deep/c.mp4", {"audio": ("aac",)})):
        shutil.move(film(name.replace("/", "-"), **more), source / name)
    shutil.move(film("d.avi", codec="mpeg4", options={}), source / "d.avi")
    (source / "bad.mp4").write_bytes(b"no clip")
    result = run("dir", source, target, "--json")
    assert result.exit_code == 1
    assert {event["code"] for event in events(result, "item.fail")} == {"decode_unknown"}
    made = sorted(p.relative_to(target).as_posix() for p in target.rglob("*.*") if p.is_file())
    assert [name for name in made if not name.startswith(".")] == [
        "a.png",
        "b.mkv",
        "d.mkv",
        "deep/c.mp4",
    ]
    assert times(target / "b.mkv") == times(source / "b.mkv")
    again = run("dir", source, target, "--json")
    assert {event["reason"] for event in events(again, "item.skip")} == {"done"}
    assert len(events(again, "item.skip")) == 4
    other = run("dir", source, target, "--json", "--set", "video.crf=30")
    (plan,) = events(other, "plan")
    assert (plan["skip_done"], plan["skip_stale"]) == (1, 3)


def test_the_shipped_model_restores_a_clip(film):
    source = film("clip.mp4", count=3, audio=("aac",))
    result = run_here("video", source, "-d", "cpu", "-p", "denoise")
    assert result.exit_code == 0, result.stderr
    target = source.with_name("clip.varfix.mp4")
    assert times(target) == times(source)
    assert contents(target, 1) == contents(source, 1)
    assert [crc for _, crc in images(target)] != [crc for _, crc in images(source)]


def test_help_describes_every_option():
    text = run_here("video", "--help").stdout
    for word in ("--codec", "--crf", "--from", "--to", "--sample", "DST.varfix", "y4m", "HDR"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100
