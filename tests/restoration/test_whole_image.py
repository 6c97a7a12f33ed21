"""Models that see squares of one size only leave one tone over the image."""

from dataclasses import dataclass

import cv2
import msgspec
import numpy as np
import pytest
from PIL import Image
from support.identity import IdentityRestorer

from varfix.engine.batch.fingerprint import settings_fingerprint
from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.prior_input import thumbnail
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.types import Settings, TileSettings

CARD = ModelCard(
    name="square", licence="CC0-1.0", tile=64, multiple=64, overlap=16, guidance="tile"
)
GLOBAL, BY_TILE, WHOLE = (
    Settings(tile=tile)
    for tile in (TileSettings(), TileSettings(tone="tile"), TileSettings(resize_whole=True))
)


@dataclass
class Square(IdentityRestorer):
    """Takes tiles of 64 only, and returns them."""

    card: ModelCard = CARD

    def restore(self, tiles, prior):
        assert prior is None
        assert tiles.shape[1:] == (64, 64, 3)
        assert tiles.dtype == np.float32
        return RestoredTiles(self.painted(tiles))

    def painted(self, tiles):
        return tiles


class Equalizer(Square):
    """Brings the mean of whatever it sees to one half, as networks bring haze to contrast."""

    def painted(self, tiles):
        return np.clip(tiles - tiles.mean((1, 2, 3), keepdims=True) + 0.5, 0.0, 1.0)


def noise(height, width, seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image.astype(np.float32) / 255.0


def ramp(height=256, width=384):
    """Dark on the left, bright on the right, with a fine texture."""
    tone = np.linspace(0.3, 0.7, width, dtype=np.float32)
    texture = 0.05 * (np.indices((height, width)).sum(0) % 2)
    return np.repeat((tone + texture.astype(np.float32))[..., None], 3, 2)


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 64), (200, 131), (40, 500)])
def test_with_one_tone_the_identity_still_returns_the_image_bit_for_bit(shape):
    pixels = noise(*shape)
    assert np.array_equal(restore_image(Square(), pixels, GLOBAL), pixels)


def coarse(image):
    return cv2.GaussianBlur(thumbnail(image, 64)[..., 0], (0, 0), 2)


def test_tones_that_differ_from_tile_to_tile_are_brought_to_the_whole_images():
    pixels = ramp()
    wanted = coarse(pixels - pixels.mean() + 0.5)
    patched = np.abs(coarse(restore_image(Equalizer(), pixels, BY_TILE)) - wanted)
    even = np.abs(coarse(restore_image(Equalizer(), pixels, GLOBAL)) - wanted)
    assert patched.mean() > 0.08  # every tile has the same mean: the ramp is gone
    assert even.mean() < 0.1 * patched.mean()


def test_detail_comes_from_the_tiles():
    pixels = ramp()
    restored = restore_image(Equalizer(), pixels, GLOBAL)
    texture = [np.diff(image[:, :, 0], axis=0)[8:-8, 8:-8] for image in (pixels, restored)]
    assert np.abs(texture[0] - texture[1]).max() < 0.01


def test_results_stay_in_range():
    bright = np.clip(ramp() * 2.0, 0.0, 1.0)
    restored = restore_image(Equalizer(), bright, GLOBAL)
    assert 0.0 <= restored.min() <= restored.max() <= 1.0


def test_an_image_of_one_tile_needs_no_second_pass():
    class Counting(Square):
        calls = 0

        def painted(self, tiles):
            type(self).calls += 1
            return tiles

    restore_image(Counting(), noise(64, 50), GLOBAL)
    assert Counting.calls == 1
    restore_image(Counting(), noise(64, 80), GLOBAL)
    assert Counting.calls == 3  # two tiles, of batches of 4, and the whole


def test_resizing_matches_the_reference_programs():
    pixels = noise(100, 160)
    shrunk = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_LINEAR)
    expected = cv2.resize(shrunk, (160, 100), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    assert np.array_equal(restore_image(Square(), pixels, WHOLE), expected)
    own = noise(64, 64)
    assert np.array_equal(restore_image(Square(), own, WHOLE), own)


def test_whole_blends_with_the_source():
    pixels = noise(64, 64)
    half = Settings(tile=TileSettings(resize_whole=True), strength=0.5)
    restored = restore_image(Equalizer(), pixels, half)
    full = restore_image(Equalizer(), pixels, WHOLE)
    assert np.allclose(restored, (pixels + full) / 2, atol=1e-6)


def test_only_unusual_choices_make_another_recipe():
    usual = settings_fingerprint(Settings(), "model", 64)
    assert settings_fingerprint(GLOBAL, "model", 64) == usual
    assert (
        len(
            {
                usual,
                settings_fingerprint(BY_TILE, "model", 64),
                settings_fingerprint(WHOLE, "model", 64),
            }
        )
        == 3
    )


def test_whole_shrinks_as_the_networks_own_program_does():
    """Pillow's Lanczos in 8 bits, for a card that says so: shown by an error of zero."""
    image = noise(96, 160)
    seen = []

    class Watched(Square):
        def painted(self, tiles):
            seen.append(tiles[0])
            return tiles

    card = msgspec.structs.replace(CARD, squash="lanczos")
    restore_image(Watched(card=card), image, WHOLE)
    theirs = Image.fromarray((image * 255.0).round().astype(np.uint8)).resize(
        (64, 64), Image.Resampling.LANCZOS
    )
    assert np.array_equal(seen[0], np.asarray(theirs, np.float32) / 255.0)
    restore_image(Watched(card=CARD), image, WHOLE)
    assert not np.array_equal(seen[0], seen[1])
