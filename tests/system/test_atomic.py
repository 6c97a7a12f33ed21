"""A file is complete or absent, whatever the disk, the name or a kill does."""

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from varfix.engine.errors import (
    DiskFullError,
    EncodeError,
    ItemError,
    OutputDeniedError,
    OutputError,
)
from varfix.engine.system.atomic import (
    AtomicWriter,
    remove_stale_parts,
    temporary_path,
    translate_os_errors,
)


@pytest.fixture
def writer():
    return AtomicWriter()


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def refusing(code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_file_appears_whole_in_folders_made_for_it(writer, tmp_path):
    writer.write(tmp_path / "a" / "b" / "c.png", b"data")
    assert (tmp_path / "a" / "b" / "c.png").read_bytes() == b"data"
    assert names(tmp_path) == ["a", "b", "c.png"]


def test_an_older_file_is_replaced(writer, tmp_path):
    (tmp_path / "c.png").write_bytes(b"older and longer")
    writer.write(tmp_path / "c.png", b"new")
    assert (tmp_path / "c.png").read_bytes() == b"new"


def test_the_final_name_appears_only_after_all_bytes_are_on_the_disk(writer, tmp_path, monkeypatch):
    seen = []

    def look(descriptor):
        seen.append((names(tmp_path), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", look)
    writer.write(tmp_path / "c.png", b"data")
    assert seen == [([f".c.png.varfix-{os.getpid()}.part"], 4)]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EACCES, OutputDeniedError),
        (errno.EPERM, OutputDeniedError),
        (errno.EROFS, OutputDeniedError),
        (errno.EIO, OutputError),
    ],
)
def test_a_refusal_leaves_the_older_file_and_nothing_else(
    writer, tmp_path, monkeypatch, call, code, error
):
    target = tmp_path / "c.png"
    target.write_bytes(b"older")
    monkeypatch.setattr(
        *{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], refusing(code)
    )
    with pytest.raises(error) as caught:
        writer.write(target, b"new")
    assert type(caught.value) is error
    assert target.read_bytes() == b"older"
    assert names(tmp_path) == ["c.png"]


def test_a_full_disk_is_reported_with_numbers_and_what_to_do(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refusing(errno.ENOSPC))
    with pytest.raises(DiskFullError) as caught:
        writer.write(tmp_path / "c.png", bytes(500_000))
    assert f"{tmp_path}: no space left" in caught.value.message
    assert "next file needs about 500.0 kB" in caught.value.message
    assert "run the same command again" in caught.value.hint


def test_a_disk_that_is_really_full_keeps_what_fits_and_nothing_partial(writer, tiny_disk):
    writer.write(tiny_disk / "fits.png", bytes(20_000))
    for _ in range(2):
        with pytest.raises(DiskFullError):
            writer.write(tiny_disk / "large.png", bytes(100_000))
    assert names(tiny_disk) == ["fits.png"]
    writer.write(tiny_disk / "fits too.png", bytes(20_000))


def test_a_disk_without_space_for_a_name_is_reported(writer, tiny_disk):
    subprocess.run(["mount", "-o", "remount,size=9m,nr_inodes=4", str(tiny_disk)], check=True)
    with pytest.raises(DiskFullError, match="no inodes left"):
        for number in range(9):
            writer.write(tiny_disk / f"{number}.png", b"data")


def test_a_read_only_disk_is_a_denial(writer, tiny_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(OutputDeniedError):
        writer.write(tiny_disk / "a" / "c.png", b"data")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do anything")
def test_a_folder_without_write_permission_is_a_denial(writer, tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputDeniedError, match="permission denied"):
            writer.write(tmp_path / "c.png", b"data")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("character", ["a", "é", "漢"])
def test_the_longest_name_that_the_system_takes_can_be_written(writer, tmp_path, character):
    room = 255 - len(".png")
    name = character * (room // len(character.encode()))
    name += "x" * (room - len(name.encode())) + ".png"
    assert len(name.encode()) == 255
    writer.write(tmp_path / name, b"data")
    assert names(tmp_path) == [name]


def test_long_names_are_shortened_by_whole_characters_and_stay_apart(tmp_path):
    parts = [temporary_path(tmp_path / f"{'漢' * 80}{number}.png").name for number in range(3)]
    assert len(set(parts)) == 3
    for part in parts:
        part.encode("utf-8")  # no torn character
        assert len(part.encode()) <= 255
        assert part.startswith(".漢")
        assert part.endswith(f".varfix-{os.getpid()}.part")


def test_a_name_that_cannot_be_costs_one_image_and_not_the_run(writer, tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    for target in ("a" * 253 + ".png", "folder.png", "file/c.png"):
        with pytest.raises(EncodeError) as caught:
            writer.write(tmp_path / target, b"data")
        assert isinstance(caught.value, ItemError)
    assert names(tmp_path) == ["file", "folder.png"]


def test_a_name_that_is_no_text_can_be_written(writer, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system wants UTF-8")
    writer.write(tmp_path / name, b"data")
    assert (tmp_path / name).read_bytes() == b"data"


def test_unfinished_files_of_dead_processes_are_removed_everywhere(tmp_path, dead_pid):
    deep = tmp_path / "a" / ".hidden"
    deep.mkdir(parents=True)
    (deep / f".c.png.varfix-{dead_pid}.part").touch()
    (tmp_path / f".d.png-1a2b3c4d.varfix-{dead_pid}.part").touch()
    assert remove_stale_parts(tmp_path) == 2
    assert names(tmp_path) == [".hidden", "a"]


def test_unfinished_files_of_living_processes_are_kept(tmp_path):
    part = temporary_path(tmp_path / "c.png")
    part.touch()
    assert remove_stale_parts(tmp_path) == 0
    assert part.exists()


def test_a_number_used_again_does_not_keep_an_older_process_file(tmp_path):
    part = temporary_path(tmp_path / "c.png")
    part.touch()
    os.utime(part, (1_000_000_000, 1_000_000_000))
    assert remove_stale_parts(tmp_path) == 1


def test_other_hidden_files_are_left_alone(tmp_path, dead_pid):
    for name in (".c.png.part", f"c.varfix-{dead_pid}.part", f".c.varfix-{dead_pid}.part.png"):
        (tmp_path / name).touch()
    assert remove_stale_parts(tmp_path) == 0
    assert len(names(tmp_path)) == 3


def test_leaving_in_a_hurry_drops_what_is_unfinished(writer, tmp_path, monkeypatch):
    writing, go_on = threading.Event(), threading.Event()

    def wait(_):
        writing.set()
        go_on.wait(20)

    monkeypatch.setattr(os, "fsync", wait)
    errors = []

    def write():
        try:
            writer.write(tmp_path / "c.png", b"data")
        except OutputError as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert writing.wait(20)
    writer.discard()
    assert names(tmp_path) == []
    go_on.set()
    thread.join(20)
    assert len(errors) == 1
    assert names(tmp_path) == []


def test_errors_are_translated_once(tmp_path):
    with pytest.raises(DiskFullError), translate_os_errors(tmp_path / "c.png", 10):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "size, code, words",
    [
        (12_345, errno.ENOSPC, r"\d[\d.]* (GB|MB|kB|bytes) free, next file needs about 12.3 kB\)"),
        (0, errno.ENOSPC, r"no space left \([\d.]+ (GB|MB|kB|bytes) free\)$"),
        (5_000_000, errno.EDQUOT, r"\(disk quota exceeded, next file needs about 5.0 MB\)"),
    ],
)
def test_a_full_disk_is_reported_with_the_actual_sizes(tmp_path, size, code, words):
    with (
        pytest.raises(DiskFullError, match=words),
        translate_os_errors(tmp_path / "a.jpg", size),
    ):
        raise OSError(code, os.strerror(code))
