"""Presets: layers of settings with a name, built in or in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from varfix.engine.errors import ConfigError
from varfix.engine.models.card import TASKS
from varfix.engine.settings.layers import Layer, parse_layer, read_layer, suggestion

VARIABLE: Final = "VARFIX_PRESET"
"""Environment variable with the presets of runs without `--preset`."""

BUILT_IN: Final = (
    "auto",
    "denoise",
    "dejpeg",
    "derain",
    "dehaze",
    "lowlight",
    "deblur",
    "desnow",
    "fast",
)


def preset_names() -> list[str]:
    """Return the names of the built-in presets, `auto` first."""
    return list(BUILT_IN)


def preset_summary(name: str) -> str:
    """Return the first comment of a built-in preset's file, a description of one line.

    Raises:
        ConfigError: There is no preset of this name.
    """
    first = _built_in_text(name).partition("\n")[0]
    return first.removeprefix("#").strip()


def chosen_presets(texts: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names and paths in values of `--preset`, such as `denoise,dehaze`.

    The path of an existing file may contain commas.

    Args:
        texts: Values of `--preset`. Without any, `VARFIX_PRESET` counts; empty, it is unset.
        environ: Environment variables, normally `os.environ`.

    Raises:
        ConfigError: A name is empty, as where a shell variable is unset: `auto` in its place would
            restore with other settings than the user meant.
    """
    if texts:
        return tuple(name for text in texts for name in _names_in(text, "--preset"))
    text = environ.get(VARIABLE, "")
    return tuple(_names_in(text, VARIABLE)) if text.strip() else ()


def _names_in(text: str, place: str) -> list[str]:
    if _is_path(text) and Path(text).expanduser().is_file():
        return [text]
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise ConfigError(
            f'{place} "{text}": a name is empty',
            hint=f"choose among {', '.join(BUILT_IN)}, and check that no shell variable is unset",
        )
    return names


def load_presets(names: Sequence[str]) -> list[Layer]:
    """Read presets as layers, later ones winning; the tasks that they name are joined.

    Raises:
        ConfigError: As `load_preset`.
    """
    chains = [load_preset(name) for name in names]
    layers = [layer for chain in chains for layer in chain]
    if len(chains) < 2:
        return layers
    named = {task.strip() for chain in chains for task in _task_of(chain).split(",")} - {"auto"}
    known = [task for task in TASKS if task in named]
    joined = Layer(f"presets {', '.join(names)}", {"model.task": ",".join(known) or "auto"})
    return [*layers, joined]


def _task_of(chain: Sequence[Layer]) -> str:
    """Return the task of a preset, the last layer of its chain winning."""
    tasks = [value for layer in chain for key, value in layer.leaves() if key == "model.task"]
    return tasks[-1] if tasks and isinstance(tasks[-1], str) else "auto"


def load_preset(name_or_path: str) -> list[Layer]:
    """Read a preset and every preset that it extends, the most basic layer first.

    Args:
        name_or_path: A built-in name, or a path: it ends in .yaml or .yml, or contains a folder.

    Raises:
        ConfigError: The name is unknown, the file is unreadable or invalid, or the preset extends
            itself.
    """
    layers: list[Layer] = []
    seen: list[str] = []
    base = Path()
    while name_or_path:
        identity, layer, base = _load_one(name_or_path, base)
        if identity in seen:
            raise ConfigError(f'{layer.place("extends")}: the preset extends itself ("{identity}")')
        seen.append(identity)
        name_or_path = _extends(layer)
        rest = {key: value for key, value in layer.values.items() if key != "extends"}
        layers.insert(0, Layer(layer.origin, rest, layer.places))
    return layers


def _load_one(name_or_path: str, base: Path) -> tuple[str, Layer, Path]:
    """Return the preset's identity, its layer, and the folder that its `extends` is relative to."""
    if not _is_path(name_or_path):
        layer = parse_layer(_built_in_text(name_or_path), f"preset {name_or_path}")
        return name_or_path, Layer(layer.origin, layer.values), base
    path = base / Path(name_or_path).expanduser()
    return str(path.resolve()), read_layer(path), path.parent


def _is_path(name_or_path: str) -> bool:
    looks_like_folder = "/" in name_or_path or "\\" in name_or_path
    return looks_like_folder or name_or_path.lower().endswith((".yaml", ".yml"))


def _built_in_text(name: str) -> str:
    if name not in BUILT_IN:
        raise ConfigError(
            f'unknown preset "{name}"; built-in presets: {", ".join(BUILT_IN)}',
            hint=suggestion(name, BUILT_IN) or "give the path of a file that ends in .yaml",
        )
    return files("varfix.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _extends(layer: Layer) -> str:
    parent = layer.values.get("extends") or ""
    if not isinstance(parent, str):
        kind = type(parent).__name__
        raise ConfigError(
            f"{layer.place('extends')}: extends: expected a single preset, got {kind}"
        )
    return parent
