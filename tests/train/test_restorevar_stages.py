"""The stages of RestoreVAR train its parts, with the loop of the other networks."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from support.varformer_parity import public_name

from varfix.engine.evaluation.metrics import psnr, ssim
from varfix.engine.networks.layers.quantizer import SCALES as ALL_SCALES
from varfix.engine.networks.layers.vqvae import VqvaeConfig
from varfix.engine.networks.restorevar.model import RestoreVarConfig
from varfix.engine.networks.restorevar.refiner import RefinerConfig
from varfix.engine.networks.restorevar.transformer import RestoreVarTransformerConfig
from varfix.engine.networks.varformer.var import Var, VarConfig
from varfix.engine.train.data.batches import Batches
from varfix.engine.train.data.source import Synthetic
from varfix.engine.train.loop import Trainer
from varfix.engine.train.published_weights import load_published
from varfix.engine.train.recipes.recipe import load_recipe
from varfix.engine.train.stages.critic import PatchCritic, adversarial
from varfix.engine.train.stages.perception import perceptual_distance, structural_similarity
from varfix.engine.train.stages.restorevar import (
    STAGES,
    RestoreVarWithCritic,
    clean_tokens,
    restore_resized,
    signed,
    teacher_forced_logits,
)
from varfix.engine.train.trainable import RECIPES, trainable_named

SCALES = (1, 2, 3, 4)
TINY = RestoreVarConfig(
    vqvae=VqvaeConfig(
        channels=16,
        multipliers=(1,),
        blocks=1,
        codes=32,
        latent=8,
        groups=1,
        patch=4,
        scales=SCALES,
    ),
    writer=RestoreVarTransformerConfig(
        width=64, heads=2, depth=2, latent=8, codes=32, classes=1, scales=SCALES
    ),
    refiner=RefinerConfig(
        width=64, heads=2, depth=1, feed=128, latent=8, states=64, side=4, length=30
    ),
)
STEPS = {"vqvae": 600, "writer": 400, "refiner": 150, "decoder": 300}
FEW = dict.fromkeys(STEPS, 2)
COMMON = "batch_size: 8, image_sizes: [18], patches: 1, patch: 16, warmup: 5"
RATES = {"vqvae": 2e-3, "writer": 3e-3, "refiner": 2e-3, "decoder": 1e-3}
PALETTE = torch.tensor(
    [[0.7, 0.2, 0.2], [0.2, 0.6, 0.3], [0.2, 0.3, 0.7], [0.7, 0.6, 0.2], [0.2, 0.2, 0.2], [0.8] * 3]
)


class Posters:
    """Images that small networks can learn: two of six colors, side by side or stacked."""

    def batch(self, count, side, rng):
        pairs = torch.randint(0, len(PALETTE), (count, 2), generator=rng)
        borders = torch.randint(1, 4, (count, 1), generator=rng) * side // 4
        beyond = (torch.arange(side) >= borders).long()  # (count, side)
        stripes = PALETTE[pairs.gather(1, beyond)].transpose(1, 2)  # (count, 3, side)
        lying = torch.rand((count, 1, 1, 1), generator=rng) < 0.5
        images = stripes[:, :, None].expand(-1, -1, side, -1)
        return torch.where(lying, images, images.transpose(2, 3))


def recipe(steps):
    stages = [
        f"{name}={{steps: {steps.get(name, 0)}, learning_rate: {rate}, {COMMON}}}"
        for name, rate in RATES.items()
    ]
    common = ["ema=0.9", "grad_clip=1.0", "sample_every=0", "mix={gaussian: 1.0}", *stages]
    return load_recipe(RECIPES / "restorevar.yaml", common)


def learn(out, wanted):
    """Return the network after each stage of one run."""
    trainable = replace(
        trainable_named("restorevar"), build=lambda: RestoreVarWithCritic(TINY, critic=8)
    )
    source = Synthetic(Posters(), recipe({}).degradations)
    after, steps = {}, {}
    for name, count in wanted.items():
        steps[name] = count
        trainer = Trainer(recipe(steps), trainable, source, out)
        if not after:
            after["nothing"] = Judged(trainer, source)
        trainer.run()
        after[name] = Judged(trainer, source)
    return after


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("learned"), STEPS)


class Judged:
    """Return the quality of a network on images that were not used for training."""

    @torch.no_grad()
    def __init__(self, trainer, source):
        model = trainer.averaged.eval()
        stage = msgspec.structs.replace(trainer.recipe.stages["writer"], batch_size=64)
        batch = Batches(source, stage, 77, torch.device("cpu"))[0]
        clean, latent = clean_tokens(model, batch)
        likely = teacher_forced_logits(model, clean, latent).argmax(-1)
        self.accuracy = float((likely == clean.tokens).float().mean())
        continuous = model.vqvae.encode(signed(batch.targets))
        self.latent_error = float((model.restored_latent(latent) - continuous).abs().mean())
        self.drawing = fidelity(model.decode(continuous), batch.targets)
        self.restoring = fidelity(model.restore(signed(batch.patches)), batch.targets)
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}


def fidelity(ours, theirs):
    return psnr(ours.numpy(), theirs.numpy())


def moved(before, after):
    """Return the parts of the network that differ."""
    changed = (
        name.split(".")
        for name, value in after.weights.items()
        if not torch.equal(value, before.weights[name])
    )
    return {".".join(name[: 2 if name[0] == "vqvae" else 1]) for name in changed}


def test_each_stage_changes_its_own_part_only(tmp_path):
    after = learn(tmp_path, FEW)
    assert moved(after["vqvae"], after["writer"]) == {"writer"}
    assert moved(after["writer"], after["refiner"]) == {"refiner"}
    drawn = {"vqvae.decoder", "vqvae.post_quant_conv", "critic"}
    assert moved(after["refiner"], after["decoder"]) == drawn
    assert "critic" not in moved(after["nothing"], after["refiner"])


@pytest.mark.slow
def test_the_transformer_learns_the_tokens_of_clean_images(learned):
    before, after = learned["vqvae"], learned["writer"]
    assert after.accuracy > before.accuracy + 0.25
    assert after.accuracy > learned["nothing"].accuracy + 0.25


@pytest.mark.slow
def test_the_refiner_brings_the_latent_nearer_to_the_continuous_one(learned):
    before, after = learned["writer"], learned["refiner"]
    assert after.latent_error < 0.5 * before.latent_error
    assert after.restoring > before.restoring + 2.0


@pytest.mark.slow
def test_the_decoder_learns_to_decode_continuous_latents(learned):
    before, after = learned["refiner"], learned["decoder"]
    assert after.drawing > before.drawing + 0.2
    assert after.restoring > learned["nothing"].restoring + 2.0


def test_every_section_of_the_shipped_recipe_is_a_stage_of_the_network():
    shipped = load_recipe(RECIPES / "restorevar.yaml")
    assert list(shipped.stages) == [stage.name for stage in STAGES]
    trainable_named("restorevar").check(shipped)
    for stage in shipped.stages.values():
        assert (stage.patches, stage.patch) == (1, 512)


@torch.no_grad()
def test_images_of_any_size_are_restored_at_the_size_of_the_network():
    model, images = RestoreVarWithCritic(TINY, critic=8), torch.rand(2, 3, 40, 40)
    assert restore_resized(model, images, torch.zeros(2)).shape == images.shape


def test_the_ssim_loss_is_the_ssim_of_the_metrics():
    rng = np.random.default_rng(0)
    image = rng.random((24, 30, 3))
    noisy = np.clip(image + 0.2 * rng.standard_normal(image.shape), 0.0, 1.0)
    ours = structural_similarity(
        *(torch.from_numpy(x).permute(2, 0, 1)[None] for x in (image, noisy))
    )
    inner = ssim(image, noisy)
    assert float(ours) == pytest.approx(inner, abs=0.02)
    assert float(
        structural_similarity(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16))
    ) == pytest.approx(1)


def test_the_perceptual_distance_of_equal_images_is_zero():
    encoder = RestoreVarWithCritic(TINY, critic=8).vqvae.encoder
    real = torch.rand(1, 3, 16, 16)
    assert perceptual_distance(encoder, real, real).item() == 0.0
    drawn = torch.rand(1, 3, 16, 16, requires_grad=True)
    perceptual_distance(encoder, drawn, real).backward()
    assert drawn.grad.abs().sum() > 0.0


def test_each_adversarial_loss_trains_only_its_own_side():
    critic, drawn, real = PatchCritic(8), torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    drawn.requires_grad_()
    losses = adversarial(critic, drawn, real)
    losses["deceive"].backward(retain_graph=True)
    assert drawn.grad.abs().sum() > 0.0
    assert all(weight.grad is None for weight in critic.parameters())
    drawn.grad = None
    losses["critic"].backward()
    assert drawn.grad is None
    assert all(weight.grad is not None for weight in critic.parameters())


def test_a_critic_learns_to_distinguish_noise_and_stripes():
    torch.manual_seed(0)
    critic = PatchCritic(8)
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3)
    stripes = torch.linspace(-9.0, 9.0, 32).sin().expand(4, 3, 32, 32)
    for _ in range(30):
        optimizer.zero_grad()
        adversarial(critic, torch.randn(4, 3, 32, 32), stripes)["critic"].backward()
        optimizer.step()
    with torch.no_grad():
        assert critic(stripes).mean() > 0.5
        assert critic(torch.randn(4, 3, 32, 32)).mean() < -0.5


def test_training_begins_with_the_published_weights_that_the_transformer_shares(tmp_path):
    torch.manual_seed(0)
    sizes = {"width": 64, "heads": 1, "depth": 1, "latent": 8, "codes": 32, "classes": 1}
    var = Var(VarConfig(cross=0, **sizes))
    public = {public_name(f"var.{name}"): value for name, value in var.state_dict().items()}
    torch.save(public, tmp_path / "var_d16.pth")
    model = RestoreVarWithCritic(
        replace(TINY, writer=RestoreVarTransformerConfig(scales=ALL_SCALES, **sizes))
    )
    left = load_published(model, tmp_path / "var_d16.pth")
    theirs, ours = var.state_dict(), model.writer.state_dict()
    taken = {f"writer.{name}" for name in theirs.keys() & ours.keys()}
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs.keys() & ours.keys())
    assert {"writer.blocks.0.attention.qkv.weight", "writer.head.bias"} <= taken
    assert taken.isdisjoint(left)
    assert any(".cross." in name for name in left)
