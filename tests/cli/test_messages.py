"""Messages of the contract that no other test reads."""

import json
import sys

import pytest
from support.clips import Film
from support.full_disks import freeze, small_disk

from varfix.engine.errors import ExitCode
from varfix.onnx.inference import devices
from varfix.onnx.inference.runtime import StartError


@pytest.fixture
def run(varfix, identity, tmp_path):
    """Run `varfix dir in out` on the CPU with a model that does nothing."""

    def start(*options):
        where = ("dir", tmp_path / "in", tmp_path / "out", "-m", identity)
        return varfix(*where, *options)

    return start


def events_of(result, kind):
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.mark.parametrize(
    ("name", "data", "code", "text"),
    [
        ("a.jpg", b"", "decode_empty", "a.jpg: empty file (0 bytes)"),
        ("b.png", b"hello", "decode_unknown", "b.png: not an image varfix can read (text/plain)"),
        ("c.mp4", b"", "decode_empty", "c.mp4: empty file (0 bytes)"),
    ],
)
def test_the_message_names_the_file_and_the_reason(run, tmp_path, name, data, code, text):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(data)
    result = run("-d", "cpu", "--json")
    (failed,) = events_of(result, "item.fail")
    assert failed["code"] == code
    assert failed["message"] == f"{tmp_path / 'in'}/{text}"
    assert text in result.stderr
    assert result.exit_code == ExitCode.PARTIAL


def test_a_file_that_is_not_an_image_fails_with_its_type(varfix, identity, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    ends = tmp_path / "notes.txt", tmp_path / "out.png"
    result = varfix("image", *ends, "-m", identity, "-d", "cpu")
    assert result.exit_code == ExitCode.PARTIAL
    assert "notes.txt: not an image varfix can read (text/plain)" in result.stderr
    assert not (tmp_path / "out.png").exists()


def test_an_empty_selection_lists_the_known_extensions(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").touch()
    result = run("-d", "cpu")
    assert result.exit_code == ExitCode.NOTHING
    (line,) = [line for line in result.stderr.splitlines() if "no images" in line]
    assert f"{tmp_path / 'in'}: no images (looked for " in line
    for extension in ("jpg", "png", "webp", "tif", "avif", "bmp", "mp4"):
        assert extension in line
    assert line.endswith("1 file ignored, -v lists it")
    assert "ignored notes.txt" in run("-d", "cpu", "-v").stderr.splitlines()


def test_an_unusable_device_is_one_warning_and_an_event(run, tmp_path, image, monkeypatch):
    image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes())

    def broken(device):
        raise StartError("libcudnn.so.9 not found")

    monkeypatch.setattr(devices, "gpu_visible", lambda: True)
    monkeypatch.setattr(devices, "_require_compiled", broken)
    result = run("--json")
    assert result.exit_code == ExitCode.OK, result.stderr
    (warning,) = events_of(result, "warning")
    assert warning["code"] == "device_fallback"
    assert warning["id"] is None
    kinds = [json.loads(line)["event"] for line in result.stdout.splitlines()]
    assert kinds[:3] == ["run.start", "warning", "plan"]
    assert result.stderr.count("CUDA is not available (libcudnn.so.9 not found); using CPU") == 1


@pytest.mark.parametrize("verb", ["dir", "image", "video"])
def test_a_destination_that_may_not_be_written_is_6(varfix, identity, tmp_path, image, verb):
    photo = image(tmp_path / "in" / "a.png")
    clip = Film(count=3).write(tmp_path / "clip.mp4")
    with small_disk(tmp_path / "disk", "1M") as disk:
        ends = {
            "dir": (tmp_path / "in", disk / "out"),
            "image": (photo, disk / "a.png"),
            "video": (clip, disk / "a.mp4"),
        }
        freeze(disk)
        result = varfix(verb, *ends[verb], "-m", identity, "-d", "cpu")
    assert result.exit_code == ExitCode.OUTPUT
    assert "disk" in result.stderr
    assert "read-only file system" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_in_the_place_of_the_destination_is_left_alone(run, tmp_path, image):
    image(tmp_path / "in" / "a.png")
    (tmp_path / "out").write_bytes(b"mine")
    result = run("-d", "cpu")
    assert result.exit_code == ExitCode.USAGE
    assert str(tmp_path / "out") in result.stderr
    assert (tmp_path / "out").read_bytes() == b"mine"


@pytest.mark.parametrize("verb", ["dir", "image", "video"])
def test_an_empty_name_is_not_this_folder(varfix, identity, tmp_path, image, monkeypatch, verb):
    """As the shell gives it where a variable is not set."""
    photo = image(tmp_path / "in" / "a.png")
    sources = {"dir": tmp_path / "in", "image": photo, "video": Film(1).write(tmp_path / "a.mp4")}
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    result = varfix(verb, sources[verb], "", "-m", identity, "-d", "cpu")
    assert result.exit_code == ExitCode.USAGE
    assert not list(here.iterdir())


def test_errors_come_without_a_traceback(run, tmp_path):
    (tmp_path / "in").mkdir()
    result = run("-d", "cpu", "-v")
    assert result.exit_code == ExitCode.NOTHING
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
@pytest.mark.parametrize("options", [(), ("--json",), ("-n",)], ids=["plain", "json", "dry-run"])
def test_names_are_printed_on_an_ascii_terminal(
    process, identity, tmp_path, image, monkeypatch, options
):
    image(tmp_path / "in" / "ñandú 日本.png")
    for variable, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(variable, value)
    where = ("dir", tmp_path / "in", tmp_path / "out", "-m", identity, "-d", "cpu")
    running = process(*where, *options)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert "ñandú 日本.png" in (out + err).decode("utf-8")
