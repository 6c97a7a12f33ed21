"""The trunk of MobileNetV2 (Sandler et al. 2018), down to a sixteenth of the side.

Its names are those of the ImageNet-trained files, so that training can start from one of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from varfix.engine.errors import ModelContractError

BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
"""Expansion, channels, count and first stride of each group of blocks."""

FEATURES = 96
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of the colors of ImageNet, by which its networks want their input scaled."""

MOBILENET_ENTRY = "features.0.0.weight"
NORM_FLOOR = 1e-5
"""Added to variances by the normalization of ImageNet networks."""


class InvertedResidual(nn.Module):
    """Widens, filters each channel by itself, narrows again."""

    def __init__(self, channels: int, narrow: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_layer(channels, wide, 1, 1, 1))
        layers.append(_layer(wide, wide, 3, stride, wide))
        layers.append(nn.Conv2d(wide, narrow, 1))
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == narrow

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, narrow, H / stride, W / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


class Trunk(nn.Module):
    """What a thumbnail shows, in cells of 16 pixels.

    Its normalization is folded into its convolutions: batches here are small and made of several
    kinds of degradation, and it is a third faster without.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_layer(3, 32, 3, 2, 1)]
        channels = 32
        for expansion, narrow, count, stride in BLOCKS:
            for i in range(count):
                first = stride if i == 0 else 1
                layers.append(InvertedResidual(channels, narrow, first, expansion))
                channels = narrow
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False
        )
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, thumbnail: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [0, 1] to (B, 96, H / 16, W / 16)."""
        features: Tensor = self.features((thumbnail - self.mean) / self.deviation)
        return features


def _layer(channels: int, wide: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    padding = (kernel - 1) // 2
    convolution = nn.Conv2d(channels, wide, kernel, stride, padding, groups=groups)
    return nn.Sequential(convolution, nn.ReLU6(inplace=True))


def load_mobilenet(held: Mapping[str, Tensor]) -> Trunk:
    """The trunk of an ImageNet-trained MobileNetV2, such as `mobilenet_v2-b0353104.pth`.

    Args:
        held: tensors with the names of torchvision.

    Raises:
        ModelContractError: They are those of another network.
    """
    trunk = Trunk()
    weights = [name for name, module in trunk.named_modules() if isinstance(module, nn.Conv2d)]
    try:
        folded = {name: _folded(held, name) for name in weights}
    except KeyError as error:
        raise ModelContractError(f"not a MobileNetV2 (no {error})") from error
    state = {f"{name}.weight": weight for name, (weight, _) in folded.items()}
    state |= {f"{name}.bias": bias for name, (_, bias) in folded.items()}
    trunk.load_state_dict(state)
    return trunk


def _folded(held: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the normalization that follows it.

    Either both lie in a sequence of their own, or the normalization is the convolution's neighbor.
    """
    parent, place = name.rsplit(".", 1)
    norm = f"{parent}.{int(place) + 1}"
    gain = held[f"{norm}.weight"] / (held[f"{norm}.running_var"] + NORM_FLOOR).sqrt()
    weight = held[f"{name}.weight"] * gain.reshape(-1, 1, 1, 1)
    return weight, held[f"{norm}.bias"] - held[f"{norm}.running_mean"] * gain
