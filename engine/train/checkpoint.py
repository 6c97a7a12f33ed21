"""States of a run and finished weights on disk; both appear whole or not at all."""

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
"""Weights of a part: machines that lend minutes give back files of at most 16 MiB."""


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write a state and flush it to the disk, then replace the last one."""
    with replacement(path) as part:
        torch.save(state, part)


def load_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the last state, or None where a run begins. Loads tensors only, never code.

    Raises:
        ConfigError: The state is from version 0.1, whose steps and batches were others.
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


def save_parts(weights: Mapping[str, Tensor], folder: Path, stem: str) -> list[Path]:
    """Write weights in half precision to `STEM-0.safetensors`, `STEM-1.safetensors`, ...

    Each file appears whole and has less than 16 MiB, unless a single weight has more.

    Returns:
        The files.
    """
    boxes: list[dict[str, Tensor]] = [{}]
    room = PART_BYTES
    for name, value in weights.items():
        size = 2 * value.numel()
        if size > room and boxes[-1]:
            boxes.append({})
            room = PART_BYTES
        boxes[-1][name] = value.detach().to(torch.float16).contiguous().cpu()
        room -= size
    files = [folder / f"{stem}-{number}.safetensors" for number in range(len(boxes))]
    for file, box in zip(files, boxes, strict=True):
        with replacement(file) as part:
            save_file(box, part)
    return files
