"""Where a model's files are: a registry name or a path becomes graph files on disk."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from varfix.engine.errors import ModelMissingError
from varfix.engine.models.card import MODELS, ModelEntry
from varfix.engine.system.app_folders import data_folder
from varfix.onnx.files.card import checked_digest, decoder_path, half_path, int8_path, prior_path

FOLDER_VARIABLE: Final = "VARFIX_MODELS"


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        name: Registry name, or the file's stem.
        restore: The restore graph.
        prior: Where the prior graph lies; only models guided by the whole image have it.
        half: Where the restore graph in half precision lies, if there is one.
        decoder: Where the graph that draws latents lies, if there is one.
    """

    name: str
    restore: Path
    prior: Path
    half: Path
    decoder: Path

    @property
    def int8(self) -> Path:
        """Where the restore graph in 8-bit integers lies, if there is one."""
        return int8_path(self.restore)


def model_folder() -> Path:
    """Return the user's own model folder, in which each model has a folder of its name."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    return data_folder() / "models"


def installed_path(name: str) -> Path:
    """Return where the restore graph of the model called `name` lies in the model folder."""
    return model_folder() / name / f"{name}.onnx"


def imported_names() -> list[str]:
    """Return the names of all models in the model folder, sorted."""
    folder = model_folder()
    found = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(name for name in found if installed_path(name).is_file())


def find_model(model: str) -> ModelFiles:
    """Return the files of the model called `model`, or of the `.onnx` file at that path.

    Raises:
        ModelMissingError: No such name, no such file, or a known model that is not installed.
    """
    entry = MODELS.get(model)
    if entry is not None and entry.release is None:
        return _shipped(entry)
    path = Path(model)
    if path.name == model and installed_path(model).is_file():
        return _files(model, installed_path(model))
    if entry is not None:
        raise ModelMissingError(
            f"{model}: not installed.",
            hint=f"varfix models pull {model}, or varfix models import {model} FILE.",
        )
    if path.suffix != ".onnx" and not path.exists():
        raise _unknown(model)
    if not path.is_file():
        raise ModelMissingError(f"{model}: no such model file.")
    return _files(path.stem, path)


def model_digest(model: str) -> str:
    """Return a SHA-256, in hex, over all graphs of a model.

    Outputs made with one digest are the work of one model: it belongs into a run's recipe.

    Raises:
        ModelMissingError: As `find_model`.
        ModelChecksumError: A graph is not the one its card was written for.
    """
    found = find_model(model)
    digest = checked_digest(found.restore)
    if found.prior.is_file():
        digest += checked_digest(found.prior)
    return hashlib.sha256(digest.encode()).hexdigest()


def _shipped(entry: ModelEntry) -> ModelFiles:
    folder = Path(str(files("varfix.onnx.models")))
    missing = [name for name in entry.files if not (folder / name).is_file()]
    if missing:
        raise ModelMissingError(
            f"{entry.name}: {', '.join(missing)} not found in {folder}.", hint="Reinstall varfix."
        )
    return _files(entry.name, folder / entry.files[0])


def _files(name: str, path: Path) -> ModelFiles:
    return ModelFiles(name, path, prior_path(path), half_path(path), decoder_path(path))


def _unknown(model: str) -> ModelMissingError:
    known = list(dict.fromkeys([*MODELS, *imported_names()]))
    near = difflib.get_close_matches(model, known, n=1)
    return ModelMissingError(
        f"{model}: no such model or file (known models: {', '.join(known)})",
        hint=f'did you mean "{near[0]}"?' if near else "give the path of an .onnx file",
    )
