"""What a model says about an image: how likely each kind of damage is there, and what it treats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from varfix.engine.models.card import TASKS

KINDS: Final = TASKS[1:]
"""Kinds of damage that a model may tell apart: the tasks but `auto`."""

TREATED: Final = 0.1
"""A kind that is acted on by less than this is not said to be treated: nobody would see it."""


@dataclass(frozen=True)
class Finding:
    """What is said about one kind of damage.

    Attributes:
        probability: In [0, 1], how likely it is there.
        acted: In [0, 1], how far it is acted on, by the thresholds of the requested task.
        strength: In [0, 1], how much it changed the image if it is there.
        head_share: In [0, 1], how far tone follows the head on the prior's features and not the
            judge (`varfix.engine.networks.varformer_s`).
    """

    probability: float
    acted: float
    strength: float = 0.0
    head_share: float = 0.0


Findings = Mapping[str, Finding]
"""A finding for each kind of damage, a member of `models.card.TASKS` but `auto`."""


@dataclass(frozen=True)
class Judgement:
    """What was found in an item, and what was done about it.

    Attributes:
        found: Probability in [0, 1] of each kind that the model judges. Of a video: the mean over
            the frames that were judged.
        applied: The kinds that were treated, the most likely first. Of a video: in any frame.
    """

    found: Mapping[str, float]
    applied: tuple[str, ...]


def summarize(findings: Iterable[Findings]) -> Judgement | None:
    """Return the judgement of one image, or of the judged frames of a video; None without any."""
    judged = list(findings)
    if not judged:
        return None
    found = {
        kind: sum(each[kind].probability for each in judged) / len(judged) for kind in judged[0]
    }
    treated = {kind for each in judged for kind in each if each[kind].acted >= TREATED}
    return Judgement(found, tuple(sorted(treated, key=lambda kind: -found[kind])))
