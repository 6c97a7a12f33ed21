"""Counts in messages: `1 file`, `2 files`."""

from __future__ import annotations


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return a number and what it counts, such as `1 image was` or `2 images were`.

    Args:
        count: The number.
        singular: What is counted, if there is one.
        plural: The same for any other number; by default `singular` with an `s`.
    """
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def them(count: int) -> str:
    """Return the pronoun for things that were counted: `it` or `them`."""
    return "it" if count == 1 else "them"
