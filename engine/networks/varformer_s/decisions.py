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
        "haze": (0.6, 0.75),
        "lowlight": (0.6, 0.75),
        "blur": (0.3, 0.6),
        "snow": (0.6, 0.9),
    }
)
"""Below the first probability a degradation is taken for absent, from the second on for there.
At those of haze and darkness 2 to 3 of 100 good training images change, mostly mist and night.
Bars and facades pass for a little rain or snow, and lost whole columns at lower values."""

ASKED: Ramps = MappingProxyType(
    {
        "noise": (0.02, 0.1),
        "rain": (0.15, 0.35),
        "haze": (0.3, 0.5),
        "lowlight": (0.3, 0.5),
        "blur": (0.02, 0.1),
        "snow": (0.05, 0.2),
    }
)
"""The same for what the user asks for: only what an image plainly contradicts is not believed."""

SHARED = ("noise", "rain", "snow")
"""Kinds about which the head on the prior's features is asked too: of faint rain and of noise it
has seen more than the judge."""

TOLD = (0.5, 0.9)
"""The same for what the restorer is told under `auto`: a little evidence of rain in a facade made
it smear the facade."""

NOISY = (0.6, 0.9)
DARK_DESPITE_NOISE = (0.8, 0.9)
"""Where noise is plain, darkness must be plainer than elsewhere: noise in a dim room is common, and
brightening it by mistake is what hurt most."""


def second_opinion(judged: Tensor, other: Tensor) -> Tensor:
    """Probabilities (B, 6) from the judge's logits (B, 6), with another head's for `SHARED`."""
    share = judged.new_tensor([0.5 if kind in SHARED else 0.0 for kind in KINDS])
    return torch.lerp(judged, other, share).sigmoid()


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
