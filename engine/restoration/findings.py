"""What a model says about an image before it restores it: what is wrong, how much, what it does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from varfix.engine.models.card import TASKS

KINDS = TASKS[1:]


@dataclass(frozen=True)
class Finding:
    """What is said about one kind of degradation.

    Attributes:
        probability: in [0, 1], calibrated: of images with 0.8, four in five are degraded so.
        strength: in [0, 1], how much the image is changed by it if it is there.
        acted: in [0, 1], how far it is acted on.
    """

    probability: float
    strength: float
    acted: float


Findings = dict[str, Finding]
"""A finding for each kind of degradation, a member of `models.card.TASKS` but `auto`."""


def findings_of(table: npt.NDArray[np.float32]) -> Findings:
    """Name the rows of a prior graph's output `found`, (3, 6) in [0, 1]."""
    rows = table.astype(float)
    return {kind: Finding(*rows[:, i].tolist()) for i, kind in enumerate(KINDS)}
