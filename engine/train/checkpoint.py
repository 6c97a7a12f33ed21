"""States of a run and finished weights on disk; both appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from varfix.engine.errors import ModelContractError, ModelMissingError
from varfix.engine.system.atomic import replacement


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write a state and flush it to the disk, then replace the last one."""
    with replacement(path) as part:
        torch.save(state, part)


def load_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The last state, or None where a run begins. Loads tensors only, never code."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights of a network as safetensors."""
    with replacement(path) as part:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, part)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load safetensors into a network, strictly.

    Raises:
        ModelMissingError: If there is no such file.
        ModelContractError: If names or shapes are not the network's.
    """
    if not path.is_file():
        raise ModelMissingError(f"{path}: no such checkpoint")
    try:
        model.load_state_dict(load_file(path), strict=True)
    except Exception as error:
        raise ModelContractError(
            f"{path.name}: not the weights of this network ({error})",
            hint="varfix export-onnx wants the weights.safetensors of varfix train",
        ) from error
