"""Imports a checkpoint in a process of its own, whose memory is limited."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import msgspec
import psutil

from varfix.engine.errors import HostMemoryError, ModelContractError
from varfix.engine.system.memory import available_memory
from varfix.onnx.export.import_job import ImportAnswer, ImportRequest

WORKER: Final = "varfix.onnx.export.import_worker"
MEMORY_LIMIT: Final = 12_000_000_000
"""Largest memory of an import, in bytes, if the user states none."""

_SHARE: Final = 0.9  # of the available memory: other programs need the rest
_INTERVAL: Final = 0.05  # seconds between two looks at the memory


def default_limit() -> int:
    """Return the bytes that an import may use if the user states no limit."""
    return min(MEMORY_LIMIT, int(_SHARE * available_memory()))


def import_checkpoint(request: ImportRequest, limit: int) -> ImportAnswer:
    """Import a checkpoint.

    Args:
        request: The checkpoint, and where the model goes.
        limit: Bytes of memory that the process may use.

    Returns:
        The answer of the process, without a failure.

    Raises:
        HostMemoryError: The process needs more memory than `limit`, or was killed.
        ConfigError: A package is missing, or the license of the network needs a consent.
        ModelError: The checkpoint is missing, damaged, or not a restorer of images.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "answer.json"
        with (Path(folder) / "log.txt").open("w+b") as log:
            code = _run(request, place, log, limit)
            if not place.is_file():
                raise _died(request, code, log)
        answer = msgspec.json.decode(place.read_bytes(), type=ImportAnswer)
    if answer.failure is not None:
        raise answer.failure.error()
    return answer


def _run(request: ImportRequest, place: Path, log: IO[bytes], limit: int) -> int:
    """Run the process to its end; kill it when it exceeds the limit (HostMemoryError)."""
    # -P: the current folder may hold files with the names of modules.
    command = [sys.executable, "-P", "-m", WORKER, str(place)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(request))
            process.stdin.close()
        if _exceeds(process, limit, _memory_of):
            raise HostMemoryError(
                f"{Path(request.checkpoint).name}: the import needs more than"
                f" {limit / 1e9:.1f} GB of memory",
                hint="use a smaller tile, such as --tile 128, or a larger --memory",
            )
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    return process.returncode


def _exceeds(process: subprocess.Popen[bytes], limit: int, memory_of: Callable[[int], int]) -> bool:
    """Wait for the end of a process; return True at once if it uses more than `limit` bytes."""
    while process.poll() is None:
        if memory_of(process.pid) > limit:
            return True
        time.sleep(_INTERVAL)
    return False


def _memory_of(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _died(request: ImportRequest, code: int, log: IO[bytes]) -> Exception:
    """Return the error for a process that ended without an answer."""
    name = Path(request.checkpoint).name
    if code < 0:
        return HostMemoryError(
            f"{name}: the import was killed by signal {-code}, perhaps for lack of memory",
            hint="close other programs, or use a smaller tile: --tile 128",
        )
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines() or ["no output"]
    return ModelContractError(f"{name}: the import ended with code {code} ({lines[-1][:200]})")
