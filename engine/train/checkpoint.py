"""Writes and reads states of a run and trained weights; every file is written atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from varfix.engine.errors import ConfigError, ModelContractError, ModelMissingError
from varfix.engine.system.atomic import replacement

PART_BYTES = 15 << 20
"""Largest size of a part in bytes. Services that lend machines for minutes return files of at most
16 MiB."""


def save_state(state: dict[str, Any], path: Path) -> None:
    """Replace the state of a run; the new file is flushed to the disk first."""
    with replacement(path) as part:
        torch.save(state, part)


def load_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the last state; None for a new run. Only tensors are loaded, no code.

    Raises:
        ConfigError: The state is of version 0.1, whose steps and batches differ.
    """
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if "balance" not in state:
        raise ConfigError(
            f"{path}: cannot be resumed (varfix 0.1 wrote it)",
            hint="give another folder: --out DIR",
        )
    return state


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights of a network as safetensors."""
    with replacement(path) as part:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, part)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load safetensors into a network, strictly.

    Raises:
        ModelMissingError: The file does not exist.
        ModelContractError: Names or shapes are not the network's.
    """
    if not path.is_file():
        raise ModelMissingError(f"{path}: no such checkpoint")
    try:
        model.load_state_dict(load_file(path), strict=True)
    except Exception as error:
        raise ModelContractError(
            f"{path.name}: not the weights of this network ({error})",
            hint="use the weights.safetensors of a run of varfix train",
        ) from error


def save_parts(weights: Mapping[str, Tensor], folder: Path, stem: str) -> list[Path]:
    """Write weights as fp16 to `STEM-0.safetensors`, `STEM-1.safetensors`, ...

    Each file is written atomically and has less than 16 MiB, unless a single weight has more.

    Returns:
        The files.
    """
    parts: list[dict[str, Tensor]] = [{}]
    remaining = PART_BYTES
    for name, value in weights.items():
        size = 2 * value.numel()
        if size > remaining and parts[-1]:
            parts.append({})
            remaining = PART_BYTES
        parts[-1][name] = value.detach().to(torch.float16).contiguous().cpu()
        remaining -= size
    files = [folder / f"{stem}-{number}.safetensors" for number in range(len(parts))]
    for file, weights_of_part in zip(files, parts, strict=True):
        with replacement(file) as part:
            save_file(weights_of_part, part)
    return files
