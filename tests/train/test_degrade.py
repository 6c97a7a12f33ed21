"""The training degradations have the documented effects."""

import pytest
import torch

from varfix.engine.models.card import TASKS
from varfix.engine.train.degradations import blur, exposure, haze, noise, rain_snow
from varfix.engine.train.degradations.mix import DEGRADATIONS, Mix, degrade, to_eight_bits


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(5)


@pytest.fixture(scope="module")
def clean():
    """Smooth colored images with edges: (4, 3, 96, 96)."""
    rng = torch.Generator().manual_seed(0)
    seeds = torch.rand(4, 3, 6, 6, generator=rng)
    smooth = torch.nn.functional.interpolate(seeds, size=(96, 96), mode="bilinear")
    smooth[:, :, 40:60, 20:70] *= 0.5
    return to_eight_bits(smooth)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_gives_eight_bit_images_and_does_not_change_its_input(name, clean, rng):
    before = clean.clone()
    batch = degrade(clean, Mix({name: 1.0}), rng)
    assert torch.equal(clean, before)
    assert torch.isfinite(batch.image).all()
    assert batch.image.min() >= 0.0
    assert batch.image.max() <= 1.0
    assert torch.equal(batch.image, to_eight_bits(batch.image))
    assert torch.equal(batch.image, batch.target) == (name == "identity")


def test_the_same_seed_gives_the_same_batch(clean):
    mix = Mix(dict.fromkeys(DEGRADATIONS, 1.0))
    batches = [degrade(clean, mix, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(batches[0].image, batches[1].image)
    assert batches[0].names == batches[1].names


def test_gaussian_noise_has_mean_zero_and_the_documented_range_of_strength(rng):
    gray = torch.full((64, 3, 32, 32), 0.5)
    sigma = (noise.gaussian_noise(gray, rng) - gray).std((1, 2, 3)) * 255.0
    assert sigma.min() > 0.5
    assert sigma.max() < 58.0
    assert sigma.max() - sigma.min() > 30.0


def test_camera_noise_grows_with_brightness(rng):
    dark, bright = (torch.full((64, 3, 32, 32), level) for level in (0.05, 0.9))
    spread = [(noise.camera_noise(p, torch.Generator().manual_seed(1)) - p) for p in (dark, bright)]
    assert spread[1].std() > 1.3 * spread[0].std()


def test_correlated_noise_keeps_its_variance(rng):
    white = torch.randn(8, 3, 64, 64, generator=rng)
    soft = noise.correlate(white, torch.full((8, 1, 1, 1), 0.4))
    assert abs(float(soft.std()) - 1.0) < 0.02
    assert (soft[..., 1:] * soft[..., :-1]).mean() > 0.3


def test_jpeg_is_close_to_a_real_encoder_at_the_same_quality(clean, monkeypatch):
    import io

    import numpy as np
    from PIL import Image

    monkeypatch.setattr(noise, "uniform", lambda shape, *_: torch.full(shape, 50.0))
    ours = to_eight_bits(noise.jpeg(clean, torch.Generator()))
    for image, result in zip(clean, ours, strict=True):
        pixels = (image.permute(1, 2, 0).numpy() * 255.0).round().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=50)
        theirs = np.asarray(Image.open(file).convert("RGB"), np.float32) / 255.0
        assert np.abs(theirs - result.permute(1, 2, 0).numpy()).mean() < 0.006


def test_blur_keeps_the_mean_and_removes_detail(clean, rng):
    textured = (clean + 0.2 * torch.randn(clean.shape, generator=rng)).clamp(0.0, 1.0)
    blurred = blur.motion_blur(textured, rng)
    assert (blurred.mean((1, 2, 3)) - textured.mean((1, 2, 3))).abs().max() < 0.02
    assert blurred.diff().abs().mean() < 0.6 * textured.diff().abs().mean()


def test_a_kernel_does_not_shift_the_image_on_average(rng):
    kernels = blur.path_kernels(32, rng)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(32))
    places = torch.arange(blur.KERNEL, dtype=torch.float32) - blur.KERNEL // 2
    assert (kernels.sum(1) @ places).abs().max() < 0.2
    assert (kernels.sum(2) @ places).abs().max() < 0.2


def test_a_camera_out_of_focus_blurs_and_keeps_the_place(rng):
    kernels = blur.discs(32, rng)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(32))
    torch.testing.assert_close(kernels.flip(1, 2), kernels)
    assert kernels.amax((1, 2)).min() < 0.06 < 0.3 < kernels.amax((1, 2)).max()


def test_the_blur_of_a_camera_has_a_little_noise(rng):
    flat = torch.full((16, 3, 64, 64), 0.5)
    noise = (blur.slight_blur(flat, rng) - flat) * 255.0
    assert noise.mean().abs() < 0.1
    deviations = noise.std((1, 2, 3))
    assert 0.28 < deviations.min() < deviations.max() < 3.1


def test_convolution_with_a_point_changes_nothing(clean):
    point = torch.zeros(4, 7, 7)
    point[:, 3, 3] = 1.0
    torch.testing.assert_close(blur.convolve(clean, point), clean, atol=1e-5, rtol=0)


def test_rain_adds_light_along_near_vertical_lines(rng):
    dark = torch.full((16, 3, 128, 128), 0.2)
    light_added = (rain_snow.rain(dark, rng) - dark).mean(1)
    assert light_added.mean() > 0.005
    across, along = light_added.diff(dim=2).abs().mean(), light_added.diff(dim=1).abs().mean()
    assert across > 1.2 * along


def test_haze_pulls_toward_the_airlight_and_never_darkens_black(rng):
    black = torch.zeros(16, 3, 64, 64)
    hazy = haze.haze(black, rng)
    assert hazy.min() > 0.0
    assert hazy.max() < 1.0
    contrast_before, contrast_after = 0.5, 0.0
    half = black.clone()
    half[..., 32:] = contrast_before
    hazy = haze.haze(half, rng)
    contrast_after = float((hazy[..., 32:].mean() - hazy[..., :32].mean()).abs())
    assert contrast_after < 0.8 * contrast_before


def test_snow_only_brightens_a_dark_image(rng):
    dark = torch.full((8, 3, 64, 64), 0.1)
    assert (rain_snow.snow(dark, rng) - dark).min() > -0.01


def test_low_light_darkens_every_image(clean, rng):
    assert (exposure.low_light(clean, rng).mean((1, 2, 3)) < 0.8 * clean.mean((1, 2, 3))).all()


def test_a_hint_is_the_true_task_or_none(clean, rng):
    hints = degrade(clean.repeat(16, 1, 1, 1), Mix({"rain": 1.0}), rng).task
    assert set(hints.tolist()) == {0, TASKS.index("rain")}


def test_clean_images_get_every_hint(clean, rng):
    hints = degrade(clean.repeat(64, 1, 1, 1), Mix({"identity": 1.0}), rng).task
    assert set(hints.tolist()) == set(range(len(TASKS)))
