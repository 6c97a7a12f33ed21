"""Input of the prior: what it sees of an image, and what it is asked.

See engine/README.md, "Model contract" (guidance `image`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CROP = 64
"""Side in pixels of the crops that a prior graph may look at beside the thumbnail."""

PLACES = ((0.5, 0.5), (0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8))
"""Where their centers lie, across and down, as shares of the image: the middle, four quarters."""


@dataclass(frozen=True)
class PriorInput:
    """What the prior sees of an image, and what it is asked.

    Attributes:
        thumbnail: (S, S, 3) float32 in [0, 1], S from the card.
        task: A member of `varfix.engine.models.card.TASKS`, or several, as in `noise,haze`.
        crops: (5, 64, 64, 3) of `native_crops`, for models that look at them; None where the
            thumbnail is all there is.
        probabilities: (2, 6), `probability` and `head_share` of a finding for each kind of
            damage, to act on in place of the model's own, for models that take them.
    """

    thumbnail: Floats
    task: str = "auto"
    crops: Floats | None = None
    probabilities: Floats | None = None


def prior_input_of(pixels: Floats, size: int, task: str) -> PriorInput:
    """Return what the prior sees of an image (H, W, 3) float32 in [0, 1].

    Args:
        pixels: The image.
        size: Side of the thumbnail.
        task: What to restore it from.
    """
    return PriorInput(thumbnail(pixels, size), task, native_crops(pixels))


def thumbnail(pixels: Floats, size: int) -> Floats:
    """Shrink a whole image to a square, each pixel the mean of the area that it covers.

    Args:
        pixels: (H, W, 3) float32 in [0, 1].
        size: Side of the square; the aspect ratio is not kept.

    Returns:
        (size, size, 3) float32 in [0, 1].
    """
    import cv2

    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    # One axis at a time: if one axis shrinks and the other grows, OpenCV averages neither.
    steps = [(size, height), (size, size)] if width > height else [(width, size), (size, size)]
    for step in steps:
        pixels = np.asarray(cv2.resize(pixels, step, interpolation=cv2.INTER_AREA), np.float32)
    return pixels.reshape(size, size, 3)


def native_crops(pixels: Floats) -> Floats:
    """Cut pieces of an image at native size: sharpness and grain do not survive a thumbnail.

    Args:
        pixels: (H, W, 3) float32 in [0, 1]. Mirrored where it is smaller than a crop.

    Returns:
        (5, 64, 64, 3) float32 in [0, 1].
    """
    lacking = [max(0, CROP - length) for length in pixels.shape[:2]]
    if any(lacking):
        pixels = np.pad(pixels, [(0, lacking[0]), (0, lacking[1]), (0, 0)], mode="symmetric")
    height, width = pixels.shape[:2]
    corners = [(_start(down, height), _start(across, width)) for across, down in PLACES]
    return np.stack([pixels[top : top + CROP, left : left + CROP] for top, left in corners])


def _start(place: float, length: int) -> int:
    return min(max(round(place * length) - CROP // 2, 0), length - CROP)
