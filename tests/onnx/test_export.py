"""Exported files compute what the network computes, and carry their card."""

import numpy as np
import onnxruntime
import pytest
import torch
from support.identity import IdentityRestorer

from varfix.engine.errors import ModelContractError, ModelMissingError
from varfix.engine.models.card import TASKS
from varfix.engine.networks.varformer_s.model import build_varformer_s
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.resolve import resolve, set_layer
from varfix.engine.settings.types import Settings
from varfix.engine.train.checkpoint import save_weights
from varfix.engine.train.initial_weights import load_initial
from varfix.onnx.export import varformer_s as export
from varfix.onnx.export.fp16 import round_weights_to_fp16
from varfix.onnx.files.card import prior_path, read_card, verify_model
from varfix.onnx.inference.open_model import open_restorer


@pytest.fixture(scope="module")
def network():
    """A network with random weights everywhere, also where training begins with zeros."""
    torch.manual_seed(0)
    network = build_varformer_s()
    for weight in network.parameters():
        if weight.abs().sum() == 0:
            torch.nn.init.normal_(weight, std=0.01)
    return network.eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """The exported restore graph; exporting checks both graphs against the network itself."""
    folder = tmp_path_factory.mktemp("exported")
    save_weights(network, folder / "weights.safetensors")
    export.export_varformer_s(folder / "weights.safetensors", folder / "net.onnx", "nothing yet")
    return folder / "net.onnx"


def test_the_files_are_small_enough_to_ship(exported):
    size = exported.stat().st_size + prior_path(exported).stat().st_size
    assert size < 40e6


def test_the_files_hold_no_path_of_the_exporting_machine(exported):
    for path in (exported, prior_path(exported)):
        assert b"stack_trace" not in path.read_bytes()
        assert b".py" not in path.read_bytes()


def test_the_card_describes_how_to_run_the_model(exported):
    card = read_card(exported)
    assert (card.name, card.guidance, card.thumbnail) == ("net", "image", 256)
    assert card.tasks == TASKS
    assert card.training == "nothing yet"
    assert verify_model(exported) == card


def test_training_can_begin_from_an_exported_model(network, exported):
    fresh = build_varformer_s()
    missing = load_initial(fresh, exported)
    own, theirs = fresh.state_dict(), network.state_dict()
    # What only training needs is not in the files.
    assert {".".join(name.split(".")[:3]) for name in missing} == {
        "prior.vqvae.decoder",
        "prior.vqvae.encoder",
        "prior.vqvae.post_quant_conv",
        "prior.vqvae.quant_conv",
    }
    for name in own.keys() - set(missing):
        torch.testing.assert_close(own[name], theirs[name], atol=1e-4, rtol=1e-3)


class InTorch(IdentityRestorer):
    """The network itself behind the port, so that both get the same thumbnail, tiles and maps."""

    def __init__(self, network, like):
        super().__init__(card=like.card, tile=like.tile, tile_step=like.tile_step, batch=2)
        self.network, self.shapes = network, []

    def prior(self, prior_input):
        image = torch.from_numpy(prior_input.thumbnail).permute(2, 0, 1)[None]
        crops = torch.from_numpy(prior_input.crops).permute(0, 3, 1, 2)[None]
        with torch.no_grad():
            task = torch.tensor([TASKS.index(prior_input.task)])
            return self.network.prior(image, task, crops).maps[0].numpy()

    def restore(self, tiles, prior):
        self.shapes.append(tiles.shape[1:3])
        planes = torch.from_numpy(tiles).permute(0, 3, 1, 2)
        with torch.no_grad():
            restored, _ = self.network.restorer(planes, torch.from_numpy(prior))
        return RestoredTiles(restored.clamp(0.0, 1.0).permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(("tile", "side"), [(64, 32), (192, 160), (128, 200)])
def test_a_session_of_any_tile_size_restores_an_image_as_the_network_does(
    network, exported, tile, side
):
    """Sizes are pinned when the session opens; an image and its margins are one tile, or many."""
    round_weights_to_fp16(network)
    image = np.random.default_rng(0).random((side, side, 3), dtype=np.float32)
    restorer = open_restorer(str(exported), settings(f"tile.size={tile}"))
    itself = InTorch(network, restorer)
    restored = restore_image(restorer, image, Settings())
    expected = restore_image(itself, image, Settings())
    assert set(itself.shapes) == {(tile, tile)}
    assert np.abs(restored - image).mean() > 0.001  # there was something to compute
    assert np.abs(restored - expected).max() < 1e-4


def settings(*assignments):
    return resolve([set_layer(["device=cpu", *assignments])]).settings


def test_the_runtime_folds_the_half_precision_constants(exported, tmp_path):
    """Stored in half, computed in single precision: the running graph holds no half any more."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    import onnx

    weights = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    assert len(weights) > 50
    assert not [w.name for w in weights if w.data_type == onnx.TensorProto.FLOAT16]


def test_a_checkpoint_that_is_none_is_refused(tmp_path):
    with pytest.raises(ModelMissingError, match="no such checkpoint"):
        export.export_varformer_s(tmp_path / "gone.safetensors", tmp_path / "net.onnx")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(ModelContractError, match="not the weights of this network"):
        export.export_varformer_s(tmp_path / "text.safetensors", tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()
