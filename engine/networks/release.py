"""Public checkpoints to networks: VarFormer, and the VQ-VAE and VAR on which it stands.

Nothing is guessed silently. Sizes are read from the entries themselves, names go through the one
table in `release_names`, and what is missing, unknown or of another shape is refused by name.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from varfix.engine.errors import ModelContractError, ModelMissingError
from varfix.engine.networks.release_names import (
    DEFORMABLE,
    never_used,
    var_name,
    varformer_name,
    vqvae_name,
)
from varfix.engine.networks.var import Var, VarConfig
from varfix.engine.networks.varformer import Varformer, VarformerConfig
from varfix.engine.networks.vqvae import Vqvae, VqvaeConfig

NESTINGS = ("params_ema", "params", "state_dict")
"""Keys under which training programs keep their weights, the better ones first."""

NAMED = 4
"""Names that a message lists; the rest are counted."""

HINT = "varfix takes the released net_g_last.pth, or a checkpoint of the same network"
VQVAE_ENTRY = "encoder.conv_in.weight"
VAR_ENTRY = "word_embed.weight"
VARFORMER_ENTRY = "main_decoder.theta"
FOREIGN = {
    "model.diffusion_model.": "a Stable Diffusion checkpoint",
    "first_stage_model.": "a Stable Diffusion checkpoint",
    "unet.": "a diffusion model",
}

Network = TypeVar("Network", bound=nn.Module)


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file, executing nothing that it contains.

    Returns:
        The flat state dict, from `params_ema` or `params` where the file nests it. Tensors may be
        mapped from the file rather than read.

    Raises:
        ModelMissingError: If there is no such file.
        ModelContractError: If the file is damaged, contains code, or holds no weights.
    """
    if not path.is_file():
        raise ModelMissingError(f"{path}: no such checkpoint")
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise ModelContractError(
            f"{path.name}: contains more than weights, or is no checkpoint; nothing was executed",
            hint=HINT,
        ) from error
    except Exception as error:  # damaged bytes can raise anything
        raise ModelContractError(
            f"{path.name}: damaged, incomplete or no checkpoint; nothing was executed",
            hint="download the file again",
        ) from error
    try:
        return flat_state(content)
    except ModelContractError as error:
        raise ModelContractError(f"{path.name}: {error.message}", hint=error.hint) from error


def load_varformer(state: Mapping[str, object], depth: int | None = None) -> Varformer:
    """Build VarFormer from the released checkpoint's entries.

    Args:
        state: the flat state dict, or one that nests it. Its tensors become the network's, without
            a copy where they are float32.
        depth: refuse any other number of transformer blocks.

    Raises:
        ModelContractError: If this is another network, or of another depth than asked for.
    """
    flat = flat_state(state)
    refuse_foreign(flat, VARFORMER_ENTRY, "VarFormer checkpoint")
    deformable = [name for name in flat if DEFORMABLE.fullmatch(name)]
    if deformable:
        raise ModelContractError(
            f"VarFormer with the deformable decoder (dec_adjust): {listed(deformable)}",
            hint="only the decoder of the released depth-16 model is supported",
        )
    config = VarformerConfig(
        vqvae=vqvae_config(flat),
        var=var_config(flat),
        adapter=count(flat, "ft_layers.blks."),
    )
    refuse_depth(config.var, depth)
    return adopt(lambda: Varformer(config), flat, varformer_name)


def load_var_vqvae(state: Mapping[str, object]) -> Vqvae:
    """Build VAR's VQ-VAE from its public file's entries (`vae_ch160v4096z32.pth`).

    Raises:
        ModelContractError: If this is another network.
    """
    flat = flat_state(state)
    refuse_foreign(flat, VQVAE_ENTRY, "VQ-VAE checkpoint")
    config = vqvae_config(flat)
    return adopt(lambda: Vqvae(config), flat, vqvae_name)


def load_var(state: Mapping[str, object], depth: int | None = None) -> Var:
    """Build VAR, without cross-attention, from its public file's entries (`var_d16.pth`).

    Raises:
        ModelContractError: If this is another network, or of another depth than asked for.
    """
    flat = flat_state(state)
    refuse_foreign(flat, VAR_ENTRY, "VAR checkpoint")
    config = var_config(flat)
    refuse_depth(config, depth)
    return adopt(lambda: Var(config), flat, var_name)


def flat_state(content: object) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, out of its nesting if there is one."""
    if not isinstance(content, Mapping):
        raise ModelContractError("not a checkpoint: no named weights", hint=HINT)
    for key in NESTINGS:
        if isinstance(content.get(key), Mapping):
            return flat_state(content[key])
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers or not content:
        raise ModelContractError(
            f"not a VarFormer checkpoint: other things than weights in it ({listed(strangers)})",
            hint=HINT,
        )
    return {str(name): value for name, value in content.items()}


def refuse_foreign(state: Mapping[str, Tensor], entry: str, wanted: str) -> None:
    """Say what the checkpoint of another network seems to be."""
    if entry in state:
        return
    guesses = (kind for prefix, kind in FOREIGN.items() for name in state if prefix in name)
    seems = next(guesses, None)
    found = f"it looks like {seems}" if seems else f"it has {listed(list(state))}"
    raise ModelContractError(f"not a {wanted}: no entry {entry}; {found}", hint=HINT)


def refuse_depth(config: VarConfig, wanted: int | None) -> None:
    """Refuse a transformer whose depth is not its width's, or not the one asked for."""
    if config.depth != config.heads or config.width != 64 * config.heads:
        raise ModelContractError(
            f"{config.depth} transformer blocks of width {config.width} with {config.heads} heads:"
            " not a VAR, where depth and heads are equal and the width is 64 times as large",
            hint=HINT,
        )
    if config.cross > config.depth:
        raise ModelContractError(
            f"{config.cross} cross-attention blocks for {config.depth} transformer blocks",
            hint=HINT,
        )
    if wanted is not None and config.depth != wanted:
        raise ModelContractError(f"depth {config.depth}, expected {wanted}", hint=HINT)


def vqvae_config(state: Mapping[str, Tensor]) -> VqvaeConfig:
    """Sizes of the VQ-VAE as its entries show them."""
    channels = length(state, VQVAE_ENTRY)
    levels = range(count(state, "encoder.down."))
    widths = [length(state, f"encoder.down.{i}.block.0.conv1.weight") for i in levels]
    return VqvaeConfig(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=count(state, "encoder.down.0.block."),
        latent=length(state, "quant_conv.weight"),
        codes=length(state, "quantize.embedding.weight"),
    )


def var_config(state: Mapping[str, Tensor]) -> VarConfig:
    """Sizes of the transformer as its entries show them."""
    return VarConfig(
        width=length(state, VAR_ENTRY),
        heads=length(state, "blocks.0.attn.scale_mul_1H11", axis=1),
        depth=count(state, "blocks."),
        cross=count(state, "cross_attn_blocks."),
        latent=length(state, VAR_ENTRY, axis=1),
        codes=length(state, "head.weight"),
        classes=length(state, "class_emb.weight") - 1,
    )


def length(state: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    """Length of an entry along an axis."""
    if name not in state or state[name].ndim <= axis:
        raise ModelContractError(f"checkpoint without a usable entry {name}", hint=HINT)
    return state[name].shape[axis]


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers follow a prefix among the names."""
    rests = (name.removeprefix(prefix) for name in state if name.startswith(prefix))
    return len({rest.split(".")[0] for rest in rests})


def adopt(
    build: Callable[[], Network],
    state: Mapping[str, Tensor],
    name_here: Callable[[str], str | None],
) -> Network:
    """Build a network around the tensors of a checkpoint.

    It is built without memory for weights, so that a checkpoint is in memory only once.

    Raises:
        ModelContractError: If names or shapes are not the network's.
    """
    dropped = never_used(state)
    names = {name: name_here(name) for name in state if name not in dropped}
    with torch.device("meta"):
        network = build()
    wanted = network.state_dict()
    refuse_names(names, set(wanted))
    here = {new: state[name] for name, new in names.items() if new is not None}
    refuse_shapes(here, wanted, names)
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in here.items()}, assign=True)
    return network.eval()


def refuse_names(names: Mapping[str, str | None], wanted: set[str]) -> None:
    """Refuse unknown entries (under their public names) and missing ones (under ours)."""
    unknown = [name for name, new in names.items() if new not in wanted]
    if unknown:
        raise ModelContractError(f"unknown entries: {listed(unknown)}", hint=HINT)
    missing = sorted(wanted - set(names.values()))
    if missing:
        raise ModelContractError(f"missing entries: {listed(missing)}", hint=HINT)


def refuse_shapes(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    names: Mapping[str, str | None],
) -> None:
    """Refuse entries of another shape, or that are not numbers."""
    public = {new: name for name, new in names.items()}
    wrong = [
        f"{public[name]} is {shape(tensor)}, expected {shape(wanted[name])}"
        for name, tensor in state.items()
        if tensor.shape != wanted[name].shape or not tensor.is_floating_point()
    ]
    if wrong:
        raise ModelContractError(f"entries of another shape: {listed(wrong)}", hint=HINT)


def shape(tensor: Tensor) -> str:
    """A shape and type as people write them: 3x160x3x3 float32."""
    sizes = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{sizes} {str(tensor.dtype).removeprefix('torch.')}"


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
