"""One run at a time for one address: `DST/.varfix/lease.json`.

Object stores have no locks that fall with a process. The lease is an object that is made only where
there is none, and written again every few seconds while its run lives. One that has not been for
long is a dead run's, and so is at once one whose process has gone from this machine.
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
BEAT: Final = 20.0
# Seconds without a sign of life after which a run counts as dead.
DEAD: Final = 90.0
_TRIES: Final = 3


class Lease:
    """The right to write below an address.

    Attributes:
        lost: another run has taken it, because this one seemed dead.
    """

    def __init__(self, objects: Objects, beat: float = BEAT) -> None:
        self._objects, self._beat = objects, beat
        self._mine = _facts()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=_thread(self._mine), daemon=True)
        self.lost = False

    def acquire(self) -> None:
        """Take it, and keep it until `release`.

        Raises:
            OutputLockedError: Another run has it.
            StoreError: The store does not let it be written.
        """
        with translate_store_errors(display_address(self._objects.address)):
            for _ in range(_TRIES):
                if self._make():
                    self._thread.start()
                    return
                other = self._read()
                if other is not None:
                    self._refuse_living(other)
                    self._objects.remove(NAME)
        raise self._held("another varfix has just begun to write here")

    def release(self) -> None:
        """Give it back."""
        self._over.set()
        self._thread.join()
        with suppress(VarfixError), translate_store_errors(""):
            if not self.lost and self._read() == self._mine:
                self._objects.remove(NAME)

    def _make(self) -> bool:
        try:
            self._objects.write(NAME, self._text(), "create")
        except FileExistsError:
            return self._read() == self._mine  # written, but for the store's answer
        return True

    def _read(self) -> dict[str, Any] | None:
        try:
            facts = json.loads(self._objects.read(NAME))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}

    def _refuse_living(self, other: dict[str, Any]) -> None:
        same = all(other.get(key) == self._mine[key] for key in ("host", "space"))
        if same and not _lives(other):
            return
        silent = self._silence()
        if silent is None or silent >= DEAD:
            return
        raise self._held(
            f"another varfix is writing here (process {other.get('pid')} on {other.get('host')},"
            f" last seen {silent:.0f} s ago)",
        )

    def _held(self, text: str) -> OutputLockedError:
        return OutputLockedError(
            f"{display_address(self._objects.address)}: {text}",
            hint=f"wait for it, or name another place; if it is dead, {DEAD:.0f} s are enough",
        )

    def _silence(self) -> float | None:
        """Seconds since the last sign of life, by the store's clock; None when it has gone."""
        probe = f"{STATE_FOLDER}/clock-{self._mine['owner']}"
        self._objects.write(probe, b"")
        now, then = self._objects.version(probe), self._objects.version(NAME)
        self._objects.remove(probe)
        if now is None or then is None:
            return None
        return max(0.0, (now.st_mtime_ns - then.st_mtime_ns) / 1e9)

    def _keep(self) -> None:
        while not self._over.wait(self._beat):
            with suppress(VarfixError), translate_store_errors(""):  # the next beat tries again
                if self._read() != self._mine:
                    self.lost = True
                    return
                self._objects.write(NAME, self._text())

    def _text(self) -> bytes:
        return json.dumps(self._mine).encode()


def _facts() -> dict[str, Any]:
    """What tells this process from all others."""
    return {
        "owner": secrets.token_hex(8),
        "host": socket.gethostname(),
        "space": _space(),
        "pid": os.getpid(),
        "born": psutil.Process().create_time(),
    }


def _space() -> str:
    """Within what process numbers count: containers have their own, often on one host's name."""
    with suppress(OSError):
        return os.fspath(Path("/proc/self/ns/pid").readlink())
    return ""


def _thread(facts: dict[str, Any]) -> str:
    """The name of the thread that keeps a lease."""
    return f"varfix-lease-{facts.get('owner')}"


def _lives(other: dict[str, Any]) -> bool:
    """Whether the run of a lease is still there, if it is one of this machine."""
    pid, born = other.get("pid"), other.get("born")
    if not isinstance(pid, int) or not isinstance(born, (int, float)):
        return True
    if pid == os.getpid():  # of a run before this one, perhaps, that could not give it back
        return any(thread.name == _thread(other) for thread in threading.enumerate())
    try:
        return abs(psutil.Process(pid).create_time() - born) < 1.0
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
