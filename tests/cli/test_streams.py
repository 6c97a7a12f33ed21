"""Standard streams that are closed, full or endless end in an exit code, not in a crash."""

import io
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from varfix.cli.stdio import write_all
from varfix.cli.terminal import printable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture
def shell(identity):
    """Run `varfix` in a shell line: `$V` is the command, `$M` the model options."""

    def run(line):
        command = shlex.join([sys.executable, "-m", "varfix.cli"])
        model = shlex.join(["-m", str(identity), "-d", "cpu"])
        script = f"V() {{ {command} \"$@\"; }}; M='{model}'; {line}"
        return subprocess.run(["sh", "-c", script], capture_output=True, timeout=60, check=False)

    return run


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("V image - - $M <&-", 1),
        ("V image {a} - $M >&-", 141),
        ("V image {a} out.png $M >&- 2>&- <&-", 0),
        ("V dir {folder} out --files-from - $M <&-", 3),
        ("V dir {folder} out --json $M >&-", 141),
        ("V dir {folder} out $M 2>&-", 0),
        ("V --help >&-", 141),
    ],
)
def test_a_closed_stream_does_not_crash(shell, image, tmp_path, line, code):
    a = image(tmp_path / "in" / "a.png")
    done = shell(line.format(a=shlex.quote(str(a)), folder=shlex.quote(str(a.parent))))
    assert done.returncode == code
    assert b"broke" not in done.stderr


def test_output_never_goes_to_a_file_with_the_number_of_a_closed_stream(shell, image, tmp_path):
    a = image(tmp_path / "in" / "a.png")
    before = a.read_bytes()
    assert shell(f"V image {shlex.quote(str(a))} out.png $M 2>&-").returncode == 0
    assert a.read_bytes() == before


def test_only_the_beginning_of_an_endless_pipe_is_read(shell):
    done = shell("cat /dev/zero | V image - out.png $M")
    assert done.returncode == 1
    assert b"stdin: not an image" in done.stderr


def test_a_name_that_begins_with_a_dash_follows_two_dashes(shell, image, tmp_path):
    image(tmp_path / "-x.png")
    there = f"cd {shlex.quote(str(tmp_path))}; "
    assert shell(there + "V image $M -- -x.png -y.png").returncode == 0
    assert Path(tmp_path / "-y.png").exists()
    assert shell(there + "V image $M -x.png z.png").returncode == 2


def test_control_characters_in_a_name_are_escaped(shell, image, tmp_path):
    name = "\x1b]0;title\x07\x1b[2J\r\x9b1m.png"
    image(tmp_path / name)
    done = shell(f"V dir {shlex.quote(str(tmp_path))} out $M")
    assert done.returncode == 0
    assert not set(done.stderr.decode()) & set("\x1b\x07\r\x9b")
    assert rb"\x1b[2J\r" in done.stderr


def test_a_name_takes_one_line_on_the_terminal_and_in_the_plan(shell, image, tmp_path):
    image(tmp_path / "in" / "two\nlines.png")
    there = f"cd {shlex.quote(str(tmp_path))}; "
    assert rb"] two\nlines.png  24x16" in shell(f"{there} V dir in out $M").stderr
    planned = shell(f"{there} V dir -n in new $M").stdout.splitlines()
    assert planned[0] == rb"two\nlines.png -> two\nlines.png  24x16"


class Trickle(io.RawIOBase):
    """A stream that takes a few bytes at a time, as an unbuffered one may."""

    def __init__(self):
        self.taken = b""

    def writable(self):
        return True

    def write(self, data):
        self.taken += bytes(data[:3])
        return min(3, len(data))


def test_a_partial_write_is_continued():
    stream = Trickle()
    write_all(stream, b"0123456789")
    assert stream.taken == b"0123456789"


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_nonblocking_stream_receives_everything(buffering):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = os.urandom(1 << 20)
    got = []

    def read():
        with os.fdopen(reader, "rb") as stream:
            got.append(stream.read())

    thread = threading.Thread(target=read)
    with os.fdopen(writer, "wb", buffering=buffering) as stream:
        thread.start()
        write_all(stream, data)
    thread.join(20)
    assert got == [data]


def test_a_reader_that_closes_early_is_noticed(image, tmp_path, identity):
    """Unbuffered, Python's own stdout drops the rest without a word."""
    source = image(tmp_path / "a.bmp", size=(300, 200))
    command = [
        sys.executable,
        "-m",
        "varfix.cli",
        "image",
        source,
        "-",
        "-m",
        identity,
        "-d",
        "cpu",
    ]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
    ) as running:
        assert running.stdout.read(2) == b"BM"
        running.stdout.close()
        assert running.wait(60) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")  # noqa: PTH110
@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("V image {a} - $M > /dev/full", b"no space left"),
        ("V dir {folder} out --json $M > /dev/full", b"stdout: no space left for events"),
        ("V dir {folder} out --log-file /dev/full $M", b"/dev/full: no space left for events"),
        ("V dir -n {folder} out $M > /dev/full", b"no space left"),
    ],
)
def test_a_full_stream_is_exit_6_and_fails_no_image(shell, image, tmp_path, line, text):
    a = image(tmp_path / "in" / "a.png")
    there = f"cd {shlex.quote(str(tmp_path))}; "
    done = shell(there + line.format(a=shlex.quote(str(a)), folder="in"))
    assert done.returncode == 6
    assert text in done.stderr
    assert b"unexpected" not in done.stderr and b"a.png: " not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")  # noqa: PTH110
def test_messages_that_cannot_be_written_fail_no_image(shell, image, tmp_path):
    image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "broken.png").touch()
    there = f"cd {shlex.quote(str(tmp_path))}; "
    assert shell(there + "V dir in out $M 2> /dev/full").returncode == 1
    assert (tmp_path / "out" / "a.png").is_file()
    assert shell(there + "V dir in out $M --exclude broken.png 2> /dev/full").returncode == 0


def test_colors_survive_the_escaping_of_control_characters():
    assert printable("\x1b[31mred\x1b[0m\n\tnext") == "\x1b[31mred\x1b[0m\n\tnext"
