"""Reads the tensors of any checkpoint, as safetensors or as a pickle without code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from varfix.engine.errors import ModelContractError, ModelMissingError

NESTINGS: Final = (
    "params_ema",
    "params-ema",
    "params",
    "model_state_dict",
    "state_dict",
    "model",
    "net",
)
"""Keys under which training programs store their weights, the preferred ones first."""

_DEPTH: Final = 3  # nested dicts that are searched for weights


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint; no code in it is executed.

    Other values next to the tensors, such as the number of steps, are left out.

    Args:
        path: A .safetensors file, or a file that torch.save wrote.

    Raises:
        ModelMissingError: The file does not exist.
        ModelContractError: The file is damaged, contains code, or holds no tensors.
    """
    if not path.is_file():
        raise ModelMissingError(f"{path}: no such checkpoint")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    found = _named_tensors(content)
    if not found:
        raise ModelContractError(
            f"{path.name}: not a checkpoint: no named weights",
            hint="use a file with the weights of a network",
        )
    return found


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelContractError(
            f"{path.name}: not a safetensors file, or damaged or incomplete",
            hint="download the file again",
        ) from error


def _pickled(path: Path) -> Any:
    try:
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise ModelContractError(
            f"{path.name}: not a checkpoint, or contains more than weights (nothing was executed)",
            hint="use a file that holds tensors only, best as .safetensors",
        ) from error
    except Exception as error:  # damaged bytes can raise anything
        raise ModelContractError(
            f"{path.name}: not a checkpoint, or damaged or incomplete (nothing was executed)",
            hint="download the file again",
        ) from error


def _named_tensors(content: object, depth: int = _DEPTH) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    if depth:
        for key in NESTINGS:
            if isinstance(content.get(key), Mapping):
                return _named_tensors(content[key], depth - 1)
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
