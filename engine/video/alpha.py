"""Transparency of frames: whether they have any, and a color under it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from varfix.engine.errors import ConfigError
from varfix.engine.video.clip import Layout, Samples
from varfix.engine.video.color import YcbcrConverter

if TYPE_CHECKING:
    from av import VideoFrame

# Pixel formats with alpha begin with these.
_WITH_ALPHA: Final = ("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya", "pal8")
_SEARCHED_FRAMES: Final = 100


def is_transparent(frame: VideoFrame) -> bool:
    """Return whether a frame is transparent somewhere, and not everywhere.

    Many programs store alpha that is 0 everywhere and means nothing.
    """
    if not frame.format.name.startswith(_WITH_ALPHA):
        return False
    deep = max(component.bits for component in frame.format.components) > 8
    alpha = frame.reformat(format="rgba64le" if deep else "rgba").to_ndarray()[..., 3]
    return bool(alpha.min() < (65535 if deep else 255) and alpha.max() > 0)


def becomes_transparent(frames: Iterable[VideoFrame]) -> bool:
    """Return whether one of the first frames is transparent."""
    for frame in islice(frames, _SEARCHED_FRAMES):
        if not frame.format.name.startswith(_WITH_ALPHA):
            return False
        if is_transparent(frame):
            return True
    return False


class Background:
    """A color that is put under transparent frames."""

    def __init__(self, color: str, layout: Layout, matrix: int) -> None:
        """Convert the color.

        Args:
            color: A name, or #rrggbb.
            layout: Layout of the frames, without alpha.
            matrix: Number of their color matrix.

        Raises:
            ConfigError: It is not a color.
        """
        from PIL import ImageColor

        try:
            rgb = ImageColor.getrgb(color)[:3]
        except ValueError as error:
            raise ConfigError(
                f'output.flatten: "{color}" is not a color', hint="use a color name, or #rrggbb"
            ) from error
        self._codes = YcbcrConverter(layout, matrix).codes_of(
            np.array([level / 255 for level in rgb], np.float32)
        )
        self._most = np.float32((1 << layout.depth) - 1)

    def under(self, planes: tuple[Samples, ...]) -> tuple[Samples, ...]:
        """Return planes without alpha.

        Args:
            planes: Planes of the layout with alpha, which is the last.
        """
        import cv2

        *colors, alpha = planes
        share = alpha.astype(np.float32) / self._most
        flat = []
        for plane, code in zip(colors, self._codes, strict=False):
            height, width = plane.shape
            part = np.asarray(cv2.resize(share, (width, height), interpolation=cv2.INTER_AREA))
            blend = part * plane + (1 - part) * np.float32(code)
            flat.append(np.rint(blend).astype(plane.dtype))
        return tuple(flat)
