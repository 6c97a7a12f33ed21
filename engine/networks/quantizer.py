"""Multi-scale residual vector quantisation (VAR; parity/varformer/SPEC.md, section 3).

A latent map is described by token maps of growing size. Each scale encodes what the smaller
ones left over: pool the rest, look up the nearest code, enlarge, smooth, subtract.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.blocks import area_matrix, bicubic_matrix, resample

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""Side lengths of the token maps, coarse to fine: 680 tokens in all."""

PHI_OF_SCALE = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
"""Which smoothing convolution serves which scale (ties as the released code rounds them)."""


class Phi(nn.Conv2d):
    """Half the map, plus half its 3x3 convolution: softens what enlargement left blocky."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return 0.5 * x + 0.5 * super().forward(x)


@dataclass(frozen=True)
class Quantized:
    """What quantisation found.

    Attributes:
        tokens: (B, 680) int64, all scales in order, each row-major.
        increments: (B, 10, C, 16, 16), what each scale adds to the latent; the paper's S when
            the tokens are predicted ones.
        residuals: (B, 680, C), the vectors that were matched against the codebook.
    """

    tokens: Tensor
    increments: Tensor
    residuals: Tensor

    @property
    def latent(self) -> Tensor:
        """The quantised latent (B, C, 16, 16): the sum of all increments."""
        return self.increments.sum(1)

    def detach(self) -> Quantized:
        """The same values, without their history."""
        return Quantized(self.tokens, self.increments.detach(), self.residuals.detach())


class Quantizer(nn.Module):
    """Codebook and scale pyramid over a square latent."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)
        self.phi = nn.ModuleList(Phi(channels) for _ in range(max(PHI_OF_SCALE) + 1))
        side = SCALES[-1]
        for p in SCALES[:-1]:
            self.register_buffer(f"pool_{p}", area_matrix(side, p), persistent=False)
            self.register_buffer(f"enlarge_{p}", bicubic_matrix(p, side), persistent=False)

    def forward(self, latent: Tensor) -> Quantized:
        """Quantise a latent (B, C, 16, 16)."""
        rest, tokens, increments, residuals = latent, [], [], []
        for scale in range(len(SCALES)):
            vectors = flatten(self.pool(rest, scale))
            found = self.nearest(vectors)
            increment = self.increment(self.embedding(found), scale)
            rest = rest - increment
            tokens.append(found)
            increments.append(increment)
            residuals.append(vectors)
        return Quantized(torch.cat(tokens, 1), torch.stack(increments, 1), torch.cat(residuals, 1))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Indices (B, L) of the codes nearest to (B, L, C) by plain squared distance."""
        codes = self.embedding.weight
        distance = (
            vectors.square().sum(-1, keepdim=True)
            + codes.square().sum(1)
            - 2.0 * (vectors @ codes.T)
        )
        return distance.argmin(-1)

    def pool(self, latent: Tensor, scale: int) -> Tensor:
        """Area-pool (B, C, 16, 16) to the side of a scale."""
        p = SCALES[scale]
        return latent if p == SCALES[-1] else resample(latent, self.get_buffer(f"pool_{p}"))

    def increment(self, vectors: Tensor, scale: int) -> Tensor:
        """Turn the codes of a scale (B, p * p, C) into its increment (B, C, 16, 16)."""
        p = SCALES[scale]
        small = vectors.transpose(1, 2).unflatten(2, (p, p))
        if p != SCALES[-1]:
            small = resample(small, self.get_buffer(f"enlarge_{p}"))
        return self.phi[PHI_OF_SCALE[scale]](small)

    def pyramid(self, increments: Tensor) -> Tensor:
        """Transformer inputs of scales 1..9, (B, 679, C): the latent so far, pooled per scale."""
        so_far = increments.cumsum(1)
        rows = [flatten(self.pool(so_far[:, k - 1], k)) for k in range(1, len(SCALES))]
        return torch.cat(rows, 1)


def flatten(maps: Tensor) -> Tensor:
    """(B, C, H, W) to row-major vectors (B, H * W, C)."""
    return maps.flatten(2).transpose(1, 2)


def split_scales(rows: Tensor) -> list[Tensor]:
    """Cut (B, 680, ...) into the ten scales' (B, p * p, ...)."""
    return list(rows.split([p * p for p in SCALES], dim=1))


def commitment(latent: Tensor, quantized: Quantized) -> Tensor:
    """Mean squared distance of latent and quantised latent, per scale prefix (VAR's VQ loss).

    Every prefix of the pyramid should already be the best approximation of the latent. With
    `quantized.detach()` it is the latent that is pulled, otherwise (with a detached latent) the
    codes; both are needed, or the latent outgrows the codebook.
    """
    so_far = quantized.increments.cumsum(1)
    return functional.mse_loss(so_far, latent[:, None].expand_as(so_far))
