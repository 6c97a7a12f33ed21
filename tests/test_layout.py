"""The repository layout keeps its promises."""

import ast
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import onnx
import pytest

from varfix.engine.settings.presets import preset_names

ROOT = Path(__file__).parents[1]
LAYERS = ["engine", "onnx", "cli"]  # each may import itself and the ones before it


def config():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def modules(layer):
    return [(path, path.read_text(encoding="utf-8")) for path in (ROOT / layer).rglob("*.py")]


def imported(tree):
    """Yield every module name that the code imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_onnx_folder_does_not_shadow_the_real_onnx():
    assert not (ROOT / "onnx" / "__init__.py").exists()
    assert onnx.ModelProto


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_the_real_packages_are_found_in_the_repository_root(name):
    # -c puts the current folder first on sys.path, where the folder `onnx` lies.
    code = f"import {name}; print({name}.__file__)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not Path(out.stdout.strip()).is_relative_to(ROOT / "onnx")
    assert Path(out.stdout.strip()).name == "__init__.py"


def test_every_package_is_declared():
    found = {
        ".".join(["varfix", *path.parent.relative_to(ROOT).parts])
        for layer in [*LAYERS, "presets"]
        for path, _ in modules(layer)
    }
    assert found == set(config()["tool"]["setuptools"]["packages"])


def test_every_module_says_why_it_exists():
    for layer in [*LAYERS, "presets"]:
        for path, text in modules(layer):
            assert ast.get_docstring(ast.parse(text)), path


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_import_downwards_only(layer):
    above = {f"varfix.{name}" for name in LAYERS[LAYERS.index(layer) + 1 :]}
    for path, text in modules(layer):
        names = {".".join(name.split(".")[:2]) for name in imported(ast.parse(text))}
        assert not names & above, path


def test_the_engine_needs_torch_only_for_networks_and_training():
    for path, text in modules("engine"):
        if {"networks", "train"} & set(path.relative_to(ROOT / "engine").parts):
            continue
        roots = {name.partition(".")[0] for name in imported(ast.parse(text))}
        assert not roots & {"torch", "onnx", "onnxruntime"}, path


def test_nothing_imports_the_folders_by_their_short_names():
    for layer in LAYERS:
        for path, text in modules(layer):
            roots = {name.partition(".")[0] for name in imported(ast.parse(text))}
            assert not roots & {"cli", "engine", "presets"}, path


def test_presets_ship_as_data():
    for name in preset_names():
        assert files("varfix.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def test_the_script_is_the_entry_that_knows_the_exit_codes():
    assert config()["project"]["scripts"] == {"varfix": "varfix.cli.main:run"}
