"""Two runs do not write to one folder, and a dead run locks nobody out."""

import errno
import subprocess
import sys

import pytest

from varfix.engine.errors import OutputError, OutputLockedError
from varfix.engine.system.folder_lock import lock_folder


def test_two_runs_do_not_write_to_one_destination(tmp_path):
    second = lock_folder(tmp_path)
    with (
        lock_folder(tmp_path),
        pytest.raises(OutputLockedError, match="locked by another varfix"),
        second,
    ):
        pass
    with lock_folder(tmp_path):
        pass


def test_a_dead_runs_lock_does_not_hold(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from varfix.engine.system.folder_lock import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])):\n    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == 9
    with lock_folder(tmp_path):
        pass


@pytest.fixture(params=["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def no_locks(request, monkeypatch):
    """A file system that knows no locks, as some network shares."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(descriptor, operation):
        raise OSError(getattr(errno, request.param), "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_locks_a_file_keeps_runs_apart(tmp_path, no_locks):
    with (
        lock_folder(tmp_path),
        pytest.raises(OutputLockedError) as caught,
        lock_folder(tmp_path),
    ):
        pass
    assert str(tmp_path / ".varfix" / "lock.owner") in caught.value.hint
    with lock_folder(tmp_path):
        pass


def test_without_locks_a_dead_run_does_not_hold(tmp_path, no_locks):
    script = (
        "import fcntl, os, sys\nfrom pathlib import Path\n"
        "def refuse(*_):\n    raise OSError(37, 'no locks here')\n"
        "fcntl.flock = refuse\nfrom varfix.engine.system.folder_lock import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])):\n    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == 9
    assert (tmp_path / ".varfix" / "lock.owner").exists()
    with lock_folder(tmp_path):
        pass


def test_taking_a_destination_clears_what_dead_runs_left(tmp_path, dead_pid):
    part = tmp_path / f".c.png.varfix-{dead_pid}.part"
    part.touch()
    with lock_folder(tmp_path):
        assert not part.exists()


def test_a_destination_that_is_a_file_is_an_output_problem(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OutputError), lock_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_single_file_needs_no_lock():
    with lock_folder(None):
        pass
