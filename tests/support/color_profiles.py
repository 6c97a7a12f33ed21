"""Profiles, built by hand from published primaries and curves, and files that have them."""

import io
import struct

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms
from support.identity import IdentityRestorer

from varfix.engine.image.decoded_image import replace_pixels
from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.settings.types import OutputSettings, Settings

KEEP = OutputSettings()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HEIGHT, WIDTH = 37, 80


# Profiles, built by hand from their published primaries and curves.


def profile(kind, pcs, tags):
    body, entries = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, payload in tags.items():
        entries += struct.pack(">4sII", name, start + len(body), len(payload))
        body += payload + bytes(-len(payload) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, b"mntr", kind, pcs)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\x00") + struct.pack(">I", len(tags)) + entries + body


def texts():
    name = b"desc" + struct.pack(">II", 0, 5) + b"test\x00" + bytes(78)
    return {
        b"desc": name,
        b"cprt": b"text" + bytes(4) + b"CC0\x00",
        b"wtpt": xyz(0.9642, 1, 0.8249),
    }


def xyz(*values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def gamma(value):
    return b"curv" + struct.pack(">IIH", 0, 1, round(value * 256))


def table(values):
    data = np.rint(np.asarray(values) * 65535).astype(">u2").tobytes()
    return b"curv" + struct.pack(">II", 0, len(values)) + data


def para(kind, *values):
    numbers = (round(v * 65536) for v in values)
    return b"para" + struct.pack(f">IHH{len(values)}i", 0, kind, 0, *numbers)


SRGB_PARA = para(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def matrix_profile(primaries, curve):
    columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*p) for p in primaries), strict=True))
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return profile(b"RGB ", b"XYZ ", {**texts(), **columns, **curves})


def gray_profile(curve):
    return profile(b"GRAY", b"XYZ ", {**texts(), b"kTRC": curve})


P3_PRIMARIES = (
    (0.51512, 0.2412, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.1571, 0.06657, 0.78407),
)
SRGB_PRIMARIES = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
P3 = matrix_profile(P3_PRIMARIES, SRGB_PARA)
ADOBE = matrix_profile(
    ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
    gamma(563 / 256),
)
PROPHOTO = matrix_profile(
    ((0.79767, 0.28803, 0), (0.13519, 0.71188, 0), (0.03134, 0.00008, 0.8249)), gamma(1.8)
)
TABLED_P3 = matrix_profile(P3_PRIMARIES, table(np.linspace(0, 1, 1024) ** 2.2))
WIDE = {"P3": P3, "Adobe RGB": ADOBE, "ProPhoto": PROPHOTO, "curves as tables": TABLED_P3}
GRAYS = {"gamma 1.8": gray_profile(gamma(1.8)), "linear": gray_profile(gamma(1.0))}


def nodes(count, axes):
    axis = np.linspace(0, 1, count)
    return np.stack(np.meshgrid(*[axis] * axes, indexing="ij"), -1).reshape(-1, axes)


def lut8(inputs, count, values):
    """Pack a lookup table: (count ** inputs, outputs) in [0, 1]."""
    outputs = values.shape[1]
    unit_matrix = struct.pack(">9i", *(65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    ramp = bytes(range(256))
    cells = np.rint(values.clip(0, 1) * 255).astype(np.uint8).tobytes()
    head = b"mft1" + bytes(4) + bytes((inputs, outputs, count, 0))
    return head + unit_matrix + ramp * inputs + cells + ramp * outputs


def lab_of(rgb):
    """Turn sRGB (N, 3) into Lab as tables store it, in [0, 1]."""
    pixels = np.ascontiguousarray(rgb[np.newaxis].astype(np.float32))
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab)[0]
    return (lab + np.array((0, 128, 128))) / (100, 255, 255)


def rgb_of(lab):
    whole = (lab * (100, 255, 255) - (0, 128, 128)).astype(np.float32)
    return cv2.cvtColor(whole[np.newaxis], cv2.COLOR_Lab2RGB)[0].clip(0, 1)


def inks_of(rgb):
    """Print with as much black as possible."""
    light = rgb.max(axis=1, keepdims=True)
    return np.hstack([1 - rgb / np.maximum(light, 1e-6), 1 - light])


def cmyk_profile():
    inks = nodes(9, 4)
    light = (1 - inks[:, :3]) * (1 - inks[:, 3:])
    there = lut8(4, 9, lab_of(light**0.6))  # lighter than inks without a profile
    back = lut8(3, 33, inks_of(rgb_of(nodes(33, 3))))
    return profile(b"CMYK", b"Lab ", {**texts(), b"A2B0": there, b"B2A0": back})


def tabled_rgb_profile():
    """An RGB profile of tables alone: green and blue changed places, all a little darker."""
    swap = [0, 2, 1]
    there = lut8(3, 17, lab_of(nodes(17, 3)[:, swap] * 0.9))
    back = lut8(3, 33, rgb_of(nodes(33, 3))[:, swap] / 0.9)
    return profile(b"RGB ", b"Lab ", {**texts(), b"A2B0": there, b"B2A0": back})


CMYK = cmyk_profile()
TABLED = tabled_rgb_profile()


# Files.


def noise(channels=3, dtype=np.uint8, seed=0):
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def flat(color, dtype=np.uint8):
    return np.broadcast_to(np.array(color, dtype), (8, 8, len(color))).copy()


def tiff(array, icc=None):
    kinds = {1: "minisblack", 2: "minisblack", 3: "rgb", 4: "rgb"}
    channels = 1 if array.ndim == 2 else array.shape[2]
    out = io.BytesIO()
    extra = ["unassalpha"] if channels in (2, 4) else None
    photometric = kinds[channels]
    tifffile.imwrite(
        out,
        array,
        photometric=photometric,
        extrasamples=extra,
        iccprofile=icc,
        planarconfig="contig",
    )
    return out.getvalue()


def ink_tiff(array, icc=None):
    out = io.BytesIO()
    tifffile.imwrite(out, array, photometric="separated", iccprofile=icc, planarconfig="contig")
    return out.getvalue()


def read(data):
    return decode_image(data, max_pixels=10**6)


def untouched(data, fmt="keep", options=KEEP):
    """Send an image through everything but a model."""
    image = read(data)
    pixels = restore_image(IdentityRestorer(), image.pixels, Settings())
    return encode_image(replace_pixels(image, pixels), fmt, options)


def painted(data, color):
    """Let a model paint everything in one sRGB color."""
    image = read(data)
    pixels = np.broadcast_to(np.float32(color), image.pixels.shape)
    return encode_image(replace_pixels(image, pixels), "keep", KEEP).data


def lcms(array, icc, mode="RGB"):
    """What LittleCMS makes of 8-bit samples, as sRGB."""
    image = (
        Image.fromarray(array)
        if mode != "CMYK"
        else Image.frombytes("CMYK", array.shape[1::-1], array.tobytes())
    )
    own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    srgb = ImageCms.createProfile("sRGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return np.asarray(ImageCms.profileToProfile(image, own, srgb, intent, "RGB"))
