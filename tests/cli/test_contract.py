"""The contract's tables of exit codes, messages and signals, from outside: row by row."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from varfix.engine.batch import image_task
from varfix.engine.errors import ExitCode
from varfix.engine.events import Event
from varfix.engine.system import atomic
from varfix.engine.system.folder_lock import lock_folder
from varfix.onnx.inference.restorer import OnnxRestorer

MANY = 120


@pytest.fixture
def run(varfix, identity, tmp_path):
    """Run `varfix dir in out` on the CPU with events on stdout, with a model that does nothing."""

    def start(*options, model=None):
        where = ("dir", tmp_path / "in", tmp_path / "out")
        return varfix(*where, "-m", model or identity, "-d", "cpu", "--json", *options)

    return start


@pytest.fixture
def good(tmp_path, image):
    """Three good images."""
    return [image(tmp_path / "in" / f"{number}.png", number) for number in range(3)]


def events(result, kind):
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return [line for line in lines if line["event"] == kind]


def ended(result):
    """The code in `run.end`, which must be the process's own."""
    (end,) = events(result, "run.end")
    assert end["exit"] == result.exit_code
    return end["exit"], end["status"]


# Exit codes


def test_0_when_all_is_done_and_when_it_was_done_before(run, good):
    assert ended(run()) == (ExitCode.OK, "ok")
    assert ended(run()) == (ExitCode.OK, "ok")


def test_1_when_some_failed(run, good):
    good[0].write_bytes(b"")
    assert ended(run()) == (ExitCode.PARTIAL, "partial")


@pytest.mark.parametrize("name", ["pair.onnx", "pair.prior.onnx"])
def test_4_when_a_model_file_does_not_match_its_card(run, good, shelf, name):
    model = shelf.pair()
    damaged = model.with_name(name)
    damaged.write_bytes(damaged.read_bytes().replace(b"hand_made", b"hand_Made"))
    result = run(model=model)
    assert result.exit_code == ExitCode.MODEL
    assert f"{name}: checksum mismatch" in result.stderr
    assert result.stdout == ""


def test_4_when_a_model_takes_no_image(run, good, shelf):
    net = shelf.save(
        "net.onnx",
        [("Identity", ["tokens"], ["out"], {})],
        [("tokens", 7, ["N", 680])],
        [("out", 7, ["N", 680])],
    )
    result = run(model=net)
    assert result.exit_code == ExitCode.MODEL
    assert 'expected one image input [N,3,H,W], found "tokens" int64 [N,680]' in result.stderr
    assert "export it with varfix export-onnx" in result.stderr


def test_5_when_the_device_runs_out_of_memory_at_batch_1(run, good, monkeypatch):
    def exhausted(*arguments):
        raise MemoryError("BFCArena: Failed to allocate memory")

    monkeypatch.setattr(OnnxRestorer, "_compute", exhausted)
    result = run("--batch", "4")
    assert "out of memory at batch 1" in result.stderr
    assert ended(result) == (ExitCode.DEVICE, "failed")


def test_5_when_an_image_does_not_fit_into_memory(run, good, monkeypatch):
    def full(*arguments, **more):
        raise MemoryError

    monkeypatch.setattr(image_task, "decode_image", full)
    result = run()
    assert {event["code"] for event in events(result, "item.fail")} == {"host_oom"}
    assert "0.png: does not fit into memory" in result.stderr
    assert ended(result)[0] == ExitCode.DEVICE


def test_5_when_an_image_would_not_fit_and_nothing_is_tried(run, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.new("1", (9000, 9000)).save(tmp_path / "in" / "pano.png")
    monkeypatch.setattr(image_task, "available_memory", lambda: 1_200_000_000)
    monkeypatch.setattr(image_task, "decode_image", pytest.fail)
    result = run()
    (failed,) = events(result, "item.fail")
    assert failed["code"] == "host_oom"
    assert re.search(r"pano.png: needs about \d\.\d GB of memory \(1.2 GB", result.stderr)
    assert ended(result)[0] == ExitCode.DEVICE


def test_6_when_another_run_holds_the_folder(run, good, tmp_path):
    with lock_folder(tmp_path / "out"):
        result = run()
    assert result.exit_code == ExitCode.OUTPUT
    assert f"{tmp_path / 'out'}" in result.stderr


def test_6_when_the_disk_is_full_with_progress_and_hint(run, good, monkeypatch):
    real, calls = atomic._write, []

    def write(part, data):
        calls.append(part)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(part, data)

    monkeypatch.setattr(atomic, "_write", write)
    result = run("-j", "1")
    assert ended(result) == (ExitCode.OUTPUT, "failed")
    assert "no space left" in result.stderr
    assert "next file needs about" in result.stderr
    assert "of 3 done; free space and run the same command again" in result.stderr
    monkeypatch.undo()
    assert ended(run()) == (ExitCode.OK, "ok")


# Messages


def test_a_truncated_image_fails_alone(run, good, tmp_path):
    whole = tmp_path / "in" / "cut.jpg"
    Image.open(good[0]).resize((200, 200)).save(whole)
    whole.write_bytes(whole.read_bytes()[:-900])
    result = run()
    (failed,) = events(result, "item.fail")
    assert failed["code"] == "decode_truncated"
    assert "file ends early" in failed["message"]
    assert "not restored: the missing part would be gray" in result.stderr
    assert not (tmp_path / "out" / "cut.jpg").exists()


def test_other_files_are_counted_and_listed_with_v(varfix, identity, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(41):
        (tmp_path / "in" / f"{number}.txt").touch()
    where = ("dir", tmp_path / "in", tmp_path / "out", "-m", identity, "-d", "cpu")
    result = varfix(*where)
    assert result.exit_code == ExitCode.NOTHING
    assert "no images (looked for" in result.stderr
    assert "41 files ignored, -v lists them" in result.stderr


def test_ignored_files_are_listed_with_v(run, good, tmp_path):
    (tmp_path / "in" / "notes.txt").touch()
    assert "notes.txt" not in run().stderr
    assert "ignored notes.txt" in run("-v").stderr


def test_a_folder_that_may_not_be_read_is_a_warning(run, good, tmp_path, monkeypatch, image):
    image(tmp_path / "in" / "private" / "x.png")
    real = os.scandir

    def guarded(path):
        if os.path.basename(os.fspath(path)) == "private":  # noqa: PTH119 (bytes or text)
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    result = run()
    (warning,) = events(result, "warning")
    assert warning["code"] == "scan_denied"
    assert "private: permission denied, skipped" in result.stderr
    assert ended(result) == (ExitCode.PARTIAL, "partial")
    for path in good:
        path.unlink()
    result = run()
    assert result.exit_code == ExitCode.NOTHING


def test_an_image_too_large_for_its_format_is_refused_before_any_work(run, good, tmp_path):
    Image.new("L", (16400, 1)).save(tmp_path / "in" / "pano.png")
    result = run("-f", "webp")
    assert result.exit_code == ExitCode.USAGE
    assert "pano.png → WebP: 16400 px is over WebP's 16383 px; use --format tiff" in result.stderr
    assert not (tmp_path / "out").exists()


def test_transparency_into_jpeg_is_refused_before_any_work(run, good, tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "in" / "logo.png")
    result = run("-f", "jpg")
    assert result.exit_code == ExitCode.USAGE
    assert "logo.png has transparency, JPEG cannot store it" in result.stderr
    assert "use --format png, or --set output.flatten=white" in result.stderr
    assert not (tmp_path / "out").exists()
    assert ended(run("-f", "jpg", "--set", "output.flatten=white")) == (ExitCode.OK, "ok")


def test_a_model_that_returns_nan_fails_the_image_and_names_the_tile(run, good, shelf):
    result = run(
        model=shelf.restore(
            nodes=[("Div", ["c0", "c0"], ["n"], {}), ("Mul", ["tile", "n"], ["restored"], {})]
        )
    )
    assert {event["code"] for event in events(result, "item.fail")} == {"model_nonfinite"}
    assert "0.png: the model produced invalid values in tile 0,0 even in fp32" in result.stderr
    assert ended(result) == (ExitCode.PARTIAL, "partial")


def test_help_names_every_kind_of_event_and_the_schema(varfix):
    text = "".join(
        varfix(command, "--help").stdout.partition("--json writes")[2]
        for command in ("dir", "diagnose")
    )
    for kind in Event.__subclasses__():
        name = kind.__struct_config__.tag
        assert name in text or f".{name.partition('.')[2]}" in text
    assert "engine/events.schema.json" in text


# Signals


@pytest.fixture
def slow(tmp_path, image, identity):
    """Arguments of a run that takes long enough to be interrupted."""
    data = image(tmp_path / "in" / "0.bmp", size=(256, 256)).read_bytes()
    for number in range(1, MANY):
        (tmp_path / "in" / f"{number}.bmp").write_bytes(data)
    return ["dir", tmp_path / "in", tmp_path / "out", "-m", identity, "-d", "cpu"]


def under_way(running):
    while b"item.done" not in running.stdout.readline():
        assert running.poll() is None


posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@posix
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
)
def test_the_last_event_and_the_process_have_the_code_of_the_signal(process, slow, number, code):
    running = process(*slow, "--json")
    under_way(running)
    running.send_signal(number)
    out, _ = running.communicate(timeout=60)
    end = json.loads(out.splitlines()[-1])
    assert (end["event"], end["status"]) == ("run.end", "stopped")
    assert running.returncode == end["exit"] == code


@posix
def test_a_closed_stdout_is_141_in_the_log_too(process, slow, tmp_path):
    log = tmp_path / "log"
    running = process(*slow, "--json", "--log-file", log, bufsize=0)
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(60) == 141
    assert json.loads(log.read_text().splitlines()[-1])["exit"] == 141


@posix
def test_a_second_signal_exits_at_once_and_removes_temporary_files(tmp_path, image, identity):
    image(tmp_path / "in" / "a.bmp")
    code = """
import sys, time
from varfix.engine.system import atomic
from varfix.cli.main import invoke
def stuck(part, data):
    part.write_bytes(data[:9])
    print("writing", flush=True)
    time.sleep(60)
atomic._write = stuck
sys.exit(invoke(sys.argv[1:]))
"""
    from_here = [sys.executable, "-c", code, "dir", tmp_path / "in", tmp_path / "out"]
    from_here += ["-m", identity, "-d", "cpu"]
    running = subprocess.Popen(from_here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert running.stdout.readline() == b"writing\n"
        assert list((tmp_path / "out").glob(".*.part"))
        running.send_signal(signal.SIGINT)
        assert b"stopping after the current image;" in b"".join(_until(running, b"stopping"))
        started = time.monotonic()
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
        assert time.monotonic() - started < 5
    finally:
        running.kill()
        running.communicate()
    assert not list((tmp_path / "out").glob(".*.part"))
    assert not (tmp_path / "out" / "a.bmp").exists()


def _until(running, text):
    for line in running.stderr:
        yield line
        if text in line:
            return


@posix
def test_sigterm_before_the_run_is_143_too(process, tmp_path):
    # Nothing comes from stdin: the command waits for its list of files.
    (tmp_path / "in").mkdir()
    arguments = ["dir", tmp_path / "in", tmp_path / "out", "--files-from", "-"]
    running = process(*arguments, "-m", tmp_path / "none.onnx")
    time.sleep(1.0)
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 143
    assert b"Traceback" not in running.stderr.read()
