"""The options of devices that ONNX Runtime receives."""

import pytest

from varfix.onnx.inference import providers
from varfix.onnx.inference.hardware import Gpu
from varfix.onnx.inference.providers import CPU, Device, SessionPlan, engine_key, provider_list

TENSORRT = Device("tensorrt", 1)
PLAN = SessionPlan(TENSORRT, {"height": 512}, "fp16", shapes={"tile": (3, 512, 512)})


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    found = [Gpu("H200", 1, 1)]
    monkeypatch.setattr(providers, "find_gpu", lambda index: found[-1])
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(providers, "tensorrt_folder", lambda: tmp_path / "cache" / "tensorrt")
    return tmp_path / "cache" / "tensorrt"


def test_the_cpu_comes_last_and_once():
    assert provider_list(SessionPlan(CPU), "", "1.31") == ["CPUExecutionProvider"]
    for kind in ("cuda", "tensorrt", "directml"):
        assert provider_list(SessionPlan(Device(kind)), "", "1.31")[-1] == "CPUExecutionProvider"


def test_tensorrt_leaves_what_it_cannot_to_cuda_on_the_same_gpu():
    (first, tensorrt), (second, cuda), _ = provider_list(PLAN, "abc", "1.31")
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert tensorrt["device_id"] == cuda["device_id"] == "1"
    assert tensorrt["trt_fp16_enable"] == "True"


def test_engines_are_kept_in_a_folder_that_is_there(folder):
    (_, options), *_ = provider_list(PLAN, "abc", "1.31")
    assert (folder / engine_key(PLAN, "abc", "1.31")).is_dir()
    assert options["trt_engine_cache_path"] == str(folder / engine_key(PLAN, "abc", "1.31"))
    assert options["trt_timing_cache_path"] == str(folder)


def test_where_no_folder_can_be_made_engines_are_built_each_time(folder):
    folder.parent.write_text("a file in its place")
    (_, options), *_ = provider_list(PLAN, "abc", "1.31")
    assert not any("cache" in name for name in options)
    assert options["trt_fp16_enable"] == "True"


def test_an_engine_is_built_for_a_range_of_batches():
    (_, options), *_ = provider_list(PLAN, "abc", "1.31")
    assert options["trt_profile_min_shapes"] == "tile:1x3x512x512"
    assert options["trt_profile_opt_shapes"] == "tile:8x3x512x512"
    assert options["trt_profile_max_shapes"] == "tile:32x3x512x512"


def test_a_graph_whose_inputs_are_not_known_has_no_range():
    (_, options), *_ = provider_list(SessionPlan(TENSORRT), "abc", "1.31")
    assert not any("profile" in name for name in options)


@pytest.mark.parametrize(
    ("plan", "checksum", "version"),
    [
        (PLAN, "abd", "1.31"),
        (PLAN, "abc", "1.32"),
        (SessionPlan(TENSORRT, {"height": 256}, "fp16", shapes=PLAN.shapes), "abc", "1.31"),
        (SessionPlan(TENSORRT, PLAN.dims, "fp32", shapes=PLAN.shapes), "abc", "1.31"),
        (SessionPlan(TENSORRT, PLAN.dims, "fp16"), "abc", "1.31"),
    ],
)
def test_an_engine_is_found_again_only_by_what_it_was_built_for(plan, checksum, version):
    assert engine_key(PLAN, "abc", "1.31") == engine_key(PLAN, "abc", "1.31")
    assert engine_key(plan, checksum, version) != engine_key(PLAN, "abc", "1.31")


def test_another_gpu_has_engines_of_its_own(gpu):
    key = engine_key(PLAN, "abc", "1.31")
    gpu.append(Gpu("A100", 1, 1))
    assert engine_key(PLAN, "abc", "1.31") != key
