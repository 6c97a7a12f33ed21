"""Converts color metadata that is not an ICC profile to an equivalent ICC profile.

PNG stores it in chunks (cICP, gAMA, cHRM), AVIF and HEIC as code points of ITU-T H.273. All other
modules and formats use ICC profiles.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
# Chromaticities x, y of white, red, green and blue.
Primaries = tuple[tuple[float, float], ...]

_D65: Final = (0.3127, 0.3290)
_BT709: Final = (_D65, (0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_PRIMARIES: Final[dict[int, Primaries]] = {
    1: _BT709,
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}

# Parameters g, a, b, c, d of a parametric ICC curve: (a x + b)^g for x >= d, c x below.
_SRGB: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT709_CURVE: Final = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES: Final[dict[int, tuple[float, ...]]] = {
    1: _BT709_CURVE,
    4: (2.2,),
    5: (2.8,),
    6: _BT709_CURVE,
    7: (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4.0, 0.0913),
    8: (1.0,),
    13: _SRGB,
    14: _BT709_CURVE,
    15: _BT709_CURVE,
}
HDR: Final = {16: "PQ", 18: "HLG"}
_UNSPECIFIED: Final = 2
_SRGB_CODES: Final = ((1, 13), (1, _UNSPECIFIED), (_UNSPECIFIED, 13), (_UNSPECIFIED, _UNSPECIFIED))

# Range of exponents that programs write for the sRGB curve.
_SRGB_GAMMA: Final = (0.44, 0.47)
_CLOSE: Final = 0.002

_D50: Final = np.array([0.9642, 1.0, 0.8249])
_BRADFORD: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def profile_of_codes(primaries: int, transfer: int, *, gray: bool = False) -> bytes | None:
    """Return a profile for code points of H.273; None for sRGB and unknown code points.

    Args:
        primaries: Color primaries.
        transfer: Transfer characteristics; the result is None for HDR.
        gray: The image has one channel.
    """
    if (primaries, transfer) in _SRGB_CODES or transfer in HDR:
        return None
    curve = _SRGB if transfer == _UNSPECIFIED else _CURVES.get(transfer)
    points = _BT709 if primaries == _UNSPECIFIED else _PRIMARIES.get(primaries)
    return None if curve is None or points is None else profile(points, curve, gray=gray)


def profile_of_chunks(chunks: Mapping[bytes, bytes], *, gray: bool) -> bytes | None:
    """Return a profile for the color chunks of a PNG; None for sRGB and without such chunks.

    Args:
        chunks: Payloads of the chunks cICP, sRGB, gAMA and cHRM, by type.
        gray: The image has one channel.
    """
    codes = codes_of(chunks)
    if codes is not None:
        return profile_of_codes(*codes, gray=gray)
    if b"sRGB" in chunks:
        return None
    gamma, points = _gamma(chunks.get(b"gAMA", b"")), _points(chunks.get(b"cHRM", b""))
    if gamma is None and points is None:
        return None
    like_srgb = gamma is None or _SRGB_GAMMA[0] < gamma < _SRGB_GAMMA[1]
    same = points is None or _is_near(points, _BT709)
    if like_srgb and (same or gray):
        return None
    curve = _SRGB if like_srgb or gamma is None else (1 / gamma,)
    return profile(points or _BT709, curve, gray=gray)


def codes_of(chunks: Mapping[bytes, bytes]) -> tuple[int, int] | None:
    """Return color primaries and transfer characteristics of the cICP chunk, None without it."""
    payload = chunks.get(b"cICP", b"")
    return (payload[0], payload[1]) if len(payload) == 4 else None


def _gamma(payload: bytes) -> float | None:
    if len(payload) != 4:
        return None
    value = int.from_bytes(payload, "big") / 100_000
    return value if 0.1 <= value <= 10 else None


def _points(payload: bytes) -> Primaries | None:
    if len(payload) != 32:
        return None
    values = [value / 100_000 for value in struct.unpack(">8I", payload)]
    points = tuple(zip(values[::2], values[1::2], strict=True))
    return points if _is_valid(points) else None


def _is_valid(points: Primaries) -> bool:
    """Return whether every point is a color and the primaries are not collinear."""
    if any(y < 0.001 or x < 0 or x + y > 1.001 for x, y in points):
        return False
    return bool(abs(np.linalg.det(_xyz_of(points[1:]))) > 1e-3)


def _is_near(points: Primaries, others: Primaries) -> bool:
    return bool(np.abs(np.array(points) - np.array(others)).max() <= _CLOSE)


def _xyz_of(points: Primaries) -> Matrix:
    """Return the XYZ values, with Y = 1, of chromaticities, as columns."""
    return np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in points]).T


def profile(points: Primaries, curve: tuple[float, ...], *, gray: bool = False) -> bytes:
    """Build an ICC profile of version 4 from primaries and a tone curve.

    Args:
        points: Chromaticities of white, red, green and blue.
        curve: The exponent alone, or g, a, b, c, d.
        gray: Build a profile for one channel; the primaries are not used then.
    """
    kind = 0 if len(curve) == 1 else 3
    trc = b"para" + struct.pack(f">IHH{len(curve)}i", 0, kind, 0, *map(_to_fixed, curve))
    tags = {b"desc": _text_tag("RGB of the source"), b"cprt": _text_tag("no copyright")}
    tags[b"wtpt"] = _number_tag(b"XYZ ", _D50)
    if gray:
        tags[b"kTRC"] = trc
    else:
        white = _xyz_of(points[:1])[:, 0]
        adaptation = _adaptation(white)
        unscaled = _xyz_of(points[1:])
        matrix = adaptation @ (unscaled * np.linalg.solve(unscaled, white))
        tags[b"chad"] = _number_tag(b"sf32", adaptation.ravel())
        for column, name in enumerate((b"r", b"g", b"b")):
            tags[name + b"XYZ"] = _number_tag(b"XYZ ", matrix[:, column])
            tags[name + b"TRC"] = trc
    return _assemble(tags, b"GRAY" if gray else b"RGB ")


def _adaptation(white: Matrix) -> Matrix:
    """Return the matrix that adapts a white point to D50 (Bradford)."""
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD)


def _to_fixed(value: float) -> int:
    return round(float(value) * 65536)


def _number_tag(kind: bytes, values: Matrix) -> bytes:
    return kind + struct.pack(f">I{len(values)}i", 0, *map(_to_fixed, values))


def _text_tag(text: str) -> bytes:
    words = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", len(words), 28) + words


def _assemble(tags: Mapping[bytes, bytes], colors: bytes) -> bytes:
    """Return a profile of a header and tags; equal payloads are stored once."""
    at = 128 + 4 + 12 * len(tags)
    places: dict[bytes, int] = {}
    body = b""
    for payload in tags.values():
        if payload not in places:
            places[payload] = at + len(body)
            body += payload + bytes(-len(payload) % 4)
    table = struct.pack(">I", len(tags))
    for name, payload in tags.items():
        table += struct.pack(">4sII", name, places[payload], len(payload))
    head = struct.pack(
        ">I4sI4s4s4s6H4s4sI4sIQI3i4s",
        at + len(body),
        b"",
        0x04300000,
        b"mntr",
        colors,
        b"XYZ ",
        *(2026, 1, 1, 0, 0, 0),
        b"acsp",
        b"",
        0,
        b"",
        0,
        0,
        1,
        *map(_to_fixed, _D50),
        b"",
    )
    return head.ljust(128, b"\x00") + table + body
