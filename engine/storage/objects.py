"""Objects below one address: listed, read, written, removed. The only module that knows fsspec."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, Literal

from varfix.engine.errors import ConfigError
from varfix.engine.storage.addresses import display_address
from varfix.engine.storage.identity import ObjectVersion

Mode = Literal["create", "overwrite"]

_S3: Final = frozenset({"s3", "s3a"})
# What botocore repeats by itself, waiting longer each time: refusals for overload, errors of the
# server, broken connections. On top of it s3fs repeats what breaks off in the middle of a body.
_ATTEMPTS: Final = 8
_BODIES: Final = 2
_READ_TIMEOUT: Final = 20
# Seconds after which a write to S3 is given up, all repetitions together, and bytes a second that
# it may be as slow as besides: aiohttp waits without end for a store that takes no more bytes.
_LONGEST: Final = 600.0
_SLOWEST: Final = 50_000
_AT_ONCE: Final = 32
_TIMES: Final = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
_TAGS: Final = ("ETag", "etag", "md5Hash", "content_md5")


class Objects:
    """What lies below one address. Names are relative to it, with `/`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.scheme = address.partition("://")[0].lower()
        self._system, root = _opened(address, self.scheme)
        self.root = root.rstrip("/")
        if not self.root:
            raise ConfigError(
                f"{display_address(address)}: names no place", hint=f"{self.scheme}://NAME/..."
            )

    def __reduce__(self) -> tuple[type[Objects], tuple[str]]:
        return Objects, (self.address,)

    def list(
        self, below: str = "", *, recursive: bool = True
    ) -> Iterator[tuple[str, ObjectVersion]]:
        """Yield names and identities of all objects below a folder, page by page.

        Args:
            below: the folder, with a final `/`; empty for all.
            recursive: look into folders.
        """
        cut = len(self.root) + 1
        if hasattr(self._system, "call_s3"):
            yield from self._pages(below, recursive)
            return
        depth = None if recursive else 1
        try:
            found = self._system.find(self._path(below.rstrip("/")), maxdepth=depth, detail=True)
        except FileNotFoundError:
            return
        for path, facts in found.items():
            yield path[cut:], _version(facts)

    def _pages(self, below: str, recursive: bool) -> Iterator[tuple[str, ObjectVersion]]:
        """As `list`, for S3: `find` would hold a million descriptions at once."""
        bucket, _, key = self.root.partition("/")
        key = f"{key}/" if key else ""
        asked = {"Bucket": bucket, "Prefix": key + below}
        if not recursive:
            asked["Delimiter"] = "/"
        while True:
            page = self._system.call_s3("list_objects_v2", **asked)
            for facts in page.get("Contents", ()):
                if not facts["Key"].endswith("/"):  # marks of folders
                    yield facts["Key"][len(key) :], _version(facts)
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def version(self, name: str) -> ObjectVersion | None:
        """The identity of an object; None when there is none."""
        try:
            facts = self._system.info(self._path(name))
        except FileNotFoundError:
            return None
        return None if facts.get("type") == "directory" else _version(facts)

    def versions(self, names: list[str]) -> dict[str, ObjectVersion]:
        """The identities of many objects; those that are not there are left out."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = zip(names, pool.map(self.version, names), strict=True)
            return {name: version for name, version in found if version is not None}

    def read(self, name: str) -> bytes:
        """An object's bytes.

        Raises:
            FileNotFoundError: There is none.
        """
        data: bytes = self._system.cat_file(self._path(name))
        return data

    def read_all(self, names: list[str]) -> list[bytes]:
        """The bytes of many objects."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.read, names))

    def read_part(self, name: str, start: int, end: int) -> bytes:
        """Some of an object's bytes."""
        data: bytes = self._system.cat_file(self._path(name), start=start, end=end)
        return data

    def write(self, name: str, data: bytes, mode: Mode = "overwrite") -> None:
        """Make an object; it is there whole, or not at all.

        Raises:
            FileExistsError: There is one, and `mode` is `create`. As stores that repeat a request
                may meet their own object, its content tells whose it is.
        """
        more: dict[str, Any] = {}
        if self.scheme in _S3:
            kind = mimetypes.guess_type(name)[0]
            more = {"ContentType": kind or "application/octet-stream"}
            more["timeout"] = _LONGEST + len(data) / _SLOWEST
        self._system.pipe_file(self._path(name), data, mode=mode, **more)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        try:
            self._system.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        if "?versionId=" in name and self.scheme in _S3:
            # s3fs would read, or write, the object of the name before the question mark.
            raise ValueError('a name with "?versionId=" in it cannot be asked for')
        return f"{self.root}/{name}" if name else self.root


def _opened(address: str, scheme: str) -> tuple[Any, str]:
    name = display_address(address)
    options: dict[str, Any] = {}
    try:
        from fsspec.config import conf
        from fsspec.core import url_to_fs

        if scheme in _S3:
            if "@" in address.partition("://")[2].partition("/")[0] or name != address:
                raise ConfigError(
                    f"{name}: credentials and queries in the address are not taken",
                    hint="for S3: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                )
            options = _s3_options(conf.get("s3", {}))
        system, root = url_to_fs(address, **options)
    except ImportError as error:
        raise _missing(name, scheme, error) from error
    except ValueError as error:
        raise ConfigError(f"{name}: no kind of address that can be opened here") from error
    if scheme in _S3:
        system.retries = _BODIES
        _send_at_once(system)
    return system, root


def _send_at_once(system: Any) -> None:
    """Have bodies sent without asking first: for leave to send, aiohttp waits without end.

    A store that accepts connections and says nothing would hold up a run forever.
    """
    from aiobotocore.session import AioSession
    from botocore.handlers import add_expect_header

    if system.session is None:  # as s3fs would make it
        system.session = AioSession(**system.kwargs)
        system.session.unregister("before-call.s3", add_expect_header)


def _s3_options(given: dict[str, Any]) -> dict[str, Any]:
    """How s3fs works for varfix; what a user has configured for fsspec counts more."""
    config = {
        "retries": {"mode": "standard", "max_attempts": _ATTEMPTS},
        "read_timeout": _READ_TIMEOUT,
        "max_pool_connections": 2 * _AT_ONCE,
    }
    return {
        "use_listings_cache": False,
        # In one piece: several would need a question for the size first.
        "max_concurrency": 1,
        "config_kwargs": config | given.get("config_kwargs", {}),
    }


def _missing(name: str, scheme: str, error: ImportError) -> ConfigError:
    if scheme in _S3:
        needed, fix = "s3fs", 'pip install "varfix[s3]"'
    else:
        needed = (error.name or "").partition(".")[0] or f"fsspec's package for {scheme}"
        fix = f'pip install "fsspec[{scheme}]"'
    return ConfigError(f"{name}: needs {needed}, which is not installed.", hint=f"Fix: {fix}.")


def _version(facts: dict[str, Any]) -> ObjectVersion:
    """What fsspec says of an object, whose kinds of stores have words of their own."""
    changed = next((facts[key] for key in _TIMES if facts.get(key)), 0)
    tag = next((str(facts[key]) for key in _TAGS if facts.get(key)), "")
    size = facts["Size"] if "Size" in facts else facts["size"]
    return ObjectVersion(int(size or 0), _nanoseconds(changed), tag.strip('"'))


def _nanoseconds(changed: object) -> int:
    if isinstance(changed, str):
        changed = datetime.fromisoformat(changed)
    if isinstance(changed, datetime):
        return int(changed.timestamp()) * 10**9 + changed.microsecond * 1000
    return int(changed * 1e9) if isinstance(changed, (int, float)) else 0
