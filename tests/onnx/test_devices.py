import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest

from varfix.engine.errors import ConfigError, DeviceUnavailableError, ModelContractError
from varfix.onnx.inference import devices, hardware, runtime
from varfix.onnx.inference import hardware as gpu
from varfix.onnx.inference.devices import (
    check_devices,
    package_conflict,
    parse_device,
    start_requested,
)
from varfix.onnx.inference.runtime import CPU, Device, SessionPlan

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"


class FakeRuntime:
    """ONNX Runtime as some machine has it: `compiled` providers, of which `working` start."""

    __version__ = "1.31.1"
    GraphOptimizationLevel = SimpleNamespace(ORT_DISABLE_ALL=0)

    def __init__(self, compiled, working, missing="", error=None):
        self.compiled, self.working = compiled, working
        self.missing, self.error = missing, error
        self.asked = []

    def get_available_providers(self):
        return [*self.compiled, CPU_PROVIDER]

    def set_default_logger_severity(self, level):
        pass

    def preload_dlls(self):
        if self.missing:
            sys.stdout.write(f"Failed to load {self.missing}: {self.missing}: cannot open\n")

    def SessionOptions(self):  # noqa: N802 (ONNX Runtime's name)
        return SimpleNamespace(
            add_session_config_entry=lambda *entry: None,
            add_free_dimension_override_by_name=lambda *pin: None,
        )

    def InferenceSession(self, model, options, providers, enable_fallback):  # noqa: N802
        assert not enable_fallback
        names = [name if isinstance(name, str) else name[0] for name in providers]
        self.asked.append(names[0])
        if self.error and names[0] != CPU_PROVIDER:
            raise self.error
        started = [name for name in names if name in (*self.working, CPU_PROVIDER)]
        double = SimpleNamespace(
            get_providers=lambda: started, run=lambda names, feeds: [feeds["x"] * 2]
        )
        return double


@pytest.fixture
def machine(monkeypatch):
    """Turn this machine into another one."""

    def become(compiled=(), working=(), packages=("onnxruntime 1.31.1",), gpu=True, **facts):
        fake = FakeRuntime(compiled, working, **facts)
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)
        monkeypatch.setattr(devices, "gpu_visible", lambda: gpu)
        monkeypatch.setattr(devices, "installed_packages", lambda: tuple(packages))
        return fake

    return become


def start(text, tmp_path):
    warnings = []
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a\x3a\x00")  # IR version 10, an empty graph
    session, device = start_requested(
        tmp_path / "net.onnx",
        parse_device(text),
        SessionPlan,
        lambda code, message: warnings.append((code, message)),
    )
    return session, device, warnings


def text_of(error):
    return f"{error.message}; {error.hint}"


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("auto", None),
        ("cpu", CPU),
        ("cuda", Device("cuda", 0)),
        ("cuda:0", Device("cuda", 0)),
        ("cuda:11", Device("cuda", 11)),
        ("tensorrt:1", Device("tensorrt", 1)),
        ("directml", Device("directml")),
    ],
)
def test_a_device_is_read_from_its_text(text, device):
    assert parse_device(text).device == device
    assert parse_device(text).text == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cdua", 'did you mean "cuda"?'),
        ("gpu", 'did you mean "cuda"?'),
        ("", "use one of auto, cpu, cuda"),
        ("CUDA", "unknown device"),
        ("cuda:", "expected a form like"),
        ("cuda:x", "expected a form like"),
        ("cuda:-1", "expected a form like"),
        ("cpu:0", "expected a form like"),
        ("auto:0", "unknown device"),
        ("cuda:1,1", "a GPU is named twice"),
        ("cuda:0,", "expected a form like"),
        ("cpu:0,1", "expected a form like"),
    ],
)
def test_what_is_no_device_is_refused_with_help(text, words):
    with pytest.raises(ConfigError) as caught:
        parse_device(text)
    assert f'--device "{text}": ' in caught.value.message
    assert words in text_of(caught.value)


def test_several_gpus_are_one_request_for_each():
    request = parse_device("cuda:0,2")
    assert [part.device for part in request.each()] == [Device("cuda", 0), Device("cuda", 2)]
    assert {part.text for part in request.each()} == {"cuda:0,2"}
    assert parse_device("auto").each() == [parse_device("auto")]


def test_auto_takes_the_gpu_that_starts(machine, tmp_path):
    machine(compiled=[CUDA], working=[CUDA])
    session, device, warnings = start("auto", tmp_path)
    assert device == Device("cuda", 0)
    assert session.get_providers()[0] == CUDA
    assert warnings == []


def test_auto_never_waits_for_a_tensorrt_build(machine, tmp_path):
    fake = machine(compiled=[TENSORRT, CUDA], working=[TENSORRT, CUDA])
    start("auto", tmp_path)
    assert fake.asked == [CUDA]


def test_auto_warns_once_why_the_gpu_is_not_used(machine, tmp_path):
    machine(compiled=[CUDA], working=[], missing="libcudnn.so.9")
    session, device, warnings = start("auto", tmp_path)
    assert device == CPU
    assert session.get_providers() == [CPU_PROVIDER]
    message = "CUDA is not available (libcudnn.so.9 not found); using CPU"
    assert warnings == [("device_fallback", message)]


def test_auto_warns_if_the_installed_package_has_no_cuda(machine, tmp_path):
    machine(compiled=[], packages=["onnxruntime 1.31.1"])
    _, device, warnings = start("auto", tmp_path)
    assert device == CPU
    ((code, message),) = warnings
    assert code == "device_fallback"
    assert "onnxruntime 1.31.1 does not contain it" in message


def test_auto_survives_a_provider_that_raises(machine, tmp_path):
    machine(compiled=[CUDA], error=RuntimeError("CUDA driver version is insufficient\nmore"))
    _, device, warnings = start("auto", tmp_path)
    assert device == CPU
    ((_, message),) = warnings
    assert "(CUDA driver version is insufficient)" in message


def test_auto_on_a_machine_without_gpu_is_silent_and_does_not_try(machine, tmp_path):
    fake = machine(compiled=[CUDA], working=[], gpu=False)
    _, device, warnings = start("auto", tmp_path)
    assert (device, warnings, fake.asked) == (CPU, [], [CPU_PROVIDER])


def test_auto_blames_a_broken_file_not_the_gpu(machine, tmp_path):
    class InvalidProtobuf(Exception):  # noqa: N818 (ONNX Runtime's name)
        pass

    machine(compiled=[CUDA], error=InvalidProtobuf("[ONNXRuntimeError] : 7 : X : parsing failed."))
    with pytest.raises(ModelContractError, match=r"net\.onnx: .*parsing failed\)"):
        start("auto", tmp_path)


def test_cuda_without_a_cuda_package_is_an_error_with_the_repair(machine, tmp_path):
    fake = machine(compiled=[])
    with pytest.raises(DeviceUnavailableError) as caught:
        start("cuda", tmp_path)
    assert text_of(caught.value) == (
        "--device cuda: ONNX Runtime has no CUDA provider here; "
        "installed: onnxruntime 1.31.1 (CPU); "
        'run: pip uninstall -y onnxruntime && pip install "varfix[cuda]", or see varfix doctor'
    )
    assert caught.value.exit_code == 5
    assert fake.asked == []


def test_cuda_whose_libraries_are_missing_is_an_error_that_names_one(machine, tmp_path):
    machine([CUDA], [], ["onnxruntime-gpu 1.31.1"], missing="libcublasLt.so.13")
    with pytest.raises(DeviceUnavailableError) as caught:
        start("cuda:0", tmp_path)
    assert text_of(caught.value) == (
        "--device cuda:0: ONNX Runtime has no working CUDA provider here "
        "(libcublasLt.so.13 not found); installed: onnxruntime-gpu 1.31.1; "
        'run: pip install "varfix[cuda]", or see varfix doctor'
    )


def test_cuda_without_a_gpu_does_not_send_people_after_libraries(machine, tmp_path):
    machine([CUDA], [], ["onnxruntime-gpu 1.31.1"], gpu=False, missing="libcublasLt.so.13")
    with pytest.raises(DeviceUnavailableError) as caught:
        start("cuda", tmp_path)
    assert "(no NVIDIA GPU is visible)" in caught.value.message
    assert "--device cpu" in caught.value.hint


def test_tensorrt_that_would_leave_the_work_to_cuda_is_an_error(machine, tmp_path):
    machine([TENSORRT, CUDA], [CUDA], ["onnxruntime-gpu 1.31.1"])
    with pytest.raises(DeviceUnavailableError, match="no working TensorRT provider") as caught:
        start("tensorrt", tmp_path)
    assert "--device cuda" in caught.value.hint


def test_looking_for_cuda_libraries_writes_nothing_to_stdout(machine, tmp_path, capsys):
    machine(compiled=[CUDA], working=[], missing="libcudnn.so.9")
    start("auto", tmp_path)
    assert capsys.readouterr().out == ""


def test_two_packages_over_each_other_are_found_with_the_repair(machine):
    machine(packages=["onnxruntime 1.30.0", "onnxruntime-gpu 1.31.1"])
    assert package_conflict() == (
        "onnxruntime and onnxruntime-gpu overwrite each other, which can disable the GPU; "
        "run: pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    )


def test_one_package_is_no_conflict(machine):
    machine(packages=["onnxruntime-gpu 1.31.1"])
    assert package_conflict() == ""


def test_installed_packages_are_those_of_this_environment():
    found = dict(package.split() for package in runtime.installed_packages())
    assert found
    assert all(metadata.version(name) == version for name, version in found.items())


def test_the_check_tries_each_provider_instead_of_trusting_the_list(machine):
    machine([TENSORRT, CUDA], [CUDA], ["onnxruntime-gpu 1.31.1"])
    facts = check_devices()
    works = {fact.device: fact.works for fact in facts.providers}
    assert works == {"cpu": True, "cuda:0": True, "tensorrt:0": False}
    assert facts.auto == "cuda:0"


def test_facts_say_why_a_provider_does_not_work(machine):
    machine([CUDA], [], missing="libcudnn.so.9")
    facts = {fact.device: fact for fact in check_devices().providers}
    assert not facts["cuda:0"].works
    assert facts["cuda:0"].detail == "libcudnn.so.9 not found"


def test_facts_of_this_very_machine_are_that_the_cpu_computes():
    facts = check_devices()
    (cpu,) = [fact for fact in facts.providers if fact.device == "cpu"]
    assert cpu.works
    assert not cpu.detail
    assert facts.runtime
    assert facts.packages
    assert facts.cores == hardware.usable_cores()


def test_a_runtime_that_does_not_load_is_a_device_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceUnavailableError, match="ONNX Runtime does not load"):
        runtime.load_runtime()


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Install an `nvidia-smi` that answers with the given lines and logs how it was called."""
    if sys.platform == "win32":
        pytest.skip("the stand-in is a shell script")

    def install(*lines, status=0):
        program = tmp_path / "nvidia-smi"
        echo = "\n".join(f"echo '{line}'" for line in lines)
        program.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/called"\n{echo}\nexit {status}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path / "called"

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


def test_gpus_are_what_the_driver_reports(driver):
    driver("NVIDIA H200, 140000, 143771", "Odd, Name, 10, 20")
    assert gpu.list_gpus() == (gpu.Gpu("NVIDIA H200", 140000, 143771), gpu.Gpu("Odd, Name", 10, 20))
    assert gpu.gpu_visible()


@pytest.mark.parametrize("answer", [("No devices were found",), ("H200, [N/A], [N/A]",), ()])
def test_a_driver_that_talks_nonsense_has_no_gpus(driver, answer):
    driver(*answer)
    assert gpu.list_gpus() == ()


def test_a_broken_driver_has_no_gpus(driver):
    driver("NVIDIA H200, 1, 2", status=9)
    assert gpu.list_gpus() == ()
    assert gpu.find_gpu(0) is None


def test_memory_is_asked_of_the_gpu_that_cuda_would_take(driver, monkeypatch):
    called = driver("NVIDIA H200, 1, 2")
    assert gpu.find_gpu(1) == gpu.Gpu("NVIDIA H200", 1, 2)
    assert "--id 1" in called.read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    gpu.find_gpu(1)
    assert "--id GPU-abc" in called.read_text()
    assert gpu.find_gpu(2) is None


@pytest.mark.parametrize("value", ["", "-1"])
def test_a_hidden_gpu_is_not_visible(driver, monkeypatch, value):
    driver("NVIDIA H200, 1, 2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert not gpu.gpu_visible()


@pytest.mark.parametrize(
    ("vendor", "kind", "visible"),
    [
        ("0x10de", "0x030200", True),
        ("0x10de", "0x040300", False),  # its sound output alone is no GPU
        ("0x8086", "0x030000", False),
    ],
)
def test_a_card_without_driver_is_still_seen(tmp_path, monkeypatch, vendor, kind, visible):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device = tmp_path / "pci/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    assert gpu.gpu_visible(tmp_path / "pci") is visible
    assert not gpu.gpu_visible(tmp_path / "no pci here")


def test_the_probe_is_a_model_that_doubles():
    import onnx

    onnx.checker.check_model(onnx.ModelProto.FromString(devices._PROBE))
    session = runtime.start(devices._PROBE, runtime.SessionPlan(CPU))
    (doubled,) = session.run(["y"], {"x": np.array([1, 2], np.float32)})
    assert doubled.tolist() == [2, 4]
