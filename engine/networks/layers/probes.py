"""Looking inside a network: a function that is handed named intermediate results.

A probe is passed down like any other argument, so that nothing is left behind on a module.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Probe = Callable[[str, Tensor], None]
"""Receives the name of an intermediate result and the result itself."""


def no_probe(name: str, value: Tensor) -> None:
    """The probe of those who do not look."""


def prefixed(probe: Probe, prefix: str) -> Probe:
    """The same probe, with `prefix` before every name."""
    return lambda name, value: probe(prefix + name, value)


def suffixed(probe: Probe, suffix: str) -> Probe:
    """The same probe, with `suffix` after every name."""
    return lambda name, value: probe(name + suffix, value)
