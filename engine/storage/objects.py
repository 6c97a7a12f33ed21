"""Lists, reads, writes and removes the objects below an address, with fsspec."""

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
# Attempts of botocore, with growing pauses, after overload, server errors and broken connections;
# and attempts of s3fs when a body breaks off.
_ATTEMPTS: Final = 8
_BODIES: Final = 2
_READ_TIMEOUT: Final = 20
# Seconds after which a write to S3 is given up, all attempts together, plus the time of this many
# bytes per second: aiohttp waits without end for a store that accepts no more bytes.
_LONGEST: Final = 600.0
_SLOWEST: Final = 50_000
_PARALLEL: Final = 32
_TIMES: Final = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
_TAGS: Final = ("ETag", "etag", "md5Hash", "content_md5")


class Objects:
    """The objects below one address; names are relative to it, with `/`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.scheme = address.partition("://")[0].lower()
        self._system, root = _opened(address, self.scheme)
        self.root = root.rstrip("/")
        if not self.root:
            raise ConfigError(
                f"{display_address(address)}: no bucket or host",
                hint=f"write {self.scheme}://NAME/...",
            )

    def __reduce__(self) -> tuple[type[Objects], tuple[str]]:
        return Objects, (self.address,)

    def list_objects(
        self, below: str = "", *, recursive: bool = True
    ) -> Iterator[tuple[str, ObjectVersion]]:
        """Yield names and identities of all objects below a folder, page by page.

        Args:
            below: The folder, with a final `/`; empty for all.
            recursive: Include subfolders.
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
        for path, description in found.items():
            yield path[cut:], _version(description)

    def _pages(self, below: str, recursive: bool) -> Iterator[tuple[str, ObjectVersion]]:
        """List S3 page by page: `find` would hold a million descriptions in memory."""
        bucket, _, key = self.root.partition("/")
        key = f"{key}/" if key else ""
        query = {"Bucket": bucket, "Prefix": key + below}
        if not recursive:
            query["Delimiter"] = "/"
        while True:
            page = self._system.call_s3("list_objects_v2", **query)
            for description in page.get("Contents", ()):
                if not description["Key"].endswith("/"):  # folder markers
                    yield description["Key"][len(key) :], _version(description)
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def version(self, name: str) -> ObjectVersion | None:
        """Return the version of an object; None when it does not exist."""
        try:
            description = self._system.info(self._path(name))
        except FileNotFoundError:
            return None
        return None if description.get("type") == "directory" else _version(description)

    def versions(self, names: list[str]) -> dict[str, ObjectVersion]:
        """Return the versions of many objects; missing objects are left out."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            found = zip(names, pool.map(self.version, names), strict=True)
            return {name: version for name, version in found if version is not None}

    def read(self, name: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            FileNotFoundError: It does not exist.
        """
        data: bytes = self._system.cat_file(self._path(name))
        return data

    def read_all(self, names: list[str]) -> list[bytes]:
        """Return the bytes of many objects."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return list(pool.map(self.read, names))

    def read_part(self, name: str, start: int, end: int) -> bytes:
        """Return a range of an object's bytes."""
        data: bytes = self._system.cat_file(self._path(name), start=start, end=end)
        return data

    def write(self, name: str, data: bytes, mode: Mode = "overwrite") -> None:
        """Write an object, complete or not at all.

        Raises:
            FileExistsError: It exists and `mode` is `create`. A repeated request may find the
                object of its first attempt: compare the content.
        """
        more: dict[str, Any] = {}
        if self.scheme in _S3:
            kind = mimetypes.guess_type(name)[0]
            more = {"ContentType": kind or "application/octet-stream"}
            more["timeout"] = _LONGEST + len(data) / _SLOWEST
        self._system.pipe_file(self._path(name), data, mode=mode, **more)

    def remove(self, name: str) -> None:
        """Remove an object if it exists."""
        try:
            self._system.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        if "?versionId=" in name and self.scheme in _S3:
            # s3fs would read, or write, the object of the name before the question mark.
            raise ValueError('names that contain "?versionId=" are not supported')
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
                    f"{name}: credentials and queries in an address are not supported",
                    hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                )
            options = _s3_options(conf.get("s3", {}))
        system, root = url_to_fs(address, **options)
    except ImportError as error:
        raise _missing(name, scheme, error) from error
    except ValueError as error:
        raise ConfigError(f"{name}: unsupported kind of address") from error
    if scheme in _S3:
        system.retries = _BODIES
        _send_at_once(system)
    return system, root


def _send_at_once(system: Any) -> None:
    """Disable "Expect: 100-continue": aiohttp would wait for the response without end.

    A store that accepts connections and never responds would stop a run forever.
    """
    from aiobotocore.session import AioSession
    from botocore.handlers import add_expect_header

    if system.session is None:  # as s3fs would make it
        system.session = AioSession(**system.kwargs)
        system.session.unregister("before-call.s3", add_expect_header)


def _s3_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of s3fs; the user's configuration of fsspec has priority."""
    config = {
        "retries": {"mode": "standard", "max_attempts": _ATTEMPTS},
        "read_timeout": _READ_TIMEOUT,
        "max_pool_connections": 2 * _PARALLEL,
    }
    return {
        "use_listings_cache": False,
        # One request per read: several would first need a request for the size.
        "max_concurrency": 1,
        "config_kwargs": config | given.get("config_kwargs", {}),
    }


def _missing(name: str, scheme: str, error: ImportError) -> ConfigError:
    if scheme in _S3:
        needed, fix = "s3fs", 'run: pip install "varfix[s3]"'
    else:
        needed = (error.name or "").partition(".")[0] or f"fsspec's package for {scheme}"
        fix = f'run: pip install "fsspec[{scheme}]"'
    return ConfigError(f"{name}: {needed} is not installed", hint=fix)


def _version(description: dict[str, Any]) -> ObjectVersion:
    """Return the version in fsspec's description of an object; kinds of stores differ in keys."""
    changed = next((description[key] for key in _TIMES if description.get(key)), 0)
    tag = next((str(description[key]) for key in _TAGS if description.get(key)), "")
    size = description["Size"] if "Size" in description else description["size"]
    return ObjectVersion(int(size or 0), _nanoseconds(changed), tag.strip('"'))


def _nanoseconds(changed: object) -> int:
    if isinstance(changed, str):
        changed = datetime.fromisoformat(changed)
    if isinstance(changed, datetime):
        return int(changed.timestamp()) * 10**9 + changed.microsecond * 1000
    return int(changed * 1e9) if isinstance(changed, (int, float)) else 0
