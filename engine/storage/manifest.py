"""What is done, remembered beside the results: `DST/.varfix/run.jsonl` (cli/README.md).

One line per finished image, appended and flushed; a line torn by a kill is ignored. The command
that is repeated reads it and knows which outputs are its own, from which source and which recipe.
Where the results are in an object store, which knows no appending, see `store_memory`.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

import msgspec

from varfix.engine.errors import DecodeError
from varfix.engine.image.reader import read_picture
from varfix.engine.settings.types import Settings
from varfix.engine.storage.store import Identity, Stamp
from varfix.engine.system.atomic import translated
from varfix.engine.video.clip import TimeRange, is_clip
from varfix.engine.video.truncation import expected_end

FOLDER: Final = ".varfix"
_EDGE: Final = 1 << 20
_MANY: Final = 1 << 31  # pixels: what varfix wrote, it may read
State = Literal["missing", "done", "stale", "foreign"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished image.

    Attributes:
        dst: name below DST.
        src: name below SRC.
        size: bytes of the source.
        mtime_ns: time of the source's last change.
        recipe: from `recipe_of`.
        out_size: bytes of the result.
        out_sha256: digest of the result's first and last MiB.
        seconds: spent on reading and restoring it.
        tag: the store's mark of the source's content; empty for a file on a disk.
    """

    dst: str
    src: str
    size: int
    mtime_ns: int
    recipe: str
    out_size: int
    out_sha256: str
    seconds: float
    tag: str = ""

    def is_of(self, source: Identity | None, recipe: str) -> bool:
        """Whether it was made from this source, unchanged since, by this recipe."""
        if source is None or (self.size, self.recipe) != (source.st_size, recipe):
            return False
        tag = tag_of(source)
        # A mark is of the content: copied with its objects to another store, it still holds.
        return self.tag == tag if tag and self.tag else self.mtime_ns == source.st_mtime_ns

    def line(self, **more: Any) -> bytes:
        """The entry as a line of a manifest, with `more` said in it."""
        facts = asdict(self) | more
        if not self.tag:
            del facts["tag"]  # as ever
        return json.dumps(facts).encode("ascii") + b"\n"


def tag_of(source: Identity) -> str:
    """The store's mark of a source's content; empty for a file on a disk."""
    return source.tag if isinstance(source, Stamp) else ""


class Memory(Protocol):
    """What is known of the results in one place."""

    def begin(self) -> None:
        """Put in order what earlier runs left; only while the place is held.

        Raises:
            OutputError: It cannot be written, or has been since it was read.
        """
        ...

    def entering(self, entry: Entry, replaces: bool) -> AbstractContextManager[None]:
        """Publish a result in the block, and enter it in the order that a kill leaves right.

        Entered first, a result that never came is missing, and made again; published first, it
        would pass for a stranger's. Safe from several threads.

        Args:
            entry: the result.
            replaces: an older result is there and will be replaced.

        Raises:
            OutputError: It cannot be entered.
        """
        ...

    def close(self) -> None:
        """Write what is not yet written; what cannot be is found out by the next run."""
        ...

    def state(self, dst: str, source: Identity | None, recipe: str) -> State:
        """What an output is: absent or cut short, ours and current, ours but old, or not ours."""
        ...

    def is_result(self, dst: str) -> bool:
        """Whether a file is what was written under its name, byte for byte at both ends."""
        ...

    def source_of(self, dst: str) -> str | None:
        """The name of the source from which an output was made; None if it was not."""
        ...


class Manifest:
    """The entries of one folder; appending is safe from several threads."""

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.path = destination / FOLDER / "run.jsonl"
        self._entries = _read(self.path)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Nothing is out of order in a file."""

    @contextmanager
    def entering(self, entry: Entry, replaces: bool) -> Iterator[None]:
        """Publish in the block; see `Memory`.

        Only where an older result is replaced must the entry wait: it would vouch for the old one.
        (In place it cannot: the result's digest is compared.)
        """
        if not replaces:
            self.append(entry)
        yield
        if replaces:
            self.append(entry)

    def state(self, dst: str, source: Identity | None, recipe: str) -> State:
        """What an output is: absent or cut short, ours and current, ours but old, or not ours."""
        path = self.destination / dst
        try:
            facts = path.stat()
        except OSError:
            return "missing"
        entry = self._entries.get(dst)
        if entry is None or facts.st_size > entry.out_size:
            return "foreign"
        if facts.st_size < entry.out_size:
            # Made smaller by another program, or cut short?
            return "foreign" if _is_whole(path) else "missing"
        if isinstance(source, os.stat_result) and os.path.samestat(facts, source):
            # In place the source is gone: either this is our result, or somebody's new image.
            same = entry.recipe == recipe
            return ("done" if same else "stale") if self.is_result(dst) else "foreign"
        return "done" if entry.is_of(source, recipe) else "stale"

    def is_result(self, dst: str) -> bool:
        """Whether a file is what was written under its name, byte for byte at both ends."""
        entry = self._entries.get(dst)
        with suppress(OSError):
            return entry is not None and digest_of_file(self.destination / dst) == entry.out_sha256
        return False

    def source_of(self, dst: str) -> str | None:
        """The name of the source from which an output was made; None if it was not."""
        entry = self._entries.get(dst)
        return None if entry is None else entry.src

    def append(self, entry: Entry) -> None:
        """Remember a finished image.

        Raises:
            OutputError: The manifest cannot be written.
        """
        line = entry.line()
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
            # What a full disk did not take is tried once more here; that was told before.
            with suppress(OSError):
                self._file.close()
            self._file = None


def entry_of(names: tuple[str, str], stat: Identity, recipe: str, data: bytes) -> Entry:
    """What the manifest is told of an image's result, but for the seconds it took.

    Args:
        names: of the result and of the source.
        stat: of the source.
        recipe: from `recipe_of`.
        data: the result's file.
    """
    dst, src = names
    return Entry(
        dst=dst,
        src=src,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        recipe=recipe,
        out_size=len(data),
        out_sha256=digest(data),
        seconds=0.0,
        tag=tag_of(stat),
    )


def _read(path: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    if not path.is_file():
        return entries
    with translated(path):
        data = path.read_bytes()
    for line in data.splitlines():
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


def clip_recipe_of(recipe: str, settings: Settings, cut: TimeRange) -> str:
    """Digest of everything that decides a restored clip.

    Args:
        recipe: from `recipe_of`, as for images.
        settings: resolved settings.
        cut: the part of the clip.
    """
    facts = [recipe, msgspec.to_builtins(settings.video), str(cut.begin), str(cut.end)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def digest(data: bytes) -> str:
    """SHA-256 of the first and last MiB."""
    return hashlib.sha256(data[:_EDGE] + data[-_EDGE:]).hexdigest()


def digest_of_ends(size: int, part: Callable[[int, int], bytes]) -> str:
    """`digest` of what has `size` bytes, of which `part` reads those from a start to an end."""
    head = part(0, min(size, _EDGE))
    tail = part(size - _EDGE, size) if size > _EDGE else head
    return hashlib.sha256(head + tail).hexdigest()


def digest_of_file(path: Path) -> str:
    """`digest` of a file's content, without reading all of it."""
    with path.open("rb") as file:
        head = file.read(_EDGE)
        file.seek(max(0, file.seek(0, os.SEEK_END) - _EDGE))
        return hashlib.sha256(head + file.read(_EDGE)).hexdigest()


def _is_whole(path: Path) -> bool:
    try:
        if is_clip(path):
            with path.open("rb") as file:
                return (expected_end(file) or 0) <= path.stat().st_size
        read_picture(path.read_bytes(), max_pixels=_MANY)
    except (DecodeError, OSError):
        return False
    return True


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
    # Only where they are not as ever, so that what was made before they existed stays known.
    unusual = {"tone": settings.tile.tone == "tile", "whole": settings.tile.whole}
    decisive |= {key: True for key, value in unusual.items() if value}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
