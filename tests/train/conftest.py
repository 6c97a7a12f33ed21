"""Runs on one thread: the networks are tiny, and spinning threads would slow other programs."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

TINY_RUN = Path(__file__).with_name("tiny_run.py")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny():
    """The functions of `tiny_run.py`, and its path."""
    return SimpleNamespace(**runpy.run_path(str(TINY_RUN)), path=TINY_RUN)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Three images, one of them too small to use."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, size in [("a.png", (300, 280)), ("b.jpg", (256, 400)), ("tiny.png", (40, 40))]:
        coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / name), image)
    return folder


@pytest.fixture(scope="session")
def metrics():
    """Reads the metrics of a run, without times."""

    def read(out):
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        clock = {"time", "elapsed", "wait", "took"}
        return [{key: line[key] for key in line.keys() - clock} for line in lines]

    return read


@pytest.fixture(scope="session")
def weights():
    """Reads the weights of a finished run."""
    from safetensors.torch import load_file

    return lambda out: load_file(out / "weights.safetensors")
