"""What a setting accepts, as text for people, read from its type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from msgspec import Meta

_NAMES: Final[dict[Any, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}


def wrong_value(kind: Any, value: Any) -> str:
    """Return what is wrong with a value that a type refuses: what is allowed, and the value.

    Args:
        kind: Type of the setting.
        value: The value, as YAML gives it.
    """
    wanted = _allowed(kind)
    return f"expected {wanted}{';' if ', ' in wanted else ','} got {shown(value)}"


def shown(value: Any) -> str:
    """Return a value as it would be written in YAML; only the kind of a list or mapping."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple | set):
        return "a list"
    return "keys and values" if isinstance(value, Mapping) else str(value)


def choices(kind: Any) -> list[str]:
    """Return the words that a setting accepts; empty if it accepts any text, or none."""
    return [
        str(choice)
        for part in _parts(kind)
        for choice in (
            get_args(part) if get_origin(part) is Literal else extra(part).get("choices", ())
        )
    ]


def extra(kind: Any) -> dict[str, Any]:
    """Return what `varfix.engine.settings.types` says of a type besides its limits."""
    merged: dict[str, Any] = {}
    for meta in _metas(kind):
        merged |= meta.extra or {}
    return merged


def _allowed(kind: Any) -> str:
    return ", or ".join(_one_allowed(part) for part in _parts(kind))


def _one_allowed(kind: Any) -> str:
    said = extra(kind).get("allowed")
    if said is not None:
        return str(said)
    words = choices(kind)
    if words:
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return f"{_NAMES.get(base, 'another value')}{_limits(_metas(kind))}"


def _limits(metas: Iterable[Meta]) -> str:
    for meta in metas:
        low = meta.gt if meta.ge is None else meta.ge
        if low is None:
            continue
        if meta.le is None:
            return f" above {low:g}" if meta.ge is None else f" of at least {low:g}"
        return (
            f" above {low:g} and up to {meta.le:g}"
            if meta.ge is None
            else f" from {low:g} to {meta.le:g}"
        )
    return ""


def _metas(kind: Any) -> Iterator[Meta]:
    if get_origin(kind) is Annotated:
        yield from (part for part in get_args(kind) if isinstance(part, Meta))


def _parts(kind: Any) -> list[Any]:
    """Return the types of a union, without None."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return [part for part in parts if part is not type(None)]
