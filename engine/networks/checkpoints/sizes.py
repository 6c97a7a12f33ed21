"""Sizes of a published network, read from the shapes of its checkpoint's entries."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from varfix.engine.errors import ModelContractError
from varfix.engine.networks.checkpoints.key_maps import REFINER_PREFIX, VAR_ENTRY, VQVAE_ENTRY
from varfix.engine.networks.layers.quantizer import FINE_SCALES, PHI_OF_SCALE, SCALES
from varfix.engine.networks.layers.vqvae import VqvaeConfig
from varfix.engine.networks.restorevar.refiner import RefinerConfig
from varfix.engine.networks.restorevar.transformer import RestoreVarTransformerConfig
from varfix.engine.networks.varformer.var import VarConfig

HINT = "use the published net_g_last.pth, or a checkpoint of the same network"


def vqvae_config(state: Mapping[str, Tensor]) -> VqvaeConfig:
    """Return the sizes of the VQ-VAE."""
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
    """Return the sizes of the VAR transformer."""
    return VarConfig(
        width=length(state, VAR_ENTRY),
        heads=length(state, "blocks.0.attn.scale_mul_1H11", axis=1),
        depth=count(state, "blocks."),
        cross=count(state, "cross_attn_blocks."),
        latent=length(state, VAR_ENTRY, axis=1),
        codes=length(state, "head.weight"),
        classes=length(state, "class_emb.weight") - 1,
    )


def restorevar_transformer_config(state: Mapping[str, Tensor]) -> RestoreVarTransformerConfig:
    """Return the sizes of RestoreVAR's transformer."""
    var = var_config(state)
    return RestoreVarTransformerConfig(
        width=var.width,
        heads=var.heads,
        depth=var.depth,
        latent=var.latent,
        codes=var.codes,
        classes=var.classes,
        scales=token_scales(state),
    )


def refiner_config(
    state: Mapping[str, Tensor], writer: RestoreVarTransformerConfig
) -> RefinerConfig:
    """Return the sizes of RestoreVAR's refiner."""
    position = f"{REFINER_PREFIX}pos_embedding_cond"
    width = length(state, position, axis=2)
    return RefinerConfig(
        width=width,
        heads=width
        // math.gcd(width, 64),  # 64 channels per head, fewer if they do not divide the width
        depth=count(state, f"{REFINER_PREFIX}transformer.layers."),
        feed=length(state, f"{REFINER_PREFIX}transformer.layers.0.1.net.1.weight"),
        latent=writer.latent,
        states=writer.width,
        side=writer.scales[-1],
        length=length(state, position, axis=1),
    )


def token_scales(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the sides of RestoreVAR's token maps.

    `lvl_1L` holds the scale of every token; checkpoints without it are recognized by the latent.

    Raises:
        ModelContractError: The sides are not those of a supported latent.
    """
    if "lvl_1L" in state:
        counted = torch.bincount(state["lvl_1L"].flatten().long()).tolist()
        scales = tuple(math.isqrt(tokens) for tokens in counted)
    else:
        area = length(state, f"{REFINER_PREFIX}pos_embedding", axis=1)
        scales = next((s for s in (FINE_SCALES, SCALES) if s[-1] ** 2 == area), ())
    if len(scales) != length(state, "lvl_embed.weight") or len(scales) not in PHI_OF_SCALE:
        raise ModelContractError(
            f"unsupported token maps: RestoreVAR with sides {scales or 'unknown'}",
            hint="use the published network, whose ten maps have sides from 1 to 32",
        )
    return scales


def length(state: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    """Return the length of an entry along an axis.

    Raises:
        ModelContractError: The entry is missing, or has fewer axes.
    """
    if name not in state or state[name].ndim <= axis:
        raise ModelContractError(f"missing or malformed checkpoint entry: {name}", hint=HINT)
    return state[name].shape[axis]


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many different indices follow a prefix among the names."""
    rests = (name.removeprefix(prefix) for name in state if name.startswith(prefix))
    return len({rest.split(".")[0] for rest in rests})
