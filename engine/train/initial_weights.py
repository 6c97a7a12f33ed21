"""Loads initial weights: those of another run, or of an exported model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from varfix.engine.errors import ModelContractError, ModelMissingError
from varfix.engine.models.card import SPECIALISTS
from varfix.engine.train.checkpoint import load_weights
from varfix.engine.train.published_weights import SUFFIXES, load_published

TRAINING_ONLY = "prior.vqvae."
"""Weights that an exported model lacks, except for the codebook."""

HALF = ".half"
"""Suffix of exported weights that are stored as fp16."""

INT8, SCALE = ".int8", ".scale"
"""Suffixes of exported weights that are stored as int8, and of their scales."""


def load_initial(model: nn.Module, path: Path) -> list[str]:
    """Load weights into a network, in place.

    Args:
        model: The network.
        path: `weights.safetensors` of a run; or `NAME.onnx` of an exported model, with
            `NAME.prior.onnx` next to it; or `NAME.SPECIALIST.onnx`; or what `load_published`
            accepts.

    Returns:
        Names of weights that an exported model does not contain, which are not changed. Only
        training needs them, such as the decoder of the VQ-VAE.

    Raises:
        ModelMissingError: The file does not exist.
        ModelContractError: The weights are not the network's.
    """
    if path.is_dir() or path.suffix in SUFFIXES:
        return load_published(model, path)
    if path.suffix != ".onnx":
        load_weights(model, path)
        return []
    if not path.is_file():
        raise ModelMissingError(f"{path}: no such model")
    own = model.state_dict()
    found = {name: value for name, value in _exported(path) if name in own}
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise ModelContractError(
                f"{path.name}: {name} is {tuple(value.shape)}, expected {tuple(own[name].shape)}"
            )
    if not found:
        raise ModelContractError(f"{path.name}: holds no weights of this network")
    missing = sorted(own.keys() - found.keys())
    lacking = [name for name in missing if not name.startswith(TRAINING_ONLY)]
    if lacking:
        raise ModelContractError(
            f"{path.name}: {lacking[0]} is missing ({len(lacking)} weights are missing)",
            hint="export the model again: early versions did not store the names of weights",
        )
    model.load_state_dict(found, strict=False)
    return missing


def load_partial(model: nn.Module, path: Path) -> None:
    """Load a file with part of a network's weights, such as a run with `minutes` writes.

    Raises:
        ModelMissingError: The file does not exist.
        ModelContractError: The network has no such weights.
    """
    if not path.is_file():
        raise ModelMissingError(f"{path}: no such weights")
    own, found = model.state_dict(), load_file(path)
    for name, value in found.items():
        if name not in own or own[name].shape != value.shape:
            raise ModelContractError(f"{path.name}: {name} is no weight of this network")
    model.load_state_dict({name: value.float() for name, value in found.items()}, strict=False)


def _exported(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield names in the network, and values, of the weights in the files of an exported model."""
    if any(path.name.endswith(f".{name}.onnx") for name in SPECIALISTS):
        yield from _constants(path)
        return
    parts = {"restorer": path, "prior": path.with_name(f"{path.stem}.prior.onnx")}
    for part, file in parts.items():
        if file.is_file():
            for name, value in _constants(file):
                yield f"{part}.{name}", value


def _constants(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield names and values of the constants of a graph, as they were before they were stored."""
    import onnx
    from onnx import numpy_helper

    constants = {c.name: c for c in onnx.load(file).graph.initializer}
    for stored, constant in constants.items():
        value = numpy_helper.to_array(constant)
        name = stored.removeprefix("network.")
        if stored.endswith(INT8):
            scale = constants[stored.removesuffix(INT8) + SCALE]
            product = value.astype(np.float32) * numpy_helper.to_array(scale)
            yield name.removesuffix(INT8), torch.from_numpy(product)
        elif value.dtype.kind == "f" and stored.removesuffix(SCALE) + INT8 not in constants:
            yield name.removesuffix(HALF), torch.from_numpy(value.copy()).float()
