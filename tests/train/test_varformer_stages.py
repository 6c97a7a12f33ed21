"""Both stages of the published VarFormer train their own parts only, and resume."""

from dataclasses import replace

import msgspec
import pytest
import torch
from support.varformer_parity import SMALLEST, public_state, tiny_network

from varfix.engine.errors import ModelContractError, ModelMissingError
from varfix.engine.evaluation.metrics import psnr
from varfix.engine.networks.layers.quantizer import straight_through
from varfix.engine.networks.layers.vqvae import VqvaeConfig
from varfix.engine.networks.varformer.model import Varformer, VarformerConfig
from varfix.engine.networks.varformer.var import VarConfig
from varfix.engine.train.data.batches import Batches
from varfix.engine.train.data.photos import load_photos
from varfix.engine.train.data.source import Synthetic
from varfix.engine.train.initial_weights import load_initial
from varfix.engine.train.loop import Trainer
from varfix.engine.train.recipes.recipe import load_recipe
from varfix.engine.train.stages.restorevar import signed
from varfix.engine.train.stages.varformer import STAGES, AdapterStage, RestorationStage
from varfix.engine.train.trainable import RECIPES, trainable_named

NARROW = VarformerConfig(
    vqvae=VqvaeConfig(channels=16, multipliers=(1, 2), blocks=1, latent=8, codes=16, groups=8),
    var=VarConfig(
        width=32, heads=2, depth=2, cross=2, cross_heads=2, latent=8, codes=16, classes=1
    ),
    adapter=1,
    encoder_heads=2,
    decoder_heads=2,
)
"""Depth 2, 32 x 32 pixels."""

COMMON = "batch_size: 4, image_sizes: [36], patches: 1, patch: 32, warmup: 3"
RATES = {"adapter": 1e-2, "restoration": 4e-3}


def narrow():
    torch.manual_seed(0)
    return Varformer(NARROW)


def recipe(**steps):
    stages = [
        f"{name}={{steps: {steps.get(name, 0)}, {COMMON}, learning_rate: {rate}}}"
        for name, rate in RATES.items()
    ]
    common = ["ema=0.8", "sample_every=0", "mix={gaussian: 1.0}", "jpeg_share=0.0"]
    return load_recipe(RECIPES / "varformer.yaml", [*common, *stages])


class Run:
    """Training of the narrow network, and its quality on a batch that was not used for training."""

    def __init__(self, folder, out):
        self.source = Synthetic(load_photos([folder]), recipe().degradations)
        self.trainable = replace(trainable_named("varformer"), build=narrow)
        self.out = out

    def after(self, **steps):
        trainer = Trainer(recipe(**steps), self.trainable, self.source, self.out)
        trainer.run()
        return trainer.averaged.eval()

    @torch.no_grad()
    def measured(self, model):
        settings = msgspec.structs.replace(recipe().stages["adapter"], batch_size=8)
        batch = Batches(self.source, settings, 77, torch.device("cpu"))[0]
        losses = AdapterStage().losses(model, batch)
        restored = model.restore(signed(batch.patches))
        fidelity = psnr(restored.numpy(), batch.targets.numpy())
        return {name: float(loss) for name, loss in losses.items()} | {"psnr": fidelity}


@pytest.fixture
def run(folder, tmp_path):
    return Run(folder, tmp_path)


def changed_parts(before, after):
    """Return the parts of the network that differ."""
    changed = [name.split(".") for name, value in after.items() if not value.equal(before[name])]
    return {".".join(parts[: 2 if parts[0] == "var" else 1]) for parts in changed}


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.slow
def test_both_stages_improve_their_part(run):
    untrained = narrow()
    first = run.after(adapter=60)
    before, middle = run.measured(untrained), run.measured(first)
    assert middle["tokens"] < 0.8 * before["tokens"]
    assert middle["latent"] < before["latent"]
    kept = weights(first)
    assert changed_parts(weights(untrained), kept) == {"adapter", "var.cross"}
    second = run.after(adapter=60, restoration=60)
    after = run.measured(second)
    assert after["psnr"] > middle["psnr"] + 2.0
    assert changed_parts(kept, weights(second)) == {"encoder", "decoder"}


def test_a_stage_changes_its_own_parts_only(run):
    untrained = weights(narrow())
    first = weights(run.after(adapter=2))
    assert changed_parts(untrained, first) == {"adapter", "var.cross"}
    second = weights(run.after(adapter=2, restoration=2))
    assert changed_parts(first, second) == {"encoder", "decoder"}


@pytest.mark.parametrize("stage", [AdapterStage(), RestorationStage()])
def test_every_parameter_of_a_stage_gets_a_gradient(run, stage):
    model = narrow().requires_grad_(False)
    for parameter in stage.parameters(model):
        parameter.requires_grad_(True)
    batch = Batches(run.source, recipe().stages[stage.name], 5, torch.device("cpu"))[0]
    stage.start(model, None)
    sum(stage.losses(model, batch).values()).backward()
    names = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert names == []
    assert all(torch.isfinite(p.grad).all() for p in stage.parameters(model))


def test_the_matching_loss_reaches_the_adapter_through_the_quantizer(run):
    model = narrow()
    AdapterStage().start(model, None)
    batch = Batches(run.source, recipe().stages["adapter"], 5, torch.device("cpu"))[0]
    AdapterStage().losses(model, batch)["latent"].backward()
    reached = [p.grad.abs().sum() > 0 for p in model.adapter.parameters() if p.grad is not None]
    assert len(reached) == len(list(model.adapter.parameters()))
    assert sum(reached) > 0.8 * len(reached)


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    latent = torch.randn(3, requires_grad=True)
    quantized = latent.detach().round()
    through = straight_through(latent, quantized)
    torch.testing.assert_close(through, quantized)
    (2.0 * through).sum().backward()
    assert torch.equal(latent.grad, torch.full((3,), 2.0))


def test_a_trained_main_encoder_is_not_overwritten():
    model = narrow()
    with torch.no_grad():
        model.decoder.theta.fill_(0.5)
    before = weights(model)
    RestorationStage().start(model, None)
    assert changed_parts(before, weights(model)) == set()
    with torch.no_grad():
        model.decoder.theta.zero_()
    RestorationStage().start(model, None)
    ours, theirs = model.encoder.state_dict(), model.vqvae.encoder.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_every_section_of_the_shipped_recipe_is_a_stage_of_the_network():
    shipped = load_recipe(RECIPES / "varformer.yaml")
    assert list(shipped.stages) == [stage.name for stage in STAGES]
    trainable_named("varformer").check(shipped)
    for stage in shipped.stages.values():
        assert (stage.patches, stage.patch) == (1, 256)


def published_files(folder, seed=1):
    """Write VAR's two published files for the smallest network; return that network."""
    network = tiny_network(seed=seed)
    state = public_state(network)
    parts = {
        "vae.pth": ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv."),
        "var.pth": ("blocks.", "head", "word_embed", "class_emb", "lvl_embed", "pos_"),
    }
    for name, prefixes in parts.items():
        torch.save({k: v for k, v in state.items() if k.startswith(prefixes)}, folder / name)
    return network


def test_training_begins_with_the_published_files_of_var(tmp_path):
    theirs = published_files(tmp_path).state_dict()
    model = Varformer(SMALLEST)
    fresh = weights(model)
    unset = load_initial(model, tmp_path)
    parts = {".".join(name.split(".")[: 2 if name[:3] == "var" else 1]) for name in unset}
    assert parts == {"adapter", "encoder", "decoder", "var.cross"}
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh[name] if name in unset else theirs[name]), name


def test_training_begins_with_a_published_varformer(tmp_path):
    network = tiny_network(seed=2)
    torch.save({"params_ema": public_state(network)}, tmp_path / "net_g_last.pth")
    model = Varformer(SMALLEST)
    assert load_initial(model, tmp_path / "net_g_last.pth") == []
    assert changed_parts(weights(network), weights(model)) == set()


def test_published_files_of_other_networks_are_rejected(tmp_path):
    with pytest.raises(ModelMissingError, match="no published checkpoint"):
        load_initial(narrow(), tmp_path)
    published_files(tmp_path)
    with pytest.raises(ModelContractError, match="not of this network"):
        load_initial(narrow(), tmp_path / "var.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelContractError, match="not a published checkpoint"):
        load_initial(narrow(), tmp_path / "other.pth")
