"""Collects the layers of a run and merges them into checked settings.

Options and `--set` win over `VARFIX_*` variables, these over the chosen preset, over
`./varfix.yaml`, over the user's own file, over built-in values. Each value keeps its origin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Struct

from varfix.engine.errors import ConfigError
from varfix.engine.settings.allowed_values import choices, extra, shown, wrong_value
from varfix.engine.settings.layers import Layer, suggestion
from varfix.engine.settings.presets import chosen_presets, load_preset, load_presets
from varfix.engine.settings.types import RENAMED_KEYS, Settings, Strength
from varfix.engine.system.app_folders import config_folder

_OPTIONS: Final = {"model.name": "--model", "tile.resize_whole": "--whole"}
"""Options whose name is not the last part of their key."""

# Lengths of time may be given with their unit.
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*s")


@dataclass(frozen=True)
class Resolved:
    """Merged settings.

    Attributes:
        settings: The values.
        origins: The place of each value, by dotted key.
        warnings: One message for each key that was given under its old name.
    """

    settings: Settings
    origins: dict[str, str]
    warnings: tuple[str, ...] = ()

    def value(self, key: str) -> Any:
        """Return the value of a setting, by dotted key."""
        value: Any = self.settings
        for name in key.split("."):
            value = getattr(value, name, value)  # one number stands for all of its parts
        return value


def known_keys() -> dict[str, Any]:
    """Map every dotted settings key to its type, in the order of the declarations."""
    return dict(_typed_keys("", Settings))


def resolve(layers: Sequence[Layer]) -> Resolved:
    """Merge layers, later ones winning, into checked settings.

    Raises:
        ConfigError: A key is unknown or a value does not fit; the message names file and line.
    """
    kinds = known_keys()
    origins = dict.fromkeys(kinds, "built in")
    chosen: dict[str, Any] = {}
    warnings: list[str] = []
    for layer in layers:
        given = dict(layer.leaves())
        for key, value in given.items():
            if value is None and key in _sections():
                continue  # `tile:` with nothing under it
            current = RENAMED_KEYS.get(key, key)
            if current != key:
                warnings.append(_renamed(key, current, layer, given))
            place = layer.place(key)
            chosen[current] = _checked(current, value, place, kinds)
            for replaced in (key for key in kinds if key.startswith(f"{current}.")):
                chosen.pop(replaced, None)
                origins[replaced] = place
            origins[current] = place
    values = _nested(_with_parts(chosen))
    return Resolved(msgspec.convert(values, Settings), origins, tuple(warnings))


def set_layer(assignments: Iterable[str]) -> Layer:
    """Read the `KEY=VALUE` texts of `--set`; a value is YAML, or plain text for a text setting.

    Raises:
        ConfigError: A text has no `=`, or its value is not YAML.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f'--set "{assignment}": expected KEY=VALUE')
        values[key.strip()] = _from_text(key.strip(), text.strip(), "--set")
    return Layer("--set", values)


# Variables of varfix that are not settings.
OTHER_VARIABLES: Final = frozenset(
    f"VARFIX_{name}"
    for name in (
        *("PRESET", "DEBUG", "MODELS", "MIRROR", "OFFLINE", "THREADS", "CUDA_GRAPHS"),
        *("FUZZ", "TEST_PICTURES", "TEST_KILLS"),
    )
)


def env_layer(environ: Mapping[str, str]) -> Layer:
    """Read `VARFIX_TILE_OVERLAP` and the like; other `VARFIX_*` variables are not settings.

    Raises:
        ConfigError: A value is not YAML.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for key in (*known_keys(), *RENAMED_KEYS):
        variable = f"VARFIX_{key.replace('.', '_').upper()}"
        text = environ.get(variable, "").strip()
        if text:
            values[key] = _from_text(key, text, variable)
            places[key] = variable
    return Layer("environment", values, places)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a message for each `VARFIX_*` variable that is not known, with the nearest known one.

    Args:
        environ: Environment variables, normally `os.environ`.
    """
    keys = (*known_keys(), *RENAMED_KEYS)
    known = {f"VARFIX_{key.replace('.', '_').upper()}" for key in keys} | OTHER_VARIABLES
    unknown = [name for name in sorted(environ) if name.startswith("VARFIX_") and name not in known]
    hints = [suggestion(name, sorted(known)) for name in unknown]
    return [
        f"unknown variable {name}" + (f"; {hint}" if hint else "")
        for name, hint in zip(unknown, hints, strict=True)
    ]


def flag_layer(flags: Mapping[str, Any]) -> Layer:
    """Turn command-line options, by dotted key, into a layer; None means not given."""
    given = {key: value for key, value in flags.items() if value is not None}
    return Layer("command line", given, {key: _option(key) for key in given})


def standard_layers(
    presets: Sequence[str],
    project_dir: Path,
    *,
    flags: Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    user_dir: Path | None = None,
) -> list[Layer]:
    """Collect every layer of a run, weakest first.

    Args:
        presets: Values of `--preset`, each a name or several with commas between them. Only
            without any, `auto` is the weakest layer, below the project's and the user's files;
            chosen presets win over both files, and later ones over earlier ones.
        project_dir: Folder of the project's `varfix.yaml`, which need not exist.
        flags: Values of options by dotted key; None for options that were not given.
        assignments: The `--set` texts.
        environ: Environment variables, normally `os.environ`.
        user_dir: Folder of the user's `varfix.yaml`; None = the platform's configuration folder.

    Raises:
        ConfigError: A preset or file is unknown or unreadable, or a preset's name is empty.
    """
    environ = environ if environ is not None else {}
    chosen = chosen_presets(presets, environ)
    user_dir = user_dir or config_folder()
    layers = [] if chosen else load_preset("auto")
    for folder in (user_dir, project_dir):
        path = folder / "varfix.yaml"
        layers += load_preset(str(path)) if path.is_file() else []
    layers += load_presets(chosen)
    return [*layers, env_layer(environ), set_layer(assignments), flag_layer(flags or {})]


def _renamed(key: str, current: str, layer: Layer, given: Mapping[str, Any]) -> str:
    """Return the warning for an old key; reject a layer that has the new one as well."""
    place = layer.place(key)
    if current in given:
        raise ConfigError(
            f"{place}: {key} and {current} are the same setting", hint=f"remove {key}"
        )
    return f"{place}: {key} is deprecated; use {current}"


def _typed_keys(prefix: str, struct: type[Struct]) -> Iterator[tuple[str, Any]]:
    for name, kind in get_type_hints(struct, include_extras=True).items():
        parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        sections = [part for part in parts if isinstance(part, type) and issubclass(part, Struct)]
        if not sections:
            yield f"{prefix}{name}", kind
        elif len(parts) > 1:  # one value for all parts, or one for each
            yield f"{prefix}{name}", parts[0]
        for section in sections:
            yield from _typed_keys(f"{prefix}{name}.", section)


def _sections() -> set[str]:
    """Return the keys that hold other keys, and no value of their own."""
    keys = known_keys()
    return {key.partition(".")[0] for key in keys if "." in key}.difference(keys)


def _with_parts(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted key, in which no key has both a value and parts.

    Parts that were not given have the value for all parts. Equal parts become that value.
    """
    values = dict(chosen)
    parts = [f"strength.{name}" for name in Strength.__struct_fields__]
    if not any(part in values for part in parts):
        return values
    rest = values.pop("strength", Settings().strength)
    numbers = [values.pop(part, rest) for part in parts]
    if len(set(numbers)) == 1:
        return {**values, "strength": numbers[0]}
    return {**values, **dict(zip(parts, numbers, strict=True))}


def _checked(key: str, value: Any, place: str, kinds: Mapping[str, Any]) -> Any:
    """Return the value, converted to the key's type."""
    if key in _sections():
        raise ConfigError(f"{place}: {key}: expected keys and values, got {shown(value)}")
    if key not in kinds:
        raise ConfigError(f'{place}: unknown key "{key}"', hint=suggestion(key, kinds))
    duration = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if duration is not None and key.endswith("_seconds"):
        value = float(duration[1])
    if isinstance(value, str):
        value = extra(kinds[key]).get("synonyms", {}).get(value, value)
    try:
        checked = msgspec.convert(value, kinds[key])
    except msgspec.ValidationError as error:
        near = suggestion(value, choices(kinds[key])) if isinstance(value, str) else ""
        hint = near or extra(kinds[key]).get("hint", "")
        reason = wrong_value(kinds[key], value)
        raise ConfigError(f"{place}: {key}: {reason}", hint=hint) from error
    if key == "output.flatten" and checked is not None:
        _check_color(checked, f"{place}: {key}")
    return checked


def _check_color(name: str, where: str) -> None:
    """Reject what is no color, before any image is restored for nothing."""
    from PIL import ImageColor

    try:
        ImageColor.getrgb(name)
    except ValueError as error:
        raise ConfigError(
            f'{where}: "{name}" is not a color',
            hint="use a name such as white, #rrggbb, or rgb(255, 255, 255)",
        ) from error


def _from_text(key: str, text: str, place: str) -> Any:
    """Parse a value as YAML, but not for text settings: YAML takes `#fff` for a comment."""
    kind = known_keys().get(RENAMED_KEYS.get(key, key))
    if get_origin(kind) is Literal or kind is str or str in get_args(kind):
        return None if text in ("null", "~") else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f'{place}: {key}: cannot parse the value "{text}"') from error


def _option(key: str) -> str:
    return _OPTIONS.get(key) or f"--{key.rpartition('.')[2].replace('_', '-')}"


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in leaves.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return tree
