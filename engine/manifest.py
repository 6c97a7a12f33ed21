"""What is done, remembered beside the results: `DST/.varfix/run.jsonl` (design/cli.md, section 4).

One line per finished picture, appended and flushed; a line torn by a kill is ignored. The command
that is repeated reads it and knows which outputs are its own, from which source and which recipe.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

import msgspec

from varfix.engine.publish import translated
from varfix.engine.settings import Settings

FOLDER: Final = ".varfix"
_EDGE: Final = 1 << 20
State = Literal["missing", "done", "stale", "foreign"]


@dataclass(frozen=True)
class Entry:
    """One finished picture.

    Attributes:
        dst: name below DST.
        src: name below SRC.
        size: bytes of the source.
        mtime_ns: time of the source's last change.
        recipe: from `recipe_of`.
        out_size: bytes of the result.
        out_sha256: digest of the result's first and last MiB.
        seconds: work spent on it.
    """

    dst: str
    src: str
    size: int
    mtime_ns: int
    recipe: str
    out_size: int
    out_sha256: str
    seconds: float


class Manifest:
    """The entries of one destination; appending is safe from several threads."""

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.path = destination / FOLDER / "run.jsonl"
        self._entries = _read(self.path)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def state(self, dst: str, source: os.stat_result | None, recipe: str) -> State:
        """What an output is: absent or cut short, ours and current, ours but old, or not ours."""
        try:
            size = (self.destination / dst).stat().st_size
        except OSError:
            return "missing"
        entry = self._entries.get(dst)
        if entry is None or size > entry.out_size:
            return "foreign"
        if size < entry.out_size:
            return "missing"
        same = source is not None and (entry.size, entry.mtime_ns, entry.recipe) == (
            source.st_size,
            source.st_mtime_ns,
            recipe,
        )
        return "done" if same else "stale"

    def append(self, entry: Entry) -> None:
        """Remember a finished picture.

        Raises:
            OutputError: The manifest cannot be written.
        """
        line = json.dumps(asdict(entry)).encode("ascii") + b"\n"
        with self._lock, translated(self.path, len(line)):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _open_for_append(self.path)
            self._file.write(line)
            self._file.flush()
            self._entries[entry.dst] = entry

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _read(path: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    if not path.is_file():
        return entries
    for line in path.read_bytes().splitlines():
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        entries[entry.dst] = entry
    return entries


def _open_for_append(path: Path) -> BinaryIO:
    """Open, and end a torn last line first, so that the next one is not glued to it."""
    file = path.open("ab+")
    if file.tell() > 0:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file


def digest(data: bytes) -> str:
    """SHA-256 of the first and last MiB."""
    return hashlib.sha256(data[:_EDGE] + data[-_EDGE:]).hexdigest()


def recipe_of(settings: Settings, model_sha256: str, tile: int) -> str:
    """Digest of everything that decides a result's bytes: model, tile side, and settings.

    Device, threads, batch and limits change speed, not results, and are left out.

    Args:
        settings: resolved settings.
        model_sha256: digest of all of the model's graphs.
        tile: side of the tiles in pixels.
    """
    facts = msgspec.to_builtins(settings)
    decisive = {key: facts[key] for key in ("strength", "output")}
    decisive["task"] = facts["model"]["task"]
    decisive["overlap"] = facts["tile"]["overlap"]
    decisive |= {"model": model_sha256, "tile": tile}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
