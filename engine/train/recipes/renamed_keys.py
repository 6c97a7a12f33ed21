"""Old names of recipe keys, which are accepted with a warning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from varfix.engine.errors import ConfigError

Warn = Callable[[str], None]

RENAMED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "mood": "tone_jitter",
        "compressed": "jpeg_share",
        "hinted": "task_hint_share",
        "own": "pairs_share",
        "own_task": "pairs_task",
        "clip": "grad_clip",
        "skip": "skip_above_grad_norm",
        "recover": "rollback_after_skips",
    }
)
"""Current name of each old key of a recipe."""

RENAMED_STAGE_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "pictures": "batch_size",
        "sides": "image_sizes",
        "rate": "learning_rate",
        "last_rate": "min_learning_rate",
    }
)
"""Current name of each old key of a stage."""


def ignore(message: str) -> None:
    """Do nothing with a warning."""


def rename_keys(
    section: Mapping[str, Any], names: Mapping[str, str], place: str, warn: Warn
) -> dict[str, Any]:
    """Return a section with its keys under their current names.

    Args:
        section: Keys and values.
        names: Current names by old name.
        place: Where the section is from, for messages.
        warn: Receives a message for each old key.

    Raises:
        ConfigError: The section has a key under both names.
    """
    for key in section:
        current = names.get(key, key)
        if current == key:
            continue
        if current in section:
            raise ConfigError(
                f"{place}: {key} and {current} are the same setting", hint=f"remove {key}"
            )
        warn(f"{place}: {key} is deprecated; use {current}")
    return {names.get(key, key): value for key, value in section.items()}
