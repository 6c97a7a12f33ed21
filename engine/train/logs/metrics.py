"""The metrics of a run, as JSON lines in `metrics.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from varfix.engine.system.atomic import write_file


class MetricsLog:
    """Appends lines; removes those of steps after a restored state."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Mapping[str, object]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rewind(self, done: Mapping[str, int]) -> None:
        """Remove lines of steps after the state from which the run resumes.

        Args:
            done: Finished steps by stage.
        """
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _is_done(line, done)]
        write_file(self.path, "".join(kept).encode())


def _is_done(line: str, done: Mapping[str, int]) -> bool:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:  # cut off by an interruption
        return False
    return bool(entry["step"] < done.get(entry["stage"], 0))
