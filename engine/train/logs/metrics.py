"""The run's diary: one JSON line per step, in `metrics.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from varfix.engine.system.atomic import write_file


class Journal:
    """Appends lines, and forgets those of steps that a restored state has not done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Mapping[str, object]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rewind(self, done: Mapping[str, int]) -> None:
        """Drop what was written after the state that the run goes on from.

        Args:
            done: finished steps by stage.
        """
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _is_done(line, done)]
        write_file(self.path, "".join(kept).encode())


def _is_done(line: str, done: Mapping[str, int]) -> bool:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:  # torn by a kill
        return False
    return bool(entry["step"] < done.get(entry["stage"], 0))
