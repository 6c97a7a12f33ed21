"""Checkpoints of published networks become models that compute what spandrel computes.

The weights are random. The networks here are the smallest of their kind; those of published size
are slow.
"""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from support.published_networks import EXTRA, PUBLISHED, TINY, network
from support.sessions import ON_CPU

from varfix.engine.errors import ConfigError, DiskFullError
from varfix.engine.restoration.restore_image import restore_image, tile_grid_for
from varfix.engine.settings.types import ModelSettings, Settings, TileSettings
from varfix.onnx.export.companions import load_spandrel
from varfix.onnx.export.import_checkpoint import MEMORY_LIMIT, import_checkpoint
from varfix.onnx.export.import_job import ImportRequest
from varfix.onnx.export.import_worker import answer
from varfix.onnx.export.natural_images import noisy_pixels
from varfix.onnx.export.published_export import AGREEMENT
from varfix.onnx.export.receptive_field import SEAM
from varfix.onnx.files.card import fp16_path, read_card, verify_model
from varfix.onnx.inference.open_model import open_restorer

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*meshgrid", "ignore:.*tiling_discouraged"
)
FAST = ("NAFNet", "DRUNet", "FBCNN")
LOCAL = ("DRUNet", "SwinIR", "DnCNN")
ONE_BY_ONE = ("SwinIR",)  # exporters write the number of tiles into the graph
SIDE = 64


def cases(names, *marks):
    return [pytest.param(name, marks=marks) for name in names]


@pytest.fixture(scope="module")
def library():
    try:
        return load_spandrel()
    except ConfigError as error:
        pytest.skip(error.message)


@pytest.fixture
def saved(library, tmp_path):
    """Write the checkpoint of a network with random weights; return its path and the network."""

    def save(name, arguments):
        if name in EXTRA and not library.extra:
            pytest.skip("spandrel_extra_arches is not installed")
        made = network(name, arguments)
        torch.save({"params": made.state_dict(), "iteration": 3}, tmp_path / f"{name}.pth")
        return tmp_path / f"{name}.pth"

    return save


def request(path, **preferences):
    target = path.with_name("net.onnx")
    wanted = {"tile": SIDE, "threads": 1, "allow_noncommercial": True, **preferences}
    return ImportRequest(checkpoint=str(path), target=str(target), **wanted)


def in_torch(library, path, tiles):
    """Restore tiles (N, H, W, 3) with spandrel's own descriptor, one after the other."""
    descriptor = library.registry.load(torch.load(path, weights_only=True)["params"])
    planes = torch.from_numpy(tiles).permute(0, 3, 1, 2)
    with torch.no_grad():
        restored = torch.cat([descriptor(plane.clone()) for plane in planes.split(1)])
    return restored.permute(0, 2, 3, 1).numpy()


def contents(side):
    """Three tiles: noisy, dark, and noisier."""
    tiles = [noisy_pixels(side, 50), noisy_pixels(side, 51) * 0.2, noisy_pixels(side, 52, 50.0)]
    return np.concatenate(tiles).transpose(0, 2, 3, 1).astype(np.float32)


def check_results(library, path, restorer):
    """Compare a restorer with spandrel's descriptor: three contents, alone and in a batch."""
    tiles = contents(restorer.tile)
    wanted = in_torch(library, path, tiles)
    assert np.abs(wanted - tiles).mean() > 1e-3  # there was something to compute
    for batch in (1, 3) if restorer.card.network not in ONE_BY_ONE else (1,):
        restorer.set_batch(batch)
        assert np.abs(restorer.restore(tiles, None).pixels - wanted).max() < AGREEMENT


@pytest.mark.parametrize("name", [*cases(FAST), *cases(set(TINY) - set(FAST), pytest.mark.slow)])
def test_an_imported_network_restores_as_spandrel_does(library, saved, name):
    path = saved(name, TINY[name])
    found = answer(request(path))
    assert found.failure is None, found.failure
    target = path.with_name("net.onnx")
    card = verify_model(target)
    assert (card.network, card.name, card.tiling != "internal") == (name, "net", True)
    millions = sum(p.numel() for p in network(name, TINY[name]).parameters()) / 1e6
    assert f", {millions:.1f} M parameters" in card.about
    check_results(library, path, open_restorer(str(target), ON_CPU))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_of_published_size_is_imported_and_restores_an_image(library, saved, name):
    path = saved(name, PUBLISHED[name])
    import_checkpoint(request(path, tile=128 if name == "SwinIR" else 256), MEMORY_LIMIT)
    restorer = open_restorer(str(path.with_name("net.onnx")), Settings(device="cpu"))
    check_results(library, path, restorer)
    image = noisy_pixels(1152, 60)[0].transpose(1, 2, 0).copy()  # 1.3 megapixels
    settings = Settings(device="cpu", tile=TileSettings(tone="tile"))
    assert np.isfinite(restore_image(restorer, image, settings)).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY_LIMIT


@pytest.mark.parametrize("name", [*cases(LOCAL[:1]), *cases(LOCAL[1:], pytest.mark.slow)])
def test_tiles_of_a_local_network_join_as_one_large_tile(library, saved, name):
    path = saved(name, TINY[name])
    card = answer(request(path, tile=128)).card
    assert card.tiling == "supported"
    restorer = open_restorer(str(path.with_name("net.onnx")), ON_CPU)
    side = 2 * card.tile - card.overlap
    assert len(tile_grid_for(restorer, (side, side), ON_CPU)) == 4
    image = contents(side)[:1].clip(0.2, 0.8)
    joined = restore_image(restorer, image[0], ON_CPU)
    whole = in_torch(library, path, image)[0].clip(0.0, 1.0)
    assert np.abs(joined - whole).max() < SEAM
    assert np.abs(whole - image[0]).mean() > 1e-3


def test_a_network_that_sees_more_than_a_tile_is_warned_about(saved):
    path = saved("NAFNet", TINY["NAFNet"])
    weights = torch.load(path, weights_only=True)["params"]
    for key in weights:  # the factors of its blocks, which average over the tile
        weights[key] *= 10.0 if key.endswith("beta") else 1.0
    torch.save(weights, path)
    assert answer(request(path)).card.tiling == "discouraged"
    warned = []
    open_restorer(str(path.with_name("net.onnx")), ON_CPU, warn=lambda *each: warned.append(each))
    assert [code for code, text in warned] == ["tiling_discouraged"]
    assert "neighboring tiles may differ" in warned[0][1]


def test_a_free_size_is_proven_or_not_used(saved):
    found = answer(request(saved("NAFNet", TINY["NAFNet"]), free_size=True))
    assert (found.card.tile, found.card.multiple) == (SIDE, 8)
    assert "2x32x64" in found.card.agreement


@pytest.mark.slow
def test_a_network_that_is_wrong_at_other_sizes_gets_a_fixed_size(saved):
    """MPRNet is exported for other sizes without an error, and computes something else there."""
    found = answer(request(saved("MPRNet", TINY["MPRNet"]), free_size=True))
    assert found.card.multiple == found.card.tile


def test_the_noise_level_is_an_input(library, saved):
    path = saved("DRUNet", TINY["DRUNet"])
    assert answer(request(path)).failure is None
    target, tiles = str(path.with_name("net.onnx")), contents(SIDE)
    assert (read_card(path.with_name("net.onnx")).level, 15.0) == ("noise", 15.0)

    def restored(level):
        settings = Settings(device="cpu", model=ModelSettings(level=level))
        return open_restorer(target, settings).restore(tiles, None).pixels

    assert np.array_equal(restored(None), restored(15.0))
    assert np.abs(restored(15.0) - restored(200.0)).max() > 1e-3
    assert np.abs(restored(15.0) - in_torch(library, path, tiles)).max() < AGREEMENT


def test_a_level_is_refused_by_a_model_without_such_an_input(shelf):
    settings = Settings(device="cpu", model=ModelSettings(level=25.0))
    with pytest.raises(ConfigError, match=r"model\.level: hand-made has no input"):
        open_restorer(str(shelf.restore()), settings)


def test_a_gray_network_restores_the_brightness_and_keeps_the_color(library, saved):
    arguments = {**TINY["DnCNN"], "in_nc": 1, "out_nc": 1, "nc": 16}
    path = saved("DnCNN", arguments)
    assert answer(request(path)).card.color == "gray"
    restorer = open_restorer(str(path.with_name("net.onnx")), ON_CPU)
    tiles = 0.25 + 0.5 * contents(SIDE)  # nothing is clipped
    luma = tiles @ np.array([0.299, 0.587, 0.114], np.float32)
    wanted = in_torch(library, path, luma[..., None])
    change = restorer.restore(tiles, None).pixels - tiles
    assert np.abs(change - (wanted - luma[..., None])).max() < AGREEMENT
    assert np.abs(change).max() > 1e-4


def test_an_fp16_variant_is_written_where_it_agrees(saved):
    wide = {**TINY["NAFNet"], "width": 32}
    found = answer(request(saved("NAFNet", wide), fp16=True)).card
    assert found.fp16 == "ok"
    assert "dB" in found.agreement


def test_no_fp16_variant_is_written_for_networks_that_break_in_it(saved):
    path = saved("DRUNet", TINY["DRUNet"])
    assert answer(request(path, fp16=True)).card.fp16 == "unsafe"
    assert not fp16_path(path.with_name("net.onnx")).exists()


def test_no_file_is_left_where_no_export_agrees(saved, monkeypatch):
    from varfix.onnx.export import published_export

    monkeypatch.setattr(published_export, "AGREEMENT", -1.0)
    monkeypatch.setattr(published_export, "STATIC_ROUTES", published_export.STATIC_ROUTES[:1])
    path = saved("DRUNet", TINY["DRUNet"])
    failure = answer(request(path)).failure
    assert failure.code == "model_contract"
    assert (
        "no exported file agrees with DRUNet (TorchScript, batch free: differs" in failure.message
    )
    assert not path.with_name("net.onnx").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_nothing_is_left(saved):
    path = saved("DRUNet", TINY["DRUNet"])
    path.with_name("net.onnx").symlink_to("/dev/full")
    failure = answer(request(path)).failure
    assert failure.code == DiskFullError.code
    assert "no space left" in failure.message
    assert [file.name for file in path.parent.iterdir()] == [path.name]
