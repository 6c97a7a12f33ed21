"""Next-scale prediction: the tokens of a scale follow from the latent of the coarser scales.

The loop is the same for all networks; each computes the logits of a scale in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from varfix.engine.networks.layers.quantizer import Quantizer, split_scales


@dataclass(frozen=True)
class Prediction:
    """A transformer's prediction of the clean image.

    Attributes:
        tokens: (B, L) int64.
        logits: (B, L, codes), after classifier-free guidance.
        increments: The paper's S, (B, K, latent, side, side): the contribution of each scale.
        latent: Their sum, (B, latent, side, side).
    """

    tokens: Tensor
    logits: Tensor
    increments: Tensor
    latent: Tensor


def generate(
    logits_of: Callable[[int, Tensor | None], Tensor],
    quantizer: Quantizer,
    tokens: Tensor | None = None,
) -> Prediction:
    """Predict the most likely tokens of all scales, coarse to fine.

    Args:
        logits_of: Returns the logits (B, p * p, codes) of a scale, given its number and the latent
            of the coarser scales pooled to it, (B, latent, p, p); None for the first.
        quantizer: Converts tokens to increments of the latent.
        tokens: (B, L) int64, for teacher forcing: each scale continues from these tokens.
    """
    known = None if tokens is None else split_scales(tokens, quantizer.scales)
    found, scores, increments = [], [], []
    latent: Tensor | None = None
    for k in range(len(quantizer.scales)):
        logits = logits_of(k, None if latent is None else quantizer.pool(latent, k))
        found.append(logits.argmax(-1))
        scores.append(logits)
        chosen = found[-1] if known is None else known[k]
        increments.append(quantizer.increment(quantizer.embedding(chosen), k))
        latent = increments[-1] if latent is None else latent + increments[-1]
    assert latent is not None
    return Prediction(torch.cat(found, 1), torch.cat(scores, 1), torch.stack(increments, 1), latent)


def restore_one_by_one(restore: Callable[[Tensor], Tensor], images: Tensor, side: int) -> Tensor:
    """Restore images (B, 3, side, side) one by one.

    Rounding depends on the batch. Where two tokens are almost equally likely, another rounding
    results in another image.

    Raises:
        ValueError: The images have another size.
    """
    if images.shape[1:] != (3, side, side):
        raise ValueError(f"images must be 3 x {side} x {side}, not {tuple(images.shape[1:])}")
    return torch.cat([restore(image) for image in images.split(1)])
