"""Gives released networks the inputs and outputs of the model contract (engine/README.md).

The networks know nothing of this. What the contract adds: pixels in [0, 1], and named results that
tell how the image came about. What never changes is computed once, here.
"""

from __future__ import annotations

import copy
from typing import Final, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.varformer.model import Varformer
from varfix.engine.networks.varformer.var import Var, VarBlock

Network = TypeVar("Network", bound=nn.Module)

RESTORED: Final = "restored"
TOKENS: Final = "tokens"
EXPLAINED: Final = ("asked", "increments", "scales", "regions")
"""Results by which `varfix image --explain` draws: see `VarformerGraph.forward`."""


class Known(nn.Module):
    """Stands for a layer whose input is always the same: returns what it always returns."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the value; `x` is not looked at."""
        del x
        return self.get_buffer("value")


def shallow(network: Network) -> Network:
    """A copy of the modules around the same weights: it can be changed, and costs nothing."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


@torch.no_grad()
def fold_condition(var: Var) -> None:
    """Replace all that is computed from the one condition by its results, in place."""
    seen = functional.silu(var.condition.weight[-1])
    for block in cast("list[VarBlock]", list(var.blocks)):
        block.modulation = cast("nn.Linear", Known(block.modulation(seen)))
    var.head_modulation = cast("nn.Linear", Known(var.head_modulation(seen)))
    # A copy: of a view, the exporter would write the whole table.
    var.condition = nn.Embedding.from_pretrained(var.condition.weight[-1:].clone())


class VarformerGraph(nn.Module):
    """The released VarFormer."""

    def __init__(self, network: Varformer) -> None:
        super().__init__()
        self.network = shallow(network)
        fold_condition(self.network.var)

    def forward(self, tile: Tensor) -> dict[str, Tensor]:
        """Restore a tile (1, 3, 256, 256) in [0, 1].

        Returns:
            `restored` (1, 3, 256, 256) in [0, 1]; `tokens` (1, 680) of the predicted clean image;
            `asked` and `increments` (1, 10, 32, 16, 16), what each scale adds to the latent of the
            degraded and of the predicted image; `scales` (1, levels, 10) and `regions`
            (1, levels, 128, 128), the prior's weights by level, in the order of `levels`; and every
            intermediate result that the network tells of, by its name.
        """
        stages: dict[str, Tensor] = {}
        picture = 2.0 * tile - 1.0
        network = self.network
        prior = network.prior(picture, stages.__setitem__)
        restored = network.restore_with_prior(picture, prior, stages.__setitem__)
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
        """Names of the places where the prior enters, in the order of the results."""
        encoder, decoder = self.network.encoder.fusion, self.network.decoder.fusion
        return (
            *(f"encoder {i}" for i in encoder),
            *(f"decoder {i}" for i in reversed(list(decoder))),
        )


class DecoderGraph(nn.Module):
    """Latent to image: what a prior looks like (`varfix image --explain`)."""

    def __init__(self, network: Varformer) -> None:
        super().__init__()
        self.vqvae = network.vqvae

    def forward(self, tile: Tensor) -> dict[str, Tensor]:
        """Map a latent (1, 32, 16, 16) to an image (1, 3, 256, 256) in [0, 1]."""
        drawn = self.vqvae.decode(tile)
        return {RESTORED: ((drawn + 1.0) / 2.0).clamp(0.0, 1.0)}
