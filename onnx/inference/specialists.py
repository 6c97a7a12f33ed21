"""Selects the graph that restores a tile: a specialist of the model, its restore graph, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.models.card import SPECIALISTS
from varfix.engine.restoration.findings import KINDS
from varfix.engine.restoration.restorer import Floats
from varfix.onnx.inference.runtime import Session

PRESENT: Final = 0.5
"""A kind above this value is restored; the last channels of the prior maps have the values."""

LEAST_ALONE: Final = MappingProxyType({"rain": 0.97})
"""Least value of a kind that is wrong alone, for its specialist. The prior graph gives 1 to plain
rain only, and at most 0.95 to soft rain (`networks.varformer_s.decisions`): that is half a veil,
which the restore graph removes with the tone of the whole image."""

RESTORER: Final = "restorer"
UNCHANGED: Final = "unchanged"

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Assignment:
    """Tiles, and what restores them.

    Attributes:
        rows: Indices of the tiles.
        specialist: Session of a specialist; None for the restore graph.
        unchanged: Nothing is wrong with the image: its tiles stay as they are.
    """

    rows: Rows
    specialist: Session | None = None
    unchanged: bool = False


class Specialists:
    """The specialists of a model; each is started when an image first requires it."""

    def __init__(self, start: Mapping[str, Callable[[], Session]]) -> None:
        """Know specialists.

        Args:
            start: Starts the session of a specialist, by its name in `SPECIALISTS`.
        """
        self._start = dict(start)
        self._sessions: dict[str, Session] = {}

    def split(self, prior: Floats | None, count: int) -> list[Assignment]:
        """Assign tiles to graphs.

        Args:
            prior: (N, C, h, w), the prior maps of the tiles, or None.
            count: Number of tiles, N.
        """
        if prior is None or not self._start:
            return [Assignment(np.arange(count))]
        names = [self._name(values) for values in prior[:, -len(KINDS) :].mean((2, 3))]
        return [
            self._assignment(name, np.array([i for i in range(count) if names[i] == name]))
            for name in dict.fromkeys(names)
        ]

    def _name(self, values: Floats) -> str:
        """Return a name in `SPECIALISTS`, or one of this module, for the values (6,) of kinds."""
        if not values.any():
            return UNCHANGED
        known = dict(zip(KINDS, values, strict=True))
        present = {kind for kind, value in known.items() if value > PRESENT}
        if any(present == {kind} and known[kind] < least for kind, least in LEAST_ALONE.items()):
            return RESTORER
        fitting = (name for name in self._start if present and present <= SPECIALISTS[name])
        return next(fitting, RESTORER)

    def _assignment(self, name: str, rows: Rows) -> Assignment:
        if name in (RESTORER, UNCHANGED):
            return Assignment(rows, unchanged=name == UNCHANGED)
        if name not in self._sessions:
            self._sessions[name] = self._start[name]()
        return Assignment(rows, self._sessions[name])
