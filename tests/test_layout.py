"""The repository layout keeps its promises: who may import whom, and what stands where."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from pathlib import Path

import onnx
import pytest

from varfix.engine.settings.presets import preset_names

ROOT = Path(__file__).parents[1]
LAYERS = ["engine", "onnx", "cli"]

FOUNDATION = {"engine.errors", "engine.formats", "engine.system", "engine.settings"}
ITEMS = FOUNDATION | {
    "engine.events",
    "engine.image",
    "engine.models",
    "engine.restoration",
    "engine.storage",
    "engine.video",
}
ENGINE = ITEMS | {"engine.batch", "engine.evaluation"}
NETWORKS = {
    "engine.networks.checkpoints",
    "engine.networks.layers",
    "engine.networks.restorevar",
    "engine.networks.varformer",
    "engine.networks.varformer_s",
}

ALLOWED = {
    "engine.errors": set(),
    "engine.events": set(),
    "engine.formats": {"engine.errors"},
    "engine.system": {"engine.errors"},
    "engine.settings": {"engine.errors", "engine.models", "engine.system"},
    "engine.models": {"engine.errors"},
    "engine.image": FOUNDATION,
    "engine.restoration": {"engine.errors", "engine.models", "engine.settings"},
    "engine.video": FOUNDATION | {"engine.restoration"},
    "engine.storage": FOUNDATION | {"engine.image"},
    "engine.batch": ITEMS,
    "engine.cluster": (ITEMS | {"engine.batch"})
    - {"engine.formats", "engine.image", "engine.video"},
    "engine.evaluation": (ITEMS | {"engine.batch"})
    - {"engine.storage", "engine.system", "engine.video"},
    "engine.networks.layers": {"engine.errors"},
    "engine.networks.varformer_s": {"engine.errors", "engine.networks.layers"},
    "engine.networks.varformer": {"engine.errors", "engine.networks.layers"},
    "engine.networks.restorevar": {"engine.errors", "engine.networks.layers"},
    "engine.networks.checkpoints": {"engine.errors", *NETWORKS} - {"engine.networks.varformer_s"},
    "engine.train": NETWORKS
    | {
        "engine.errors",
        "engine.evaluation",
        "engine.models",
        "engine.restoration",
        "engine.settings",
        "engine.system",
    },
    "onnx.files": {"engine.errors", "engine.models", "engine.system"},
    "onnx.inference": ENGINE | {"onnx.files"},
    "onnx.export": ENGINE | NETWORKS | {"engine.train", "onnx.files", "onnx.inference"},
    "cli": ENGINE
    | {"engine.cluster", "engine.train", "onnx.export", "onnx.files", "onnx.inference"},
}
"""What each package may import besides itself and the presets; imports for types count."""

LIBRARIES = {
    "av": (
        "engine.video",
        {"engine.image.jpeg_check": "only FFmpeg's JPEG decoder reports damage that others hide"},
    ),
    "fsspec": ("engine.storage", {}),
    "onnxruntime": ("onnx.inference", {}),
    "ray": ("engine.cluster", {}),
    "spandrel": ("onnx.export", {}),
    "tifffile": ("engine.image", {}),
    "torch": (
        "engine.networks",
        {
            "engine.train": "trains the networks",
            "onnx.export": "writes the networks to files",
        },
    ),
}
"""The package that a library is known in; others with the reason."""

SAME_NAME: dict[str, str] = {}
"""Class names that several modules define, with the reason."""

MODULES_PER_PACKAGE = 22
LINES_PER_FILE = 400


def config():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def sources():
    """Syntax trees of all modules by their path."""
    return {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for layer in [*LAYERS, "presets"]
        for path in sorted((ROOT / layer).rglob("*.py"))
    }


def dotted(path):
    """The name of a module below `varfix`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def names():
    """Names of all modules below `varfix`."""
    return {dotted(path) for path in sources()}


def modules(package):
    """Paths and trees of the modules of a package (or the one module) and its subpackages."""
    return [
        (path, tree)
        for path, tree in sources().items()
        if f"{dotted(path)}.".startswith(f"{package}.")
    ]


def imported(tree):
    """Yield every module name that the code imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(tree):
    """Yield the names below `varfix` of the modules that the code imports."""
    for name in imported(tree):
        inner = name.removeprefix("varfix.")
        if inner != name:
            yield inner if inner in names() else inner.rpartition(".")[0]


def package_of(module):
    """The row of `ALLOWED` that a module belongs to; None for the presets."""
    rows = [row for row in ALLOWED if f"{module}.".startswith(f"{row}.")]
    return max(rows, key=len, default=None)


def libraries(tree):
    return {name.partition(".")[0] for name in imported(tree)}


def test_the_onnx_folder_does_not_shadow_the_real_onnx():
    assert not (ROOT / "onnx" / "__init__.py").exists()
    assert onnx.ModelProto.__module__.startswith("onnx")


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
    found = {f"varfix.{dotted(path.parent / '__init__.py')}" for path in sources()}
    assert found == set(config()["tool"]["setuptools"]["packages"])


def test_every_module_has_a_docstring():
    for path, tree in sources().items():
        assert ast.get_docstring(tree), path


def test_every_module_belongs_to_a_row_of_the_table():
    markers = {"engine", "engine.networks"}
    homeless = {
        dotted(path)
        for path in sources()
        if package_of(dotted(path)) is None and "presets" not in path.parts
    }
    assert homeless - {"onnx.models"} == markers


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_what_the_table_allows(package):
    allowed = ALLOWED[package] | {package, None}
    wrong = [
        f"{dotted(path)} imports {name}"
        for path, tree in modules(package)
        if package_of(dotted(path)) == package
        for name in imported_modules(tree)
        if package_of(name) not in allowed
    ]
    assert not wrong


def import_graph():
    return {dotted(path): set(imported_modules(tree)) for path, tree in sources().items()}


def loop(graph):
    """Return the modules of a loop of imports, the first one again at the end; none if acyclic."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_a_loop_is_found():
    assert set(loop({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert loop({"a": {"b"}, "b": {"c"}}) == []


def test_no_modules_import_each_other_in_a_loop():
    assert loop(import_graph()) == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_known_in_one_package(library):
    package, exceptions = LIBRARIES[library]
    users = {dotted(path) for path, tree in sources().items() if library in libraries(tree)}
    homes = (f"{package}.", *(f"{name}." for name in exceptions))
    assert {name for name in users if not f"{name}.".startswith(homes)} == set()
    for name in exceptions:
        assert any(f"{user}.".startswith(f"{name}.") for user in users), f"{name}: not needed"


def test_inference_runs_without_torch_and_without_onnx():
    for package in ("onnx.inference", "onnx.files"):
        for path, tree in modules(package):
            assert not libraries(tree) & {"torch", "onnx"}, path


def test_no_package_has_too_many_modules():
    counts = defaultdict(int)
    for path in sources():
        counts[path.parent] += path.name != "__init__.py"
    assert {str(folder): n for folder, n in counts.items() if n > MODULES_PER_PACKAGE} == {}


def test_no_file_is_too_long():
    files = [*sources(), *(ROOT / "tests").rglob("*.py")]
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in files}
    assert {path for path, length in lengths.items() if length > LINES_PER_FILE} == set()


def test_no_class_name_is_defined_twice():
    places = defaultdict(list)
    for path, tree in sources().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(dotted(path))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: where for name, where in twice.items() if name not in SAME_NAME} == {}
    assert set(SAME_NAME) <= set(twice)


def test_package_init_files_hold_a_docstring_only():
    for path, tree in sources().items():
        if path.name == "__init__.py":
            assert len(tree.body) == 1 and ast.get_docstring(tree), path


NAMED_PATH = re.compile(
    r"(?<![\w./<{:-])((?:cli|engine|onnx|presets|tests)(?:/[\w.-]+)+|README\.md|CHANGELOG\.md|CONTRIBUTING\.md)(?![\w/*<{])"
)


def paths_named(text):
    return {name.rstrip(".") for name in NAMED_PATH.findall(text)}


def texts(path):
    """Yield the strings of a module, docstrings among them, and its comments."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    yield from (line.partition("#")[2] for line in text.splitlines() if "#" in line)


def test_paths_in_texts_are_recognized():
    text = "See engine/README.md, `onnx/models/varformer-s.onnx` and runs/engine/x.md."
    assert paths_named(text) == {"engine/README.md", "onnx/models/varformer-s.onnx"}


def test_every_path_named_in_a_text_exists():
    checked = [*sources(), *(ROOT / "tests").rglob("*.py")]
    gone = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in checked
        if path != Path(__file__)
        for text in texts(path)
        for name in paths_named(text)
        if not (ROOT / name).exists()
    }
    assert gone == set()


MODULE_NAME = re.compile(r"`varfix((?:\.(?!yaml)[a-z_0-9]+)+)")


def test_every_module_named_in_a_text_exists():
    known = names() | {"onnx"}
    gone = set()
    for path in sources():
        for text in texts(path):
            for name in MODULE_NAME.findall(text):
                inner = name.removeprefix(".")
                if inner not in known and inner.rpartition(".")[0] not in known:
                    gone.add(f"{dotted(path)}: varfix{name}")
    assert gone == set()


def test_nothing_imports_the_folders_by_their_short_names():
    for path, tree in sources().items():
        assert not libraries(tree) & {"cli", "engine", "presets"}, path


def test_every_direct_dependency_is_pinned():
    project, groups = config()["project"], config()["dependency-groups"]
    extras = project["optional-dependencies"].values()
    stated = [*project["dependencies"], *(text for texts in extras for text in texts)]
    stated += [text for texts in groups.values() for text in texts if isinstance(text, str)]
    names = {re.match(r"[\w.-]+", text)[0].lower() for text in stated} - {"varfix"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) > 30
    assert names <= {line.partition("==")[0].lower() for line in lines if "==" in line}


def test_presets_ship_as_data():
    for name in preset_names():
        assert files("varfix.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def test_the_script_is_the_entry_point_with_the_exit_codes():
    assert config()["project"]["scripts"] == {"varfix": "varfix.cli.main:run"}
