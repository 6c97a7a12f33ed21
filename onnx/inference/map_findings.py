"""Findings of a VarFormer-S: what its prior graph says, or, of an older one, its maps."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from varfix.engine.models.card import TASKS, ModelCard
from varfix.engine.restoration.findings import KINDS, Finding, Findings
from varfix.engine.restoration.restorer import Floats
from varfix.engine.restoration.several_tasks import TONE_ONLY

SCALE_CHANNELS: Final = 320
"""The first channels of the maps: ten scales of 32. The last ones are the
probabilities of `KINDS`, equal everywhere; between them is the tone grid."""

LIKELY: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "noise": (0.3, 0.6),
        "rain": (0.4, 0.7),
        "haze": (0.85, 0.95),
        "lowlight": (0.9, 0.97),
        "blur": (0.3, 0.6),
        "snow": (0.2, 0.5),
    }
)
"""The thresholds inside graphs without `found`: from the first probability on a kind is treated,
from the second on in full."""

ASKED: Final = (0.7, 0.8)
"""The same for the kind that the task names."""


def named_findings(table: Floats) -> Findings:
    """Name the rows of a prior graph's output `found`, (4, 6) in [0, 1]: engine/README.md."""
    columns = zip(KINDS, table.T.astype(float).tolist(), strict=True)
    return {
        kind: Finding(probability, acted, strength, head_share)
        for kind, (probability, head_share, strength, acted) in columns
    }


def findings_in(maps: Floats, card: ModelCard, task: str) -> Findings | None:
    """Return what the prior maps say is wrong with an image.

    Args:
        maps: (C, 16, 16), the prior maps of the image.
        card: Card of the model.
        task: The task that the maps were computed for.

    Returns:
        A finding for each of `KINDS`; None for models with other maps.
    """
    if card.tasks != TASKS or card.prior_channels <= SCALE_CHANNELS + len(KINDS):
        return None
    probabilities = maps[-len(KINDS) :, 0, 0].astype(float).tolist()
    changes_tone = bool(maps[SCALE_CHANNELS : -len(KINDS)].any())
    findings = {}
    for kind, probability in zip(KINDS, probabilities, strict=True):
        acted = _ramp(probability, *LIKELY[kind])
        if kind == task:
            acted = max(acted, _ramp(probability, *ASKED))
        # A grid that would hardly change the image is zero: then nothing is done.
        findings[kind] = Finding(
            probability, acted if changes_tone or kind not in TONE_ONLY else 0.0
        )
    return findings


def _ramp(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)
