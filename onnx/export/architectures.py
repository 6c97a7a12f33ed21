"""The architectures whose checkpoints can be exported, and how each is exported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from torch import Tensor

from varfix.engine.errors import ConfigError
from varfix.engine.models.card import TASKS, ModelCard
from varfix.engine.networks.checkpoints.load import (
    VQVAE_NESTINGS,
    load_checkpoint,
    load_restorevar,
    load_varformer,
)
from varfix.engine.networks.restorevar.model import RestoreVar, RestoreVarConfig
from varfix.engine.networks.varformer.model import Varformer, VarformerConfig
from varfix.onnx.export.released import Released, export_released
from varfix.onnx.export.released_graphs import (
    EXPLAINED,
    RESTORED,
    TOKENS,
    DecoderGraph,
    Network,
    RestoreVarGraph,
    VarformerGraph,
    restore_with_tokens,
)
from varfix.onnx.export.specialist import export_specialist
from varfix.onnx.export.varformer_s import export_varformer_s

SINGLE: Final = re.compile(r"vqvae\.(encoder|quant)|adapter\.|\.head\.|\.word\.|conv_out")
"""Weights of VarFormer that decide between tokens or compute the pixels: few, but sensitive."""

RESTOREVAR_SINGLE: Final = re.compile(
    r"vqvae\.(encoder|quant)|writer\.(head|word|whole|project|degraded)|conv_out"
)
"""The same for RestoreVAR."""

RESTOREVAR_TASKS: Final = ("auto", "rain", "haze", "lowlight", "blur", "snow")
"""Degradations that the published RestoreVAR was trained for; the network has no task input."""


@dataclass(frozen=True)
class CardFields:
    """Facts that a checkpoint does not contain.

    Attributes:
        training: Description of the training data.
        licence: SPDX expression of the weights.
        depth: Required number of transformer blocks; None for any.
    """

    training: str = ""
    licence: str = "LicenseRef-unstated"
    depth: int | None = None


@dataclass(frozen=True)
class Architecture:
    """An architecture that can be exported.

    Attributes:
        files: Names of its checkpoint files, in the required order.
        export: Writes the model file and the files next to it.
    """

    files: tuple[str, ...]
    export: Callable[[Sequence[Path], Path, CardFields], None]


def export_varformer(checkpoints: Sequence[Path], target: Path, fields: CardFields) -> None:
    """Export a published VarFormer; raises as `load_varformer` and `export_released`."""
    (checkpoint,) = checkpoints
    network = load_varformer(load_checkpoint(checkpoint), fields.depth)
    export_released(released_varformer(network, target.stem, fields), target)


def released_varformer(network: Varformer, name: str, fields: CardFields) -> Released:
    """Return a VarFormer, ready to be exported."""
    graph, side = VarformerGraph(network), network.vqvae.side

    def reference(tile: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        image = 2.0 * tile - 1.0
        prior = network.prior(image, tokens=tokens)
        return network.restore_with_prior(image, prior).clamp(0.0, 1.0), prior.prediction.tokens

    card = msgspec.structs.replace(
        square_card(name, side, fields),
        tasks=TASKS,
        levels=graph.levels,
        about=f"VarFormer as published, depth {len(network.var.blocks)}: {side} x {side} pixels",
    )
    latent = network.vqvae.quant_conv.out_channels
    return Released(
        card=card,
        graph=graph,
        results=(RESTORED, TOKENS, *EXPLAINED),
        reference=reference,
        single=SINGLE,
        decoder=DecoderGraph(network),
        latent=(1, latent, 16, 16),
    )


def square_card(name: str, side: int, fields: CardFields) -> ModelCard:
    """Return the card of a network with an internal prior that restores squares of one size."""
    return ModelCard(
        name=name,
        licence=fields.licence,
        tile=side,
        multiple=side,
        overlap=side // 8,
        tiling="internal",
        guidance="tile",
        unrolled=True,
        training=fields.training,
    )


def export_trained_varformer_s(
    checkpoints: Sequence[Path], target: Path, fields: CardFields
) -> None:
    """Export a VarFormer-S that varfix trained; raises as `export_varformer_s`."""
    (checkpoint,) = checkpoints
    export_varformer_s(checkpoint, target, fields.training)


def export_trained_specialist(
    checkpoints: Sequence[Path], target: Path, fields: CardFields
) -> None:
    """Export a specialist of a VarFormer-S; raises as `export_specialist`."""
    del fields  # its card is that of the model
    (checkpoint,) = checkpoints
    export_specialist(checkpoint, target)


def export_restorevar(checkpoints: Sequence[Path], target: Path, fields: CardFields) -> None:
    """Export a published RestoreVAR; raises as `load_restorevar` and `export_released`."""
    transformer, vqvae = checkpoints
    network = load_restorevar(
        load_checkpoint(transformer), load_checkpoint(vqvae, VQVAE_NESTINGS), fields.depth
    )
    export_released(released_restorevar(network, target.stem, fields), target)


def released_restorevar(network: RestoreVar, name: str, fields: CardFields) -> Released:
    """Return a RestoreVAR, ready to be exported."""
    side, depth = network.vqvae.side, len(network.writer.blocks)
    card = msgspec.structs.replace(
        square_card(name, side, fields),
        tasks=RESTOREVAR_TASKS,
        squash="lanczos",
        about=f"RestoreVAR, depth {depth}: {side} x {side} pixels, generative",
    )
    return Released(
        card=card,
        graph=RestoreVarGraph(network),
        results=(RESTORED, TOKENS),
        reference=lambda tile, tokens: restore_with_tokens(network, tile, tokens),
        single=RESTOREVAR_SINGLE,
    )


def export_trained_varformer(checkpoints: Sequence[Path], target: Path, fields: CardFields) -> None:
    """Export a VarFormer of the published size that varfix trained."""
    network = _trained(Varformer(VarformerConfig()), checkpoints)
    export_released(released_varformer(network, target.stem, fields), target)


def export_trained_restorevar(
    checkpoints: Sequence[Path], target: Path, fields: CardFields
) -> None:
    """Export a RestoreVAR that varfix trained."""
    from varfix.engine.train.stages.restorevar import RestoreVarWithCritic

    network = _trained(RestoreVarWithCritic(RestoreVarConfig()), checkpoints)
    export_released(released_restorevar(network, target.stem, fields), target)


def _trained(network: Network, checkpoints: Sequence[Path]) -> Network:
    """Return the network with the weights of a training run's checkpoint."""
    from varfix.engine.train.checkpoint import load_weights

    (checkpoint,) = checkpoints
    load_weights(network, checkpoint)
    return network.eval()


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "varformer-s": Architecture(("weights.safetensors",), export_trained_varformer_s),
    "specialist": Architecture(("weights.safetensors",), export_trained_specialist),
    "varformer": Architecture(("net_g_last.pth",), export_varformer),
    "varformer-trained": Architecture(("weights.safetensors",), export_trained_varformer),
    "restorevar": Architecture(("restorevar.pth", "vae_restorevar.ckpt"), export_restorevar),
    "restorevar-trained": Architecture(("weights.safetensors",), export_trained_restorevar),
}


def architecture_named(name: str, checkpoints: Sequence[Path]) -> str:
    """Return the name of an architecture; for `auto`, guess it from the names of the files.

    Raises:
        ConfigError: The architecture is unknown, or requires another number of files.
    """
    if name == "auto":
        name = _likely(checkpoints)
    if name not in ARCHITECTURES:
        raise ConfigError(
            f'unknown architecture: "{name}"'
            if name
            else "cannot guess the architecture of these files",
            hint=f"use --arch with one of {', '.join(ARCHITECTURES)}",
        )
    wanted = ARCHITECTURES[name].files
    if len(checkpoints) != len(wanted):
        raise ConfigError(
            f"{name}: requires {len(wanted)} file(s) ({', '.join(wanted)}), got {len(checkpoints)}"
        )
    return name


def _likely(checkpoints: Sequence[Path]) -> str:
    """Guess from the extensions; a single file with another extension may be a VarFormer."""
    endings = [path.suffix for path in checkpoints]
    for name, architecture in ARCHITECTURES.items():
        if [Path(file).suffix for file in architecture.files] == endings:
            return name
    return "varformer" if len(checkpoints) == 1 else ""


def export_model(name: str, checkpoints: Sequence[Path], target: Path, fields: CardFields) -> None:
    """Write the files of a model.

    Args:
        name: The architecture, or `auto`.
        checkpoints: Its checkpoint files.
        target: The restore graph, `NAME.onnx`.
        fields: Facts for the card.

    Raises:
        ConfigError: The architecture is unknown, or requires other files.
        ModelMissingError: A file does not exist.
        ModelContractError: A file is another network's, damaged, or contains code; or an exported
            file does not compute the network's results.
    """
    ARCHITECTURES[architecture_named(name, checkpoints)].export(checkpoints, target, fields)
