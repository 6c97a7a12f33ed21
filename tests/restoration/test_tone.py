"""The shipped model does not invent faults of tone: good light, night, and very large images."""

from pathlib import Path

import numpy as np
import pytest

from varfix.engine.evaluation.metrics import psnr
from varfix.engine.evaluation.pairs import find_images
from varfix.engine.image.reader import decode_image
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.settings.resolve import resolve, set_layer
from varfix.onnx.inference.open_model import open_restorer

pytestmark = pytest.mark.slow

CLEAN = Path(__file__).parents[3] / "shared/data/val/kodak24"
needs_photographs = pytest.mark.skipif(
    not CLEAN.is_dir(), reason="wants ../shared/data/val/kodak24"
)
TASKS = ("auto", "noise", "rain", "haze", "lowlight", "blur", "snow")
BLOCK = 500
LEAST = 40.0
"""PSNR in dB of a clean image after restoration, at least."""


@pytest.fixture(scope="module")
def restore():
    """Restores images with the shipped model on the CPU, as `--set` says."""

    def run(pixels, *assignments):
        settings = resolve([set_layer(["device=cpu", *assignments])]).settings
        return restore_image(open_restorer("varformer-s", settings), pixels, settings)

    return run


def rounded(pixels):
    return np.rint(pixels * 255) / 255


def smooth_noise(size, seed, scale):
    import cv2

    noise = np.random.default_rng(seed).standard_normal(
        (size[0] // scale + 1, size[1] // scale + 1), dtype=np.float32
    )
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)


def city_at_night(size=(512, 768)):
    """A dark sky over dark houses, with lit windows and two street lamps: (H, W, 3)."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.empty((height, width, 3), np.float32)
    image[:] = (0.02 + 0.05 * (y / height))[..., None] * np.array([0.7, 0.8, 1.3], np.float32)
    rng = np.random.default_rng(4)
    for left in range(0, width, 64):
        top = int(rng.integers(160, 320))
        image[top:, left : left + 60] = rng.uniform(0.02, 0.06) * np.array([1.0, 0.9, 0.8])
        for row in range(top + 12, height - 24, 28):
            for column in range(left + 8, left + 52, 18):
                if rng.random() < 0.35:
                    image[row : row + 14, column : column + 9] = [0.95, 0.78, 0.42]
    for lamp in (width * 0.3, width * 0.8):
        distance = np.hypot(y - 400, x - lamp)
        image += (0.8 * np.exp(-distance / 14.0))[..., None] * np.array([1.0, 0.8, 0.5])
    image += 0.004 * smooth_noise(size, 5, 2)[..., None]
    return rounded(image.clip(0, 1)).astype(np.float32)


def evening_sky(size):
    """A sky from blue to the glow of the horizon, over dark hills: (H, W, 3)."""
    width = size[1]
    y, x = (np.linspace(0, 1, length, dtype=np.float32) for length in size)
    y, x = y[:, None, None], x[None, :, None]
    high, low = np.array([0.16, 0.32, 0.62]), np.array([0.93, 0.72, 0.52])
    sky = high + (low - high) * y**1.6 + 0.08 * np.exp(-((x - 0.7) ** 2 + (y - 0.8) ** 2) / 0.05)
    sky = sky.astype(np.float32) + 0.01 * smooth_noise(size, 6, max(1, width // 12))[..., None]
    ridge = 0.86 + 0.03 * np.sin(9 * x) + 0.015 * np.sin(31 * x)
    image = np.where(y > ridge, np.array([0.10, 0.11, 0.12], np.float32), sky)
    return rounded(image.clip(0, 1)).astype(np.float32)


def block_means(pixels, side):
    height, width = (length // side * side for length in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // side, side, width // side, side, 3)
    return blocks.mean((1, 3))


@needs_photographs
def test_a_clean_image_stays_as_it_was(restore):
    images = [decode_image(p.read_bytes(), max_pixels=10**7) for p in find_images(CLEAN)]
    values = [psnr(rounded(restore(image.pixels)), image.pixels) for image in images]
    equal_ones_count_60 = np.minimum(values, 60.0)
    assert equal_ones_count_60.mean() > 48.0
    assert equal_ones_count_60.min() > LEAST


@needs_photographs
@pytest.mark.parametrize("task", TASKS)
def test_no_preset_changes_the_brightness_of_a_good_image(restore, task):
    for path in find_images(CLEAN)[::6]:
        pixels = decode_image(path.read_bytes(), max_pixels=10**7).pixels
        change = restore(pixels, f"model.task={task}").mean() - pixels.mean()
        assert abs(change) < 0.06, path.name


@pytest.mark.parametrize("task", [task for task in TASKS if task != "lowlight"])
def test_night_is_not_turned_into_day(restore, task):
    night = city_at_night()
    restored = restore(night, f"model.task={task}")
    dark = night.mean(-1) < 0.1
    assert restored[dark].mean() < 1.6 * night[dark].mean()
    assert np.quantile(restored[dark], 0.9) < 0.14
    lit = night.mean(-1) > 0.7
    assert abs(restored[lit].mean() - night[lit].mean()) < 0.1


def test_a_large_sky_keeps_one_tone(restore):
    """Means of tiles at 24 megapixels against one tile that sees the image at half its size."""
    large, half = evening_sky((4000, 6000)), evening_sky((2000, 3000))
    whole = restore(half, "tile.size=3072")
    tiles = restore(large)
    difference = block_means(tiles, BLOCK) - block_means(whole, BLOCK // 2)
    assert np.abs(difference).max() < 3 / 255
    # No step between neighbors that the image itself does not have.
    change = block_means(tiles - large, BLOCK)
    for axis in (0, 1):
        assert np.abs(np.diff(change, axis=axis)).max() < 8 / 255
