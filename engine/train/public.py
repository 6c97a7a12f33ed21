"""Weights that others published, as a beginning.

VAR's two parts, VarFormer, RestoreVAR, and the ImageNet-trained trunk of the judge.

Which of them a file holds shows in its entries; each goes to the part of the network that it is of.
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
"""Entry by which a file is known, the part of the network that it fills, and its loader. The
larger files, which hold the entries of the smaller ones too, stand first."""


def load_public(model: nn.Module, path: Path) -> list[str]:
    """Load public weights into a network, in place.

    Args:
        model: the network.
        path: a public checkpoint, or a folder of several.

    Returns:
        Names of weights that are in none of the files, and stay as they were.

    Raises:
        ModelMissingError: There is no such file, or none in the folder.
        ModelContractError: A file is not one of those, or its weights do not fit the network.
    """
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise ModelMissingError(f"{path}: no public checkpoint in it ({', '.join(SUFFIXES)})")
    filled = {name for file in files for name in _load(model, file)}
    return sorted(model.state_dict().keys() - filled)


def _load(model: nn.Module, path: Path) -> list[str]:
    """Load one file; return the names of the weights that it held."""
    state = load_checkpoint(path)
    entry = next((entry for entry in PARTS if entry in state), None)
    if entry is None:
        raise ModelContractError(
            f"{path.name}: neither VAR's VQ-VAE nor its transformer, VarFormer nor MobileNetV2",
            hint="training begins with vae_ch160v4096z32.pth, var_d16.pth or a released network",
        )
    part, load = PARTS[entry]
    try:
        part, weights = _placed(model, part, load(state).state_dict())
        own = model.get_submodule(part)
        unknown = own.load_state_dict(weights, strict=False).unexpected_keys
    except (AttributeError, RuntimeError) as error:  # no such part, or of other sizes
        raise ModelContractError(f"{path.name}: not of this network ({error})") from error
    if unknown:
        raise ModelContractError(f"{path.name}: not of this network (it has no {unknown[0]})")
    return [f"{part}.{name}" if part else name for name in weights]


def _placed(
    model: nn.Module, part: str, weights: dict[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """Where weights belong in this network, and which of them.

    RestoreVAR's writer is VAR with neither AdaLN nor tables of positions: it takes the rest.
    """
    if part == "var" and hasattr(model, "writer"):
        own = model.get_submodule("writer").state_dict()
        return "writer", {name: value for name, value in weights.items() if name in own}
    return part, weights
