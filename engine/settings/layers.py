"""Layers of settings, and YAML files as layers.

A layer keeps the place of each of its values, so that an error message or `--dry-run -v` can name
the file and the line. `varfix.engine.settings.resolve` knows which keys exist.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from varfix.engine.errors import ConfigError


@dataclass(frozen=True)
class Layer:
    """Values from one place.

    Attributes:
        origin: Name of the place: a file, `--set`, `environment`.
        values: Settings, nested or with dotted keys or both.
        places: Dotted key to a more exact place, such as `derain.yaml:4`.
    """

    origin: str
    values: Mapping[str, Any]
    places: Mapping[str, str] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """Return the most exact place that is known for a dotted key."""
        return self.places.get(key, self.origin)

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Yield the dotted key and the value of every setting, without the sections."""
        return _leaves("", self.values)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word closest to `word`; empty if no word is close."""
    choices = list(known)
    same_name = [choice for choice in choices if choice.endswith(f".{word}")]
    close = same_name or difflib.get_close_matches(word, choices, n=1)
    return f'did you mean "{close[0]}"?' if close else ""


def read_layer(path: Path) -> Layer:
    """Read one YAML file of settings, `extends` included as an ordinary key.

    Raises:
        ConfigError: The file cannot be read, or is not a YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: preset file not found") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read the preset ({reason})") from error
    return parse_layer(text, str(path))


def parse_layer(text: str, origin: str) -> Layer:
    """Read a YAML text of settings; see `read_layer`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        places = dict(_places("", root, origin)) if root is not None else {}
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{origin}:{mark.line + 1}" if mark is not None else origin
        problem = getattr(error, "problem", None) or "unreadable"
        raise ConfigError(f"{where}: invalid YAML ({problem})") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConfigError(f"{origin}: expected keys and values, got {kind}")
    return Layer(origin, values, places)


def _places(prefix: str, node: yaml.Node, origin: str) -> Iterator[tuple[str, str]]:
    """Yield each dotted key and its `file:line`; reject duplicates, which YAML accepts."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        place = f"{origin}:{key_node.start_mark.line + 1}"
        if key in seen:
            raise ConfigError(f'{place}: "{key}" is defined twice')
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
