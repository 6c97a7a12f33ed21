"""The model that ships, on real images: what a user's first run depends on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from varfix.engine.restoration.restore_image import restore_image, tile_grid_for
from varfix.engine.settings.types import Settings, TileSettings
from varfix.onnx.inference.open_model import open_restorer

pytestmark = pytest.mark.slow
PICTURES = Path(__file__).parents[1] / "pictures"
# The mean difference by which tiles of another size may change a result.
CONSISTENT = 0.004


def photo(height, width):
    path = sorted(PICTURES.rglob("*.jpg"))[0]
    image = Image.open(path).convert("RGB").resize((width, height))
    return np.asarray(image, np.float32) / 255


@pytest.mark.parametrize("size", [(320, 480), (200, 300), (100, 130), (520, 520), (600, 400)])
def test_tiles_that_fit_a_small_image_change_nothing_that_is_seen(size):
    fitted, full = Settings(device="cpu"), Settings(device="cpu", tile=TileSettings(size=512))
    restorer, square = (open_restorer("varformer-s", settings) for settings in (fitted, full))
    assert tile_grid_for(square, size, full).sides == (512, 512)
    assert np.prod(tile_grid_for(restorer, size, fitted).sides) < 0.8 * 512**2
    pixels = photo(*size)
    here, there = restore_image(restorer, pixels, fitted), restore_image(square, pixels, full)
    assert np.abs(here - pixels).mean() > 0.01  # it does restore
    assert np.abs(here - there).mean() < CONSISTENT
