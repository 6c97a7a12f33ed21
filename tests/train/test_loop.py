"""Training improves the network, and a resumed run has the same result."""

import itertools
import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from varfix.engine.errors import ConfigError, NothingToDoError
from varfix.engine.train.devices import hardware
from varfix.engine.train.initial_weights import load_partial
from varfix.engine.train.loop import SHIPPED_RECIPE, Trainer, run_training
from varfix.engine.train.recipes.recipe import load_recipe
from varfix.engine.train.request import TrainRequest
from varfix.engine.train.stages.objective import compile_trained
from varfix.engine.train.stages.stage import PlainStage
from varfix.engine.train.trainable import Trainable


def same(state, other):
    return state.keys() == other.keys() and all(
        torch.equal(state[name], other[name]) for name in state
    )


class Interrupted(Trainer):
    """A trainer that is interrupted before it records a given step."""

    def at(self, stage, step):
        self.interrupted_at = (stage, step)
        return self

    def _record(self, stage, step, facts):
        if (stage.name, step) == self.interrupted_at:
            raise KeyboardInterrupt
        super()._record(stage, step, facts)


def test_a_run_interrupted_three_times_has_the_result_of_an_uninterrupted_one(
    folder, tmp_path, tiny, weights, metrics
):
    tiny.trainer(folder, tmp_path / "whole").run()
    for interrupted_at in (("prior", 2), ("heads", 1), ("judge", 1), ("restorer", 3)):
        interrupted = tiny.trainer(folder, tmp_path / "broken", kind=Interrupted)
        with pytest.raises(KeyboardInterrupt):
            interrupted.at(*interrupted_at).run()
    tiny.trainer(folder, tmp_path / "broken").run()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")
    assert len(metrics(tmp_path / "whole")) == 3 + 3 + 4 + 4 + 5


@pytest.mark.slow
def test_a_run_that_gets_sigkill_at_any_time_has_the_same_result(
    folder, tmp_path, tiny, weights, metrics
):
    more = ["prior.steps=7", "restorer.steps=9"]
    tiny.trainer(folder, tmp_path / "whole", *more).run()
    out = tmp_path / "broken"
    command = [sys.executable, str(tiny.path), "1", str(folder), str(out), *more]
    kills = 0
    for delay in itertools.count(0.05, 0.35):  # from the first step on, whatever it is at
        known = len(lines(out))
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and len(lines(out)) <= known:
            time.sleep(0.01)
        try:
            process.wait(delay)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert kills >= 3
    assert same(weights(tmp_path / "whole"), weights(out))
    assert metrics(tmp_path / "whole") == metrics(out)


@pytest.mark.slow
def test_several_devices_train_one_network_with_different_batches(
    folder, tmp_path, tiny, weights, metrics
):
    for name, devices in (("one", 1), ("two", 2), ("again", 2)):
        command = [sys.executable, str(tiny.path), str(devices), str(folder), str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    single, double, again = (weights(tmp_path / name) for name in ("one", "two", "again"))
    assert same(double, again)
    assert not same(single, double)
    steps = [(line["stage"], line["step"]) for line in metrics(tmp_path / "two")]
    assert steps == [(line["stage"], line["step"]) for line in metrics(tmp_path / "one")]


def test_a_single_device_needs_no_fabric(folder, tmp_path, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    tiny.trainer(folder, tmp_path, *tiny.ONLY_VQVAE, machine=hardware(1)).run()
    with pytest.raises(ConfigError, match="requires lightning-fabric"):
        hardware(2)


def lines(out):
    file = out / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def test_a_few_steps_improve_the_vqvae(folder, tmp_path, tiny, metrics):
    longer = "vqvae={steps: 80, batch_size: 2, warmup: 1, learning_rate: 3.0e-3}"
    tiny.trainer(folder, tmp_path, longer, *tiny.ONLY_VQVAE).run()
    errors = [line["l1"] for line in metrics(tmp_path)]
    assert np.mean(errors[-20:]) < 0.8 * np.mean(errors[:10])


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("heads", ("prior.tone.", "prior.evidence.")),
        ("judge", ("prior.judge.",)),
        ("restorer", ("restorer.",)),
    ],
)
def test_a_stage_trains_its_own_parts_only(folder, tmp_path, tiny, stage, parts):
    stages = ("vqvae", "prior", "heads", "judge", "restorer")
    others = [f"{name}.steps=0" for name in stages if name != stage]
    run = tiny.trainer(folder, tmp_path, *others)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.run()
    after = run.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(parts) for name in changed)


class Runaway(PlainStage):
    """A stage whose parameter learns the value 1, and diverges at a given step."""

    name = "lone"

    def __init__(self, lost_at, lone=1e9):
        self.lost_at, self.lone = lost_at, lone
        self.calls = 0

    def parameters(self, model):
        return list(model.parameters())

    def start(self, model, batches):
        nn.init.zeros_(model.bias)

    def losses(self, model, batch):
        self.calls += 1
        if self.calls == self.lost_at:
            with torch.no_grad():
                model.bias.fill_(self.lone)
        return {"distance": (model.bias.sum() - 1.0).square()}


def one_number():
    layer = nn.Linear(1, 1)
    layer.weight = None
    return layer


def lone_recipe(tmp_path, **keys):
    text = "mix: {identity: 1.0}\nreport_every: 0\n"
    text += "lone: {steps: 60, batch_size: 1, warmup: 1, learning_rate: 0.05}\n"
    text += "".join(f"{key}: {value}\n" for key, value in keys.items())
    path = tmp_path / "lone.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_diverged_weights_return_to_the_averaged_ones(tmp_path, weights):
    recipe = lone_recipe(tmp_path, rollback_after_skips=3, ema=0.5, sample_every=0)
    trainable = Trainable(one_number, (Runaway(20),), lambda model, image, task: image)
    Trainer(recipe, trainable, Black(), tmp_path).run()
    assert abs(float(weights(tmp_path)["bias"]) - 1.0) < 0.2
    assert sum(json.loads(line)["left out"] for line in lines(tmp_path)) == 3


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e6])
def test_a_step_with_a_bad_gradient_is_skipped(tmp_path, weights, value):
    class Stumbling(Runaway):
        def losses(self, model, batch):
            distance = super().losses(model, batch)["distance"]
            return {"distance": distance * value if self.calls == 30 else distance}

    recipe = lone_recipe(tmp_path, sample_every=0)
    trainable = Trainable(one_number, (Stumbling(0),), lambda model, image, task: image)
    Trainer(recipe, trainable, Black(), tmp_path).run()
    assert abs(float(weights(tmp_path)["bias"]) - 1.0) < 0.3
    done = map(json.loads, lines(tmp_path))
    assert [line["step"] for line in done if line["left out"]] == [29]


class Black:
    """A source of black images."""

    def draw(self, count, side, rng):
        from varfix.engine.train.degradations.mix import Degraded

        black = torch.zeros(count, 3, side, side)
        return Degraded(black, black, torch.zeros(count, dtype=torch.int64), ("identity",) * count)


def test_random_values_of_a_network_do_not_depend_on_when_a_run_resumed(tmp_path):
    class Dice(Runaway):
        def losses(self, model, batch):
            return {"luck": torch.rand(()) * model.bias.sum()}

    recipe = lone_recipe(tmp_path, save_every=10, sample_every=0)
    trainable = Trainable(one_number, (Dice(0),), lambda model, image, task: image)
    for out in (tmp_path / "whole", tmp_path / "broken"):
        out.mkdir()
        torch.manual_seed(len(out.name))  # the state of the generator has no effect on the run
        if out.name == "broken":
            with pytest.raises(KeyboardInterrupt):
                Interrupted(recipe, trainable, Black(), out).at("lone", 17).run()
        Trainer(recipe, trainable, Black(), out).run()
    luck = [[json.loads(line)["luck"] for line in lines(tmp_path / o)] for o in ("whole", "broken")]
    assert luck[0] == luck[1]


def test_the_time_of_waiting_for_batches_is_recorded(folder, tmp_path, tiny):
    tiny.trainer(folder, tmp_path, *tiny.ONLY_VQVAE).run()
    for line in map(json.loads, lines(tmp_path)):
        assert 0.0 <= line["wait"] <= line["took"] < 60.0


def test_a_line_of_metrics_is_written_after_an_interval(folder, tmp_path, tiny):
    tiny.trainer(folder, tmp_path, "report_every=1e9", *tiny.ONLY_VQVAE).run()
    assert lines(tmp_path) == []


@pytest.fixture
def ticking(monkeypatch):
    """A clock that advances by a second at each reading."""
    seconds = itertools.count()
    monkeypatch.setattr("varfix.engine.train.schedule.monotonic", lambda: float(next(seconds)))


ONLY_RESTORER = [f"{name}.steps=0" for name in ("vqvae", "prior", "heads", "judge")]


@pytest.mark.usefixtures("ticking")
def test_a_run_with_a_time_limit_ends_by_the_clock_and_writes_its_weights_in_parts(
    folder, tmp_path, tiny, weights
):
    tiny.trainer(folder, tmp_path, *ONLY_RESTORER, "minutes=0.4").run()
    done = [json.loads(line) for line in lines(tmp_path)]
    assert len(done) > 5  # the recipe's steps
    rates = [line["rate"] for line in done]
    assert rates[-1] < 0.1 * max(rates)
    fresh = tiny.build()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    load_partial(fresh, tmp_path / "restorer-0.safetensors")
    for name, value in weights(tmp_path).items():
        wanted = value if name.startswith("restorer.") else before[name]
        torch.testing.assert_close(fresh.state_dict()[name], wanted, atol=1e-3, rtol=1e-3)
    tiny.trainer(folder, tmp_path, *ONLY_RESTORER, "minutes=0.4").run()
    assert len(lines(tmp_path)) == len(done)  # its time is over


@pytest.mark.usefixtures("ticking")
def test_a_resumed_run_with_a_time_limit_continues_its_learning_rate(folder, tmp_path, tiny):
    limited = [*ONLY_RESTORER, "minutes=0.4", "save_every=1"]
    with pytest.raises(KeyboardInterrupt):
        tiny.trainer(folder, tmp_path, *limited, kind=Interrupted).at("restorer", 4).run()
    stopped = json.loads(lines(tmp_path)[-1])
    tiny.trainer(folder, tmp_path, *limited).run()
    following = json.loads(lines(tmp_path)[4])
    assert following["step"] == 4
    assert 0.0 < following["elapsed"] - stopped["elapsed"] < 6.0
    assert following["rate"] < stopped["rate"]


def test_a_time_limit_is_for_one_stage_only():
    with pytest.raises(ConfigError, match="5 stages have steps, expected one") as error:
        load_recipe(SHIPPED_RECIPE, ["minutes=3"])
    skipped = ("vqvae", "prior", "heads", "judge")
    assert error.value.hint == " ".join(f"--set {name}.steps=0" for name in skipped)


def test_the_loss_of_the_restorer_is_reported_by_kind(folder, tmp_path, tiny, metrics):
    mix = "restorer={steps: 4, batch_size: 2, patches: 2, patch: 64, per_step: 1, mix: {rain: 1.0}}"
    tiny.trainer(folder, tmp_path, mix, *ONLY_RESTORER).run()
    for line in metrics(tmp_path):
        assert line["loss rain"] == pytest.approx(line["pixels"])
        assert not any(name.startswith("loss ") and name != "loss rain" for name in line)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parts_that_cannot_be_compiled_are_trained_uncompiled(tiny):
    compiled = []

    def unable(graph, examples):
        compiled.append(graph)
        raise RuntimeError("no compiler")

    network = tiny.build().requires_grad_(False)
    network.restorer.requires_grad_(True)
    arguments = torch.rand(1, 3, 64, 64), torch.rand(1, 422, 4, 4)
    plain = network.restorer(*arguments)[0]
    compile_trained(network, unable)
    torch.testing.assert_close(network.restorer(*arguments)[0], plain)
    assert compiled
    assert network.prior._compiled_call_impl is None  # is not trained


def test_sheets_and_curves_are_written_during_a_run(folder, tmp_path, tiny):
    tiny.trainer(folder, tmp_path, "sample_every=2", *tiny.ONLY_VQVAE).run()
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["vqvae-000002.png"]
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_run_without_images_is_an_error(tmp_path):
    with pytest.raises(NothingToDoError, match="nothing to train on"):
        run_training(TrainRequest(tmp_path / "out"))
