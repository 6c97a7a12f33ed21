"""`varfix models import` installs published networks and ONNX files as models with a name."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.published_networks import TINY, network

from varfix.engine.errors import ConfigError, ExitCode
from varfix.onnx.export.companions import load_spandrel


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setenv("VARFIX_MODELS", str(folder))
    return folder


def left(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.fixture
def checkpoint(tmp_path):
    try:
        load_spandrel()
    except ConfigError as error:
        pytest.skip(error.message)
    path = tmp_path / "drunet_color.pth"
    torch.save(network("DRUNet", TINY["DRUNet"]).state_dict(), path)
    return path


def test_a_published_network_is_imported_once_and_used_by_name(
    varfix, checkpoint, folder, image, tmp_path, pixels
):
    options = ("--tile", 64, "--license", "MIT", "--training", "ten images")
    made = varfix("models", "import", "drunet", checkpoint, *options)
    assert made.exit_code == 0, made.stderr
    assert "drunet: DRUNet, tiles of 64 x 64" in made.stderr
    assert left(folder) == ["drunet"]
    assert left(folder / "drunet") == ["LICENSE.md", "drunet.onnx", "origin.json"]
    assert "Weights: MIT.\nNetwork: DRUNet, MIT;" in (folder / "drunet/LICENSE.md").read_text()
    (row,) = (
        r for r in json.loads(varfix("models", "list", "--json").stdout) if r["name"] == "drunet"
    )
    assert row["summary"] == "imported: DRUNet"
    assert (row["license"], row["noncommercial"]) == ("MIT", False)
    assert "drunet: ok" in varfix("models", "verify", "drunet").stdout
    source, target = image(tmp_path / "in.png", size=(90, 70)), tmp_path / "out.png"
    leveled = ("--set", "model.level=25", "--device", "cpu")
    restored = varfix("image", "-m", "drunet", *leveled, source, target)
    assert restored.exit_code == 0, restored.stderr
    assert pixels(target).shape == pixels(source).shape
    assert varfix("models", "rm", "drunet").exit_code == 0


def test_a_refused_checkpoint_leaves_nothing(varfix, folder, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "x.pth")
    result = varfix("models", "import", "mine", tmp_path / "x.pth")
    assert result.exit_code in (ExitCode.MODEL, ExitCode.USAGE)  # USAGE without the extra
    assert left(folder) == []


def test_a_model_folder_that_cannot_be_written_is_an_error_with_its_name(varfix, folder, shelf):
    folder.write_text("a file")
    result = varfix("models", "import", "mine", shelf.foreign())
    assert result.exit_code == ExitCode.OUTPUT
    assert str(folder / "mine") in result.stderr


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_import_leaves_nothing(varfix, folder, checkpoint, monkeypatch, stop):
    from varfix.onnx.export import import_checkpoint

    def interrupted(process, limit, memory_of):
        (part,) = folder.glob(".drunet.part")
        (part / "drunet.onnx").write_bytes(b"half")
        assert process.poll() is None
        children.append(process)
        raise stop

    children = []
    monkeypatch.setattr(import_checkpoint, "_exceeds", interrupted)
    assert varfix("models", "import", "drunet", checkpoint).exit_code != 0
    assert left(folder) == []
    assert children[0].poll() is not None  # the export has ended, too


def test_what_a_killed_import_left_is_removed_by_the_next_one(varfix, folder, shelf):
    (folder / ".mine.part").mkdir(parents=True)
    (folder / ".mine.part/mine.onnx").write_bytes(b"half")
    assert varfix("models", "list").exit_code == 0
    assert varfix("models", "import", "mine", shelf.foreign(), "--tile", 64).exit_code == 0
    assert left(folder) == ["mine"]


def test_an_installed_model_is_replaced_only_on_request(varfix, folder, shelf):
    again = ("models", "import", "mine", shelf.foreign(), "--tile", 64)
    assert varfix(*again).exit_code == 0
    refused = varfix(*again)
    assert refused.exit_code == ExitCode.USAGE
    assert "mine is already installed; use --overwrite to replace it" in refused.stderr
    assert varfix(*again, "--overwrite", "--license", "MIT").exit_code == 0
    assert left(folder) == ["mine"]
    assert json.loads(varfix("models", "show", "mine", "--json").stdout)["licence"] == "MIT"


@pytest.fixture
def installed(varfix, folder, shelf):
    made = varfix("models", "import", "mine", shelf.foreign(), "--tile", 64, "--license", "MIT")
    assert made.exit_code == 0, made.stderr
    return folder / "mine" / "mine.onnx"


def row_of(varfix, name):
    rows = json.loads(varfix("models", "list", "--json").stdout)
    return next((row for row in rows if row["name"] == name), None)


AGAIN = "import it again: varfix models import mine FILE --overwrite (into "


@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_a_damaged_model_is_named_until_it_is_removed(varfix, installed, damage):
    data = installed.read_bytes()
    installed.unlink()
    if damage != "missing":
        installed.write_bytes(data[: len(data) // 2 if damage == "cut" else 0])
    result = varfix("models", "verify")
    assert result.exit_code == ExitCode.MODEL
    assert "mine.onnx" in result.stderr
    assert f"{AGAIN}{installed.parent})" in result.stderr
    row = row_of(varfix, "mine")
    assert (row["installed"], row["damaged"]) == (False, True)
    assert "mine              damaged" in varfix("models").stdout
    assert varfix("models", "rm", "mine").exit_code == 0
    assert not installed.parent.exists()
    assert row_of(varfix, "mine") is None


def test_a_damaged_model_is_imported_again_as_the_hint_says(varfix, installed, shelf):
    installed.unlink()
    again = ("models", "import", "mine", shelf.foreign(), "--overwrite", "--tile", 64)
    assert varfix(*again).exit_code == 0
    assert varfix("models", "verify", "mine").exit_code == 0


def test_a_shipped_model_is_not_removed(varfix):
    result = varfix("models", "rm", "varformer-s")
    assert result.exit_code == ExitCode.USAGE
    assert "varformer-s ships with varfix and cannot be removed" in result.stderr


def test_a_missing_prior_is_named_with_a_hint_and_nothing_is_left(varfix, folder, shelf):
    pair = shelf.pair()
    (prior,) = pair.parent.glob("*.prior.onnx")
    prior.unlink()
    result = varfix("models", "import", "dn", pair)
    assert result.exit_code == ExitCode.MODEL
    assert f"{pair.name}: {prior.name} not found next to it; copy all files" in result.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "NAFNet", "a b", "-x", ".x", "x.onnx", "", "ü", "auto/x"])
def test_a_name_that_could_not_be_a_folder_is_refused(varfix, folder, shelf, name):
    result = varfix("models", "import", "--", name, shelf.foreign())
    assert result.exit_code == ExitCode.USAGE
    assert f'"{name}" cannot be the name of a model' in result.stderr
    assert not folder.exists()


def test_an_onnx_file_is_imported_without_pytorch(varfix, folder, shelf, image, tmp_path, pixels):
    made = varfix("models", "import", "mine", shelf.foreign(), "--tile", 64, "--license", "MIT")
    assert made.exit_code == 0, made.stderr
    assert made.stderr.splitlines()[-1] == "mine: ONNX file, tiles of 64 x 64, overlap 16"
    source, target = image(tmp_path / "in.png"), tmp_path / "out.png"
    assert varfix("image", "-m", "mine", source, target).exit_code == 0
    assert np.array_equal(pixels(target), pixels(source))


def test_an_unstated_license_is_a_warning(varfix, shelf):
    made = varfix("models", "import", "mine", shelf.foreign(), "--tile", 64)
    assert "no license of the weights was stated" in made.stderr


def test_the_list_marks_models_for_noncommercial_use(varfix, folder, shelf):
    card = shelf.card(name="net", network="MPRNet", noncommercial=True)
    (folder / "net").mkdir(parents=True)
    shelf.restore(card=card).rename(folder / "net" / "net.onnx")
    assert "imported: MPRNet  [CC0-1.0]  NONCOMMERCIAL USE ONLY" in varfix("models").stdout


@pytest.mark.parametrize("arguments", [["--help"], ["models", "import", "--help"], ["models"]])
def test_commands_that_only_print_import_neither_torch_nor_spandrel(arguments):
    code = (
        "import sys\n"
        "from varfix.cli.main import invoke\n"
        f"invoke({arguments!r})\n"
        "print({'torch', 'spandrel', 'onnx'} & set(sys.modules), file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.splitlines()[-1] == "set()"


def test_restoring_imports_neither_torch_nor_spandrel(shelf, image, tmp_path):
    source = image(tmp_path / "in" / "a.png")
    arguments = ["dir", "-m", str(shelf.foreign()), "--device", "cpu", str(source.parent)]
    code = (
        "import sys\n"
        "from varfix.cli.main import invoke\n"
        f"assert invoke({[*arguments, str(tmp_path / 'out')]!r}) == 0\n"
        "print({'torch', 'spandrel', 'onnx'} & set(sys.modules), file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.splitlines()[-1] == "set()"
