"""Fixtures of the tests of the system layer."""

import subprocess
import sys

import pytest


@pytest.fixture
def dead_pid():
    """Return the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid
