"""Where a clip changes scene, seen in small images of its frames.

A cut is where every frame just before differs from every frame just after, far more than frames on
either side differ among themselves. So neither a pan nor a fade is one (all steps are alike), nor
is a flash (the frames around it are alike).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SIDE = 16
"""Side of the small images that are compared: coarse, so that noise and detail do not count."""

REACH = 3
"""Frames looked at on either side; a flash of fewer frames is no scene of its own."""

LEAST = 0.03
"""Mean difference, on a scale from black to white, below which nothing is a cut."""

RATIO = 2.5
"""How often a cut exceeds the change from frame to frame on either side."""


def is_cut(before: Sequence[Floats], after: Sequence[Floats]) -> bool:
    """Tell whether a new scene begins between two runs of frames.

    Args:
        before: up to `REACH` small images (S, S, 3) in [0, 1], in order; fewer at a clip's ends.
        after: those that follow them.

    Returns:
        False if either is empty.
    """
    if not before or not after:
        return False
    across = min(difference(one, other) for one in before for other in after)
    return across > max(LEAST, RATIO * max(_step(before), _step(after)))


def difference(one: Floats, other: Floats) -> float:
    """Return the mean absolute difference of two small images."""
    return float(np.mean(np.abs(one - other)))


def _step(run: Sequence[Floats]) -> float:
    """Return how much a run changes from frame to frame; a flash amid it does not count."""
    return min((difference(*pair) for pair in combinations(run, 2)), default=0.0)
