"""A session on bound buffers computes as any other; what CUDA adds to that, recording, needs a GPU.

The buffers lie in the host's memory here: binding and copying are the same code.
"""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from varfix.onnx.inference import cuda_graphs as captured
from varfix.onnx.inference import runtime
from varfix.onnx.inference.cuda_graphs import MOST, CudaGraphSession, wants_recording
from varfix.onnx.inference.providers import PROVIDERS, Device, SessionPlan, provider_list
from varfix.onnx.inference.runtime import StartError, start

CPU, CUDA = PROVIDERS["cpu"], Device("cuda", 1)


@pytest.fixture
def plain():
    """Adds a row to a matrix of any height, and tells the sums as well."""
    value = helper.make_tensor_value_info
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "row"], ["y"]),
            helper.make_node("ReduceSum", ["y", "axes"], ["sums"]),
        ],
        "add",
        [value("x", TensorProto.FLOAT, ["n", 3]), value("row", TensorProto.FLOAT, [1, 3])],
        [value("y", TensorProto.FLOAT, ["n", 3]), value("sums", TensorProto.FLOAT, ["n", 1])],
        [axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])


class Watched:
    """A session that remembers how it was run."""

    def __init__(self, session):
        self.session, self.recordings, self.plain = session, [], []

    def run(self, names, feeds, options):
        self.plain.append(options.get_run_config_entry("gpu_graph_id"))
        return self.session.run(names, feeds, options)

    def run_with_iobinding(self, binding, options):
        self.recordings.append(options.get_run_config_entry("gpu_graph_id"))
        return self.session.run_with_iobinding(binding, options)

    def __getattr__(self, name):
        return getattr(self.session, name)


@pytest.fixture
def watched(plain):
    return Watched(plain)


@pytest.fixture
def session(watched):
    return CudaGraphSession(watched, onnxruntime, "cpu", 0)


def feeds(height, seed):
    values = np.random.default_rng(seed).random
    return {"x": values((height, 3), np.float32), "row": values((1, 3), np.float32)}


def test_every_run_gives_what_a_plain_session_gives(session, plain):
    for seed, height in enumerate([2, 2, 5, 2, 5, 5, 1, 2]):
        given = feeds(height, seed)
        for names in (["y"], ["sums", "y"]):
            expected = plain.run(names, given)
            found = session.run(names, given)
            assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_results_are_the_callers_own(session):
    session.run(["y"], feeds(4, 0))
    (first,) = session.run(["y"], feeds(4, 1))
    kept = first.copy()
    session.run(["y"], feeds(4, 2))
    assert np.array_equal(first, kept)


def test_arrays_need_not_be_contiguous(session, plain):
    given = {
        "x": np.random.default_rng(1).random((3, 4), np.float32).T,
        "row": np.ones((1, 3), np.float32),
    }
    for _ in range(3):
        assert np.array_equal(session.run(["y"], given)[0], plain.run(["y"], given)[0])


def test_each_shape_is_recorded_apart_and_not_at_its_first_run(session, watched):
    for height in (2, 2, 5, 5, 2):
        session.run(["y"], feeds(height, height))
    assert watched.plain == ["-1", "-1"]
    assert watched.recordings == ["1", "2", "1"]


def test_no_more_shapes_are_kept_than_are_worth_their_memory(session, watched):
    for height in [*range(1, MOST + 4)] * 2:
        session.run(["y"], feeds(height, height))
    assert len(watched.recordings) == MOST
    assert set(watched.plain) == {"-1"}


def test_it_looks_like_the_session_that_it_wraps(session, plain):
    assert [node.name for node in session.get_inputs()] == ["x", "row"]
    assert [node.name for node in session.get_outputs()] == ["y", "sums"]
    assert session.get_providers() == plain.get_providers()


@pytest.mark.parametrize(
    ("value", "wanted"), [("1", True), ("0", False), ("", False), (None, False)]
)
def test_recording_is_asked_for_by_the_environment(value, wanted, monkeypatch):
    monkeypatch.delenv(captured.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(captured.VARIABLE, value)
    assert wants_recording() == wanted


@pytest.mark.parametrize("recorded", [True, False])
def test_the_provider_gets_the_option(recorded):
    (_, options), _ = provider_list(SessionPlan(CUDA, recorded=recorded), "", "1.31")
    assert options.get("enable_cuda_graph") == ("1" if recorded else None)


@pytest.mark.parametrize("refused", [True, False])
def test_what_cannot_be_recorded_runs_without(refused, monkeypatch, plain):
    plans = []

    def started(model, plan):
        plans.append(plan.recorded)
        if plan.recorded and refused:
            raise StartError("this session cannot use the graph capture feature")
        return plain

    monkeypatch.setattr(runtime, "_started", started)
    monkeypatch.setenv(captured.VARIABLE, "1")
    session = start(b"", SessionPlan(CUDA))
    assert isinstance(session, CudaGraphSession) != refused
    assert plans == ([True, False] if refused else [True])


def test_other_devices_are_never_recorded(monkeypatch, plain):
    monkeypatch.setattr(runtime, "_started", lambda model, plan: plain)
    monkeypatch.setenv(captured.VARIABLE, "1")
    assert start(b"", SessionPlan(runtime.CPU)) is plain
