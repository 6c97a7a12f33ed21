"""What the tests of the ONNX side share."""

import tempfile
from pathlib import Path

import platformdirs
import pytest
import torch
from support.sessions import CUDA

from varfix.onnx.inference import companion_graphs as companions
from varfix.onnx.inference import memory_guard as guard
from varfix.onnx.inference import open_model as session
from varfix.onnx.inference import runtime
from varfix.onnx.inference.runtime import CPU, SessionPlan, start


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These networks are tiny, and spinning threads would slow whatever runs beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cache_folder():
    """What is kept for next time is kept apart from the user's own, and not for long."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(autouse=True, scope="module")
def cache(cache_folder):
    """Use that folder in these tests, and in no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_path", lambda *names, **facts: cache_folder)
        yield


@pytest.fixture
def sources(monkeypatch):
    """What sessions were started from, in turn."""
    seen, options = [], runtime._options

    def recorded(module, plan, unrolled, source):
        seen.append(source)
        return options(module, plan, unrolled, source)

    monkeypatch.setattr(runtime, "_options", recorded)
    return seen


@pytest.fixture
def on_cuda(monkeypatch):
    """Let every graph start as if on CUDA, and record what was started."""
    started = []

    def fake_start(model, plan):
        if model.name != "hand-made.onnx" and not model.name.endswith(".fp16.onnx"):
            raise AssertionError(model)
        started.append((model.name, plan.precision))
        return start(model, SessionPlan(CPU, plan.dims))

    def requested(model, request, plans, warn):
        return fake_start(model, plans(CUDA)), CUDA

    monkeypatch.setattr(session, "start_requested", requested)
    monkeypatch.setattr(
        companions, "start_named", lambda model, request, plan: fake_start(model, plan)
    )
    monkeypatch.setattr(guard, "find_gpu", lambda index: None)
    return started
