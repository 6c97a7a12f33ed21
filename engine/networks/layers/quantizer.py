"""Multi-scale residual vector quantization (VAR; engine/networks/README.md).

A latent map is described by token maps of growing size. Each scale encodes what the smaller
ones left over: pool the rest, look up the nearest code, enlarge, smooth, subtract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.conv_blocks import area_matrix, bicubic_matrix, resample

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""Side lengths of the token maps, coarse to fine: 680 tokens in all."""

FINE_SCALES = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
"""The same for a latent of 32 x 32: 2240 tokens."""

PHI_OF_SCALE: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {4: (0, 1, 2, 3), 10: (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)}
)
"""Which smoothing convolution serves which scale, by the number of scales.

Where two are equally near, the released code's rounding decides.
"""


class Phi(nn.Conv2d):
    """Half the map, plus half its 3x3 convolution: softens what enlargement left blocky."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return 0.5 * x + 0.5 * super().forward(x)


@dataclass(frozen=True)
class Quantized:
    """What quantization found.

    Attributes:
        tokens: (B, L) int64, all scales in order, each row-major; 680 of `SCALES`.
        increments: (B, K, C, side, side), what each of the K scales adds to the latent; the
            paper's S when the tokens are predicted ones.
        residuals: (B, L, C), the vectors that were matched against the codebook.
    """

    tokens: Tensor
    increments: Tensor
    residuals: Tensor

    @property
    def latent(self) -> Tensor:
        """The quantized latent (B, C, side, side): the sum of all increments."""
        return self.increments.sum(1)

    def detach(self) -> Quantized:
        """The same values, without their history."""
        return Quantized(self.tokens, self.increments.detach(), self.residuals.detach())


class Quantizer(nn.Module):
    """Codebook and scale pyramid over a square latent, whose side is the last scale's."""

    def __init__(self, codes: int, channels: int, scales: tuple[int, ...] = SCALES) -> None:
        super().__init__()
        self.scales = scales
        self.phi_of_scale = PHI_OF_SCALE[len(scales)]
        self.embedding = nn.Embedding(codes, channels)
        self.phi = nn.ModuleList(Phi(channels) for _ in range(max(self.phi_of_scale) + 1))
        side = scales[-1]
        for p in scales[:-1]:
            self.register_buffer(f"pool_{p}", area_matrix(side, p), persistent=False)
            self.register_buffer(f"enlarge_{p}", bicubic_matrix(p, side), persistent=False)

    def forward(self, latent: Tensor) -> Quantized:
        """Quantize a latent (B, C, side, side)."""
        rest, tokens, increments, residuals = latent, [], [], []
        for scale in range(len(self.scales)):
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
        """Area-pool (B, C, side, side) to the side of a scale."""
        p = self.scales[scale]
        return latent if p == self.scales[-1] else resample(latent, self.get_buffer(f"pool_{p}"))

    def increment(self, vectors: Tensor, scale: int) -> Tensor:
        """Turn the codes of a scale (B, p * p, C) into its increment (B, C, side, side)."""
        p = self.scales[scale]
        small = vectors.transpose(1, 2).unflatten(2, (p, p))
        if p != self.scales[-1]:
            small = resample(small, self.get_buffer(f"enlarge_{p}"))
        return self.phi[self.phi_of_scale[scale]](small)

    def pyramid(self, increments: Tensor) -> Tensor:
        """Transformer inputs of all scales but the first: the latent so far, pooled per scale.

        Args:
            increments: (B, K, C, side, side).

        Returns:
            (B, L - 1, C); 679 rows of `SCALES`.
        """
        so_far = increments.cumsum(1)
        rows = [flatten(self.pool(so_far[:, k - 1], k)) for k in range(1, len(self.scales))]
        return torch.cat(rows, 1)

    def increments(self, tokens: Tensor) -> Tensor:
        """What each scale of tokens (B, L) adds to the latent: (B, K, C, side, side)."""
        maps = enumerate(split_scales(self.embedding(tokens), self.scales))
        return torch.stack([self.increment(vectors, k) for k, vectors in maps], 1)


def flatten(maps: Tensor) -> Tensor:
    """(B, C, H, W) to row-major vectors (B, H * W, C)."""
    return maps.flatten(2).transpose(1, 2)


def split_scales(rows: Tensor, scales: tuple[int, ...] = SCALES) -> list[Tensor]:
    """Cut (B, L, ...) into the scales' (B, p * p, ...)."""
    return list(rows.split([p * p for p in scales], dim=1))


def scale_of_token(scales: tuple[int, ...] = SCALES) -> Tensor:
    """(L,) index of the scale to which each token belongs."""
    maps = [torch.full((p * p,), k, device="cpu") for k, p in enumerate(scales)]
    return torch.cat(maps)


def next_scale_mask(scales: tuple[int, ...] = SCALES) -> Tensor:
    """(L, L) bool: query row may look at key column (its own scale or a coarser one)."""
    scale = scale_of_token(scales)
    return scale[:, None] >= scale[None, :]


def straight_through(latent: Tensor, quantized: Tensor) -> Tensor:
    """The quantized latent, with the continuous one's gradient: quantizing itself has none."""
    return latent + (quantized - latent).detach()


def commitment(latent: Tensor, quantized: Quantized) -> Tensor:
    """Mean squared distance of latent and quantized latent, per scale prefix (VAR's VQ loss).

    Every prefix of the pyramid should already be the best approximation of the latent. With
    `quantized.detach()` it is the latent that is pulled, otherwise (with a detached latent) the
    codes; both are needed, or the latent outgrows the codebook.
    """
    so_far = quantized.increments.cumsum(1)
    return functional.mse_loss(so_far, latent[:, None].expand_as(so_far))
