"""A local network for kinds of degradation that need no view of the whole image, such as noise.

A plain U-Net of 3x3 convolutions behind a 2x pixel-unshuffle. It sees only the tile: no prior, no
tone, no degradation scores. Trained for a few kinds alone, it restores them better than the
restorer of VarFormer-S, which is trained for all (engine/networks/README.md, "Specialists").
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class SpecialistConfig:
    """Sizes of a specialist.

    Attributes:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the tile's side.
        blocks: residual blocks per level, on the way down and again on the way up.
        middle: residual blocks at the coarsest level.
    """

    widths: tuple[int, int, int, int] = (48, 80, 128, 192)
    blocks: int = 2
    middle: int = 3


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a residual, without normalization."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        # Near the identity at first, so that depth does not amplify.
        self.conv2.weight.data.mul_(0.1)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        change: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return x + change


def stack(channels: int, count: int) -> nn.Sequential:
    """A row of residual blocks."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


class SpecialistNetwork(nn.Module):
    """Encoder and decoder; the result is the tile minus what the network finds to remove."""

    def __init__(self, config: SpecialistConfig | None = None) -> None:
        super().__init__()
        sizes = config or SpecialistConfig()
        widths = sizes.widths
        self.conv_in = nn.Conv2d(12, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(stack(width, sizes.blocks) for width in widths[:3])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = stack(widths[3], sizes.middle)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(stack(width, sizes.blocks) for width in widths[:3])
        self.conv_out = nn.Conv2d(widths[0], 12, 3, padding=1)

    def forward(self, tile: Tensor) -> Tensor:
        """Restore a tile (B, 3, H, W) in [0, 1], H and W multiples of 16; not clamped."""
        x = self.conv_in(functional.pixel_unshuffle(tile, 2))
        skips = []
        for level, down in zip(self.encoder, self.down, strict=True):
            skips.append(level(x))
            x = down(skips[-1])
        x = self.middle(x)
        for index in (2, 1, 0):
            x = functional.pixel_shuffle(self.up[index](x), 2) + skips[index]
            x = self.decoder[index](x)
        return tile - functional.pixel_shuffle(self.conv_out(x), 2)
