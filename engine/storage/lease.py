"""Locks an address for one run: `DST/.varfix/lease.json`.

Object stores have no locks that end with a process. The lease is an object that is created only if
none exists, and rewritten every few seconds while its run is alive. A lease has expired if it was
not rewritten for long, or if its process ran on this machine and no longer exists.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from varfix.engine.errors import OutputLockedError, VarfixError
from varfix.engine.storage.addresses import display_address
from varfix.engine.storage.fsspec_errors import translate_store_errors
from varfix.engine.storage.objects import Objects
from varfix.engine.system.state_folder import STATE_FOLDER

NAME: Final = f"{STATE_FOLDER}/lease.json"
RENEW_EVERY: Final = 20.0
# Seconds without renewal after which a run counts as dead.
EXPIRES_AFTER: Final = 90.0
_TRIES: Final = 3


class Lease:
    """The right to write below an address.

    Attributes:
        lost: Another run has taken it, because it was not renewed in time.
    """

    def __init__(self, objects: Objects, renew_every: float = RENEW_EVERY) -> None:
        self._objects, self._renew_every = objects, renew_every
        self._mine = _process_fields()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=_thread(self._mine), daemon=True)
        self.lost = False

    def acquire(self) -> None:
        """Acquire the lease and renew it until `release`.

        Raises:
            OutputLockedError: Another run holds it.
            StoreError: The store does not answer or denies access.
        """
        with translate_store_errors(display_address(self._objects.address)):
            for _ in range(_TRIES):
                if self._create():
                    self._thread.start()
                    return
                other = self._read()
                if other is not None:
                    self._refuse_if_alive(other)
                    self._objects.remove(NAME)
        raise self._locked_error("another varfix process has just locked it")

    def release(self) -> None:
        """Release the lease."""
        self._over.set()
        self._thread.join()
        with suppress(VarfixError), translate_store_errors(""):
            if not self.lost and self._read() == self._mine:
                self._objects.remove(NAME)

    def _create(self) -> bool:
        try:
            self._objects.write(NAME, self._text(), "create")
        except FileExistsError:
            return self._read() == self._mine  # written, but the response was lost
        return True

    def _read(self) -> dict[str, Any] | None:
        try:
            fields = json.loads(self._objects.read(NAME))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return fields if isinstance(fields, dict) else {}

    def _refuse_if_alive(self, other: dict[str, Any]) -> None:
        same = all(other.get(key) == self._mine[key] for key in ("host", "space"))
        if same and not _is_alive(other):
            return
        age = self._seconds_since_renewal()
        if age is None or age >= EXPIRES_AFTER:
            return
        raise self._locked_error(
            f"locked by another varfix process (process {other.get('pid')} on"
            f" {other.get('host')}, last renewed {age:.0f} s ago)",
        )

    def _locked_error(self, text: str) -> OutputLockedError:
        return OutputLockedError(
            f"{display_address(self._objects.address)}: {text}",
            hint=f"wait for it, or name another address; the lock of a dead process expires after"
            f" {EXPIRES_AFTER:.0f} s",
        )

    def _seconds_since_renewal(self) -> float | None:
        """Return the seconds since the last renewal by the store's clock; None when it is gone."""
        probe = f"{STATE_FOLDER}/clock-{self._mine['owner']}"
        self._objects.write(probe, b"")
        now, then = self._objects.version(probe), self._objects.version(NAME)
        self._objects.remove(probe)
        if now is None or then is None:
            return None
        return max(0.0, (now.st_mtime_ns - then.st_mtime_ns) / 1e9)

    def _renew(self) -> None:
        while not self._over.wait(self._renew_every):
            with suppress(VarfixError), translate_store_errors(""):  # the next renewal tries again
                if self._read() != self._mine:
                    self.lost = True
                    return
                self._objects.write(NAME, self._text())

    def _text(self) -> bytes:
        return json.dumps(self._mine).encode()


def _process_fields() -> dict[str, Any]:
    """Return what distinguishes this process from all others."""
    return {
        "owner": secrets.token_hex(8),
        "host": socket.gethostname(),
        "space": _space(),
        "pid": os.getpid(),
        "born": psutil.Process().create_time(),
    }


def _space() -> str:
    """Return the namespace of process numbers: containers may have equal host names."""
    with suppress(OSError):
        return os.fspath(Path("/proc/self/ns/pid").readlink())
    return ""


def _thread(fields: dict[str, Any]) -> str:
    """Return the name of the thread that renews a lease."""
    return f"varfix-lease-{fields.get('owner')}"


def _is_alive(other: dict[str, Any]) -> bool:
    """Return whether the run of a lease exists, for a run on this machine."""
    pid, born = other.get("pid"), other.get("born")
    if not isinstance(pid, int) or not isinstance(born, (int, float)):
        return True
    if pid == os.getpid():  # perhaps an earlier run's, which could not release it
        return any(thread.name == _thread(other) for thread in threading.enumerate())
    try:
        return abs(psutil.Process(pid).create_time() - born) < 1.0
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
