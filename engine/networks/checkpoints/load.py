"""Load published checkpoints: VarFormer, RestoreVAR, and the VQ-VAE and VAR they build on.

Nothing is guessed silently. `sizes` reads the sizes from the entries, `key_maps` renames the
entries, and every missing, unknown or wrongly shaped entry is an error that names it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from varfix.engine.errors import ModelContractError, ModelMissingError
from varfix.engine.networks.checkpoints.key_maps import (
    DEFORMABLE,
    RESTOREVAR_ENTRY,
    VAR_ENTRY,
    VARFORMER_ENTRY,
    VQVAE_ENTRY,
    restorevar_name,
    unused_entries,
    var_name,
    varformer_name,
    vqvae_name,
)
from varfix.engine.networks.checkpoints.sizes import (
    HINT,
    count,
    refiner_config,
    restorevar_transformer_config,
    var_config,
    vqvae_config,
)
from varfix.engine.networks.layers.vqvae import Vqvae
from varfix.engine.networks.restorevar.model import RestoreVar
from varfix.engine.networks.restorevar.refiner import Refiner
from varfix.engine.networks.restorevar.transformer import RestoreVarTransformer
from varfix.engine.networks.varformer.model import Varformer, VarformerConfig
from varfix.engine.networks.varformer.var import Var, VarConfig

NESTINGS = ("params_ema", "params", "state_dict", "trainer", "var_wo_ddp")
"""Keys under which training programs store their weights, the preferred ones first."""

VQVAE_NESTINGS = ("state_dict", "trainer", "vae_local")
"""The same for the VQ-VAE, which RestoreVAR's training stores next to the transformer."""

MAX_NAMES = 4
"""Names that a message lists; it only counts the rest."""

FOREIGN = {
    "model.diffusion_model.": "a Stable Diffusion checkpoint",
    "first_stage_model.": "a Stable Diffusion checkpoint",
    "unet.": "a diffusion model",
}

Network = TypeVar("Network", bound=nn.Module)


def load_checkpoint(path: Path, nestings: tuple[str, ...] = NESTINGS) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file; no code in it is executed.

    Args:
        path: The file.
        nestings: Keys under which to look for the weights, the preferred ones first.

    Returns:
        The flat state dict. Tensors may be mapped from the file rather than read.

    Raises:
        ModelMissingError: The file does not exist.
        ModelContractError: The file is damaged, contains code, or holds no weights.
    """
    if not path.is_file():
        raise ModelMissingError(f"{path}: no such checkpoint")
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise ModelContractError(
            f"{path.name}: not a checkpoint, or contains more than weights (nothing was executed)",
            hint=HINT,
        ) from error
    except Exception as error:  # damaged bytes can raise anything
        raise ModelContractError(
            f"{path.name}: not a checkpoint, or damaged or incomplete (nothing was executed)",
            hint="download the file again",
        ) from error
    try:
        return flat_state(content, nestings)
    except ModelContractError as error:
        raise ModelContractError(f"{path.name}: {error.message}", hint=error.hint) from error


def load_varformer(state: Mapping[str, object], depth: int | None = None) -> Varformer:
    """Build VarFormer from the entries of the published checkpoint.

    Args:
        state: The flat state dict, or a dict that nests it. The network shares its float32 tensors.
        depth: Required number of transformer blocks; None for any.

    Raises:
        ModelContractError: The entries are another network's, or of another depth.
    """
    flat = flat_state(state)
    require_entry(flat, VARFORMER_ENTRY, "VarFormer checkpoint")
    deformable = [name for name in flat if DEFORMABLE.fullmatch(name)]
    if deformable:
        raise ModelContractError(
            f"unsupported: the deformable decoder dec_adjust ({abbreviate(deformable)})",
            hint="use the published depth-16 checkpoint",
        )
    config = VarformerConfig(
        vqvae=vqvae_config(flat),
        var=var_config(flat),
        adapter=count(flat, "ft_layers.blks."),
    )
    require_var_shape(config.var, depth)
    return build_from_entries(lambda: Varformer(config), flat, varformer_name)


def load_restorevar(
    transformer_state: Mapping[str, object],
    vae_state: Mapping[str, object],
    depth: int | None = None,
) -> RestoreVar:
    """Build RestoreVAR from the entries of its two published files.

    Args:
        transformer_state: Entries of `restorevar.pth`, or of the training's last checkpoint.
        vae_state: Entries of `vae_restorevar.ckpt`, or of the same checkpoint. The network shares
            its float32 tensors.
        depth: Required number of transformer blocks; None for any.

    Raises:
        ModelContractError: A file is another network's, or the two files do not match.
    """
    parts = load_restorevar_transformer(transformer_state, depth)
    vae = flat_state(vae_state, VQVAE_NESTINGS)
    require_entry(vae, VQVAE_ENTRY, "VQ-VAE checkpoint")
    writer, refiner = (
        cast("RestoreVarTransformer", parts["writer"]),
        cast("Refiner", parts["refiner"]),
    )
    config = replace(vqvae_config(vae), scales=writer.scales)
    ours, theirs = (
        (writer.head.out_features, writer.word.in_features),
        (config.codes, config.latent),
    )
    if ours != theirs:
        raise ModelContractError(
            f"the two files do not match: the transformer has {ours[0]} codes of {ours[1]}"
            f" channels, the VQ-VAE {theirs[0]} of {theirs[1]}"
        )
    vqvae = build_from_entries(lambda: Vqvae(config), vae, vqvae_name)
    return RestoreVar(vqvae, writer, refiner).eval()


def load_restorevar_transformer(
    state: Mapping[str, object], depth: int | None = None
) -> nn.ModuleDict:
    """Build `writer` and `refiner` of RestoreVAR from the entries of `restorevar.pth`.

    Raises:
        ModelContractError: The entries are another network's, or of another depth.
    """
    flat = flat_state(state)
    require_entry(flat, RESTOREVAR_ENTRY, "RestoreVAR checkpoint")
    writer = restorevar_transformer_config(flat)
    require_depth(writer.depth, depth)
    refiner = refiner_config(flat, writer)
    return build_from_entries(
        lambda: nn.ModuleDict(
            {"writer": RestoreVarTransformer(writer), "refiner": Refiner(refiner)}
        ),
        flat,
        restorevar_name,
    )


def load_var_vqvae(state: Mapping[str, object]) -> Vqvae:
    """Build VAR's VQ-VAE from the entries of `vae_ch160v4096z32.pth`.

    Raises:
        ModelContractError: The entries are another network's.
    """
    flat = flat_state(state)
    require_entry(flat, VQVAE_ENTRY, "VQ-VAE checkpoint")
    config = vqvae_config(flat)
    return build_from_entries(lambda: Vqvae(config), flat, vqvae_name)


def load_var(state: Mapping[str, object], depth: int | None = None) -> Var:
    """Build VAR, without cross-attention, from the entries of `var_d16.pth`.

    Raises:
        ModelContractError: The entries are another network's, or of another depth.
    """
    flat = flat_state(state)
    require_entry(flat, VAR_ENTRY, "VAR checkpoint")
    config = var_config(flat)
    require_var_shape(config, depth)
    return build_from_entries(lambda: Var(config), flat, var_name)


def flat_state(content: object, nestings: tuple[str, ...] = NESTINGS) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint, without the dict that nests them."""
    if not isinstance(content, Mapping):
        raise ModelContractError("not a checkpoint: no named weights", hint=HINT)
    for key in nestings:
        if isinstance(content.get(key), Mapping):
            return flat_state(content[key], nestings)
    if not content:
        raise ModelContractError("not a VarFormer checkpoint: empty", hint=HINT)
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise ModelContractError(
            f"not a VarFormer checkpoint: contains more than weights ({abbreviate(others)})",
            hint=HINT,
        )
    return {str(name): value for name, value in content.items()}


def require_entry(state: Mapping[str, Tensor], entry: str, wanted: str) -> None:
    """Reject the checkpoint of another network, and name the network that it resembles."""
    if entry in state:
        return
    guesses = (kind for prefix, kind in FOREIGN.items() for name in state if prefix in name)
    guess = next(guesses, None)
    found = f"it looks like {guess}" if guess else f"it has {abbreviate(list(state))}"
    raise ModelContractError(f"not a {wanted}: no entry {entry}; {found}", hint=HINT)


def require_var_shape(config: VarConfig, wanted: int | None) -> None:
    """Reject a transformer whose depth, heads and width are not those of a VAR."""
    if config.depth != config.heads or config.width != 64 * config.heads:
        raise ModelContractError(
            f"not a VAR: depth {config.depth}, {config.heads} heads, width {config.width}"
            " (depth and heads must be equal, the width 64 times as large)",
            hint=HINT,
        )
    if config.cross > config.depth:
        raise ModelContractError(
            f"not a VarFormer: {config.cross} cross-attention blocks for {config.depth} blocks",
            hint=HINT,
        )
    require_depth(config.depth, wanted)


def require_depth(found: int, wanted: int | None) -> None:
    """Reject another number of transformer blocks."""
    if wanted is not None and found != wanted:
        raise ModelContractError(f"depth {found}, expected {wanted}", hint=HINT)


def build_from_entries(
    build: Callable[[], Network],
    state: Mapping[str, Tensor],
    rename: Callable[[str], str | None],
) -> Network:
    """Build a network around the tensors of a checkpoint.

    It is built on the meta device, so that the weights are in memory only once.

    Raises:
        ModelContractError: Names or shapes are not the network's.
    """
    dropped = unused_entries(state)
    names = {name: rename(name) for name in state if name not in dropped}
    with torch.device("meta"):
        network = build()
    wanted = network.state_dict()
    require_names(names, set(wanted))
    here = {new: state[name] for name, new in names.items() if new is not None}
    require_shapes(here, wanted, names)
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in here.items()}, assign=True)
    return network.eval()


def require_names(names: Mapping[str, str | None], wanted: set[str]) -> None:
    """Reject unknown entries (by their published names) and missing ones (by their names here)."""
    unknown = [name for name, new in names.items() if new not in wanted]
    if unknown:
        raise ModelContractError(f"unknown entries: {abbreviate(unknown)}", hint=HINT)
    missing = sorted(wanted - set(names.values()))
    if missing:
        raise ModelContractError(f"missing entries: {abbreviate(missing)}", hint=HINT)


def require_shapes(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    names: Mapping[str, str | None],
) -> None:
    """Reject entries of another shape, or that are not floating-point numbers."""
    published = {new: name for name, new in names.items()}
    wrong = [
        f"{published[name]} is {shape(tensor)}, expected {shape(wanted[name])}"
        for name, tensor in state.items()
        if tensor.shape != wanted[name].shape or not tensor.is_floating_point()
    ]
    if wrong:
        raise ModelContractError(f"unexpected shapes: {abbreviate(wrong)}", hint=HINT)


def shape(tensor: Tensor) -> str:
    """Return shape and type as text: 3x160x3x3 float32."""
    sizes = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{sizes} {str(tensor.dtype).removeprefix('torch.')}"


def abbreviate(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
