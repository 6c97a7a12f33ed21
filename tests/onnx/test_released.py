"""A released checkpoint becomes a model in the user's folder that computes the same function."""

import hashlib
import json
import pickle
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch
from support.released_networks import named_values, probed, run_graph
from support.varformer_parity import forced_feeds, public_state, tiny_network

from varfix.cli.main import invoke
from varfix.engine.errors import (
    ExitCode,
    ModelChecksumError,
    ModelContractError,
    ModelMissingError,
)
from varfix.engine.image.reader import decode_image
from varfix.engine.networks.layers.quantizer import SCALES
from varfix.engine.restoration.prior_input import thumbnail
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.settings.resolve import resolve, set_layer
from varfix.engine.settings.types import Settings
from varfix.onnx.export.architectures import CardFields, released_varformer
from varfix.onnx.export.fp16 import FP16
from varfix.onnx.export.released import Agreement, export_released, natural_image
from varfix.onnx.export.released_graphs import EXPLAINED
from varfix.onnx.files.card import fp16_path, read_card, verify_model, weights_path
from varfix.onnx.files.model_files import find_model, imported_names
from varfix.onnx.inference.open_model import open_restorer

SIDE = 32
LEVELS = 2  # fusions: one in the encoder, one in the decoder
CPU = resolve([set_layer(["device=cpu"])]).settings


@pytest.fixture(scope="module")
def network():
    return tiny_network()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "net_g_last.pth"
    torch.save({"params_ema": public_state(network)}, path)
    return path


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """The model folder after `varfix models import tiny net_g_last.pth`."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARFIX_MODELS", str(folder))
        command = ["models", "import", "-q", "tiny", checkpoint, "--licence", "MIT"]
        assert invoke([str(word) for word in [*command, "--training", "nothing yet"]]) == 0
    return folder


@pytest.fixture(autouse=True)
def model_folder(folder, monkeypatch):
    monkeypatch.setenv("VARFIX_MODELS", str(folder))


@pytest.fixture
def path(folder):
    return folder / "tiny" / "tiny.onnx"


def test_the_model_has_its_name_and_nothing_is_left_of_the_making(folder):
    assert imported_names() == ["tiny"]
    assert find_model("tiny").restore == folder / "tiny" / "tiny.onnx"
    assert [p.name for p in folder.iterdir() if not p.name.endswith(".lock")] == ["tiny"]


def test_the_card_has_the_known_fields(path):
    card = read_card(path)
    assert (card.name, card.licence, card.training) == ("tiny", "MIT", "nothing yet")
    assert (card.guidance, card.tile, card.multiple) == ("tile", SIDE, SIDE)
    assert card.levels == ("encoder 1", "decoder 1")
    assert card.fp16 == "ok"
    assert "100.00% of tokens" in card.agreement
    assert verify_model(path) == card


def test_its_origin_and_license_are_next_to_it(path, checkpoint):
    origin = json.loads((path.parent / "origin.json").read_text())
    (file,) = origin["files"]
    assert file["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert origin["architecture"] == "varformer"
    assert (path.parent / "LICENSE.md").read_text()


def test_a_tile_is_restored_as_the_network_does(network):
    tile = natural_image(SIDE, seed=3)
    restorer = open_restorer("tiny", CPU)
    assert (restorer.tile, restorer.tile_step, restorer.batch) == (SIDE, SIDE, 1)
    (ours,) = restorer.restore(tile.permute(0, 2, 3, 1).numpy(), None).pixels
    with torch.no_grad():
        expected = network(2.0 * tile - 1.0)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() < 1e-4


def test_every_stage_is_the_networks_given_its_tokens(network, path):
    """As the golden cases do at full size: named values of the file itself."""
    tile, stages = natural_image(SIDE, seed=4), {}
    tokens = torch.randint(0, 64, (1, 680), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image = 2.0 * tile - 1.0
        guidance = network.prior(image, stages.__setitem__, tokens)
        network.restore_with_prior(image, guidance, stages.__setitem__)
    named = [n for n in stages if not n.startswith("var/")] + [n for n in stages if "/s9" in n]
    named = named_values(path, named)  # of a result with two names the file keeps one
    assert len(named) > 50
    seen = run_graph(probed(path, named, SCALES), named, forced_feeds(tile.numpy(), tokens))
    for name in named:
        wanted = stages[name].numpy()
        allowed = 1e-4 * max(1.0, np.abs(wanted).max())
        assert np.abs(seen[name] - wanted).max() < allowed, name


def test_what_explains_a_result_comes_with_it(network, path):
    tile = natural_image(SIDE, seed=5)
    seen = run_graph(path, ["tokens", *EXPLAINED], {"tile": tile.numpy()})
    with torch.no_grad():
        guidance = network.prior(2.0 * tile - 1.0)
    assert np.array_equal(seen["tokens"], guidance.prediction.tokens.numpy())
    assert np.allclose(seen["increments"], guidance.prediction.increments.numpy(), atol=1e-5)
    assert np.allclose(seen["asked"].sum(1), guidance.adapted.numpy(), atol=1e-5)
    assert seen["scales"].shape == (1, LEVELS, 10)
    assert np.allclose(seen["scales"].sum(-1), 1.0, atol=1e-5)
    assert seen["regions"].shape == (1, LEVELS, 16, 16)
    assert 0.0 <= seen["regions"].min() <= seen["regions"].max() <= 1.0


def test_constants_are_folded_and_each_weight_is_stored_once(network, path):
    graph = onnx.load(path, load_external_data=False).graph
    names = [constant.name for constant in graph.initializer]
    assert not [name for name in names if "modulation.weight" in name]
    assert not [name for name in names if "decoder.up.0" in name and "vqvae" in name]
    attention = [name for name in names if "var.blocks.0.attention.qkv" in name]
    assert [name.rpartition("var.")[2] for name in attention] == ["blocks.0.attention.qkv.weight.T"]
    parameters = sum(weight.numel() for weight in network.parameters())
    assert weights_path(path).stat().st_size < 4 * parameters


def test_half_precision_is_where_it_does_no_harm(path):
    half = fp16_path(path)
    graph = onnx.load(half, load_external_data=False).graph
    halves = {c.name for c in graph.initializer if c.data_type == onnx.TensorProto.FLOAT16}
    assert FP16.name == "FLOAT16"
    assert any("encoder.fusion.1.prior.swin" in name for name in halves)
    assert any("feed.0.weight" in name for name in halves)
    for word in ("head.weight", "quantize", "adapter", "conv_out", "vqvae.encoder"):
        assert not [name for name in halves if word in name], word
    assert weights_path(half).stat().st_size < 0.75 * weights_path(path).stat().st_size


@pytest.mark.parametrize(
    ("tokens", "psnr", "safe"), [(1.0, 60.0, True), (0.99, 60.0, False), (1.0, 30.0, False)]
)
def test_half_precision_is_safe_only_where_tokens_and_pixels_agree(tokens, psnr, safe):
    assert Agreement(tokens, psnr).safe == safe


def test_a_larger_image_is_restored_from_tiles_and_whole(tmp_path):
    from PIL import Image

    pixels = (natural_image(SIDE * 3)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)[:80]
    Image.fromarray(pixels).save(tmp_path / "in.png")
    results = []
    for extra in ([], ["--whole"], ["--set", "tile.tone=tile"]):
        target = tmp_path / f"out{len(results)}.png"
        command = ["image", "-q", "-m", "tiny", *extra, str(tmp_path / "in.png"), str(target)]
        assert invoke(command) == 0
        results.append(decode_image(target.read_bytes(), max_pixels=10**6).pixels)
    assert {result.shape for result in results} == {(80, 96, 3)}
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    source = pixels.astype(np.float32) / 255.0
    assert (
        np.abs(restore_image(open_restorer("tiny", CPU), source, Settings()) - results[0]).max()
        < 3e-3
    )


def test_a_damaged_file_of_weights_is_found(path):
    weights = weights_path(path)
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ModelChecksumError, match=r"tiny\.onnx\.data"):
            verify_model(path)
        weights.unlink()
        with pytest.raises(ModelMissingError, match="not found next to it"):
            open_restorer("tiny", CPU)
    finally:
        weights.write_bytes(content)


class Harmful:
    """A pickle that creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def wrong(checkpoint, tmp_path):
    """Files that are no VarFormer of depth 16, by what is wrong with them."""
    diffusion = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    torch.save({"state_dict": diffusion}, tmp_path / "diffusion.pth")
    torch.save({"params_ema": {"weight": Harmful(tmp_path / "executed")}}, tmp_path / "code.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Harmful(tmp_path / "executed")))
    content = checkpoint.read_bytes()
    (tmp_path / "truncated.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "depth.pth").write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("diffusion", "Stable Diffusion"),
        ("truncated", "damaged or incomplete"),
        ("code", "nothing was executed"),
        ("pickle", "nothing was executed"),
        ("depth", "depth 1, expected 16"),
    ],
)
def test_wrong_files_are_exit_4_and_execute_nothing(wrong, folder, capsys, name, words):
    before = sorted(path.name for path in folder.iterdir())
    command = ["models", "import", "varformer-d16", str(wrong / f"{name}.pth")]
    assert invoke(command) == ExitCode.MODEL
    assert words in capsys.readouterr().err
    assert not (wrong / "executed").exists()
    after = [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]
    assert sorted(after) == [name for name in before if not name.endswith(".lock")]


def test_the_prior_is_drawn(tmp_path, network):
    from PIL import Image

    pixels = (natural_image(SIDE)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).resize((50, 40)).save(tmp_path / "in.png")
    command = ["image", "-q", "-m", "tiny", "--explain", str(tmp_path / "why")]
    assert invoke([*command, str(tmp_path / "in.png"), str(tmp_path / "out.png")]) == 0
    drawn = {p.name: cv2.imread(str(p))[..., ::-1] for p in (tmp_path / "why").iterdir()}
    assert set(drawn) == {"regions.png", "scales.png", "steps.png"}
    last = drawn["steps.png"][-SIDE - 12 : -12]
    seen = decode_image((tmp_path / "in.png").read_bytes(), max_pixels=10**6).pixels
    tile = torch.from_numpy(thumbnail(seen, SIDE)).permute(2, 0, 1)[None]
    with torch.no_grad():
        latent = network.prior(2.0 * tile - 1.0).prediction.latent
        expected = (network.vqvae.decode(latent)[0].permute(1, 2, 0).numpy() + 1.0) / 2.0
    shown = last[:, 2 * (SIDE + 12) + 12 :][:, :SIDE] / 255.0
    assert np.abs(shown - expected.clip(0.0, 1.0)).max() < 0.01


def test_a_model_without_outputs_to_explain_is_rejected_before_it_runs(tmp_path, capsys, shelf):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    other = shelf.foreign((1, 3, "H", "W"))
    command = ["image", "-m", str(other), "--explain", str(tmp_path), str(tmp_path / "in.png")]
    assert invoke([*command, str(tmp_path / "out.png")]) == ExitCode.USAGE
    assert "has no outputs for --explain" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_file_that_is_not_the_network_is_not_left_behind(network, tmp_path):
    made = released_varformer(network, "wrong", CardFields())

    def other(tile, tokens):
        restored, chosen = made.reference(tile, tokens)
        return restored + 0.01, chosen

    with pytest.raises(ModelContractError, match="compared with the network"):
        export_released(replace(made, graph=Constant(), reference=other), tmp_path / "wrong.onnx")
    assert list(tmp_path.iterdir()) == []


class Constant(torch.nn.Module):
    """Stands for a graph that cannot be right, and is traced in no time."""

    def forward(self, tile):
        return {"restored": 0.5 * tile, "tokens": torch.zeros(1, 680, dtype=torch.int64)} | {
            name: tile.mean().reshape(1, 1) + i for i, name in enumerate(EXPLAINED)
        }
