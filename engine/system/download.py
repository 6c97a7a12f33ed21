"""Downloads a large file over HTTP; resumes, and ends with the expected bytes or with no file.

The bytes received so far are in `.NAME.part` next to the target; `.NAME.part.json` identifies their
file. If the server now has another file, or cannot send a range, the download starts again.
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
"""Called with the bytes received and, if known, the bytes of the whole file."""

_BLOCK: Final = 1 << 20
_ATTEMPTS: Final = 5  # in a row that receive nothing
_NO_SUCH_PART: Final = 416
_PATIENCE: Final = (408, 425, 429)  # refusals that are temporary, besides those from 500 up


class _ConnectionLostError(Exception):
    """The connection, not the disk, failed; the text is the reason."""


class PartialDownload(msgspec.Struct, frozen=True):
    """The file that a partial download belongs to.

    Attributes:
        url: Its address.
        validator: ETag or time of this version of the file; empty if the server sends neither.
        size: Bytes of the whole file, if the server sends the size.
        sha256: Digest of the whole file, if the server sends it.
    """

    url: str
    validator: str = ""
    size: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class DownloadRequest:
    """A file to download.

    Attributes:
        url: http or https.
        target: The file to write.
        sha256: Its expected digest; empty if unknown.
        timeout: Seconds to wait for the server.
        pause: Seconds before the second attempt; doubles with each attempt.
    """

    url: str
    target: Path
    sha256: str = ""
    timeout: float = 30.0
    pause: float = 1.0


def mirror_url(url: str, mirror: str) -> str:
    """Return the address of a file on a mirror.

    Args:
        url: The public address.
        mirror: Scheme, host and an optional path prefix, such as `https://mirror.example/models`.

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


def download(wanted: DownloadRequest, progress: Progress) -> str:
    """Download a file, resuming an earlier attempt.

    Returns:
        The file's SHA-256, in hex.

    Raises:
        ModelDownloadError: The server does not have it or cannot be reached, or the connection
            was lost repeatedly; the bytes received are kept for the next call.
        ModelChecksumError: Its digest differs from the expected one; it was removed.
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
                f" {expected[:12]}…); download removed",
                hint="run the same command again; if it fails again, the published file changed",
            )
        flush_and_rename(path, wanted.target)
    return digest


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _record(target: Path) -> Path:
    return target.with_name(f".{target.name}.part.json")


def _fetched(wanted: DownloadRequest, progress: Progress) -> PartialDownload:
    """Complete the partial download; attempts that receive something are not counted."""
    failures = 0
    while True:
        before = _size(wanted.target)
        try:
            return _attempt(wanted, progress)
        except _ConnectionLostError as error:
            failures = failures + 1 if _size(wanted.target) <= before else 0
            if failures >= _ATTEMPTS:
                raise _failed(wanted, str(error)) from error
        time.sleep(wanted.pause * 2**failures if failures else 0.0)


def _failed(wanted: DownloadRequest, reason: str) -> ModelDownloadError:
    kept = _size(wanted.target)
    hint = "run the same command again to resume" if kept else ""
    return ModelDownloadError(f"{wanted.url}: {reason}", hint=hint)


def _size(target: Path) -> int:
    try:
        return _part(target).stat().st_size
    except FileNotFoundError:
        return 0


def _known(wanted: DownloadRequest) -> PartialDownload | None:
    """Return the record of the existing part, if it belongs to the wanted file."""
    try:
        known = msgspec.json.decode(_record(wanted.target).read_bytes(), type=PartialDownload)
    except (OSError, msgspec.MsgspecError):
        return None
    return known if known.url == wanted.url else None


def _attempt(wanted: DownloadRequest, progress: Progress) -> PartialDownload:
    known, have = _known(wanted), _size(wanted.target)
    if known is None or not known.validator:
        have = 0  # the rest might be of another version
    if have and known and known.size == have:
        return known
    request = urllib.request.Request(wanted.url, headers={"User-Agent": "varfix"})
    if have and known:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known.validator)
    redirects = _RedirectDigest()
    with (
        _connected(wanted),
        urllib.request.build_opener(redirects).open(request, timeout=wanted.timeout) as response,
    ):
        start = have if _begins(response) == have else 0
        part = _described(response, wanted.url, start)
        digest = redirects.sha256 or (known.sha256 if known and start else "")
        part = msgspec.structs.replace(part, sha256=digest)
        _record(wanted.target).write_bytes(msgspec.json.encode(part))
        require_disk_space(wanted.target.parent, (part.size or start) - start)
        _copy(response, wanted.target, start, lambda done: progress(done, part.size))
    have = _size(wanted.target)
    if part.size is not None and have != part.size:
        raise _ConnectionLostError(f"connection lost at {have} of {part.size} bytes")
    return part


@contextmanager
def _connected(wanted: DownloadRequest) -> Iterator[None]:
    """Distinguish permanent refusals of a server from temporary ones."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code == _NO_SUCH_PART:  # the part is longer than the file
            _record(wanted.target).unlink(missing_ok=True)
        elif error.code < 500 and error.code not in _PATIENCE:
            raise _failed(wanted, f"the server responds {error.code} {error.reason}") from error
        raise _ConnectionLostError(f"the server responds {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        raise _ConnectionLostError(
            str(getattr(error, "reason", error)) or type(error).__name__
        ) from error


def _described(response: Any, url: str, start: int) -> PartialDownload:
    length = response.headers.get("Content-Length")
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    size = start + int(length) if length is not None else None
    return PartialDownload(url=url, validator=validator, size=size)


def _begins(response: Any) -> int | None:
    """Return the first byte of a partial response; None for a whole one."""
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
        raise _ConnectionLostError(str(error) or type(error).__name__) from error


class _RedirectDigest(urllib.request.HTTPRedirectHandler):
    """Keeps the digest that a file server sends with the redirection to the bytes."""

    sha256 = ""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        """Follow the redirection."""
        headers = arguments[4]
        digest = str(headers.get("X-Linked-ETag", "")).strip('"').lower()
        if len(digest) == 64 and set(digest) <= set("0123456789abcdef"):
            self.sha256 = digest
        return super().redirect_request(*arguments)
