"""Finds the files of a model by its registry name or path."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from varfix.engine.errors import ModelMissingError
from varfix.engine.models.registry import MODELS, ModelEntry
from varfix.engine.system.app_folders import data_folder
from varfix.onnx.files.card import (
    checked_digest,
    decoder_path,
    fp16_path,
    int8_path,
    prior_path,
    specialist_paths,
)
from varfix.onnx.files.origin_file import ORIGIN, remedy

FOLDER_VARIABLE: Final = "VARFIX_MODELS"


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model.

    Attributes:
        name: Registry name, or the file's stem.
        restore: The restore graph.
        prior: Path of the prior graph; it exists for models with guidance `image` only.
        fp16: Path of the fp16 variant, which may not exist.
        decoder: Path of the decoder of the prior, which may not exist.
    """

    name: str
    restore: Path
    prior: Path
    fp16: Path
    decoder: Path

    @property
    def int8(self) -> Path:
        """Path of the int8 variant, which may not exist."""
        return int8_path(self.restore)

    @property
    def specialists(self) -> dict[str, Path]:
        """Paths of the specialists that exist, by name."""
        return specialist_paths(self.restore)


def model_folder() -> Path:
    """Return the user's model folder, which holds a folder for each model."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    return data_folder() / "models"


def installed_path(name: str) -> Path:
    """Return the path of the restore graph of the model `name` in the model folder."""
    return model_folder() / name / f"{name}.onnx"


def imported_names() -> list[str]:
    """Return the names of all models in the model folder, sorted; damaged ones are included."""
    folder = model_folder()
    found = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(name for name in found if is_imported(name))


def is_imported(name: str) -> bool:
    """Return whether the model folder holds the model `name`, or what is left of it."""
    path = installed_path(name)
    # Unfinished imports have a dot in front.
    return path.is_file() or (name[:1] != "." and (path.parent / ORIGIN).is_file())


def find_model(model: str) -> ModelFiles:
    """Return the files of a model.

    Args:
        model: A registry name, or the path of an .onnx file.

    Raises:
        ModelMissingError: The name is unknown, the file is missing, or the model is not installed.
    """
    entry = MODELS.get(model)
    if entry is not None and entry.release is None:
        return _shipped(entry)
    path = Path(model)
    if path.name == model and is_imported(model):
        return _imported(model)
    if entry is not None:
        raise ModelMissingError(
            f"{model}: not installed",
            hint=f"run: varfix models pull {model}, or varfix models import {model} FILE",
        )
    if path.suffix != ".onnx" and not path.exists():
        raise _unknown(model)
    if not path.is_file():
        raise ModelMissingError(f"{model}: model file not found")
    return _files(path.stem, path)


def model_digest(model: str) -> str:
    """Return the SHA-256, in hex, of all graphs of a model, for fingerprints of results.

    Raises:
        ModelMissingError: As `find_model`.
        ModelChecksumError: A graph does not match its card.
    """
    found = find_model(model)
    digest = checked_digest(found.restore)
    if found.prior.is_file():
        digest += checked_digest(found.prior)
    for path in found.specialists.values():
        digest += checked_digest(path)
    return hashlib.sha256(digest.encode()).hexdigest()


def _imported(name: str) -> ModelFiles:
    path = installed_path(name)
    if not path.is_file():
        raise ModelMissingError(
            f"{name}: {path.name} not found in {path.parent}", hint=remedy(path)
        )
    return _files(name, path)


def _shipped(entry: ModelEntry) -> ModelFiles:
    folder = Path(str(files("varfix.onnx.models")))
    missing = [name for name in entry.files if not (folder / name).is_file()]
    if missing:
        raise ModelMissingError(
            f"{entry.name}: {', '.join(missing)} not found in {folder}", hint="reinstall varfix"
        )
    return _files(entry.name, folder / entry.files[0])


def _files(name: str, path: Path) -> ModelFiles:
    return ModelFiles(name, path, prior_path(path), fp16_path(path), decoder_path(path))


def _unknown(model: str) -> ModelMissingError:
    known = list(dict.fromkeys([*MODELS, *imported_names()]))
    near = difflib.get_close_matches(model, known, n=1)
    return ModelMissingError(
        f"{model}: no such model or file (known models: {', '.join(known)})",
        hint=f'did you mean "{near[0]}"?' if near else "give the path of an .onnx file",
    )
