"""Several tasks for one image: the prior runs for each, and the results become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.models.card import TASKS
from varfix.engine.restoration.findings import Findings

Floats = npt.NDArray[np.float32]

_KINDS: Final = len(TASKS) - 1
_TONE_CHANNELS: Final = 96

TONE_ONLY: Final = ("haze", "lowlight")
"""Kinds of damage that only the tone grid treats."""


def merge_maps(maps: Sequence[Floats]) -> Floats:
    """Return the maps (C, 16, 16) of all tasks together.

    Args:
        maps: Maps (C, 16, 16) for each task: the scales of the prior, which are averaged; the tone
            grid, of which the strongest is taken, because two do not add up; the evidence of each
            kind of damage, of which the greatest is taken.
    """
    if len(maps) == 1:
        return maps[0]
    merged: Floats = np.mean(maps, axis=0, dtype=np.float32)
    tone = _tone(merged)
    merged[tone] = maps[strongest_tone(maps)][tone]
    merged[tone.stop :] = np.max(maps, axis=0)[tone.stop :]
    return merged


def merge_findings(findings: Sequence[Findings], tone: int) -> Findings:
    """Return what is found for all tasks together.

    Args:
        findings: The findings for each task.
        tone: Number of the task whose tone grid is taken.
    """
    merged = {}
    for kind in findings[0]:
        among = findings if kind not in TONE_ONLY else [findings[tone]]
        merged[kind] = max((each[kind] for each in among), key=lambda finding: finding.acted)
    return merged


def strongest_tone(maps: Sequence[Floats]) -> int:
    """Return the number of the maps (C, 16, 16) whose tone grid changes most."""
    changes = [float(np.abs(each[_tone(each)]).sum()) for each in maps]
    return int(np.argmax(changes))


def _tone(maps: Floats) -> slice:
    """Return the channels of the tone grid; the evidence of each kind follows them."""
    end = max(0, len(maps) - _KINDS)
    return slice(max(0, end - _TONE_CHANNELS), end)
