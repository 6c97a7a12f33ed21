"""What a model found in an image, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from msgspec import UNSET

from varfix.engine.events import ItemDone

_SHOWN: Final = 0.1
"""Kinds of damage that are less likely are left out, unless they were treated."""


def findings_text(found: Mapping[str, float], applied: Collection[str]) -> str:
    """Return the likely kinds of damage, the most likely first, and the treated ones as text.

    Args:
        found: Probability in [0, 1] of each kind.
        applied: The kinds that were treated.
    """
    likely = sorted(found.items(), key=lambda entry: -entry[1])
    shown = [f"{kind} {p:.2f}" for kind, p in likely if p >= _SHOWN or kind in applied]
    if not shown:
        return "found nothing"
    return f"found {', '.join(shown)}; treated {', '.join(applied) or 'nothing'}"


def done_text(event: ItemDone) -> str:
    """Return what was found in a finished image; empty for models that judge nothing."""
    if event.found is UNSET or event.applied is UNSET:
        return ""
    return findings_text(event.found, event.applied)


def counts_text(applied: Mapping[str, int]) -> str:
    """Return how many images were treated for each kind of damage as text."""
    return ", ".join(f"{kind} {count}" for kind, count in applied.items()) or "nothing"
