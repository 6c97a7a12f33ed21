"""The user's model folder: models that others released, converted once and kept.

A model appears whole or not at all: it is made in a folder beside its own, which is then renamed.
`origin.json` in it says which files it was made from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from varfix.engine.models.card import MODELS, Release
from varfix.engine.system.atomic import translate_os_errors
from varfix.engine.system.digests import file_sha256
from varfix.engine.system.disk_space import require_disk_space
from varfix.onnx.files.model_files import ModelFiles, find_model, installed_path, model_folder

ORIGIN: Final = "origin.json"
TERMS: Final = "LICENCE.md"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ROOM: Final = 1.6  # bytes of a model's files for each byte of its checkpoint, with some to spare

Export = Callable[[Path], None]
"""Writes a model's files, given the restore graph's path."""


class SourceFile(msgspec.Struct, frozen=True):
    """A checkpoint file as it was when it was converted."""

    name: str
    size: int
    sha256: str
    url: str = ""


class Origin(msgspec.Struct, frozen=True):
    """What a model was made from.

    Attributes:
        architecture: Which network.
        files: Its checkpoint.
        varfix: The version that converted it.
    """

    architecture: str
    files: tuple[SourceFile, ...]
    varfix: str


def source_files(paths: Sequence[Path], urls: Sequence[str] = ()) -> tuple[SourceFile, ...]:
    """Describe checkpoint files.

    Raises:
        ModelMissingError: One is not there.
    """
    for path in paths:
        if not path.is_file():
            raise ModelMissingError(f"{path}: no such checkpoint")
    places = [*urls, *[""] * (len(paths) - len(urls))]
    return tuple(
        SourceFile(path.name, path.stat().st_size, file_sha256(path), url)
        for path, url in zip(paths, places, strict=True)
    )


def read_origin(name: str) -> Origin | None:
    """What an installed model was made from; None if it is not installed or does not say."""
    try:
        data = (installed_path(name).parent / ORIGIN).read_bytes()
        return msgspec.json.decode(data, type=Origin)
    except (OSError, msgspec.MsgspecError):
        return None


def check_name(name: str) -> None:
    """Refuse names that are not fit for a model of the user.

    Raises:
        ConfigError: It is taken by a model that ships with varfix, or no good as a folder's name.
    """
    if name in MODELS and MODELS[name].release is None:
        raise ConfigError(f"{name} ships with varfix", hint="choose another name")
    if not _NAME.fullmatch(name) or name.endswith(".onnx"):
        raise ConfigError(
            f'"{name}" cannot be the name of a model',
            hint="use small letters, digits, dots and dashes, as in varformer-d16",
        )


def check_new(name: str, overwrite: bool) -> None:
    """Refuse to replace an installed model unasked.

    Raises:
        ConfigError: It is installed, and `overwrite` is off.
    """
    if installed_path(name).exists() and not overwrite:
        raise ConfigError(f"{name} is installed already", hint="use --overwrite to replace it")


def install(name: str, origin: Origin, terms: str, export: Export) -> ModelFiles:
    """Make a model and put it in the place of an older one of the name, if there is one.

    Args:
        name: what `--model` will take.
        origin: what it is made from.
        terms: text about the terms of use, to lie beside it.
        export: makes the files.

    Returns:
        The installed files.

    Raises:
        OutputError: The folder cannot be written, or there is no room.
        OutputLockedError: The model is being installed by another varfix.
        VarfixError: As `export` raises; nothing is left behind then.
    """
    final = installed_path(name).parent
    made, old = (final.with_name(f".{name}.{word}") for word in ("part", "old"))
    with translate_os_errors(final), _alone(name):
        _recover(final, made, old)
        require_disk_space(final.parent, int(_ROOM * sum(file.size for file in origin.files)))
        made.mkdir()
        try:
            export(made / f"{name}.onnx")
            (made / TERMS).write_text(terms, encoding="utf-8")
            (made / ORIGIN).write_bytes(msgspec.json.format(msgspec.json.encode(origin)))
        except BaseException:
            shutil.rmtree(made)
            raise
        if final.exists():
            final.rename(old)
        made.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    return find_model(name)


def remove(name: str) -> None:
    """Remove an installed model.

    Raises:
        ModelMissingError: It is not installed.
        OutputLockedError: It is being installed.
    """
    final = installed_path(name).parent
    if not installed_path(name).is_file():
        raise ModelMissingError(f"{name}: not installed in {model_folder()}.")
    with translate_os_errors(final), _alone(name):
        old = final.with_name(f".{name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)  # gone at once, also where removing gigabytes takes its time
        shutil.rmtree(old)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    folder = model_folder()
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputLockedError(
            f"{name}: another varfix is installing it", hint="wait for it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _recover(final: Path, made: Path, old: Path) -> None:
    """Clear what a killed varfix left."""
    shutil.rmtree(made, ignore_errors=True)
    if old.exists() and not final.exists():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def terms_of(release: Release) -> str:
    """The text about a release's terms of use."""
    return files("varfix.onnx.models").joinpath(release.terms).read_text(encoding="utf-8")


def origin_of(architecture: str, sources: tuple[SourceFile, ...]) -> Origin:
    """An origin made by this varfix."""
    return Origin(architecture, sources, version("varfix"))


def check_same(name: str, sources: Sequence[SourceFile]) -> None:
    """Refuse files that differ from those of which the installed model was made.

    Raises:
        ModelChecksumError: A file of the same address had another digest then.
    """
    origin = read_origin(name)
    known = {file.url: file.sha256 for file in origin.files if file.url} if origin else {}
    for file in sources:
        if known.get(file.url, file.sha256) != file.sha256:
            raise ModelChecksumError(
                f"{name}: {file.name} is not the file that was downloaded before"
                f" ({file.sha256[:12]}…, then {known[file.url][:12]}…).",
                hint=f"If it was published anew: varfix models rm {name}, and pull again.",
            )
