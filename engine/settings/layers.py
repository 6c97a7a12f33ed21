"""Layers of settings, and the YAML files they are read from.

A layer remembers where each of its values was written, so that an error or `--dry-run -v` can
name the file and line. Which keys exist and what they may hold is known to `settings`, not here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from varfix.engine.errors import ConfigError

BUILT_IN = ("auto", "denoise", "derain", "dehaze", "lowlight", "deblur", "desnow", "fast")


@dataclass(frozen=True)
class Layer:
    """Values from one place.

    Attributes:
        origin: The place in words: a file, `--set`, `environment`.
        values: Settings, nested or with dotted keys or both.
        places: Dotted key to a more exact place, such as `derain.yaml:4`.
    """

    origin: str
    values: Mapping[str, Any]
    places: Mapping[str, str] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """Return the most exact place known for a dotted key."""
        return self.places.get(key, self.origin)

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Yield dotted key and value of everything that is not a mapping."""
        return _leaves("", self.values)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `' Did you mean "…"?'` for the closest known word, or an empty string."""
    choices = list(known)
    ending = [choice for choice in choices if choice.endswith(f".{word}")]
    close = ending or difflib.get_close_matches(word, choices, n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


def preset_names() -> list[str]:
    """Name the presets that ship with varfix, `auto` first."""
    return list(BUILT_IN)


def preset_about(name: str) -> str:
    """Describe a built-in preset in one line: the first comment of its file.

    Raises:
        ConfigError: There is no preset of this name.
    """
    first = _built_in_text(name).partition("\n")[0]
    return first.removeprefix("#").strip()


def load_preset(name_or_path: str) -> list[Layer]:
    """Read a preset and all that it extends, the most basic layer first.

    Args:
        name_or_path: A built-in name, or a path that ends in .yaml or .yml or has a folder in it.

    Raises:
        ConfigError: Unknown name, unreadable file, bad YAML, or a preset that extends itself.
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


def read_layer(path: Path) -> Layer:
    """Read one YAML file of settings, `extends` included as an ordinary key.

    Raises:
        ConfigError: The file cannot be read, or is not a YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such preset file") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read the preset: {reason}") from error
    return _parse(text, str(path))


def _load_one(name_or_path: str, base: Path) -> tuple[str, Layer, Path]:
    """Return the preset's identity, its layer, and the folder its own `extends` starts from."""
    if not _is_path(name_or_path):
        layer = _parse(_built_in_text(name_or_path), f"preset {name_or_path}")
        return name_or_path, Layer(layer.origin, layer.values), base
    path = base / Path(name_or_path).expanduser()
    return str(path.resolve()), read_layer(path), path.parent


def _is_path(name_or_path: str) -> bool:
    looks_like_folder = "/" in name_or_path or "\\" in name_or_path
    return looks_like_folder or name_or_path.lower().endswith((".yaml", ".yml"))


def _built_in_text(name: str) -> str:
    if name not in BUILT_IN:
        raise ConfigError(
            f'unknown preset "{name}".{nearest(name, BUILT_IN)}',
            hint=f"Built in: {', '.join(BUILT_IN)}. A file's name ends in .yaml.",
        )
    return files("varfix.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _extends(layer: Layer) -> str:
    parent = layer.values.get("extends") or ""
    if not isinstance(parent, str):
        kind = type(parent).__name__
        raise ConfigError(f"{layer.place('extends')}: extends: expected one preset, got {kind}")
    return parent


def _parse(text: str, origin: str) -> Layer:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        places = dict(_places("", root, origin)) if root is not None else {}
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{origin}:{mark.line + 1}" if mark is not None else origin
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigError(f"{where}: not valid YAML: {problem}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConfigError(f"{origin}: expected keys and values, got {kind}")
    return Layer(origin, values, places)


def _places(prefix: str, node: yaml.Node, origin: str) -> Iterator[tuple[str, str]]:
    """Yield dotted key and `file:line`; refuse what YAML would silently let the last one win."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        place = f"{origin}:{key_node.start_mark.line + 1}"
        if key in seen:
            raise ConfigError(f'{place}: "{key}" is given twice')
        seen.add(key)
        yield key, place
        yield from _places(f"{key}.", value_node, origin)


def _leaves(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(f"{key}.", value)
        else:
            yield key, value
