"""Synthetic degradations have the statistics of real pairs.

The bounds were measured on pairs that are never used for training: the tenth and the ninetieth
percentile over the images of Rain100H, Rain1400, SOTS indoor, SICE and CC15. The functions below
compute the statistics.
"""

from pathlib import Path

import cv2
import pytest
import torch

from varfix.engine.train.degradations import camera, exposure, haze, noise, rain_snow

REAL = Path(__file__).parents[3] / "shared/data/val"


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(11)


@pytest.fixture(scope="module")
def clean():
    """Dark enough that nothing saturates, with edges: (24, 3, 192, 192)."""
    seeds = torch.rand(24, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.5
    smooth = torch.nn.functional.interpolate(seeds, size=(192, 192), mode="bilinear")
    smooth[:, :, 80:120, 40:140] *= 0.5
    return smooth


def detail(layer):
    """Return a layer (B, H, W) minus its means over 31 pixels."""
    smooth = torch.nn.functional.avg_pool2d(
        layer[:, None], 31, stride=1, padding=15, count_include_pad=False
    )
    return layer - smooth[:, 0]


def correlation(layer, lag):
    """Return the highest correlation of (B, H, W) with itself, `lag` rows below."""
    best = torch.full((len(layer),), -1.0)
    for shift in range(-lag, lag + 1, max(1, lag // 8)):
        moved = layer.roll((lag, shift), (1, 2))[:, lag:, lag:-lag]
        here = layer[:, lag:, lag:-lag]
        best = torch.maximum(best, (moved * here).mean((1, 2)) / here.square().mean((1, 2)))
    return best


def rain_of(kind, clean, rng, monkeypatch):
    monkeypatch.setattr(rain_snow, "RAIN_STYLES", (rain_snow.RAIN_STYLES[kind],))
    return (rain_snow.rain(clean, rng) - clean).mean(1)


@pytest.mark.parametrize(
    ("kind", "mean", "spread", "far"),
    [
        (0, (0.140, 0.346), (0.107, 0.175), (0.167, 0.641)),  # Rain100H, 25 pairs
        (1, (0.014, 0.159), (0.024, 0.042), (0.024, 0.624)),  # Rain1400, 12 pairs
    ],
)
def test_rain_adds_as_much_light_in_streaks_as_long_as_real_rain(
    kind, mean, spread, far, clean, rng, monkeypatch
):
    light_added = rain_of(kind, clean, rng, monkeypatch)
    fine = detail(light_added)
    assert mean[0] < light_added.mean((1, 2)).median() < mean[1]
    assert spread[0] < fine.std((1, 2)).median() < spread[1]
    assert far[0] < correlation(fine, 16).median() < far[1]


def test_rain_of_the_dense_kind_covers_more_than_half_of_an_image(clean, rng, monkeypatch):
    covered = (rain_of(0, clean, rng, monkeypatch) > 0.1).float().mean((1, 2))
    assert 0.38 < covered.median() < 0.88  # Rain100H: 0.54 to 0.88


def test_rain_never_darkens_and_has_no_color(clean, rng, monkeypatch):
    monkeypatch.setattr(rain_snow, "RAIN_STYLES", rain_snow.RAIN_STYLES[:1])
    added = rain_snow.rain(clean.mean(1, keepdim=True).expand_as(clean), rng) - clean.mean(
        1, keepdim=True
    )
    assert added.min() > -1e-3
    assert (added - added.mean(1, keepdim=True)).abs().max() < 1e-5


def test_styles_of_rain_are_drawn_by_their_shares(rng):
    drawn = rain_snow._draw_styles(4000, rng)
    dense = (drawn["veil"] < 1e-3) & (drawn["length"] > 24.9) & (drawn["edge"] >= 0.299)
    assert dense.float().mean() == pytest.approx(0.4, abs=0.04)
    assert (drawn["width"] > 1.4).float().mean() == pytest.approx(0.2, abs=0.06)  # wide and soft
    for name, (low, high) in {"cover": (0.03, 1.8), "length": (5, 120)}.items():
        assert drawn[name].min() >= 0.99 * low
        assert drawn[name].max() <= 1.01 * high


def test_haze_is_as_thick_as_in_real_rooms_and_its_light_as_white(clean, rng):
    black = haze.haze(torch.zeros_like(clean), rng)
    white = haze.haze(torch.ones_like(clean), torch.Generator().manual_seed(11))
    # The difference of hazy white and hazy black is t.
    transmission = (white - black).mean(1).flatten(1)
    assert 0.5 < transmission.median(1).values.median() < 0.79
    assert transmission.quantile(0.05) < 0.4
    spread = transmission.quantile(0.95, 1) - transmission.quantile(0.05, 1)
    assert 0.2 < spread.median() < 0.45  # SOTS indoor: 0.33
    airlight = (black.mean(1).flatten(1) / (1.0 - transmission)).median(1).values
    assert airlight.median() > 0.87  # SOTS indoor: 1.00 in every image
    assert airlight.min() > 0.55


def test_depth_follows_the_edges_of_the_image(rng):
    halves = torch.full((16, 3, 128, 128), 0.2)
    halves[..., 64:] = 0.8
    depth = haze.random_depth(halves, rng)[:, 0]
    jump = (depth[:, 20:108, 68] - depth[:, 20:108, 59]).abs().mean(1)
    beside = (depth[:, 20:108, 40] - depth[:, 20:108, 31]).abs().mean(1)
    assert jump.median() > 3.0 * beside.median()
    # Not blurred over the edge: two pixels from it, nearly all of the jump has happened.
    near = (depth[:, 20:108, 65] - depth[:, 20:108, 62]).abs().mean(1)
    assert near.median() > 0.6 * jump.median()


def test_depth_is_in_its_range_and_differs_between_images(clean, rng):
    depth = haze.random_depth(clean, rng)
    assert depth.min() >= 0.05
    assert depth.max() <= 1.4
    assert depth.mean((1, 2, 3)).std() > 0.1


def test_dark_images_have_the_gain_and_slope_of_sice(rng):
    # Columns from black to white.
    ramp = torch.linspace(0.02, 0.95, 192).expand(48, 3, 96, 192)
    dark = exposure.low_light(ramp, rng).clamp(0.0, 1.0)
    linear, bright = dark**2.2, ramp**2.2
    ratio = linear.mean((1, 2, 3)) / bright.mean((1, 2, 3))
    assert 0.10 < ratio.median() < 0.28  # SICE: quarter to three quarters of the images
    assert ratio.quantile(0.1) < 0.07
    assert ratio.quantile(0.9) > 0.25
    slope = (linear.mean((1, 2))[:, 150] / linear.mean((1, 2))[:, 40]).log() / (
        bright[0, 0, 0, 150] / bright[0, 0, 0, 40]
    ).log()
    assert 1.1 < slope.median() < 1.8
    assert slope.max() > 1.5


def test_highlights_can_remain_white_in_a_dark_image(rng):
    lamp = torch.full((64, 3, 64, 64), 0.3)
    lamp[:, :, 20:30, 20:30] = 1.0
    brightest = exposure.low_light(lamp, rng).clamp(0.0, 1.0).amax((1, 2, 3))
    assert 0.1 < (brightest > 0.95).float().mean() < 0.8  # SICE: more than half of the images


def neighbors(grain, apart=1):
    """Return the correlation of each of (B, H, W) with itself, some columns apart."""
    centered = grain - grain.mean((1, 2), keepdim=True)
    moved = (centered[:, :, apart:] * centered[:, :, :-apart]).mean((1, 2))
    return moved / centered.square().mean((1, 2))


def colors(grain):
    """Return the correlation of red and green in each of (B, 3, H, W)."""
    return torch.stack([torch.corrcoef(image.flatten(1))[0, 1] for image in grain])


CAMERAS = {
    "deviation": (3.5, 8.3),
    "near": (0.48, 0.69),
    "apart": (0.05, 0.32),
    "color": (0.2, 0.65),
}
"""Ranges over the 15 pairs of CC15; a test compares them with the files."""


def noise_statistics(grain):
    """Return the statistics of `CAMERAS`, (B,) each, of noise (B, 3, H, W) in [0, 1]."""
    gray = grain.mean(1)
    return {
        "deviation": grain.std((1, 2, 3)) * 255.0,
        "near": neighbors(gray),
        "apart": neighbors(gray, 2),
        "color": colors(grain),
    }


@pytest.mark.parametrize("developed", [False, True])
def test_sensor_noise_covers_the_statistics_of_cameras(clean, rng, developed):
    drawn = [camera.sensor_noise(clean, rng) for _ in range(3)]
    if developed:
        drawn = [noise.light_jpeg(image, rng) for image in drawn]
    found = noise_statistics(torch.cat([image - clean for image in drawn]))
    for name, (low, high) in CAMERAS.items():
        quantiles = found[name].quantile(torch.tensor([0.1, 0.9]))
        assert quantiles[0] < low + 0.4 * (high - low), name
        assert quantiles[1] > high - 0.4 * (high - low), name
        within = (found[name] > low) & (found[name] < high)
        assert within.float().mean() > 0.15, name


def test_sensor_noise_covers_phones(clean, rng):
    strong = torch.cat([camera.sensor_noise(clean, rng) - clean for _ in range(3)])
    assert (strong.std((1, 2, 3)) * 255.0).max() > 20.0  # SIDD: up to about 25


def test_noise_of_a_sensor_is_stronger_in_light_and_has_no_bias(rng):
    halves = torch.full((48, 3, 64, 64), 0.25)
    halves[..., 32:] = 0.55
    grain = camera.sensor_noise(halves, rng) - halves
    weak = grain.std((1, 2, 3)) < 0.05
    assert abs(float(grain[weak].mean())) < 0.004
    assert weak.float().mean() > 0.4


def test_the_tone_curve_of_a_camera_is_inverted_exactly():
    values = torch.cat([torch.linspace(0.0, 0.03, 100), torch.linspace(0.0, 1.0, 500)])
    values = values.expand(10, 3, 1, 600)
    s_curve = torch.linspace(0.0, camera.MAX_S_CURVE, 10).reshape(10, 1, 1, 1)
    inverted = camera.to_file_values(camera.to_linear_light(values, s_curve), s_curve)
    torch.testing.assert_close(inverted, values, atol=2e-4, rtol=0)


def test_a_mosaic_of_a_uniform_color_has_that_color():
    sites = camera.bayer_sites(16, 20, torch.device("cpu"))
    assert torch.equal(sites.sum(0), torch.ones(16, 20))
    color = torch.tensor([0.2, 0.5, 0.7]).reshape(1, 3, 1, 1)
    mosaic = (color * sites).sum(1, keepdim=True)
    alone = camera.demosaic(mosaic, sites, torch.zeros(1, 1, 1, 1))
    torch.testing.assert_close(alone, color.expand(1, 3, 16, 20))


def test_color_matrices_keep_gray_and_saturate(rng):
    matrices = camera.color_matrices(64, rng)
    torch.testing.assert_close(matrices.sum(2), torch.ones(64, 3))
    assert (torch.diagonal(matrices, dim1=1, dim2=2) > 1.0).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="requires the real pairs in ../shared/data/val")
def test_the_ranges_of_cameras_are_those_of_the_files():
    found = {name: [] for name in CAMERAS}
    for damaged in sorted((REAL / "noise_cc15/input").iterdir()):
        target = next((REAL / "noise_cc15/target").glob(f"{damaged.stem}.*"))
        grain = read(damaged) - read(target)
        for name, value in noise_statistics(grain[None]).items():
            found[name].append(float(value))
    for name, (low, high) in CAMERAS.items():
        assert low - 0.03 * (high - low) < min(found[name]), name
        assert max(found[name]) < high + 0.03 * (high - low), name


@pytest.mark.skipif(not REAL.is_dir(), reason="requires the real pairs in ../shared/data/val")
@pytest.mark.parametrize(("folder", "kind"), [("rain100h", 0), ("rain1400", 1)])
def test_streaks_are_as_wide_as_those_of_the_files(folder, kind, clean, rng, monkeypatch):
    real = []
    for damaged in sorted((REAL / folder / "input").iterdir())[:12]:
        target = next((REAL / folder / "target").glob(f"{damaged.stem}.*"))
        real.append(neighbors(detail((read(damaged) - read(target)).mean(0)[None])))
    drawn = neighbors(detail(rain_of(kind, clean, rng, monkeypatch)))
    low, high = torch.cat(real).min(), torch.cat(real).max()
    assert low < drawn.median() < high


def read(path):
    """(3, H, W) in [0, 1]."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    return torch.from_numpy(image).permute(2, 0, 1) / 255.0


def test_flakes_are_discs_and_lines_of_several_sizes(rng):
    dark = torch.zeros(48, 3, 128, 128)
    cover = rain_snow.snow(dark, rng).mean(1)
    veil = cover.flatten(1).quantile(0.2, 1)
    flakes = ((cover - veil[:, None, None]) > 0.15).float().mean((1, 2))
    assert flakes.min() < 0.05
    assert flakes.max() > 0.3
    assert 0.08 < flakes.median() < 0.25
    wide = neighbors(detail(cover), 4)
    assert wide.min() < 0.2  # small ones
    assert wide.max() > 0.4  # large ones and lines


def test_camera_noise_is_as_strong_and_as_soft_as_that_of_cameras(clean, rng):
    grain = noise.camera_noise(clean, rng) - clean
    deviation = grain.std((1, 2, 3)) * 255.0
    assert 3.0 < deviation.median() < 8.0  # CC15: 3.5 to 7.9
    assert deviation.min() < 3.5
    assert deviation.max() > 7.9
    gray = grain.mean(1)
    near = (gray[:, :, 1:] * gray[:, :, :-1]).mean((1, 2)) / gray.square().mean((1, 2))
    assert near.min() < 0.3
    assert near.max() > 0.6  # CC15: 0.48 to 0.67
    colors = torch.stack([torch.corrcoef(image.flatten(1))[0, 1] for image in grain])
    assert 0.2 < colors.median() < 0.7
