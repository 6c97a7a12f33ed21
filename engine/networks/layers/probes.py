"""Looking inside a network: a function that is handed named intermediate results.

A tap is passed down like any other argument, so that nothing is left behind on a module.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Tap = Callable[[str, Tensor], None]
"""Receives the name of an intermediate result and the result itself."""


def ignore(name: str, value: Tensor) -> None:
    """The tap of those who do not look."""


def under(tap: Tap, prefix: str) -> Tap:
    """The same tap, with `prefix` before every name."""
    return lambda name, value: tap(prefix + name, value)


def after(tap: Tap, suffix: str) -> Tap:
    """The same tap, with `suffix` after every name."""
    return lambda name, value: tap(name + suffix, value)
