"""Which networks' checkpoints can become model files, and how."""

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
    VarformerGraph,
)
from varfix.onnx.export.restorevar_graph import RestoreVarGraph, forced
from varfix.onnx.export.varformer_s import export_checkpoint

SINGLE: Final = re.compile(r"vqvae\.(encoder|quant)|adapter\.|\.head\.|\.word\.|conv_out")
"""Weights of VarFormer that decide between tokens, or draw the last pixel: few, but sensitive."""

RESTOREVAR_SINGLE: Final = re.compile(
    r"vqvae\.(encoder|quant)|writer\.(head|word|whole|project|degraded)|conv_out"
)
"""Those of RestoreVAR."""

RESTOREVAR_TASKS: Final = ("auto", "rain", "haze", "lowlight", "blur", "snow")
"""What the released RestoreVAR was trained for; the network cannot be told which it is."""


@dataclass(frozen=True)
class Facts:
    """What the makers of a card must be told: a checkpoint does not know it.

    Attributes:
        training: what the weights were trained on.
        licence: SPDX expression of the weights.
        depth: blocks that the transformer must have; None for any.
    """

    training: str = ""
    licence: str = "LicenseRef-unstated"
    depth: int | None = None


@dataclass(frozen=True)
class Architecture:
    """How the checkpoints of one network become files.

    Attributes:
        files: what its checkpoint files are called, in the order in which they are wanted.
        export: writes the model file, and those that belong to it beside it.
    """

    files: tuple[str, ...]
    export: Callable[[Sequence[Path], Path, Facts], None]


def export_varformer(checkpoints: Sequence[Path], target: Path, facts: Facts) -> None:
    """Write the files of a released VarFormer; raises as `load_varformer` and `export_released`."""
    (checkpoint,) = checkpoints
    network = load_varformer(load_checkpoint(checkpoint), facts.depth)
    export_released(released_varformer(network, target.stem, facts), target)


def released_varformer(network: Varformer, name: str, facts: Facts) -> Released:
    """A VarFormer with what its files need to say."""
    graph, side = VarformerGraph(network), network.vqvae.side

    def reference(tile: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        picture = 2.0 * tile - 1.0
        prior = network.prior(picture, tokens=tokens)
        return network.restore_with_prior(picture, prior).clamp(0.0, 1.0), prior.prediction.tokens

    card = msgspec.structs.replace(
        square_card(name, side, facts),
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


def square_card(name: str, side: int, facts: Facts) -> ModelCard:
    """The card of a network that restores squares of one size, with the prior inside."""
    return ModelCard(
        name=name,
        licence=facts.licence,
        tile=side,
        multiple=side,
        overlap=side // 8,
        tiling="internal",
        guidance="tile",
        unrolled=True,
        training=facts.training,
    )


def export_varformer_s(checkpoints: Sequence[Path], target: Path, facts: Facts) -> None:
    """Write the files of a VarFormer-S that varfix trained; raises as `export_checkpoint`."""
    (checkpoint,) = checkpoints
    export_checkpoint(checkpoint, target, facts.training)


def export_restorevar(checkpoints: Sequence[Path], target: Path, facts: Facts) -> None:
    """Write the file of a released RestoreVAR; raises as `load_restorevar`, `export_released`."""
    transformer, vqvae = checkpoints
    network = load_restorevar(
        load_checkpoint(transformer), load_checkpoint(vqvae, VQVAE_NESTINGS), facts.depth
    )
    export_released(released_restorevar(network, target.stem, facts), target)


def released_restorevar(network: RestoreVar, name: str, facts: Facts) -> Released:
    """A RestoreVAR with what its files need to say."""
    side, depth = network.vqvae.side, len(network.writer.blocks)
    card = msgspec.structs.replace(
        square_card(name, side, facts),
        tasks=RESTOREVAR_TASKS,
        squash="lanczos",
        about=f"RestoreVAR, depth {depth}: {side} x {side} pixels, generative",
    )
    return Released(
        card=card,
        graph=RestoreVarGraph(network),
        results=(RESTORED, TOKENS),
        reference=lambda tile, tokens: forced(network, tile, tokens),
        single=RESTOREVAR_SINGLE,
    )


def export_trained_varformer(checkpoints: Sequence[Path], target: Path, facts: Facts) -> None:
    """Write the files of a VarFormer of the released size that varfix trained."""
    network = _trained(Varformer(VarformerConfig()), checkpoints)
    export_released(released_varformer(network, target.stem, facts), target)


def export_trained_restorevar(checkpoints: Sequence[Path], target: Path, facts: Facts) -> None:
    """Write the file of a RestoreVAR that varfix trained."""
    from varfix.engine.train.stages.restorevar import Studio

    network = _trained(Studio(RestoreVarConfig()), checkpoints)
    export_released(released_restorevar(network, target.stem, facts), target)


def _trained(network: Network, checkpoints: Sequence[Path]) -> Network:
    """The network with the weights of the one checkpoint that training leaves."""
    from varfix.engine.train.checkpoint import load_weights

    (checkpoint,) = checkpoints
    load_weights(network, checkpoint)
    return network.eval()


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "varformer-s": Architecture(("weights.safetensors",), export_varformer_s),
    "varformer": Architecture(("net_g_last.pth",), export_varformer),
    "varformer-trained": Architecture(("weights.safetensors",), export_trained_varformer),
    "restorevar": Architecture(("restorevar.pth", "vae_restorevar.ckpt"), export_restorevar),
    "restorevar-trained": Architecture(("weights.safetensors",), export_trained_restorevar),
}


def architecture_named(name: str, checkpoints: Sequence[Path]) -> str:
    """The name of an architecture; for `auto`, of the one whose files look like these.

    Raises:
        ConfigError: There is none, or it wants another number of files.
    """
    if name == "auto":
        name = _likely(checkpoints)
    if name not in ARCHITECTURES:
        raise ConfigError(
            f'no architecture is called "{name}"' if name else "these are no files of one network",
            hint=f"known: {', '.join(ARCHITECTURES)}",
        )
    wanted = ARCHITECTURES[name].files
    if len(checkpoints) != len(wanted):
        raise ConfigError(
            f"{name} is made from {len(wanted)} file(s) ({', '.join(wanted)}),"
            f" not from {len(checkpoints)}"
        )
    return name


def _likely(checkpoints: Sequence[Path]) -> str:
    """Go by the files' endings; a lone file of any other ending may be a VarFormer."""
    endings = [path.suffix for path in checkpoints]
    for name, made in ARCHITECTURES.items():
        if [Path(file).suffix for file in made.files] == endings:
            return name
    return "varformer" if len(checkpoints) == 1 else ""


def export_model(name: str, checkpoints: Sequence[Path], target: Path, facts: Facts) -> None:
    """Write the files of a model.

    Args:
        name: of the architecture, or `auto`.
        checkpoints: its files.
        target: the restore graph, `NAME.onnx`.
        facts: what the card is to say.

    Raises:
        ConfigError: There is no such architecture, or it wants other files.
        ModelMissingError: A file is not there.
        ModelContractError: A file is another network's, damaged, or holds code; or what was written
            does not compute what the network computes.
    """
    ARCHITECTURES[architecture_named(name, checkpoints)].export(checkpoints, target, facts)
