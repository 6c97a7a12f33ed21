"""Detects scene cuts in small images of a video's frames.

At a cut every frame just before differs from every frame just after, far more than frames on
either side differ among themselves. So a pan or a fade is no cut (all steps are similar), nor is a
flash (the frames around it are similar).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SIDE = 16
"""Side of the small images to compare: coarse, to ignore noise and detail."""

REACH = 3
"""Frames on each side to compare; a flash of fewer frames is not a scene."""

LEAST = 0.03
"""Least mean difference of a cut, on a scale from black (0) to white (1)."""

RATIO = 2.5
"""Least ratio of the difference at a cut to the difference between frames on either side."""


def is_cut(before: Sequence[Floats], after: Sequence[Floats]) -> bool:
    """Return whether a new scene begins between two runs of frames.

    Args:
        before: Up to `REACH` small images (S, S, 3) in [0, 1], in order; fewer at the ends of a
            video.
        after: The images that follow.

    Returns:
        False if either is empty.
    """
    if not before or not after:
        return False
    across = min(difference(a, b) for a in before for b in after)
    return across > max(LEAST, RATIO * max(_step(before), _step(after)))


def difference(a: Floats, b: Floats) -> float:
    """Return the mean absolute difference of two small images."""
    return float(np.mean(np.abs(a - b)))


def _step(run: Sequence[Floats]) -> float:
    """Return the least difference between frames of a run, which ignores a flash in it."""
    return min((difference(*pair) for pair in combinations(run, 2)), default=0.0)
