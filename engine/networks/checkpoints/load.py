"""Public checkpoints to networks: VarFormer, RestoreVAR, the VQ-VAE and VAR they stand on.

Nothing is guessed silently. Sizes are read from the entries themselves, names go through the one
table in `release_names`, and what is missing, unknown or of another shape is refused by name.
"""

from __future__ import annotations

import math
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
    never_used,
    var_name,
    varformer_name,
    vqvae_name,
)
from varfix.engine.networks.checkpoints.restorevar_names import REFINER_PREFIX, restorevar_name
from varfix.engine.networks.layers.quantizer import FINE_SCALES, PHI_OF_SCALE, SCALES
from varfix.engine.networks.layers.vqvae import Vqvae, VqvaeConfig
from varfix.engine.networks.restorevar.model import RestoreVar
from varfix.engine.networks.restorevar.refiner import Refiner, RefinerConfig
from varfix.engine.networks.restorevar.transformer import Writer, WriterConfig
from varfix.engine.networks.varformer.model import Varformer, VarformerConfig
from varfix.engine.networks.varformer.var import Var, VarConfig

NESTINGS = ("params_ema", "params", "state_dict", "trainer", "var_wo_ddp")
"""Keys under which training programs keep their weights, the better ones first."""

VQVAE_NESTINGS = ("state_dict", "trainer", "vae_local")
"""The same for the VQ-VAE, which RestoreVAR's training keeps beside the transformer."""

NAMED = 4
"""Names that a message lists; the rest are counted."""

HINT = "varfix takes the released net_g_last.pth, or a checkpoint of the same network"
VQVAE_ENTRY = "encoder.conv_in.weight"
VAR_ENTRY = "word_embed.weight"
RESTOREVAR_ENTRY = "global_embed_gain"
VARFORMER_ENTRY = "main_decoder.theta"
FOREIGN = {
    "model.diffusion_model.": "a Stable Diffusion checkpoint",
    "first_stage_model.": "a Stable Diffusion checkpoint",
    "unet.": "a diffusion model",
}

Network = TypeVar("Network", bound=nn.Module)


def load_checkpoint(path: Path, nestings: tuple[str, ...] = NESTINGS) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file, executing nothing that it contains.

    Args:
        path: the file.
        nestings: keys under which to look for the weights, the better ones first.

    Returns:
        The flat state dict. Tensors may be mapped from the file rather than read.

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
        return flat_state(content, nestings)
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


def load_restorevar(
    transformer_state: Mapping[str, object],
    vae_state: Mapping[str, object],
    depth: int | None = None,
) -> RestoreVar:
    """Build RestoreVAR from the entries of its two released files.

    Args:
        transformer_state: of `restorevar.pth`, or of the training's last checkpoint.
        vae_state: of `vae_restorevar.ckpt`, or of the same checkpoint. Tensors become the
            network's, without a copy where they are float32.
        depth: refuse any other number of transformer blocks.

    Raises:
        ModelContractError: If one of them is another network's, or they do not fit together.
    """
    parts = load_writing(transformer_state, depth)
    vae = flat_state(vae_state, VQVAE_NESTINGS)
    refuse_foreign(vae, VQVAE_ENTRY, "VQ-VAE checkpoint")
    writer, refiner = cast("Writer", parts["writer"]), cast("Refiner", parts["refiner"])
    config = replace(vqvae_config(vae), scales=writer.scales)
    ours, theirs = (
        (writer.head.out_features, writer.word.in_features),
        (config.codes, config.latent),
    )
    if ours != theirs:
        raise ModelContractError(
            f"the two files do not fit together: {ours[0]} codes of {ours[1]} channels in one,"
            f" {theirs[0]} of {theirs[1]} in the other"
        )
    vqvae = adopt(lambda: Vqvae(config), vae, vqvae_name)
    return RestoreVar(vqvae, writer, refiner).eval()


def load_writing(state: Mapping[str, object], depth: int | None = None) -> nn.ModuleDict:
    """Build `writer` and `refiner` of RestoreVAR from the entries of its own file.

    Raises:
        ModelContractError: If this is another network, or of another depth than asked for.
    """
    flat = flat_state(state)
    refuse_foreign(flat, RESTOREVAR_ENTRY, "RestoreVAR checkpoint")
    writer = writer_config(flat)
    refuse_other_depth(writer.depth, depth)
    refiner = refiner_config(flat, writer)
    return adopt(
        lambda: nn.ModuleDict({"writer": Writer(writer), "refiner": Refiner(refiner)}),
        flat,
        restorevar_name,
    )


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


def flat_state(content: object, nestings: tuple[str, ...] = NESTINGS) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, out of its nesting if there is one."""
    if not isinstance(content, Mapping):
        raise ModelContractError("not a checkpoint: no named weights", hint=HINT)
    for key in nestings:
        if isinstance(content.get(key), Mapping):
            return flat_state(content[key], nestings)
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
    refuse_other_depth(config.depth, wanted)


def refuse_other_depth(found: int, wanted: int | None) -> None:
    """Refuse another number of transformer blocks than the one asked for."""
    if wanted is not None and found != wanted:
        raise ModelContractError(f"depth {found}, expected {wanted}", hint=HINT)


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


def writer_config(state: Mapping[str, Tensor]) -> WriterConfig:
    """Sizes of RestoreVAR's transformer as its entries show them."""
    var = var_config(state)
    return WriterConfig(
        width=var.width,
        heads=var.heads,
        depth=var.depth,
        latent=var.latent,
        codes=var.codes,
        classes=var.classes,
        scales=token_scales(state),
    )


def refiner_config(state: Mapping[str, Tensor], writer: WriterConfig) -> RefinerConfig:
    """Sizes of RestoreVAR's refiner as its entries show them."""
    position = f"{REFINER_PREFIX}pos_embedding_cond"
    width = length(state, position, axis=2)
    return RefinerConfig(
        width=width,
        heads=width // math.gcd(width, 64),  # 64 channels a head, or fewer if it must be
        depth=count(state, f"{REFINER_PREFIX}transformer.layers."),
        feed=length(state, f"{REFINER_PREFIX}transformer.layers.0.1.net.1.weight"),
        latent=writer.latent,
        states=writer.width,
        side=writer.scales[-1],
        length=length(state, position, axis=1),
    )


def token_scales(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Sides of RestoreVAR's token maps: counted in `lvl_1L` if it is there, else by their number.

    Raises:
        ModelContractError: If they are not those of a square latent that is known here.
    """
    if "lvl_1L" in state:
        counted = torch.bincount(state["lvl_1L"].flatten().long()).tolist()
        scales = tuple(math.isqrt(many) for many in counted)
    else:
        area = length(state, f"{REFINER_PREFIX}pos_embedding", axis=1)
        scales = next((s for s in (FINE_SCALES, SCALES) if s[-1] ** 2 == area), ())
    if len(scales) != length(state, "lvl_embed.weight") or len(scales) not in PHI_OF_SCALE:
        raise ModelContractError(
            f"RestoreVAR with token maps of the sides {scales or 'unknown'}",
            hint="the released network has ten, from 1 to 32",
        )
    return scales


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
