"""Files whose colours are not sRGB: what the model sees, and what comes back."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageCms

from varfix.engine.colour import PlainInks, space_of
from varfix.engine.image import encode_picture, read_picture, replace_pixels
from varfix.engine.restorer import IdentityRestorer
from varfix.engine.settings import OutputSettings, Settings
from varfix.engine.tiled import restore_picture

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
    one = struct.pack(">9i", *(65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    ramp = bytes(range(256))
    cells = np.rint(values.clip(0, 1) * 255).astype(np.uint8).tobytes()
    head = b"mft1" + bytes(4) + bytes((inputs, outputs, count, 0))
    return head + one + ramp * inputs + cells + ramp * outputs


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


def flat(colour, dtype=np.uint8):
    return np.broadcast_to(np.array(colour, dtype), (8, 8, len(colour))).copy()


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


def saved(image, fmt, **params):
    out = io.BytesIO()
    image.save(out, fmt, **params)
    return out.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def read(data):
    return read_picture(data, max_pixels=10**6)


def untouched(data, fmt="keep", options=KEEP):
    """Send a picture through everything but a model."""
    picture = read(data)
    pixels = restore_picture(IdentityRestorer(), picture.pixels, Settings())
    return encode_picture(replace_pixels(picture, pixels), fmt, options)


def painted(data, colour):
    """Let a model paint everything in one sRGB colour."""
    picture = read(data)
    pixels = np.broadcast_to(np.float32(colour), picture.pixels.shape)
    return encode_picture(replace_pixels(picture, pixels), "keep", KEEP).data


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


# Wide gamuts.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", WIDE)
def test_every_colour_of_a_wide_space_comes_back_exactly(name, channels, dtype):
    array = noise(channels, dtype)
    if channels == 4:
        array[:9, :, 3] = 0
    encoded = untouched(tiff(array, WIDE[name]))
    with tifffile.TiffFile(io.BytesIO(encoded.data)) as result:
        assert np.array_equal(result.asarray(), array)
        assert result.pages[0].iccprofile == WIDE[name]
    assert encoded.warnings == ()


@pytest.mark.parametrize("name", WIDE)
def test_every_value_of_16_bits_comes_back_exactly(name):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    array = np.dstack([ramp, ramp[::-1], ramp.T])
    result = tifffile.imread(io.BytesIO(untouched(tiff(array, WIDE[name])).data))
    assert np.array_equal(result, array)


@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
def test_wide_colours_survive_in_8_bit_formats(fmt):
    params = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    data = saved(Image.fromarray(noise(4)), fmt, icc_profile=P3, **params)
    result = opened(untouched(data).data)
    assert np.array_equal(np.asarray(result), noise(4))
    assert result.info["icc_profile"] == P3


@pytest.mark.parametrize("name", WIDE)
def test_the_model_sees_what_littlecms_makes_of_it(name):
    picture = read(tiff(noise(), WIDE[name]))
    assert np.abs(picture.pixels * 255 - lcms(noise(), WIDE[name])).max() < 1.5


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("colour", [(0.2, 0.5, 0.7), (0.9, 0.8, 0.1), (0.05, 0.05, 0.05)])
def test_what_the_model_paints_is_what_the_file_shows(name, colour):
    # From a colour inside sRGB; one outside keeps what sRGB could not show.
    result = opened(
        painted(
            saved(Image.fromarray(flat((128, 128, 128))), "PNG", icc_profile=WIDE[name]), colour
        )
    )
    seen = lcms(np.asarray(result), result.info["icc_profile"])
    assert np.abs(seen - np.array(colour) * 255).max() <= 2.5


def test_a_colour_outside_srgb_stays_there_when_the_model_changes_it():
    red = flat((250, 0, 0), np.uint16) * 257
    picture = read(tiff(red, P3))
    assert picture.pixels[0, 0].tolist() == [pytest.approx(1, abs=0.01), 0, 0]
    darker = replace_pixels(picture, picture.pixels * np.float32(0.97))
    result = tifffile.imread(io.BytesIO(encode_picture(darker, "keep", KEEP).data))
    assert 240 * 257 < result[0, 0, 0] < 249 * 257
    # Converted back from sRGB it would be at least 50 and 35 of 255.
    assert (result[0, 0, 1:] < 3 * 257).all()


def test_a_file_without_room_for_the_profile_gets_srgb():
    encoded = untouched(tiff(noise(), P3), "bmp")
    assert np.abs(np.asarray(opened(encoded.data)).astype(int) - lcms(noise(), P3)).max() <= 2
    assert "BMP holds no colour profile" in encoded.warnings[-1]


def test_without_metadata_wide_colours_become_srgb_under_transparency_too():
    array = noise(4)
    array[..., 3] = 0
    data = saved(Image.fromarray(array), "PNG", icc_profile=P3)
    encoded = untouched(data, "png", OutputSettings(metadata="none"))
    result = opened(encoded.data)
    assert "icc_profile" not in result.info
    seen = np.asarray(result)[..., :3].astype(int)
    assert np.abs(seen - lcms(array[..., :3].copy(), P3)).max() <= 2
    assert "converted to sRGB" in encoded.warnings[0]


def test_a_profile_that_cannot_be_stored_leaves_srgb_and_a_warning():
    primaries = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*p) for p in P3_PRIMARIES), strict=True))
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), SRGB_PARA)
    tags = {**texts(), **primaries, **curves, b"priv": b"data" + bytes(17_000_000)}
    huge = profile(b"RGB ", b"XYZ ", tags)  # JPEG holds 16.7 MB
    encoded = untouched(tiff(noise(), huge), "jpg", OutputSettings(jpeg_quality=100))
    result = np.asarray(opened(encoded.data)).astype(int)
    assert "profile cannot be stored" in encoded.warnings[-1]
    assert np.abs(result - lcms(noise(), P3)).mean() < 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", GRAYS)
def test_gray_profiles(name, dtype):
    array = noise(1, dtype)
    data = tiff(array, GRAYS[name])
    assert np.array_equal(tifffile.imread(io.BytesIO(untouched(data).data)), array)
    picture = read(data)
    assert np.ptp(picture.pixels, axis=2).max() == 0
    shallow = array if dtype == np.uint8 else np.rint(array / 257).astype(np.uint8)
    # LittleCMS's own rounding of a curve is coarse near black.
    seen = np.median(np.abs(picture.pixels * 255 - lcms(shallow, GRAYS[name], "L")))
    assert seen < 1.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_profiles_of_tables_come_back_exactly(dtype):
    array = noise(3, dtype)
    result = tifffile.imread(io.BytesIO(untouched(tiff(array, TABLED)).data))
    assert np.array_equal(result, array)


def test_profiles_of_tables_are_used_both_ways():
    source = saved(Image.fromarray(flat((120, 130, 140))), "PNG", icc_profile=TABLED)
    result = opened(painted(source, (0.5, 0.6, 0.3)))
    seen = lcms(np.asarray(result), TABLED)[0, 0]
    assert np.abs(seen - np.array((0.5, 0.6, 0.3)) * 255).max() < 8


def test_a_change_through_tables_is_smooth_at_16_bits():
    picture = read(tiff(np.full((4, 512, 3), 30000, np.uint16), TABLED))
    ramp = np.linspace(0, 0.02, 512, dtype=np.float32)[None, :, None]
    result = encode_picture(replace_pixels(picture, picture.pixels + ramp), "keep", KEEP).data
    steps = np.diff(tifffile.imread(io.BytesIO(result)).astype(int), axis=1)
    assert steps.min() >= 0
    assert steps.max() <= 10  # at 8 bits there would be steps of 257


# Profiles that are left alone.


@pytest.mark.parametrize(
    "icc, word",
    [
        (SRGB, None),
        (matrix_profile(SRGB_PRIMARIES, SRGB_PARA), None),
        (gray_profile(SRGB_PARA), "for GRAY"),
        (b"nonsense" * 40, "cannot be used"),
        (P3[:300], "cannot be used"),
        (matrix_profile(P3_PRIMARIES, gamma(0)), "cannot be used"),
        (matrix_profile(P3_PRIMARIES[:1] * 3, gamma(2.2)), "cannot be used"),
        (CMYK, "for CMYK pictures"),
        (GRAYS["linear"], "for GRAY pictures"),
    ],
)  # fmt: skip
def test_srgb_and_useless_profiles_are_passed_through(icc, word):
    picture = read(saved(Image.fromarray(noise()), "PNG", icc_profile=icc))
    assert picture.origin is None
    assert [word in text for text in picture.info.warnings] == ([True] if word else [])
    result = opened(encode_picture(picture, "keep", KEEP).data)
    assert np.array_equal(np.asarray(result), noise())
    assert result.info["icc_profile"] == icc


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 600))
def test_no_damage_to_a_profile_stops_a_picture(junk, at):
    damaged = P3[:at] + junk + P3[at + len(junk) :]
    space, warning = space_of("rgb", damaged)
    assert space is None or warning is None


# Inks.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("icc", [None, CMYK], ids=["no profile", "profile"])
def test_inks_of_a_tiff_come_back_exactly(icc, dtype):
    array = noise(4, dtype)
    array[:5, :, 3] = np.iinfo(dtype).max
    encoded = untouched(ink_tiff(array, icc))
    with tifffile.TiffFile(io.BytesIO(encoded.data)) as result:
        assert np.array_equal(result.asarray(), array)
        assert result.pages[0].photometric == 5
        assert result.pages[0].iccprofile == icc
    assert encoded.warnings == ()


def smooth_inks():
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    planes = [np.tile(ramp, (48, 1)), np.tile(ramp[::-1], (48, 1))]
    return np.dstack([*planes, np.full((48, 64), 90, np.uint8), planes[0] // 3])


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
@pytest.mark.parametrize("icc", [None, CMYK], ids=["no profile", "profile"])
def test_a_jpeg_of_inks_stays_one(icc, transform):
    image = Image.frombytes("CMYK", (64, 48), smooth_inks().tobytes())
    data = bytearray(saved(image, "JPEG", quality=95, icc_profile=icc))
    data[data.index(b"Adobe") + 11] = transform
    result = opened(untouched(bytes(data)).data)
    assert result.mode == "CMYK"
    assert result.info.get("icc_profile") == icc
    before = np.asarray(opened(bytes(data))).astype(int)
    assert np.abs(np.asarray(result) - before).mean() < 2


def test_the_model_sees_inks_as_littlecms_makes_them():
    picture = read(ink_tiff(noise(4), CMYK))
    assert np.abs(picture.pixels * 255 - lcms(noise(4), CMYK, "CMYK")).mean() < 2


@pytest.mark.parametrize("inks", [(40, 30, 20, 90), (120, 100, 90, 0), (0, 0, 0, 200)])
def test_what_the_model_paints_is_what_is_printed(inks):
    result = tifffile.imread(io.BytesIO(painted(ink_tiff(flat(inks), CMYK), (0.4, 0.6, 0.5))))
    seen = lcms(result, CMYK, "CMYK")[0, 0]
    assert np.abs(seen - np.array((0.4, 0.6, 0.5)) * 255).max() < 5


@pytest.mark.parametrize("icc", [None, CMYK], ids=["no profile", "profile"])
def test_the_black_stays_as_it_was_separated(icc):
    # The profile's own way back would print both with black alone.
    for inks in ((120, 120, 120, 0), (100, 90, 90, 60)):
        picture = read(ink_tiff(flat(inks), icc))
        darker = replace_pixels(picture, picture.pixels * np.float32(0.9))
        result = tifffile.imread(io.BytesIO(encode_picture(darker, "keep", KEEP).data))
        assert result[0, 0, 3] == inks[3]
        assert (result[0, 0, :3] > inks[:3]).all()


@pytest.mark.parametrize("fmt", ["png", "webp", "bmp"])
def test_inks_become_srgb_where_there_are_none_and_that_is_said(fmt):
    encoded = untouched(ink_tiff(smooth_inks(), CMYK), fmt)
    result = opened(encoded.data)
    assert "icc_profile" not in result.info
    assert "holds no CMYK" in encoded.warnings[-1]
    seen = np.asarray(result.convert("RGB")).astype(int)
    assert np.abs(seen - lcms(smooth_inks(), CMYK, "CMYK")).mean() < 3


UNIT = st.floats(0, 1, width=32)


@settings(deadline=None)
@given(
    npst.arrays(np.float32, (2, 3, 4), elements=UNIT),
    npst.arrays(np.float32, (2, 3, 3), elements=UNIT),
)
def test_plain_inks_show_exactly_the_wanted_colour(inks, wanted):
    space = PlainInks()
    seen = space.shown(inks)
    moved = space.moved(inks, seen, wanted)
    assert moved.min() >= -1e-5
    assert moved.max() <= 1 + 1e-5
    assert np.abs(space.shown(moved) - wanted).max() < 1e-4
    assert (moved[..., 3] <= inks[..., 3] + 1e-6).all()
    assert np.array_equal(space.moved(inks, seen, seen)[..., 3], inks[..., 3])
