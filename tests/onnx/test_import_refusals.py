"""What is no restorer is refused by name, and nothing in a file is executed."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from support.published_networks import EXTRA, TINY, network

from varfix.engine.errors import (
    ConfigError,
    ExitCode,
    HostMemoryError,
    ModelContractError,
    ModelError,
)
from varfix.engine.networks.checkpoints.tensors import read_tensors
from varfix.onnx.export import companions, import_checkpoint, import_worker
from varfix.onnx.export.companions import load_spandrel, torchvision_note
from varfix.onnx.export.import_job import ImportRequest
from varfix.onnx.export.import_worker import answer


@pytest.fixture(scope="module")
def library():
    try:
        return load_spandrel()
    except ConfigError as error:
        pytest.skip(error.message)


def request(path, **preferences):
    return ImportRequest(
        checkpoint=str(path),
        target=str(path.with_name("net.onnx")),
        tile=64,
        threads=1,
        **preferences,
    )


def refusal(path, **preferences):
    """The error of an import; nothing is written."""
    failure = answer(request(path, **preferences)).failure
    assert failure is not None
    assert not path.with_name("net.onnx").exists()
    return failure.error()


class Opener:
    """Executed when it is unpickled by a reader that executes code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_code_in_a_checkpoint_is_not_executed(tmp_path, write):
    path, mark = tmp_path / "net.pth", tmp_path / "executed"
    write({"params": {"weight": torch.zeros(1)}, "epoch": Opener(mark)}, path)
    error = refusal(path)
    assert error.exit_code == ExitCode.MODEL
    assert "nothing was executed" in error.message
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    weights = {"weight": torch.zeros(1000)}
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:-500])
    error = refusal(path)
    assert error.exit_code == ExitCode.MODEL
    assert "damaged or incomplete" in error.message


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], "text"])
def test_a_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    assert "no named weights" in refusal(tmp_path / "net.pth").message


def test_a_stable_diffusion_checkpoint_is_named(library, tmp_path):
    name = "model.diffusion_model.input_blocks.0.0.weight"
    torch.save({"state_dict": {name: torch.zeros(4)}}, tmp_path / "sd.ckpt")
    error = refusal(tmp_path / "sd.ckpt")
    assert error.exit_code == ExitCode.MODEL
    assert "it looks like a Stable Diffusion checkpoint" in error.message


def test_an_upscaler_is_refused(library, tmp_path):
    from spandrel.architectures.Compact import Compact

    torch.save(Compact(num_feat=8, num_conv=2, upscale=4).state_dict(), tmp_path / "x.pth")
    error = refusal(tmp_path / "x.pth")
    assert error.exit_code == ExitCode.MODEL
    assert error.message == "x.pth: Compact enlarges images 4 times"


def test_an_inpainter_is_refused(library, tmp_path):
    from spandrel.architectures.LaMa import LaMa

    torch.save({f"model.{k}": v for k, v in LaMa().model.state_dict().items()}, tmp_path / "x.pth")
    error = refusal(tmp_path / "x.pth")
    assert error.exit_code == ExitCode.MODEL
    assert error.message == "x.pth: LaMa fills holes in images"


def test_weights_of_another_variant_are_refused(library, tmp_path):
    weights = network("DRUNet", TINY["DRUNet"]).state_dict()
    weights["m_body.0.res.0.weight"] = torch.zeros(5, 5, 3, 3)
    torch.save(weights, tmp_path / "x.pth")
    error = refusal(tmp_path / "x.pth")
    assert error.exit_code == ExitCode.MODEL
    assert "do not fit the network that they resemble" in error.message


def test_noncommercial_networks_need_a_consent(library, tmp_path, monkeypatch):
    restricted = replace(library, extra=frozenset({"DRUNet"}))
    monkeypatch.setattr(import_worker, "load_spandrel", lambda: restricted)
    torch.save(network("DRUNet", TINY["DRUNet"]).state_dict(), tmp_path / "x.pth")
    error = refusal(tmp_path / "x.pth")
    assert error.exit_code == ExitCode.USAGE
    assert "DRUNet forbids commercial use" in error.message
    assert "--allow-noncommercial" in error.hint
    card = answer(request(tmp_path / "x.pth", allow_noncommercial=True)).card
    assert card.noncommercial


def test_the_networks_of_the_extra_package_are_the_noncommercial_ones(library):
    if not library.extra:
        pytest.skip("spandrel_extra_arches is not installed")
    assert library.extra >= EXTRA
    assert not library.extra & {"NAFNet", "SCUNet", "SwinIR"}


def test_a_checkpoint_of_a_network_of_varfix_is_left_to_varfix(tmp_path):
    torch.save({"params": {"main_decoder.theta": torch.zeros(1)}}, tmp_path / "x.pth")
    assert answer(request(tmp_path / "x.pth")).own == "varformer"


def test_the_preferred_weights_of_a_checkpoint_are_read(tmp_path):
    both = {"params": {"a": torch.zeros(1)}, "params_ema": {"a": torch.ones(1)}, "step": 9}
    torch.save(both, tmp_path / "x.pth")
    assert read_tensors(tmp_path / "x.pth")["a"] == 1.0


# The process


def test_an_import_that_needs_too_much_memory_is_ended(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(HostMemoryError, match=r"x\.pth: the import needs more than 0\.0 GB"):
        import_checkpoint.import_checkpoint(request(tmp_path / "x.pth"), 10_000_000)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("os._exit(7)", ModelContractError), ("os.kill(os.getpid(), 9)", HostMemoryError)],
)
def test_a_process_that_dies_is_an_error(tmp_path, monkeypatch, code, kind):
    (tmp_path / "dying.py").write_text(f"import os\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(import_checkpoint, "WORKER", "dying")
    with pytest.raises(kind):
        import_checkpoint.import_checkpoint(request(tmp_path / "x.pth"), 10**10)


def test_an_error_of_the_process_is_raised_with_its_class_and_hint(tmp_path):
    with pytest.raises(ModelError, match="no such checkpoint"):
        import_checkpoint.import_checkpoint(request(tmp_path / "gone.pth"), 10**10)


# Packages


@pytest.mark.parametrize("missing", ["torch", "spandrel"])
def test_a_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch, missing):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "x.pth")
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    error = refusal(tmp_path / "x.pth")
    assert error.exit_code == ExitCode.USAGE
    assert error.message == f"varfix models import requires {missing}, which is not installed"
    assert error.hint == 'run: pip install "varfix[import]"'


@pytest.mark.parametrize(
    ("torch_version", "found", "wanted"),
    [
        ("2.13.0+cpu", "0.27.1", 'pip install "torchvision==0.28.*"'),
        ("2.13.0+cpu", "0.28.0", "pip install --force-reinstall torch torchvision"),
        ("2.9.1", "0.29.0", 'pip install "torchvision==0.24.*"'),
    ],
)
def test_a_torchvision_that_does_not_fit_is_named(monkeypatch, torch_version, found, wanted):
    versions = {"torch": torch_version, "torchvision": found}
    monkeypatch.setattr(companions, "metadata_version", versions.get)
    note = torchvision_note(RuntimeError("operator torchvision::nms does not exist"))
    assert f"torchvision {found}: does not load with torch {torch_version}" in note
    assert "operator torchvision::nms does not exist" in note
    assert wanted in note


def test_a_broken_torchvision_does_not_prevent_an_import(library, tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    info = tmp_path / "torchvision-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1.0\n")
    code = (
        f"import json, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from varfix.onnx.export.companions import load_spandrel\n"
        "library = load_spandrel()\n"
        "loaded = [name for name in sys.modules if name.startswith('torchvision')]\n"
        "print(json.dumps([len(library.registry), library.notes, loaded]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, (note,), loaded = json.loads(run.stdout)
    assert count >= len(library.registry) > 30
    assert note.startswith("torchvision 0.1.0: does not load with torch")
    assert loaded == []
