"""Commands that need the `train` extra, and their error when it is missing."""

import sys
import types

import pytest

from varfix.cli.missing_extras import require_train_extra
from varfix.engine.train.request import TrainRequest


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.touch()
    return path


@pytest.fixture
def engine(monkeypatch):
    """Put a module with one recording function in the place of the real one."""

    def replace(module, function):
        calls = []
        double = types.ModuleType(module)
        # Some functions take their arguments as `varfix.onnx.export.architectures.CardFields`.
        vars(double)["CardFields"] = lambda **fields: fields
        setattr(double, function, lambda *arguments: calls.append(arguments))
        monkeypatch.setitem(sys.modules, module, double)
        return calls

    return replace


@pytest.fixture
def no_torch(monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("varfix.engine.train.", "varfix.onnx.", "torch")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


def test_train_passes_its_options_on(varfix, engine, tmp_path):
    calls = engine("varfix.engine.train.loop", "run_training")
    recipe = tmp_path / "mine.yaml"
    recipe.touch()
    options = ["--photos", tmp_path, "--photos", tmp_path, "--out", tmp_path / "out"]
    result = varfix("train", recipe, *options, "--set", "seed=2")
    assert result.exit_code == 0, result.stderr
    job = TrainRequest(tmp_path / "out", (tmp_path, tmp_path), config=recipe, overrides=("seed=2",))
    ((given, warn),) = calls
    assert given == job
    assert warn.__name__ == "warn"  # of the terminal: old keys are shown


def test_train_passes_on_pairs_weights_and_devices(varfix, engine, weights, tmp_path):
    calls = engine("varfix.engine.train.loop", "run_training")
    options = ["--pairs", tmp_path, tmp_path, "--init", weights, "--devices", 2]
    options += ["--minutes", 2.5, "--compile"]
    result = varfix("train", "--out", tmp_path, *options)
    assert result.exit_code == 0, result.stderr
    pairs = (tmp_path, tmp_path)
    job = TrainRequest(
        tmp_path, pairs=pairs, initial=(weights,), devices=2, minutes=2.5, compile=True
    )
    assert [given for given, _ in calls] == [job]
    assert job.changes == ["minutes=2.5", "compile=true"]


def test_the_help_of_train_is_that_of_training(varfix):
    text = varfix("train", "--help").stdout
    assert text.startswith("Usage: varfix train [OPTIONS] [RECIPE]")
    assert "--photos" in text
    assert varfix("train", "preview", "--help").stdout.startswith("Usage: varfix train preview ")


def test_train_without_a_recipe_uses_the_shipped_one(varfix, engine, tmp_path):
    calls = engine("varfix.engine.train.loop", "run_training")
    varfix("train", "--photos", tmp_path, "--out", tmp_path)
    assert calls[0][0].config is None


def test_export_passes_its_options_on(varfix, engine, weights, tmp_path):
    calls = engine("varfix.onnx.export.architectures", "export_model")
    target = tmp_path / "mine.onnx"
    result = varfix("export-onnx", weights, target, "--training", "ten photos")
    assert result.exit_code == 0, result.stderr
    assert calls == [
        ("auto", (weights,), target, {"training": "ten photos", "licence": "LicenseRef-unstated"})
    ]


def test_export_replaces_a_model_only_with_overwrite(varfix, engine, weights, tmp_path):
    calls = engine("varfix.onnx.export.architectures", "export_model")
    target = tmp_path / "mine.onnx"
    target.touch()
    result = varfix("export-onnx", weights, target)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert varfix("export-onnx", weights, target, "--overwrite").exit_code == 0
    assert len(calls) == 1


def test_export_requires_the_extension_onnx(varfix, weights, tmp_path):
    assert "must end in .onnx" in varfix("export-onnx", weights, tmp_path / "mine").stderr


def test_without_torch_both_print_how_to_install_it(varfix, no_torch, weights, tmp_path):
    for arguments in (
        ["train", "--photos", tmp_path, "--out", tmp_path / "out"],
        ["export-onnx", weights, tmp_path / "mine.onnx"],
    ):
        result = varfix(*arguments)
        assert result.exit_code == 2
        assert f"varfix {arguments[0]} requires torch, which is not installed" in result.stderr
        assert 'pip install "varfix[train]"' in result.stderr


def test_an_import_that_fails_for_another_reason_is_not_blamed_on_the_extra():
    with pytest.raises(ImportError, match="nonsense"), require_train_extra("train"):
        raise ImportError("nonsense", name="varfix.engine.nonsense")


@pytest.mark.parametrize(
    ("arguments", "module", "functions"),
    [
        (["curves", "."], "logs.curves", ["draw_curves"]),
        (["preview", "sheets", "--photos", "."], "logs.degradation_preview", ["write_previews"]),
        (["ablate", "weights.safetensors", "."], "ablation", ["run_ablations", "table"]),
    ],
)
def test_the_other_commands_of_train_call_their_functions(
    varfix, monkeypatch, weights, arguments, module, functions
):
    monkeypatch.chdir(weights.parent)
    called = []

    def record(name):
        return lambda *given: called.append(name) or ["done"] * (name != "run_ablations")

    double = types.ModuleType(f"varfix.engine.train.{module}")
    for name in functions:
        setattr(double, name, record(name))
    monkeypatch.setitem(sys.modules, double.__name__, double)
    photos = types.ModuleType("varfix.engine.train.data.photos")
    vars(photos)["load_photos"] = lambda folders: folders
    monkeypatch.setitem(sys.modules, photos.__name__, photos)
    result = varfix("train", *arguments)
    assert result.exit_code == 0, result.stderr
    assert called == functions
