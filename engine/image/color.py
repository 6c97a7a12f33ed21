"""Converts colors of files that are not sRGB for the model, and applies its change to them.

Models support sRGB only, a smaller gamut than that of many images. A result converted back would
lose every color outside sRGB. So the file's own samples are kept, and only the *change* is
converted back::

    stored' = stored + encoded(restored) - encoded(to_rgb(stored))

Colors inside sRGB become exactly the model's result. Colors outside, which the model receives
clipped, keep the clipped part. A model that changes nothing gives the file's own samples, bit for
bit at any depth. CMYK inks are adjusted until they have the model's colors, with as little change
to the black as possible.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from varfix.engine.errors import NonFiniteError
from varfix.engine.image import icc

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[Any]

# Rows converted at once: some twenty temporaries of this height exist at a time.
_BAND: Final = 64
# Three steps of 8 bits: the curves of common small sRGB profiles differ by up to two.
_SRGB_TOLERANCE: Final = 3 / 255
# Nodes per axis at which LittleCMS is sampled: 255 / 17 is an integer, so nodes are exact.
_NODES: Final = 18
_PROFILE_KINDS: Final = {"rgb": "RGB", "gray": "GRAY", "cmyk": "CMYK"}
_PILLOW_MODES: Final = {"rgb": "RGB", "gray": "L"}
# Most corrections of inks, and the largest difference that 8 bits cannot represent.
_MAX_CORRECTIONS: Final = 4
_INVISIBLE: Final = 1.01 / 255

_STEPS: Final[Floats] = np.linspace(0, 1, 65536, dtype=np.float32)
_SRGB_LINEAR: Final = icc.SRGB_CURVE.to_linear(_STEPS)
_SRGB_ENCODED: Final = icc.SRGB_CURVE.to_encoded(_STEPS**2)


class ColorSpace(Protocol):
    """A color space of files; converts any number of rows."""

    def to_rgb(self, stored: Floats) -> Floats:
        """Convert stored colors (H, W, C) in [0, 1] to sRGB (H, W, 3) in [0, 1]."""
        ...

    def apply_change(self, stored: Floats, before: Floats, after: Floats) -> Floats:
        """Apply the change of sRGB from `before` to `after` to stored colors (H, W, C)."""
        ...


@dataclass(frozen=True)
class SourceSamples:
    """The samples from which an image's sRGB pixels were computed.

    Attributes:
        samples: (H, W, 1, 3 or 4) uint8 or uint16, upright, as stored; CMYK as amounts of ink.
        space: Their color space.
    """

    samples: Integers
    space: ColorSpace


class MatrixSpace:
    """Gray or RGB with tone curves and a matrix, in floats; curves are tables of 16 bits."""

    def __init__(self, profile: icc.MatrixProfile) -> None:
        self._linear = [curve.to_linear(_STEPS) for curve in profile.curves]
        # Indexed by the square root of light: fine steps where eyes and files need them.
        self._encoded = [curve.to_encoded(_STEPS**2) for curve in profile.curves]
        self._to_srgb = self._from_srgb = None
        if profile.matrix is not None:
            self._to_srgb = _matrix_between(profile.matrix, icc.SRGB_MATRIX)
            self._from_srgb = _matrix_between(icc.SRGB_MATRIX, profile.matrix)

    def to_rgb(self, stored: Floats) -> Floats:
        """Convert stored colors to sRGB; clip colors outside."""
        light = _look_up(stored, self._linear)
        light = light.repeat(3, axis=2) if self._to_srgb is None else light @ self._to_srgb
        return _look_up(np.sqrt(np.clip(light, 0, 1)), [_SRGB_ENCODED])

    def apply_change(self, stored: Floats, before: Floats, after: Floats) -> Floats:
        """Add the change in the encoding of this space."""
        return stored + (self._encode(after) - self._encode(before))

    def _encode(self, pixels: Floats) -> Floats:
        if self._from_srgb is None:
            gray = pixels.mean(axis=2, dtype=np.float32, keepdims=True)
            light = _look_up(gray, [_SRGB_LINEAR])
        else:
            light = _look_up(pixels, [_SRGB_LINEAR]) @ self._from_srgb
        return _look_up(np.sqrt(np.clip(light, 0, 1)), self._encoded)


def _look_up(values: Floats, tables: list[Floats]) -> Floats:
    """Look up (H, W, C) in [0, 1] in one table of 65536 for all channels or one for each."""
    places = (values * np.float32(65535) + np.float32(0.5)).astype(np.uint16)
    if len(tables) == 1:
        return tables[0].take(places)
    found = np.empty_like(values)
    for channel, table in enumerate(tables):
        found[..., channel] = table.take(places[..., channel])
    return found


def _matrix_between(source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> Floats:
    """Return the matrix, for rows of colors, from one RGB to another by way of XYZ."""
    return (np.linalg.inv(target) @ source).T.astype(np.float32)


class LutSpace:
    """RGB or gray with any other profile, through LittleCMS; the model gets 8-bit precision.

    The change is interpolated between nodes, so that it is smooth at any depth although LittleCMS
    runs at 8 bits.
    """

    def __init__(self, profile: bytes, mode: str) -> None:
        """Prepare both directions.

        Raises:
            ValueError: LittleCMS cannot use the profile for this.
        """
        self._mode = _PILLOW_MODES[mode]
        self._to_srgb = _transform(profile, self._mode, to_srgb=True)
        back = _transform(profile, self._mode, to_srgb=False)
        axis = np.linspace(0, 255, _NODES).round().astype(np.uint8)
        nodes = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
        table = _run_transform(back, "RGB", nodes.reshape(_NODES, -1, 3))
        self._lattice = table.reshape(_NODES**3, -1).astype(np.float32) / np.float32(255)

    def to_rgb(self, stored: Floats) -> Floats:
        """Convert stored colors to sRGB at 8 bits."""
        return _to_srgb_8bit(self._to_srgb, self._mode, stored)

    def apply_change(self, stored: Floats, before: Floats, after: Floats) -> Floats:
        """Add the change in the encoding of this space."""
        return stored + (self._encode(after) - self._encode(before))

    def _encode(self, pixels: Floats) -> Floats:
        """Interpolate linearly in the lattice; pixels in [0, 1]."""
        place = np.moveaxis(pixels, 2, 0) * np.float32(_NODES - 1)
        low = np.minimum(place.astype(np.int32), _NODES - 2)
        parts = place - low
        first = (low[0] * _NODES + low[1]) * _NODES + low[2]
        total = np.zeros((*pixels.shape[:2], self._lattice.shape[1]), np.float32)
        for corner in np.ndindex(2, 2, 2):
            red, green, blue = (p if up else 1 - p for p, up in zip(parts, corner, strict=True))
            step = (corner[0] * _NODES + corner[1]) * _NODES + corner[2]
            weight = (red * green * blue)[..., np.newaxis]
            total += self._lattice.take(first + step, axis=0) * weight
        return total


class ProfiledCmyk:
    """CMYK with a profile: changed as CMYK without one, then corrected with LittleCMS.

    A conversion through the profile from colors to inks would replace the black generation of the
    image by the profile's.
    """

    def __init__(self, profile: bytes) -> None:
        """Prepare the conversion from inks to colors.

        Raises:
            ValueError: LittleCMS cannot use the profile for this.
        """
        self._to_srgb = _transform(profile, "CMYK", to_srgb=True)
        self._plain = NaiveCmyk()

    def to_rgb(self, stored: Floats) -> Floats:
        """Convert inks (H, W, 4) to sRGB at 8 bits."""
        return _to_srgb_8bit(self._to_srgb, "CMYK", stored)

    def apply_change(self, stored: Floats, before: Floats, after: Floats) -> Floats:
        """Change the inks until their colors have the change, as far as possible."""
        inks, change = stored, after - before
        for _ in range(_MAX_CORRECTIONS):
            plain = self._plain.to_rgb(inks)
            inks = self._plain.apply_change(inks, plain, np.clip(plain + change, 0, 1)).clip(0, 1)
            change = after - self.to_rgb(inks)
            change[np.abs(change) <= _INVISIBLE] = 0
            if not change.any():
                break
        return inks


def _transform(profile: bytes, mode: str, *, to_srgb: bool) -> Any:
    """Prepare LittleCMS: relative colorimetric with black point compensation.

    Raises:
        ValueError: It cannot use the profile for this.
    """
    from PIL import ImageCms

    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        if to_srgb:
            return ImageCms.buildTransform(own, srgb, mode, "RGB", intent, flags)
        return ImageCms.buildTransform(srgb, own, "RGB", mode, intent, flags)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from error


def _to_srgb_8bit(transform: Any, mode: str, stored: Floats) -> Floats:
    samples = np.rint(stored * np.float32(255)).astype(np.uint8)
    return _run_transform(transform, mode, samples).astype(np.float32) / np.float32(255)


def _run_transform(transform: Any, mode: str, samples: Integers) -> Integers:
    """Run LittleCMS on (H, W, C) uint8."""
    from PIL import Image

    raw = np.ascontiguousarray(samples).tobytes()
    image = Image.frombytes(mode, (samples.shape[1], samples.shape[0]), raw)
    result = np.asarray(transform.apply(image))
    return result[..., np.newaxis] if result.ndim == 2 else result


class NaiveCmyk:
    """CMYK without a usable profile: each ink absorbs its share of the light, black of all."""

    def to_rgb(self, stored: Floats) -> Floats:
        """Convert inks (H, W, 4) to sRGB."""
        return (1 - stored[..., :3]) * (1 - stored[..., 3:])

    def apply_change(self, stored: Floats, before: Floats, after: Floats) -> Floats:
        """Change the colored inks, and the black only where it leaves too little light."""
        light = 1 - stored[..., 3:]
        # The brightest channel needs at least this much.
        lit = np.maximum(light, after.max(axis=2, keepdims=True))
        same = lit == light
        share = np.maximum(lit, np.float32(1e-6))
        change = np.where(same, stored[..., :3] - (after - before) / share, 1 - after / share)
        # Under pure black the colored inks are invisible: they stay as they are.
        inks = np.where(lit == 0, stored[..., :3], change)
        return np.dstack([inks, np.where(same, stored[..., 3:], 1 - lit)])


def space_of(mode: str, profile: bytes | None) -> tuple[ColorSpace | None, str | None]:
    """Return the color space of an image.

    Args:
        mode: `rgb`, `gray` or `cmyk`.
        profile: Its ICC profile, if any.

    Returns:
        The space, None for sRGB and what is close enough to it; and a warning, if there is one.
    """
    plain = NaiveCmyk() if mode == "cmyk" else None
    if profile is None:
        return plain, None
    try:
        kind = icc.color_model_of(profile)
        if (mode, kind) == ("gray", "RGB"):
            return None, None  # a common mistake of writers; the profile's gray is meant
        if kind != _PROFILE_KINDS[mode]:
            return plain, f"the color profile is for {kind} images and is ignored"
        space = _profile_space(mode, profile)
    except ValueError as error:
        return plain, f"the color profile is ignored ({error})"
    return (None if mode != "cmyk" and _is_srgb(space, mode) else space), None


def _profile_space(mode: str, profile: bytes) -> ColorSpace:
    if mode == "cmyk":
        return ProfiledCmyk(profile)
    curves = icc.read_matrix_profile(profile)
    return MatrixSpace(curves) if curves else LutSpace(profile, mode)


def _is_srgb(space: ColorSpace, mode: str) -> bool:
    axis = np.linspace(0, 1, 18 if mode == "rgb" else 256, dtype=np.float32)
    if mode == "gray":
        grid = axis.reshape(1, -1, 1)
    else:
        grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(len(axis), -1, 3)
    return bool(np.abs(space.to_rgb(grid) - grid).max() <= _SRGB_TOLERANCE)


def samples_to_rgb(samples: Integers, space: ColorSpace) -> Floats:
    """Convert samples of a file to the model's input.

    Args:
        samples: (H, W, 1, 3 or 4) uint8 or uint16.
        space: Their color space.

    Returns:
        (H, W, 3) float32 in [0, 1], sRGB.
    """
    height, width = samples.shape[:2]
    pixels = np.empty((height, width, 3), np.float32)
    for row in range(0, height, _BAND):
        pixels[row : row + _BAND] = space.to_rgb(_floats(samples[row : row + _BAND]))
    return pixels


def apply_restored(origin: SourceSamples, pixels: Floats) -> Integers:
    """Apply the model's change to a file's samples.

    Args:
        origin: The source samples.
        pixels: (H, W, 3) float32, nominally in [0, 1]: the restored sRGB.

    Returns:
        Samples of the same shape and depth as the origin's.

    Raises:
        NonFiniteError: A value is NaN or infinite; a cast would make it black.
    """
    samples = np.empty_like(origin.samples)
    top = np.float32(np.iinfo(samples.dtype).max)
    for row in range(0, len(samples), _BAND):
        after = pixels[row : row + _BAND]
        if not np.isfinite(after).all():
            raise NonFiniteError("the model produced invalid values")
        stored = _floats(origin.samples[row : row + _BAND])
        moved = origin.space.apply_change(stored, origin.space.to_rgb(stored), np.clip(after, 0, 1))
        samples[row : row + _BAND] = np.clip(np.rint(moved * top), 0, top)
    return samples


def _floats(samples: Integers) -> Floats:
    return samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
