"""Multi-scale residual vector quantization (VAR; engine/networks/README.md).

A latent map is described by token maps of growing size. Each scale encodes the residual of the
smaller ones: pool it, find the nearest code, enlarge, smooth, subtract.
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
"""Index of the smoothing convolution of each scale, by the number of scales.

Where two are equally near, the rounding of the published code decides.
"""


class Phi(nn.Conv2d):
    """Half the map plus half its 3x3 convolution: smooths an enlarged map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return 0.5 * x + 0.5 * super().forward(x)


@dataclass(frozen=True)
class Quantized:
    """A quantized latent.

    Attributes:
        tokens: (B, L) int64, all scales in order, each row-major; 680 of `SCALES`.
        increments: (B, K, C, side, side), the contribution of each of the K scales to the latent;
            the paper's S when the tokens are predicted.
        residuals: (B, L, C), the vectors that were compared with the codebook.
    """

    tokens: Tensor
    increments: Tensor
    residuals: Tensor

    @property
    def latent(self) -> Tensor:
        """The quantized latent (B, C, side, side): the sum of all increments."""
        return self.increments.sum(1)

    def detach(self) -> Quantized:
        """Return the same values, detached from the graph of gradients."""
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
        residual, tokens, increments, residuals = latent, [], [], []
        for scale in range(len(self.scales)):
            vectors = flatten(self.pool(residual, scale))
            found = self.nearest(vectors)
            increment = self.increment(self.embedding(found), scale)
            residual = residual - increment
            tokens.append(found)
            increments.append(increment)
            residuals.append(vectors)
        return Quantized(torch.cat(tokens, 1), torch.stack(increments, 1), torch.cat(residuals, 1))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the indices (B, L) of the codes nearest to (B, L, C) by squared distance."""
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
        """Return the transformer inputs of all scales but the first: the partial latent, pooled.

        Args:
            increments: (B, K, C, side, side).

        Returns:
            (B, L - 1, C); 679 rows of `SCALES`.
        """
        so_far = increments.cumsum(1)
        rows = [flatten(self.pool(so_far[:, k - 1], k)) for k in range(1, len(self.scales))]
        return torch.cat(rows, 1)

    def increments(self, tokens: Tensor) -> Tensor:
        """Return the increment of each scale of tokens (B, L): (B, K, C, side, side)."""
        maps = enumerate(split_scales(self.embedding(tokens), self.scales))
        return torch.stack([self.increment(vectors, k) for k, vectors in maps], 1)


def flatten(maps: Tensor) -> Tensor:
    """Return (B, C, H, W) as row-major vectors (B, H * W, C)."""
    return maps.flatten(2).transpose(1, 2)


def split_scales(rows: Tensor, scales: tuple[int, ...] = SCALES) -> list[Tensor]:
    """Split (B, L, ...) into the scales' (B, p * p, ...)."""
    return list(rows.split([p * p for p in scales], dim=1))


def scale_of_token(scales: tuple[int, ...] = SCALES) -> Tensor:
    """Return the scale of each token, (L,)."""
    maps = [torch.full((p * p,), k, device="cpu") for k, p in enumerate(scales)]
    return torch.cat(maps)


def next_scale_mask(scales: tuple[int, ...] = SCALES) -> Tensor:
    """Return (L, L) bool: a query (row) attends to keys of its own scale and of coarser ones."""
    scale = scale_of_token(scales)
    return scale[:, None] >= scale[None, :]


def straight_through(latent: Tensor, quantized: Tensor) -> Tensor:
    """Return the quantized latent with the gradient of the continuous one (straight-through)."""
    return latent + (quantized - latent).detach()


def commitment(latent: Tensor, quantized: Quantized) -> Tensor:
    """Return the mean squared distance of latent and quantized latent per scale prefix (VAR).

    Every prefix of the pyramid should be the best approximation of the latent. With
    `quantized.detach()` the gradient changes the latent, with a detached latent the codes; both are
    needed, or the latent outgrows the codebook.
    """
    so_far = quantized.increments.cumsum(1)
    return functional.mse_loss(so_far, latent[:, None].expand_as(so_far))
