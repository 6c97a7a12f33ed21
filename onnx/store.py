"""Where a model's files are: a registry name or a path becomes graph files on disk."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from varfix.engine.errors import ModelMissingError
from varfix.engine.models import MODELS, ModelEntry
from varfix.onnx.card import checked_digest, prior_path

_HALF_SUFFIX: Final = ".fp16.onnx"


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        name: Registry name, or the file's stem.
        restore: The restore graph.
        prior: Where the prior graph lies; only models guided by the whole picture have it.
        half: Where the restore graph in half precision lies, if there is one.
    """

    name: str
    restore: Path
    prior: Path
    half: Path


def find_model(model: str) -> ModelFiles:
    """Return the files of the model called `model`, or of the `.onnx` file at that path.

    Raises:
        ModelMissingError: No such name, no such file, or a known model that is not installed.
    """
    if model in MODELS:
        return _shipped(MODELS[model])
    path = Path(model)
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
    half = path.with_name(path.name.removesuffix(".onnx") + _HALF_SUFFIX)
    return ModelFiles(name=name, restore=path, prior=prior_path(path), half=half)


def _unknown(model: str) -> ModelMissingError:
    near = difflib.get_close_matches(model, MODELS, n=1)
    hint = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(MODELS)}."
    return ModelMissingError(
        f"{model}: no model of this name, and no file.",
        hint=f"{hint} Or give the path of an .onnx file.",
    )
