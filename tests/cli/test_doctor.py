"""`varfix doctor` reports its checks, and its exit code is that of the worst."""

import json

import pytest

from varfix.engine.errors import DeviceUnavailableError, EncodeError
from varfix.engine.formats import FORMATS
from varfix.engine.video.encode import encoder_check as video_check
from varfix.engine.video.encode.encoders import hardware_encoders
from varfix.engine.video.encode.writer import SegmentEncoder
from varfix.onnx.inference import devices
from varfix.onnx.inference.hardware import Gpu


@pytest.fixture
def facts(monkeypatch):
    """Pretend that the devices are as given."""

    def pretend(providers=(("cpu", True),), **changes):
        found = devices.DeviceCheck(
            **{
                "runtime": "1.31",
                "packages": ("onnxruntime 1.31",),
                "conflict": "",
                "cores": 2,
                "gpus": (),
                "providers": tuple(
                    devices.ProviderStatus(device=name, provider=name, works=works, detail="why")
                    for name, works in providers
                ),
                "auto": "cpu",
                **changes,
            }
        )
        monkeypatch.setattr(devices, "check_devices", lambda: found)

    return pretend


def test_a_healthy_machine_is_exit_0(varfix, facts):
    facts()
    result = varfix("doctor")
    assert result.exit_code == 0, result.stdout
    assert "No problems." in result.stdout
    assert "--device auto takes cpu" in result.stdout


def test_every_format_and_depth_is_written_and_read(varfix, facts):
    facts()
    codecs = json.loads(varfix("doctor", "--json").stdout)["codecs"]
    assert {(codec["format"], codec["depth"]) for codec in codecs} == {
        (form.name, depth) for form in FORMATS.values() for depth in form.depths if form.available
    }
    assert all(codec["works"] for codec in codecs)


def test_every_video_encoder_writes_a_video_that_is_read_back(varfix, facts):
    facts()
    result = varfix("doctor", "--json")
    found = {encoder["codec"]: encoder for encoder in json.loads(result.stdout)["encoders"]}
    needed = [name for name, encoder in found.items() if encoder["needed"]]
    assert needed == ["h264", "hevc", "av1", "ffv1", "prores"]
    assert all(encoder["works"] for encoder in found.values() if encoder["needed"])
    assert {name for name in found if "_" in name} == set(hardware_encoders())
    assert result.exit_code == 0


@pytest.mark.parametrize("harm", ["frames are lost", "colors change", "it fails"])
def test_an_encoder_that_does_not_do_its_work_is_exit_5(varfix, facts, monkeypatch, harm):
    facts()
    real, calls = SegmentEncoder.add, []

    def add(self, planes):
        calls.append(planes)
        if harm == "it fails":
            raise EncodeError("libx264 failed")
        if harm == "colors change":
            planes = (planes[0], planes[2], planes[1])
        if harm == "colors change" or len(calls) != 3:
            real(self, planes)

    monkeypatch.setattr(SegmentEncoder, "add", add)
    result = varfix("doctor")
    assert result.exit_code == 5
    assert "h264: " in result.stdout.partition("Problems:")[2]


def test_missing_hardware_is_not_a_problem(varfix, facts, monkeypatch):
    facts()
    monkeypatch.setattr(video_check, "hardware_encoders", lambda: ["h264_nvenc", "hevc_qsv"])

    def missing(codec):
        return "there is no such device" if "_" in codec else ""

    monkeypatch.setattr(video_check, "_find_fault", missing)
    result = varfix("doctor")
    assert result.exit_code == 0
    assert "no hardware or driver for h264_nvenc, hevc_qsv" in result.stdout


def test_two_runtimes_over_each_other_are_exit_5_with_the_fix(varfix, facts):
    facts(conflict="both are installed; run: pip uninstall")
    result = varfix("doctor")
    assert result.exit_code == 5
    assert "run: pip uninstall" in result.stdout


def test_a_gpu_that_is_not_used_is_exit_5_with_the_reason(varfix, facts):
    gpu = Gpu(name="Card", free_mb=1, total_mb=2)
    facts([("cpu", True), ("cuda:0", False)], gpus=(gpu,))
    result = varfix("doctor")
    assert result.exit_code == 5
    assert "a GPU is present but not used (why" in result.stdout


def test_a_used_gpu_is_no_problem(varfix, facts):
    gpu = Gpu(name="Card", free_mb=1, total_mb=2)
    facts([("cpu", True), ("cuda:0", True)], gpus=(gpu,), auto="cuda:0")
    assert varfix("doctor").exit_code == 0


def test_a_runtime_that_does_not_load_is_exit_5_and_the_rest_is_still_checked(varfix, monkeypatch):
    def broken():
        raise DeviceUnavailableError("ONNX Runtime does not load", hint="reinstall varfix")

    monkeypatch.setattr(devices, "check_devices", broken)
    result = varfix("doctor")
    assert result.exit_code == 5
    assert "ONNX Runtime does not load; reinstall varfix" in result.stdout
    assert "jpeg" in result.stdout
