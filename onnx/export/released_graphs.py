"""The published networks with the inputs and outputs of the model contract (engine/README.md).

The networks do not depend on the export. The wrappers convert pixels from [0, 1], add named outputs
for `--explain`, and compute values that are the same for all images once.

"""

from __future__ import annotations

import copy
from typing import Final, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.restorevar.model import RestoreVar
from varfix.engine.networks.varformer.model import Varformer
from varfix.engine.networks.varformer.var import Var, VarBlock

Network = TypeVar("Network", bound=nn.Module)

RESTORED: Final = "restored"
TOKENS: Final = "tokens"
EXPLAINED: Final = ("asked", "increments", "scales", "regions")
"""Results that `varfix image --explain` needs: see `VarformerGraph.forward`."""


class Constant(nn.Module):
    """Replaces a layer whose input is always the same by its output."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the value, whatever `x` is."""
        del x
        return self.get_buffer("value")


def share_weights(network: Network) -> Network:
    """Return a copy of the modules that shares the weights, so that it can be changed cheaply."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


@torch.no_grad()
def fold_condition(var: Var) -> None:
    """Replace all layers that only depend on the constant condition by their outputs, in place."""
    condition = functional.silu(var.condition.weight[-1])
    for block in cast("list[VarBlock]", list(var.blocks)):
        block.modulation = cast("nn.Linear", Constant(block.modulation(condition)))
    var.head_modulation = cast("nn.Linear", Constant(var.head_modulation(condition)))
    # The exporter would write the whole table of a view, so this is a copy.
    var.condition = nn.Embedding.from_pretrained(var.condition.weight[-1:].clone())


class VarformerGraph(nn.Module):
    """The published VarFormer."""

    def __init__(self, network: Varformer) -> None:
        super().__init__()
        self.network = share_weights(network)
        fold_condition(self.network.var)

    def forward(self, tile: Tensor) -> dict[str, Tensor]:
        """Restore a tile (1, 3, 256, 256) in [0, 1].

        Returns:
            `restored` (1, 3, 256, 256) in [0, 1]; `tokens` (1, 680) of the predicted clean image;
            `asked` and `increments` (1, 10, 32, 16, 16), the contribution of each scale to the
            latent of the degraded and of the predicted image; `scales` (1, levels, 10) and
            `regions` (1, levels, 128, 128), the prior's weights by level, in the order of `levels`;
            and every intermediate result that the network reports, by its name.
        """
        stages: dict[str, Tensor] = {}
        image = 2.0 * tile - 1.0
        network = self.network
        prior = network.prior(image, stages.__setitem__)
        restored = network.restore_with_prior(image, prior, stages.__setitem__)
        places = [
            *(f"mainenc/L{i}/" for i in network.encoder.fusion),
            *(f"maindec/L{i}/" for i in reversed(list(network.decoder.fusion))),
        ]
        scales = [stages[f"{place}scale_weight_logits"].flatten(1) for place in places]
        regions = [stages[f"{place}region_logits"].softmax(1)[:, 1:] for place in places]
        finest = max(region.shape[-1] for region in regions)
        return {
            RESTORED: restored.clamp(0.0, 1.0),
            TOKENS: prior.prediction.tokens,
            "asked": network.vqvae.quantize.increments(prior.tokens),
            "increments": prior.prediction.increments,
            "scales": torch.stack(scales, 1).softmax(-1),
            "regions": torch.cat([functional.interpolate(r, finest) for r in regions], 1),
            **stages,
        }

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels at which the prior enters, in the order of the results."""
        encoder, decoder = self.network.encoder.fusion, self.network.decoder.fusion
        return (
            *(f"encoder {i}" for i in encoder),
            *(f"decoder {i}" for i in reversed(list(decoder))),
        )


class DecoderGraph(nn.Module):
    """Maps a latent to an image, to show the prior's prediction (`varfix image --explain`)."""

    def __init__(self, network: Varformer) -> None:
        super().__init__()
        self.vqvae = network.vqvae

    def forward(self, tile: Tensor) -> dict[str, Tensor]:
        """Map a latent (1, 32, 16, 16) to an image (1, 3, 256, 256) in [0, 1]."""
        drawn = self.vqvae.decode(tile)
        return {RESTORED: ((drawn + 1.0) / 2.0).clamp(0.0, 1.0)}


class RestoreVarGraph(nn.Module):
    """The published RestoreVAR.

    One graph holds encoder, keys of the degraded image, the ten scales, refiner and decoder. These
    parts share no weights, so that several files would save nothing; the values between them have
    names, by which each part is checked.
    """

    def __init__(self, network: RestoreVar) -> None:
        super().__init__()
        self.network = share_weights(network)
        writer = self.network.writer
        # Only the class "any" is used. The exporter would write the whole table of a view.
        writer.condition = nn.Embedding.from_pretrained(writer.condition.weight[-1:].clone())

    def forward(self, tile: Tensor) -> dict[str, Tensor]:
        """Restore a tile (1, 3, 512, 512) in [0, 1].

        Returns:
            `restored` (1, 3, 512, 512) in [0, 1]; `tokens` (1, 2240) of the clean image; and
            every intermediate result that the network reports, by its name.
        """
        stages: dict[str, Tensor] = {}
        restored = self.network.restore(2.0 * tile - 1.0, stages.__setitem__)
        return {RESTORED: restored, TOKENS: stages.pop(TOKENS), **stages}


def restore_with_tokens(network: RestoreVar, tile: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Restore a tile (1, 3, 512, 512) in [0, 1] with given tokens (1, 2240).

    Returns:
        The restored tile in [0, 1], and the tokens that the network would have chosen.
    """
    chosen: list[Tensor] = []

    def keep(name: str, value: Tensor) -> None:
        if name == TOKENS:
            chosen.append(value)

    restored = network.restore(2.0 * tile - 1.0, keep, tokens)
    return restored, torch.cat(chosen)
