"""Selects the graph that restores a tile: a specialist of the model, or its restore graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.models.card import SPECIALISTS, TASKS
from varfix.engine.restoration.restorer import Floats
from varfix.onnx.inference.runtime import Session

KINDS: Final = TASKS[1:]
"""Kinds of degradation, in the order of the last channels of the prior maps."""

PRESENT: Final = 0.5
"""A kind above this value in the prior maps is restored."""

Rows = npt.NDArray[np.intp]


class Specialists:
    """The specialists of a model; each is started when an image first requires it."""

    def __init__(self, start: Mapping[str, Callable[[], Session]]) -> None:
        """Know specialists.

        Args:
            start: Starts the session of a specialist, by its name in `SPECIALISTS`.
        """
        self._start = dict(start)
        self._sessions: dict[str, Session] = {}

    def split(self, prior: Floats | None, count: int) -> list[tuple[Session | None, Rows]]:
        """Assign tiles to graphs.

        Args:
            prior: (N, C, h, w), the prior maps of the tiles, or None.
            count: Number of tiles, N.

        Returns:
            Sessions of specialists, None for the restore graph, each with the indices of its
            tiles. All kinds of a tile are among those of its specialist.
        """
        if prior is None or not self._start:
            return [(None, np.arange(count))]
        names = [self._specialist(values) for values in prior[:, -len(KINDS) :].mean((2, 3))]
        return [
            (self._session(name), np.array([i for i in range(count) if names[i] == name]))
            for name in dict.fromkeys(names)
        ]

    def _specialist(self, values: Floats) -> str | None:
        """Return the name of the specialist for kinds with these values (6,), or None."""
        present = {kind for kind, value in zip(KINDS, values, strict=True) if value > PRESENT}
        for name in self._start:
            if present and present <= SPECIALISTS[name]:
                return name
        return None

    def _session(self, name: str | None) -> Session | None:
        if name is None:
            return None
        if name not in self._sessions:
            self._sessions[name] = self._start[name]()
        return self._sessions[name]
