"""The table of `varfix diagnose`: one line for each image, then the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from varfix.cli.event_log import Sink
from varfix.cli.terminal import printable
from varfix.engine.events import Event, ItemJudged, RunEnd
from varfix.engine.system.display_names import single_line

_LEAST: Final = 0.1
"""Smaller probabilities are shown as a dot."""

_WIDTH: Final = 8


class FindingsTable:
    """Writes events of a diagnosis as lines of a table, as they come."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._kinds: tuple[str, ...] = ()
        self._images = self._treated = 0
        self._counts: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        """Write the line of an image, or the counts at the end of the run."""
        if isinstance(event, ItemJudged):
            self._add(event)
        elif isinstance(event, RunEnd) and self._images:
            counts = [str(self._counts[kind]) for kind in self._kinds]
            treated = f"{self._treated} of {self._images} images would be treated"
            self._write([f"{count} " for count in counts], treated)

    def _add(self, event: ItemJudged) -> None:
        if not self._images:
            self._kinds = tuple(event.found)
            self._write([f"{kind} " for kind in self._kinds], "image")
        self._images += 1
        self._treated += bool(event.applied)
        self._counts.update(event.applied)
        cells = [_cell(event.found, kind, kind in event.applied) for kind in self._kinds]
        self._write(cells, printable(single_line(event.src)))

    def _write(self, cells: Sequence[str], text: str) -> None:
        columns = [
            cell.rjust(max(_WIDTH, len(kind) + 2))
            for cell, kind in zip(cells, self._kinds, strict=True)
        ]
        line = f"{''.join(columns)}  {text}\n"
        self._out.write(line.encode("utf-8", "backslashreplace"))


def _cell(found: Mapping[str, float], kind: str, treated: bool) -> str:
    probability = found.get(kind, 0.0)
    text = f"{100 * probability:.0f}" if probability >= _LEAST or treated else "."
    return text + ("*" if treated else " ")
