"""Records about files: the values that a store and its users exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from varfix.engine.formats import Header


class Identity(Protocol):
    """Size and time, which distinguish states of a file; `os.stat_result` is an identity."""

    @property
    def st_size(self) -> int:
        """Bytes."""
        ...

    @property
    def st_mtime_ns(self) -> int:
        """Time of the last change."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """The identity of an object, as its store lists it.

    Attributes:
        st_size: Bytes.
        st_mtime_ns: Time of the last change.
        tag: The store's checksum of the content (ETag), where it has one.
    """

    st_size: int
    st_mtime_ns: int
    tag: str = ""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """Properties of an image that the plan has read, so that `fetch` does not read them again.

    Attributes:
        header: Header of a file in a folder; None if it is unreadable, and for objects.
        version: Version of an object; None if it was not listed, and for files.
    """

    header: Header | None = None
    version: Identity | None = None


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """An image's file, read.

    Attributes:
        stat: Its identity at the time of reading.
        header: Size and format, from its first bytes.
        data: The whole file.
    """

    stat: Identity
    header: Header
    data: bytes


UNKNOWN: Final = KnownFile()


def tag_of(source: Identity) -> str:
    """Return the store's checksum of a source's content; empty for a file on a disk."""
    return source.tag if isinstance(source, ObjectVersion) else ""
