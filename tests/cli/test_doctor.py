"""`varfix doctor` reports what was tried, and its exit code says whether all is well."""

import json

import pytest

from varfix.engine.errors import DeviceUnavailableError
from varfix.engine.formats import FORMATS
from varfix.onnx import devices


@pytest.fixture
def facts(monkeypatch):
    """Pretend that the devices are as given."""

    def pretend(providers=(("cpu", True),), **changes):
        found = devices.DeviceFacts(
            **{
                "runtime": "1.31",
                "packages": ("onnxruntime 1.31",),
                "conflict": "",
                "cores": 2,
                "gpus": (),
                "providers": tuple(
                    devices.ProviderFact(device=name, provider=name, works=works, detail="why")
                    for name, works in providers
                ),
                "auto": "cpu",
                **changes,
            }
        )
        monkeypatch.setattr(devices, "device_facts", lambda: found)

    return pretend


def test_a_healthy_machine_is_exit_0(varfix, facts):
    facts()
    result = varfix("doctor")
    assert result.exit_code == 0, result.stdout
    assert "All is well." in result.stdout
    assert "--device auto takes cpu" in result.stdout


def test_every_format_and_depth_is_written_and_read(varfix, facts):
    facts()
    codecs = json.loads(varfix("doctor", "--json").stdout)["codecs"]
    assert {(one["format"], one["depth"]) for one in codecs} == {
        (form.name, depth) for form in FORMATS.values() for depth in form.depths if form.available
    }
    assert all(one["works"] for one in codecs)


def test_two_runtimes_over_each_other_are_exit_5_with_the_fix(varfix, facts):
    facts(conflict="both are installed. Fix: pip uninstall")
    result = varfix("doctor")
    assert result.exit_code == 5
    assert "Fix: pip uninstall" in result.stdout


def test_a_gpu_that_is_not_used_is_exit_5_with_the_reason(varfix, facts):
    gpu = devices.Gpu(name="Card", free_mb=1, total_mb=2)
    facts([("cpu", True), ("cuda:0", False)], gpus=(gpu,))
    result = varfix("doctor")
    assert result.exit_code == 5
    assert "A GPU is present but not used: why" in result.stdout


def test_a_gpu_in_use_is_well(varfix, facts):
    gpu = devices.Gpu(name="Card", free_mb=1, total_mb=2)
    facts([("cpu", True), ("cuda:0", True)], gpus=(gpu,), auto="cuda:0")
    assert varfix("doctor").exit_code == 0


def test_a_runtime_that_does_not_load_is_exit_5_and_the_rest_is_still_checked(varfix, monkeypatch):
    def broken():
        raise DeviceUnavailableError("ONNX Runtime does not load.", hint="Reinstall varfix.")

    monkeypatch.setattr(devices, "device_facts", broken)
    result = varfix("doctor")
    assert result.exit_code == 5
    assert "ONNX Runtime does not load. Reinstall varfix." in result.stdout
    assert "jpeg" in result.stdout
