"""Progress lines and summaries of a run."""

import io
import os
import threading
import time

import msgspec
import pytest
from msgspec import structs
from rich.console import Console

from varfix.cli.progress import LiveProgress, PlainProgress, Stopwatch, progress
from varfix.cli.run_stats import RunStats, duration
from varfix.cli.terminal import Terminal, join_hint
from varfix.engine.events import (
    DeviceFacts,
    ItemDone,
    ItemFail,
    ItemProgress,
    ItemSkip,
    ItemStart,
    ModelFacts,
    PlanDone,
    RetryCounts,
    RunEnd,
    RunStart,
    Warn,
)

DEVICE = DeviceFacts(requested="auto", used="cuda:0", provider="CUDA", precision="fp16")
START = RunStart(
    version="1.2",
    command="dir",
    model=ModelFacts(name="net", sha256=""),
    device=DEVICE,
    tile=512,
    batch=8,
)


def plan(items, pixels):
    return PlanDone(items=items, skip_done=0, skip_stale=0, skip_foreign=0, pixels=pixels)


def begin(number, size=(100, 50)):
    width, height = size
    return ItemStart(id=number, src=f"{number}.png", dst="", width=width, height=height)


def done(number, **judged):
    stage = {"decode": 0.1, "infer": 0.3, "encode": 0.1}
    return ItemDone(id=number, seconds=0.5, stage=stage, bytes=1, retries=RetryCounts(), **judged)


def fail(number):
    text = f"{number}.png: broken"
    return ItemFail(id=number, src=f"{number}.png", code="decode", message=text, hint="mend it")


def end(ok=0, skipped=0, failed=0, seconds=2.0):
    facts = {"status": "ok", "exit": 0, "per_second": 1.0, "busy": {"infer": 0.9}}
    return RunEnd(ok=ok, skipped=skipped, failed=failed, seconds=seconds, **facts)


def handle(*events, to=None):
    tally = to if to is not None else RunStats()
    for event in events:
        tally(event)
    return tally


@pytest.fixture
def terminal():
    return Terminal()


def test_pixels_are_counted_by_the_tile_and_never_twice():
    tally = handle(plan(2, 10_000), begin(1), begin(2))
    assert tally.pixels_done == 0
    handle(ItemProgress(id=1, done=1, total=4), to=tally)
    assert tally.pixels_done == 1250
    handle(done(1), fail(2), to=tally)
    assert (tally.pixels_done, tally.finished, tally.ok, tally.failed) == (10_000, 2, 1, 1)


def test_an_image_of_unknown_size_counts_no_pixels():
    tally = handle(plan(1, 0), ItemStart(id=1, src="x", dst="", width=None, height=None))
    assert tally.size_of(1) == ""
    assert handle(fail(1), to=tally).pixels_done == 0


def test_the_current_image_is_the_one_that_moved_last():
    tally = handle(begin(1), begin(2), ItemProgress(id=2, done=1, total=2))
    assert tally.current.src == "2.png"
    assert handle(done(2), to=tally).current.src == "1.png"
    assert handle(done(1), to=tally).current is None


def test_the_status_line_has_speed_and_time_left():
    tally = handle(plan(4, 20_000), begin(1), done(1), begin(2))
    assert tally.status(seconds=1.0) == "1 of 4 images, 0.01 MP/s, 3.0 s left, 2.png"
    assert handle(plan(4, 20_000)).status(0.0) == "0 of 4 images"


def test_a_single_video_is_counted_in_frames():
    start = structs.replace(START, command="video")
    clip = ItemStart(id=0, src="a.mp4", dst="", width=10, height=10, frames=50)
    tally = handle(start, plan(1, 5000))
    assert tally.count == "0/1 videos"
    handle(clip, ItemProgress(id=0, done=12, total=50, unit="frame", fps=2.0, eta=19.0), to=tally)
    assert tally.count == "12/50 frames"
    assert tally.status(6.0) == "12 of 50 frames, 2.00 fps, 19.0 s left, a.mp4"


def test_the_summary_has_counts_reasons_and_speed():
    skip = [ItemSkip(id=n, src="", reason=why) for n, why in ((7, "done"), (8, "stale"))]
    tally = handle(plan(1, 5000), *skip, begin(1, (1000, 1000)), done(1), end(ok=1, skipped=2))
    assert tally.summary() == [
        "1 restored, 2 skipped (1 up to date, 1 made with other settings) in 2.0 s"
        " (0.50 MP/s; busy: infer 90%)"
    ]


def test_failures_that_scrolled_away_are_repeated_ten_of_them():
    failures = [fail(number) for number in range(12)]
    lines = handle(plan(30, 1), *failures, end(ok=18, failed=12)).summary()
    assert lines[1:] == [
        "failed:",
        *(f"  {number}.png: broken" for number in range(10)),
        "  and 2 more",
    ]
    assert len(handle(plan(3, 1), fail(1), end(failed=1)).summary()) == 1


def test_a_run_that_never_ended_has_no_summary():
    assert handle(plan(1, 1)).summary() == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (-1, "0.0 s"), (4.24, "4.2 s"), (187, "3:07"), (3765, "1:02:45")],
)
def test_times_are_written_as_people_read_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("message", "hint", "text"),
    [
        ("It broke", "", "It broke"),
        ("It broke", None, "It broke"),
        ("It broke", "mend it", "It broke; mend it"),
    ],
)
def test_message_and_hint_become_one_line(message, hint, text):
    assert join_hint(message, hint) == text


def test_plain_lines_cover_the_run(terminal, capsys):
    warning = Warn(code="x", message="careful")
    events = [START, plan(2, 1), warning, begin(1), done(1), begin(2), fail(2), end(1, 0, 1)]
    with progress(terminal, "derain") as shown:
        assert isinstance(shown, PlainProgress)
        handle(*events, to=shown)
    assert capsys.readouterr().err.splitlines() == [
        "varfix 1.2 · preset derain · net · cuda:0 (CUDA, fp16) · tile 512 · batch 8",
        "Warning: careful",
        "[1/2] 1.png  100x50  0.50 s",
        "Error: 2.png: broken; mend it",
        "1 restored, 1 failed in 2.0 s (0.01 MP/s; busy: infer 90%)",
    ]


def test_verbose_lines_have_findings(terminal, capsys):
    terminal.verbose = 1
    hazy = done(1, found={"noise": 0.412, "haze": 0.93, "snow": 0.02}, applied=("haze",))
    good = done(2, found={"noise": 0.04, "haze": 0.09, "snow": 0.0}, applied=())
    with progress(terminal, "auto") as shown:
        handle(plan(2, 1), begin(1), hazy, begin(2), good, to=shown)
        handle(msgspec.structs.replace(end(2), applied={"haze": 1}), to=shown)
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] 1.png  100x50  0.50 s  found haze 0.93, noise 0.41; treated haze",
        "[2/2] 2.png  100x50  0.50 s  found nothing",
        "2 restored in 2.0 s (0.01 MP/s; busy: infer 90%)",
        "treated: haze 1",
    ]


def test_the_live_lines_are_joined_by_findings_with_verbose(terminal, capsys):
    live = LiveProgress(terminal, "auto")
    hazy = done(1, found={"haze": 0.93}, applied=())
    handle(begin(1), hazy, to=live)
    assert capsys.readouterr().err == ""
    terminal.verbose = 1
    handle(begin(1), hazy, to=live)
    assert capsys.readouterr().err == "1.png: found haze 0.93; treated nothing\n"


def test_the_summary_comes_also_when_the_run_breaks_off(terminal, capsys):
    with pytest.raises(OSError, match="full"), progress(terminal, "auto") as shown:
        handle(plan(2, 1), end(ok=1), to=shown)
        raise OSError("full")
    assert "1 restored in 2.0 s" in capsys.readouterr().err


def test_the_live_lines_show_bar_image_and_device(terminal):
    live = LiveProgress(terminal, "auto")
    terminal.quiet = True  # the lines above the bar are another test's business
    handle(START, plan(4, 20_000), begin(1), done(1), begin(2), to=live)
    handle(ItemProgress(id=2, done=1, total=2), to=live)
    screen = io.StringIO()
    Console(file=screen, width=100).print(live)
    bar, image, device = screen.getvalue().splitlines()
    assert bar.startswith("1/4 images")
    assert " 38%" in bar
    assert image.strip() == "2.png  100x50  50%"
    # Means of an image: shares of the time would pass 100 % where stages have several threads.
    assert device.rstrip() == "cuda:0 (CUDA, fp16) · decode 0.10 s · infer 0.30 s · encode 0.10 s"


def test_the_bar_has_megapixels_per_second_and_time_left(terminal, monkeypatch):
    monkeypatch.setattr(Stopwatch, "read", lambda self: 4.0)
    live = LiveProgress(terminal, "auto")
    terminal.quiet = True
    handle(START, plan(3, 30_000_000), begin(1, (5000, 2000)), done(1), to=live)
    screen = io.StringIO()
    Console(file=screen, width=120).print(live)
    assert screen.getvalue().splitlines()[0].rstrip().endswith(" 33% 2.50 MP/s, 8.0 s left")


def test_the_clock_leaves_out_the_time_in_which_the_process_was_stopped(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Stopwatch()
    now[0] = 2.0
    assert clock.read() == 2.0
    now[0] = 3602.0
    assert clock.read() == 7.0


@pytest.mark.skipif(os.name == "nt", reason="pseudo terminals")
def test_a_terminal_gets_moving_lines_and_keeps_messages(process, tmp_path, image, identity):
    import pty

    image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "broken.png").touch()
    outside, inside = pty.openpty()
    arguments = ["dir", tmp_path / "in", tmp_path / "out", "-m", identity, "-d", "cpu"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    running = process(*arguments, stderr=inside, env=environment)
    os.close(inside)
    seen = bytearray()
    reader = threading.Thread(target=drain, args=(outside, seen))
    reader.start()
    running.wait(60)
    reader.join(10)
    os.close(outside)
    text = seen.decode()
    assert text.startswith("Loading ")
    assert "\x1b[" in text
    assert "images" in text
    assert "broken.png: empty file (0 bytes)" in text
    assert "1 restored, 1 failed" in text
    assert running.stdout.read() == b""


def drain(descriptor, into):
    """Read until the other side of the pseudo terminal closes, which Linux reports as an error."""
    try:
        while data := os.read(descriptor, 65536):
            into += data
    except OSError:
        pass


def test_a_line_is_printed_before_the_slow_part(terminal, capsys):
    with terminal.busy("Loading net"):
        time.sleep(0)
        assert capsys.readouterr().err == "Loading net...\n"
