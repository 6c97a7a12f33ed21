"""Fetches a large file over HTTP: goes on where it was cut, and ends with the right bytes or none.

What has come so far lies in `.NAME.part` beside the target; `.NAME.part.json` says of which file it
is a part. A server that has another file by now, or cannot serve the rest alone, is asked for all.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from varfix.engine.errors import (
    ConfigError,
    ModelChecksumError,
    ModelDownloadError,
)
from varfix.engine.system.atomic import flush_and_rename, translate_os_errors
from varfix.engine.system.digests import file_sha256
from varfix.engine.system.disk_space import require_disk_space

Progress = Callable[[int, int | None], None]
"""Told how many bytes are there, and how many there will be, if that is known."""

_BLOCK: Final = 1 << 20
_ATTEMPTS: Final = 5  # in a row that bring nothing
_NO_SUCH_PART: Final = 416
_PATIENCE: Final = (408, 425, 429)  # refusals that pass, besides those from 500 up


class _CutError(Exception):
    """The connection, not the disk, failed; the text is the reason."""


class Part(msgspec.Struct, frozen=True):
    """What a part is a part of.

    Attributes:
        url: Where it comes from.
        validator: What the server calls this version of the file; empty if it has no name for it.
        size: Bytes of the whole, if the server told.
        sha256: Digest of the whole, if the server told.
    """

    url: str
    validator: str = ""
    size: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Fetch:
    """What to fetch.

    Attributes:
        url: http or https.
        target: The file to make.
        sha256: What it must be; empty where that is not known.
        timeout: Seconds to wait for any sign of the server.
        pause: Seconds before the second attempt; doubles with each one.
    """

    url: str
    target: Path
    sha256: str = ""
    timeout: float = 30.0
    pause: float = 1.0


def mirrored(url: str, mirror: str) -> str:
    """The same address at another server.

    Args:
        url: the public address.
        mirror: scheme and host, and a path to go before, such as `https://mirror.example/models`.

    Raises:
        ConfigError: The mirror is not an http address.
    """
    if not mirror:
        return url
    place, public = urlsplit(mirror), urlsplit(url)
    if place.scheme not in ("http", "https") or not place.netloc:
        raise ConfigError(f"mirror {mirror}: expected http://HOST or https://HOST")
    path = place.path.rstrip("/") + public.path
    return urlunsplit((place.scheme, place.netloc, path, public.query, ""))


def fetch(wanted: Fetch, progress: Progress) -> str:
    """Fetch a file, going on with what an earlier call left.

    Returns:
        The file's SHA-256, in hex.

    Raises:
        ModelDownloadError: The server does not have it or cannot be reached, or the connection
            broke again and again; what has come stays, for the next call.
        ModelChecksumError: It is not the file that it should be; it was removed.
        OutputError: It cannot be written.
    """
    with translate_os_errors(wanted.target):
        wanted.target.parent.mkdir(parents=True, exist_ok=True)
        part = _fetched(wanted, progress)
        path = _part(wanted.target)
        digest = file_sha256(path)
        expected = wanted.sha256 or part.sha256
        _record(wanted.target).unlink(missing_ok=True)
        if expected and digest != expected:
            path.unlink()
            raise ModelChecksumError(
                f"{wanted.target.name}: checksum mismatch ({digest[:12]}…, expected"
                f" {expected[:12]}…), download removed.",
                hint="Try again; if it happens twice, the published file has changed.",
            )
        flush_and_rename(path, wanted.target)
    return digest


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _record(target: Path) -> Path:
    return target.with_name(f".{target.name}.part.json")


def _fetched(wanted: Fetch, progress: Progress) -> Part:
    """Bring the part up to the whole; attempts that bring something are not counted."""
    failures = 0
    while True:
        before = _size(wanted.target)
        try:
            return _attempt(wanted, progress)
        except _CutError as error:
            failures = failures + 1 if _size(wanted.target) <= before else 0
            if failures >= _ATTEMPTS:
                raise _failed(wanted, str(error)) from error
        time.sleep(wanted.pause * 2**failures if failures else 0.0)


def _failed(wanted: Fetch, reason: str) -> ModelDownloadError:
    kept = _size(wanted.target)
    hint = "Run the same command again: it goes on where it stopped." if kept else ""
    return ModelDownloadError(f"{wanted.url}: {reason}.", hint=hint)


def _size(target: Path) -> int:
    try:
        return _part(target).stat().st_size
    except FileNotFoundError:
        return 0


def _known(wanted: Fetch) -> Part | None:
    """What the part that lies there is a part of, if that is what is wanted."""
    try:
        known = msgspec.json.decode(_record(wanted.target).read_bytes(), type=Part)
    except (OSError, msgspec.MsgspecError):
        return None
    return known if known.url == wanted.url else None


def _attempt(wanted: Fetch, progress: Progress) -> Part:
    known, have = _known(wanted), _size(wanted.target)
    if known is None or not known.validator:
        have = 0  # nothing says that the rest would be of the same file
    if have and known and known.size == have:
        return known
    request = urllib.request.Request(wanted.url, headers={"User-Agent": "varfix"})
    if have and known:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known.validator)
    told = _Told()
    with (
        _connected(wanted),
        urllib.request.build_opener(told).open(request, timeout=wanted.timeout) as response,
    ):
        start = have if _begins(response) == have else 0
        part = _described(response, wanted.url, start)
        digest = told.sha256 or (known.sha256 if known and start else "")
        part = msgspec.structs.replace(part, sha256=digest)
        _record(wanted.target).write_bytes(msgspec.json.encode(part))
        require_disk_space(wanted.target.parent, (part.size or start) - start)
        _copy(response, wanted.target, start, lambda done: progress(done, part.size))
    have = _size(wanted.target)
    if part.size is not None and have != part.size:
        raise _CutError(f"the connection was cut at {have} of {part.size} bytes")
    return part


@contextmanager
def _connected(wanted: Fetch) -> Iterator[None]:
    """Tell what a server refuses for good from what may pass."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code == _NO_SUCH_PART:  # what lies there is more than the file has
            _record(wanted.target).unlink(missing_ok=True)
        elif error.code < 500 and error.code not in _PATIENCE:
            raise _failed(wanted, f"the server says {error.code} {error.reason}") from error
        raise _CutError(f"the server says {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        raise _CutError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _described(response: Any, url: str, start: int) -> Part:
    length = response.headers.get("Content-Length")
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    size = start + int(length) if length is not None else None
    return Part(url=url, validator=validator, size=size)


def _begins(response: Any) -> int | None:
    """First byte of a partial answer; None of a whole one."""
    if response.status != http.client.PARTIAL_CONTENT:
        return None
    unit, _, rest = str(response.headers.get("Content-Range", "")).partition(" ")
    first = rest.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdecimal() else None


def _copy(response: Any, target: Path, start: int, progress: Callable[[int], None]) -> None:
    with _part(target).open("r+b" if start else "wb") as file:
        file.truncate(start)
        file.seek(start)
        done = start
        while block := _read(response):
            file.write(block)
            done += len(block)
            progress(done)


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(_BLOCK))
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(str(error) or type(error).__name__) from error


class _Told(urllib.request.HTTPRedirectHandler):
    """Notes the digest that a file server tells of before it sends one elsewhere for the bytes."""

    sha256 = ""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        """Follow the redirection."""
        headers = arguments[4]
        told = str(headers.get("X-Linked-ETag", "")).strip('"').lower()
        if len(told) == 64 and set(told) <= set("0123456789abcdef"):
            self.sha256 = told
        return super().redirect_request(*arguments)
