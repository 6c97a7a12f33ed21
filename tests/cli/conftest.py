"""Runs the command line in this process, with the exit codes that the script has."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.cli import move_home, run_here


@pytest.fixture(autouse=True)
def own_settings(monkeypatch, tmp_path_factory):
    """Keep the settings files of the machine and of the checkout out of the tests."""
    return move_home(monkeypatch, tmp_path_factory.mktemp("home"))


@pytest.fixture
def varfix():
    """Run `varfix ARGUMENTS` here; the result has exit_code, stdout and stderr."""
    return run_here


@pytest.fixture
def process():
    """Start `varfix ARGUMENTS` as a process of its own, its three streams piped."""
    started = []

    def start(*arguments, **options):
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-m", "varfix.cli", *map(str, arguments)]
        started.append(subprocess.Popen(command, **{**streams, **options}))
        return started[-1]

    yield start
    for running in started:
        if running.poll() is None:
            running.kill()
        running.communicate()


@pytest.fixture
def identity(shelf):
    """The path of a foreign model that returns its input."""
    return shelf.foreign()


@pytest.fixture
def image():
    """Write a small image of random pixels and return its path."""

    def write(path, seed=0, size=(24, 16)):
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(samples).save(path)
        return path

    return write


@pytest.fixture
def pixels():
    """Return the samples of an image file."""
    return lambda path: np.asarray(Image.open(path))


@pytest.fixture
def invert_folder(varfix, shelf, tmp_path, image):
    """Run `varfix dir` over two good images and a broken one, with a model that inverts."""
    image(tmp_path / "in" / "a.png", size=(640, 480))
    image(tmp_path / "in" / "sub" / "b & <c>.png", 1)
    (tmp_path / "in" / "broken.png").touch()
    model = shelf.restore(nodes=[("Sub", ["c1", "tile"], ["restored"], {})])
    where = ("dir", tmp_path / "in", tmp_path / "out", "-m", model, "-d", "cpu")
    return lambda *options: varfix(*where, *options)
