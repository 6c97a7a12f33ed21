"""Standard streams that are closed, full or endless end in an exit code, not in a crash."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_a_closed_stream_is_no_crash(shell, picture, tmp_path, line, code):
    a = picture(tmp_path / "in" / "a.png")
    done = shell(line.format(a=shlex.quote(str(a)), folder=shlex.quote(str(a.parent))))
    assert done.returncode == code
    assert b"broke" not in done.stderr


def test_nothing_is_written_into_a_file_that_took_a_closed_streams_number(shell, picture, tmp_path):
    a = picture(tmp_path / "in" / "a.png")
    before = a.read_bytes()
    assert shell(f"V image {shlex.quote(str(a))} out.png $M 2>&-").returncode == 0
    assert a.read_bytes() == before


def test_of_an_endless_pipe_that_is_no_picture_only_the_beginning_is_read(shell):
    done = shell("cat /dev/zero | V image - out.png $M")
    assert done.returncode == 1
    assert b"stdin: not an image" in done.stderr


def test_a_name_that_begins_with_a_dash_needs_two_of_them(shell, picture, tmp_path):
    picture(tmp_path / "-x.png")
    there = f"cd {shlex.quote(str(tmp_path))}; "
    assert shell(there + "V image $M -- -x.png -y.png").returncode == 0
    assert Path(tmp_path / "-y.png").exists()
    assert shell(there + "V image $M -x.png z.png").returncode == 2


def test_a_name_cannot_take_over_the_terminal(shell, picture, tmp_path):
    name = "\x1b]0;title\x07\x1b[2J\r\x9b1m.png"
    picture(tmp_path / name)
    done = shell(f"V dir {shlex.quote(str(tmp_path))} out $M")
    assert done.returncode == 0
    assert not set(done.stderr.decode()) & set("\x1b\x07\r\x9b")
    assert rb"\x1b[2J\x0d" in done.stderr


def test_colors_are_no_control_characters():
    assert printable("\x1b[31mred\x1b[0m\n\tnext") == "\x1b[31mred\x1b[0m\n\tnext"
