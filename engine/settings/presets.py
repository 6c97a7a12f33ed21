"""Presets: layers of settings with a name, built in or in a YAML file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from varfix.engine.errors import ConfigError
from varfix.engine.settings.layers import Layer, parse_layer, read_layer, suggestion

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
    """Return the first comment of a built-in preset's file, which describes it in one line.

    Raises:
        ConfigError: There is no preset of this name.
    """
    first = _built_in_text(name).partition("\n")[0]
    return first.removeprefix("#").strip()


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
