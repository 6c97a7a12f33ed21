"""A source is read whole and as it was, or not at all."""

import os
import socket

import pytest

from varfix.engine.errors import SourceReadError
from varfix.engine.image.header import probe
from varfix.engine.system.display_names import printable, single_line
from varfix.engine.system.files import read_file


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a b.png", "a b.png"),
        ("caf\u00e9 \u65e5\u672c.png", "caf\u00e9 \u65e5\u672c.png"),
        ("two\nlines\r\t.png", "two\\nlines\\r\\t.png"),
        ("\x1b[31mred\x9b0m.png", "\\x1b[31mred\\x9b0m.png"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("a\u2028b", "a\\u2028b"),
        (os.fsdecode(b"\xff.png"), "\\xff.png"),
    ],
)
def test_in_a_sentence_a_name_stays_on_its_line_and_moves_no_cursor(name, words):
    assert single_line(name) == words


def test_a_file_comes_with_its_identity(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"12345")
    stat, data = read_file(path)
    assert (stat.st_size, data) == (5, b"12345")


@pytest.mark.parametrize("make", ["grow", "shrink", "touch"])
def test_a_file_that_changes_while_it_is_read_is_not_taken(tmp_path, monkeypatch, make):
    path = tmp_path / "a.png"
    path.write_bytes(bytes(1000))
    real, calls = os.fstat, []

    def fstat(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # after the bytes were read
            content = {"grow": bytes(2000), "shrink": bytes(10), "touch": bytes(1000)}[make]
            path.write_bytes(content)
            os.utime(path, ns=(1, 1))
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(SourceReadError, match="changed while it was read"):
        read_file(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("reader", [read_file, probe])
def test_a_pipe_or_a_socket_in_a_files_place_does_not_hold_up_the_run(tmp_path, reader):
    pipe, plug = tmp_path / "a.png", tmp_path / "b.png"
    os.mkfifo(pipe)
    with pytest.raises(SourceReadError, match="not a file"):
        reader(pipe)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(plug))
        with pytest.raises(SourceReadError, match="cannot be read"):
            reader(plug)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_a_link_to_itself_is_reported(tmp_path):
    path = tmp_path / "a.png"
    path.symlink_to(path)
    with pytest.raises(SourceReadError, match="cannot be read"):
        read_file(path)


def test_a_name_that_is_no_text_can_be_printed():
    assert printable(os.fsdecode(b"a\xff.png")) == "a\\xff.png"
