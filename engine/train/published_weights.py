"""Loads published weights as initial ones: VAR, VarFormer, RestoreVAR and MobileNetV2.

The entries of a file show what it contains; each goes to the matching part of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from varfix.engine.errors import ModelContractError, ModelMissingError
from varfix.engine.networks.checkpoints.key_maps import (
    RESTOREVAR_ENTRY,
    VAR_ENTRY,
    VARFORMER_ENTRY,
    VQVAE_ENTRY,
)
from varfix.engine.networks.checkpoints.load import (
    load_checkpoint,
    load_restorevar_transformer,
    load_var,
    load_var_vqvae,
    load_varformer,
)
from varfix.engine.networks.layers.mobilenet import MOBILENET_ENTRY, load_mobilenet

SUFFIXES = (".pth", ".ckpt", ".pt")

PARTS: Mapping[str, tuple[str, Callable[[Mapping[str, Tensor]], nn.Module]]] = {
    VARFORMER_ENTRY: ("", load_varformer),
    RESTOREVAR_ENTRY: ("", load_restorevar_transformer),
    VQVAE_ENTRY: ("vqvae", load_var_vqvae),
    VAR_ENTRY: ("var", load_var),
    MOBILENET_ENTRY: ("prior.judge.trunk", load_mobilenet),
}
"""For each network: an entry that identifies it, the part of the network to load, and the loader.
Files that contain the entries of others come first."""


def load_published(model: nn.Module, path: Path) -> list[str]:
    """Load published weights into a network, in place.

    Args:
        model: The network.
        path: A published checkpoint, or a folder of several.

    Returns:
        Names of weights that no file contains, which are not changed.

    Raises:
        ModelMissingError: The file does not exist, or the folder contains none.
        ModelContractError: A file is another network's, or its weights do not fit the network.
    """
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise ModelMissingError(
            f"{path}: no published checkpoint in this folder ({', '.join(SUFFIXES)})"
        )
    filled = {name for file in files for name in _load(model, file)}
    return sorted(model.state_dict().keys() - filled)


def _load(model: nn.Module, path: Path) -> list[str]:
    """Load one file; return the names of its weights."""
    state = load_checkpoint(path)
    entry = next((entry for entry in PARTS if entry in state), None)
    if entry is None:
        raise ModelContractError(
            f"{path.name}: not a published checkpoint of VAR, VarFormer, RestoreVAR or MobileNetV2",
            hint="use vae_ch160v4096z32.pth, var_d16.pth, or a published network",
        )
    part, load = PARTS[entry]
    try:
        part, weights = _locate(model, part, load(state).state_dict())
        own = model.get_submodule(part)
        unknown = own.load_state_dict(weights, strict=False).unexpected_keys
    except (AttributeError, RuntimeError) as error:  # another part, or other sizes
        raise ModelContractError(f"{path.name}: not of this network ({error})") from error
    if unknown:
        raise ModelContractError(f"{path.name}: not of this network (it has no {unknown[0]})")
    return [f"{part}.{name}" if part else name for name in weights]


def _locate(
    model: nn.Module, part: str, weights: dict[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """Return the part of the network for the weights, and those that it has.

    RestoreVAR's transformer (`writer`) is VAR without AdaLN and position tables; it takes the rest.
    """
    if part == "var" and hasattr(model, "writer"):
        own = model.get_submodule("writer").state_dict()
        return "writer", {name: value for name, value in weights.items() if name in own}
    return part, weights
