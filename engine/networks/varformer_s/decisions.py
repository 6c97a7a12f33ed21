"""From how likely a degradation is to what is done about it.

Three answers: what tone is changed for under `auto`, what it is changed for because the user asked,
and what the restorer is told. Every threshold was chosen on training images (the model's card says
how); none on a test set.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from varfix.engine.networks.varformer_s.degradation_head import KINDS

Ramps = Mapping[str, tuple[float, float]]

LIKELY: Ramps = MappingProxyType(
    {
        "noise": (0.3, 0.6),
        "rain": (0.85, 0.95),
        "haze": (0.85, 0.95),
        "lowlight": (0.9, 0.97),
        "blur": (0.3, 0.6),
        "snow": (0.6, 0.9),
    }
)
"""Below the first probability a degradation is taken for absent, from the second on for there.
For haze and darkness: the lowest at which no other kind of training image loses by it. For rain and
snow: bars and facades pass for a little of both, and lost whole columns at lower values."""

ASKED: Ramps = MappingProxyType(
    {
        "noise": (0.02, 0.1),
        "rain": (0.3, 0.6),
        "haze": (0.3, 0.6),
        "lowlight": (0.3, 0.6),
        "blur": (0.02, 0.1),
        "snow": (0.1, 0.3),
    }
)
"""The same for what the user asks for: only what an image plainly contradicts is not believed. At
these values 3 of 100 good training images change visibly under `dehaze`, 4 under `lowlight`."""

TOLD = (0.5, 0.9)
"""The same for what the restorer is told under `auto`: a little evidence of rain in a facade made
it smear the facade."""

NOISY = (0.6, 0.9)
DARK_DESPITE_NOISE = (0.97, 0.99)
"""Where noise is plain, darkness must be plainer than elsewhere: noise in a dim room is common, and
brightening it by mistake is what hurt most."""


def confident(probability: Tensor) -> Tensor:
    """What is taken to be wrong under `auto`, (B, 6) in [0, 1].

    Args:
        probability: (B, 6) in [0, 1], how likely each of `KINDS` is.
    """
    low, high = probability.new_tensor([LIKELY[kind] for kind in KINDS]).T
    belief = ramp(probability, low, high)
    noise, dark = KINDS.index("noise"), KINDS.index("lowlight")
    doubt = ramp(probability[:, noise], *NOISY)
    sure = ramp(probability[:, dark], *DARK_DESPITE_NOISE)
    kept = torch.ones_like(belief)
    kept[:, dark] = 1.0 - doubt * (1.0 - sure)
    return belief * kept


def confident_in_task(probability: Tensor, task: Tensor) -> Tensor:
    """What is taken to be wrong because the user says so and nothing plainly speaks against it.

    Args:
        probability: (B, 6) in [0, 1], how likely each of `KINDS` is.
        task: (B,) int64, 0 for `auto`, else one more than the number of the kind.

    Returns:
        (B, 6) in [0, 1], 0 for all but the kind that was asked for.
    """
    low, high = probability.new_tensor([ASKED[kind] for kind in KINDS]).T
    kinds = torch.arange(1, len(KINDS) + 1, device=task.device)
    asked = (task[:, None] == kinds).to(probability.dtype)
    return asked * ramp(probability, low, high)


def tell(probability: Tensor, task: Tensor) -> Tensor:
    """What the restorer is told is wrong, (B, 6) in [0, 1]; arguments as of `confident_in_task`."""
    return torch.maximum(ramp(probability, *TOLD), confident_in_task(probability, task))


def ramp(value: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """0 up to `low`, 1 from `high` on, a straight line between."""
    return ((value - low) / (high - low)).clamp(0.0, 1.0)
