"""The user's model folder: official and own models, converted once.

A model is written to a temporary folder, which is renamed when it is complete. Its `origin.json`
names the files that it was made from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Final

import filelock
import msgspec

from varfix.engine.errors import (
    ConfigError,
    ModelChecksumError,
    ModelMissingError,
    OutputLockedError,
)
from varfix.engine.models.registry import MODELS, Release
from varfix.engine.system.atomic import translate_os_errors
from varfix.engine.system.digests import file_sha256
from varfix.engine.system.disk_space import require_disk_space
from varfix.onnx.files.model_files import (
    ModelFiles,
    find_model,
    installed_path,
    model_folder,
)
from varfix.onnx.files.origin_file import ORIGIN

TERMS: Final = "LICENSE.md"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ROOM: Final = 1.6  # bytes of model files for each byte of the checkpoint, with a margin


class SourceFile(msgspec.Struct, frozen=True):
    """A checkpoint file at the time of its conversion."""

    name: str
    size: int
    sha256: str
    url: str = ""


class Origin(msgspec.Struct, frozen=True):
    """Origin of an installed model.

    Attributes:
        architecture: Name of the network.
        files: Files of the checkpoint.
        varfix: Version of varfix that converted it.
    """

    architecture: str
    files: tuple[SourceFile, ...]
    varfix: str


@dataclass(frozen=True)
class Made:
    """What the files of a model were made of.

    Attributes:
        architecture: Name of the network.
        terms: License text, stored with the model.
    """

    architecture: str
    terms: str


Export = Callable[[Path], Made]
"""Writes the files of a model, given the path of the restore graph."""


def source_files(paths: Sequence[Path], urls: Sequence[str] = ()) -> tuple[SourceFile, ...]:
    """Describe checkpoint files.

    Raises:
        ModelMissingError: A file is missing.
    """
    for path in paths:
        if not path.is_file():
            raise ModelMissingError(f"{path}: checkpoint not found")
    places = [*urls, *[""] * (len(paths) - len(urls))]
    return tuple(
        SourceFile(path.name, path.stat().st_size, file_sha256(path), url)
        for path, url in zip(paths, places, strict=True)
    )


def read_origin(name: str) -> Origin | None:
    """Return the origin of an installed model; None if it is missing or unreadable."""
    try:
        data = (installed_path(name).parent / ORIGIN).read_bytes()
        return msgspec.json.decode(data, type=Origin)
    except (OSError, msgspec.MsgspecError):
        return None


def check_name(name: str) -> None:
    """Reject names that are taken or invalid.

    Raises:
        ConfigError: A shipped model has this name, or it is not valid as a folder name.
    """
    if name in MODELS and MODELS[name].release is None:
        raise ConfigError(f"{name} ships with varfix", hint="choose another name")
    if not _NAME.fullmatch(name) or name.endswith(".onnx"):
        raise ConfigError(
            f'"{name}" cannot be the name of a model',
            hint="use lower-case letters, digits, dots and dashes, as in varformer-d16",
        )


def check_new(name: str, overwrite: bool) -> None:
    """Reject a model that is already installed, unless `overwrite` is set.

    Raises:
        ConfigError: The model is installed, and `overwrite` is not set.
    """
    if installed_path(name).exists() and not overwrite:
        raise ConfigError(f"{name} is already installed", hint="use --overwrite to replace it")


def install(name: str, sources: Sequence[SourceFile], export: Export) -> ModelFiles:
    """Convert a model and install it; an installed model of the same name is replaced.

    Args:
        name: Name for `--model`.
        sources: Files of the checkpoint.
        export: Writes the files.

    Returns:
        The installed files.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
        OutputLockedError: Another varfix process is installing the model.
        VarfixError: As `export` raises; nothing is left behind.
    """
    final = installed_path(name).parent
    part, old = (final.with_name(f".{name}.{word}") for word in ("part", "old"))
    with translate_os_errors(final), _locked(name):
        _recover(final, part, old)
        require_disk_space(final.parent, int(_ROOM * sum(file.size for file in sources)))
        part.mkdir()
        try:
            made = export(part / f"{name}.onnx")
            origin = Origin(made.architecture, tuple(sources), version("varfix"))
            (part / TERMS).write_text(made.terms, encoding="utf-8")
            (part / ORIGIN).write_bytes(msgspec.json.format(msgspec.json.encode(origin)))
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        if final.exists():
            final.rename(old)
        part.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    return find_model(name)


def remove(name: str) -> None:
    """Remove an installed model, or what is left of one.

    Raises:
        ConfigError: The model ships with varfix.
        ModelMissingError: The model is not installed.
        OutputLockedError: Another varfix process is installing it.
    """
    final = installed_path(name).parent
    if name in MODELS and MODELS[name].release is None:
        raise ConfigError(
            f"{name} ships with varfix and cannot be removed",
            hint="to use another model, give its name or path: --model NAME",
        )
    check_name(name)
    if not final.is_dir():
        raise ModelMissingError(
            f"{name}: not installed in {model_folder()}", hint="see the names: varfix models"
        )
    with translate_os_errors(final), _locked(name):
        old = final.with_name(f".{name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)  # atomic; removing gigabytes takes time
        shutil.rmtree(old)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    folder = model_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.lock"
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputLockedError(
            f"{name}: locked by another varfix process that installs it",
            hint="wait until it has finished",
        ) from None
    try:
        yield
    finally:
        # Windows cannot remove it while it is open; a process that waits locks the new file.
        with suppress(OSError):
            path.unlink()
        lock.release()


def _recover(final: Path, part: Path, old: Path) -> None:
    """Clean up after an interrupted installation."""
    shutil.rmtree(part, ignore_errors=True)
    if old.exists() and not final.exists():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def terms_of(release: Release) -> str:
    """Return the text about the terms of use of a release."""
    return files("varfix.onnx.models").joinpath(release.terms).read_text(encoding="utf-8")


def check_same(name: str, sources: Sequence[SourceFile]) -> None:
    """Reject files that differ from those of the installed model.

    Raises:
        ModelChecksumError: A file from the same address had another digest before.
    """
    origin = read_origin(name)
    known = {file.url: file.sha256 for file in origin.files if file.url} if origin else {}
    for file in sources:
        if known.get(file.url, file.sha256) != file.sha256:
            raise ModelChecksumError(
                f"{name}: {file.name} differs from the previous download"
                f" (sha256 {file.sha256[:12]}…, before {known[file.url][:12]}…)",
                hint=f"if there is a new version, run: varfix models rm {name}, and pull it again",
            )
