"""Training learns, and a stopped run goes on to the same result."""

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
from varfix.engine.train.initial_weights import load_more
from varfix.engine.train.loop import SHIPPED_RECIPE, Trainer, run_training
from varfix.engine.train.recipes.recipe import load_recipe
from varfix.engine.train.request import Job
from varfix.engine.train.schedule import learning_rate
from varfix.engine.train.stages.objective import compile_trained
from varfix.engine.train.stages.stage import PlainStage
from varfix.engine.train.trainable import Program, program_named


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Mortal(Trainer):
    """A trainer that is killed before a given step is written down."""

    def dying_at(self, stage, step):
        self.fatal = (stage, step)
        return self

    def _record(self, stage, step, facts):
        if (stage.name, step) == self.fatal:
            raise KeyboardInterrupt
        super()._record(stage, step, facts)


def test_a_run_that_was_killed_three_times_ends_like_an_unbroken_one(
    folder, tmp_path, tiny, weights, diary
):
    tiny.trainer(folder, tmp_path / "whole").run()
    for fatal in (("prior", 2), ("heads", 1), ("restorer", 3)):
        mortal = tiny.trainer(folder, tmp_path / "broken", kind=Mortal)
        with pytest.raises(KeyboardInterrupt):
            mortal.dying_at(*fatal).run()
    tiny.trainer(folder, tmp_path / "broken").run()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert diary(tmp_path / "whole") == diary(tmp_path / "broken")
    assert len(diary(tmp_path / "whole")) == 3 + 3 + 4 + 5


@pytest.mark.slow
def test_a_run_that_got_kill_9_at_any_moment_ends_like_an_unbroken_one(
    folder, tmp_path, tiny, weights, diary
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
    assert diary(tmp_path / "whole") == diary(out)


@pytest.mark.slow
def test_several_devices_train_one_model_on_batches_of_their_own(
    folder, tmp_path, tiny, weights, diary
):
    for name, devices in (("one", 1), ("two", 2), ("again", 2)):
        command = [sys.executable, str(tiny.path), str(devices), str(folder), str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    one, two, again = (weights(tmp_path / name) for name in ("one", "two", "again"))
    assert same(two, again)
    assert not same(one, two)
    steps = [(line["stage"], line["step"]) for line in diary(tmp_path / "two")]
    assert steps == [(line["stage"], line["step"]) for line in diary(tmp_path / "one")]


def test_one_device_needs_no_library_for_several(folder, tmp_path, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    tiny.trainer(folder, tmp_path, *tiny.ONLY_VQVAE, machine=hardware(1)).run()
    with pytest.raises(ConfigError, match="needs lightning-fabric"):
        hardware(2)


def lines(out):
    file = out / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def test_a_few_steps_make_the_vqvae_better(folder, tmp_path, tiny, diary):
    longer = "vqvae={steps: 80, batch_size: 2, warmup: 1, learning_rate: 3.0e-3}"
    tiny.trainer(folder, tmp_path, longer, *tiny.ONLY_VQVAE).run()
    errors = [line["l1"] for line in diary(tmp_path)]
    assert np.mean(errors[-20:]) < 0.8 * np.mean(errors[:10])


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("heads", ("prior.tone.", "prior.evidence.")),
        ("restorer", ("restorer.",)),
    ],
)
def test_a_stage_trains_its_own_parts_and_no_other(folder, tmp_path, tiny, stage, parts):
    others = [
        f"{name}.steps=0" for name in ("vqvae", "prior", "heads", "restorer") if name != stage
    ]
    run = tiny.trainer(folder, tmp_path, *others)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.run()
    after = run.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(parts) for name in changed)


class Runaway(PlainStage):
    """A stage that learns to give one, and loses its mind at a given step."""

    name = "mind"

    def __init__(self, lost_at, mind=1e9):
        self.lost_at, self.mind = lost_at, mind
        self.calls = 0

    def parameters(self, model):
        return list(model.parameters())

    def start(self, model, batches):
        nn.init.zeros_(model.bias)

    def losses(self, model, batch):
        self.calls += 1
        if self.calls == self.lost_at:
            with torch.no_grad():
                model.bias.fill_(self.mind)
        return {"distance": (model.bias.sum() - 1.0).square()}


def one_number():
    layer = nn.Linear(1, 1)
    layer.weight = None
    return layer


def mind_recipe(tmp_path, **keys):
    text = "mix: {identity: 1.0}\nreport_every: 0\n"
    text += "mind: {steps: 60, batch_size: 1, warmup: 1, learning_rate: 0.05}\n"
    text += "".join(f"{key}: {value}\n" for key, value in keys.items())
    path = tmp_path / "mind.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_weights_that_ran_away_return_to_the_averaged_ones(tmp_path, weights):
    recipe = mind_recipe(tmp_path, rollback_after_skips=3, ema=0.5, sample_every=0)
    program = Program(one_number, (Runaway(20),), lambda model, picture, task: picture)
    Trainer(recipe, program, Black(), tmp_path).run()
    assert abs(float(weights(tmp_path)["bias"]) - 1.0) < 0.2
    assert sum(json.loads(line)["left out"] for line in lines(tmp_path)) == 3


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e6])
def test_a_step_with_a_bad_gradient_is_left_out(tmp_path, weights, value):
    class Stumbling(Runaway):
        def losses(self, model, batch):
            distance = super().losses(model, batch)["distance"]
            return {"distance": distance * value if self.calls == 30 else distance}

    recipe = mind_recipe(tmp_path, sample_every=0)
    program = Program(one_number, (Stumbling(0),), lambda model, picture, task: picture)
    Trainer(recipe, program, Black(), tmp_path).run()
    assert abs(float(weights(tmp_path)["bias"]) - 1.0) < 0.3
    done = map(json.loads, lines(tmp_path))
    assert [line["step"] for line in done if line["left out"]] == [29]


class Black:
    """A source of black images."""

    def draw(self, count, side, rng):
        from varfix.engine.train.degradations.mix import Degraded

        black = torch.zeros(count, 3, side, side)
        return Degraded(black, black, torch.zeros(count, dtype=torch.int64), ("identity",) * count)


def test_what_a_network_draws_by_itself_does_not_depend_on_when_a_run_was_resumed(tmp_path):
    class Dice(Runaway):
        def losses(self, model, batch):
            return {"luck": torch.rand(()) * model.bias.sum()}

    recipe = mind_recipe(tmp_path, save_every=10, sample_every=0)
    program = Program(one_number, (Dice(0),), lambda model, picture, task: picture)
    for out in (tmp_path / "whole", tmp_path / "broken"):
        out.mkdir()
        torch.manual_seed(len(out.name))  # the state of the generator is not the run's business
        if out.name == "broken":
            with pytest.raises(KeyboardInterrupt):
                Mortal(recipe, program, Black(), out).dying_at("mind", 17).run()
        Trainer(recipe, program, Black(), out).run()
    luck = [[json.loads(line)["luck"] for line in lines(tmp_path / o)] for o in ("whole", "broken")]
    assert luck[0] == luck[1]


def test_the_time_spent_waiting_for_batches_is_written_down(folder, tmp_path, tiny):
    tiny.trainer(folder, tmp_path, *tiny.ONLY_VQVAE).run()
    for line in map(json.loads, lines(tmp_path)):
        assert 0.0 <= line["wait"] <= line["took"] < 60.0


def test_lines_of_the_journal_are_means_over_the_time_between_them(folder, tmp_path, tiny):
    tiny.trainer(folder, tmp_path, "report_every=1e9", *tiny.ONLY_VQVAE).run()
    assert lines(tmp_path) == []


@pytest.fixture
def ticking(monkeypatch):
    """A clock that is a second later whenever it is looked at."""
    seconds = itertools.count()
    monkeypatch.setattr("varfix.engine.train.schedule.monotonic", lambda: float(next(seconds)))


ONLY_RESTORER = ["vqvae.steps=0", "prior.steps=0", "heads.steps=0"]


@pytest.mark.usefixtures("ticking")
def test_a_run_with_minutes_ends_by_the_clock_and_leaves_its_weights_in_parts(
    folder, tmp_path, tiny, weights
):
    tiny.trainer(folder, tmp_path, *ONLY_RESTORER, "minutes=0.4").run()
    done = [json.loads(line) for line in lines(tmp_path)]
    assert len(done) > 5  # the recipe's steps
    rates = [line["rate"] for line in done]
    assert rates[-1] < 0.1 * max(rates)
    fresh = tiny.build()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    load_more(fresh, tmp_path / "restorer-0.safetensors")
    for name, value in weights(tmp_path).items():
        wanted = value if name.startswith("restorer.") else before[name]
        torch.testing.assert_close(fresh.state_dict()[name], wanted, atol=1e-3, rtol=1e-3)
    tiny.trainer(folder, tmp_path, *ONLY_RESTORER, "minutes=0.4").run()
    assert len(lines(tmp_path)) == len(done)  # its time is over


@pytest.mark.usefixtures("ticking")
def test_a_run_with_minutes_that_was_stopped_goes_on_where_its_cosine_was(folder, tmp_path, tiny):
    limited = [*ONLY_RESTORER, "minutes=0.4", "save_every=1"]
    with pytest.raises(KeyboardInterrupt):
        tiny.trainer(folder, tmp_path, *limited, kind=Mortal).dying_at("restorer", 4).run()
    stopped = json.loads(lines(tmp_path)[-1])
    tiny.trainer(folder, tmp_path, *limited).run()
    following = json.loads(lines(tmp_path)[4])
    assert following["step"] == 4
    assert 0.0 < following["elapsed"] - stopped["elapsed"] < 6.0
    assert following["rate"] < stopped["rate"]


def test_minutes_are_for_one_stage():
    with pytest.raises(ConfigError, match="4 stages are to be trained, expected one") as error:
        load_recipe(SHIPPED_RECIPE, ["minutes=3"])
    assert error.value.hint == "--set vqvae.steps=0 --set prior.steps=0 --set heads.steps=0"


def test_the_loss_of_the_restorer_is_reported_by_kind(folder, tmp_path, tiny, diary):
    mix = "restorer={steps: 4, batch_size: 2, patches: 2, patch: 64, per_step: 1, mix: {rain: 1.0}}"
    tiny.trainer(folder, tmp_path, mix, *ONLY_RESTORER).run()
    for line in diary(tmp_path):
        assert line["loss rain"] == pytest.approx(line["pixels"])
        assert not any(name.startswith("loss ") and name != "loss rain" for name in line)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_compiled_is_trained_as_it_is(tiny):
    asked = []

    def unable(graph, examples):
        asked.append(graph)
        raise RuntimeError("no compiler")

    network = tiny.build().requires_grad_(False)
    network.restorer.requires_grad_(True)
    arguments = torch.rand(1, 3, 64, 64), torch.rand(1, 422, 4, 4)
    plain = network.restorer(*arguments)[0]
    compile_trained(network, unable)
    torch.testing.assert_close(network.restorer(*arguments)[0], plain)
    assert asked
    assert network.prior._compiled_call_impl is None  # is not trained


def test_sheets_and_curves_appear_during_a_run(folder, tmp_path, tiny):
    tiny.trainer(folder, tmp_path, "sample_every=2", *tiny.ONLY_VQVAE).run()
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["vqvae-000002.png"]
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vqvae.stepz=3", 'no key "vqvae.stepz"'),
        ("vqvea.steps=3", 'no key "vqvea.steps"'),
        ("mix={fog: 1.0}", 'unknown degradation "fog"'),
        ("seed=one", "Expected `int`"),
        ("heads.mix={fog: 1.0}", 'unknown degradation "fog"'),
        ("pairs_task=fog", 'no task "fog"'),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(SHIPPED_RECIPE, [override])


def test_numbers_may_be_written_as_people_write_them():
    recipe = load_recipe(
        SHIPPED_RECIPE, ["heads.learning_rate=5e-4", "restorer.learning_rate=1e-3", "grad_clip=1"]
    )
    assert (recipe.stages["heads"].learning_rate, recipe.stages["restorer"].learning_rate) == (
        5e-4,
        1e-3,
    )
    assert recipe.grad_clip == 1.0


def test_a_mistyped_key_of_a_recipe_is_refused_with_a_suggestion(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mix: {identity: 1.0}\nsed: 3\n")
    with pytest.raises(ConfigError, match='unknown key "sed"') as error:
        load_recipe(path)
    assert error.value.hint == 'did you mean "seed"?'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vqvae: {steps: 1, batch_size: 1}\n", 'no section "prior"'),
        ("foo: {steps: 1, batch_size: 1}\n", 'unknown key "foo"'),
        ("model: other\n", 'no model "other"'),
    ],
)
def test_a_recipe_must_have_the_stages_of_its_model(tmp_path, folder, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text("mix: {identity: 1.0}\n" + text)
    with pytest.raises(ConfigError, match=message):
        run_training(Job(tmp_path / "out", [folder], config=path))
    assert not (tmp_path / "out").exists()


def test_a_key_that_has_a_default_can_be_set_though_the_file_does_not_name_it():
    recipe = load_recipe(SHIPPED_RECIPE, ["vqvae.warmup=7", "rollback_after_skips=9"])
    assert recipe.stages["vqvae"].warmup == 7
    assert recipe.rollback_after_skips == 9


def test_the_shipped_recipe_fits_its_model():
    recipe = load_recipe(SHIPPED_RECIPE)
    program_named(recipe.model).check(recipe)


def test_nothing_to_train_on_is_said(tmp_path):
    with pytest.raises(NothingToDoError, match="nothing to train on"):
        run_training(Job(tmp_path / "out"))


def test_the_learning_rate_rises_then_falls_to_its_last_value():
    stage = load_recipe(SHIPPED_RECIPE).stages["restorer"]
    rates = [learning_rate(stage, step / 3000, step) for step in range(3000)]
    assert max(rates) == pytest.approx(stage.learning_rate, rel=0.02)
    assert rates[0] < 0.05 * stage.learning_rate
    assert rates[-1] == pytest.approx(stage.min_learning_rate, rel=0.1)
    assert all(math.isfinite(rate) for rate in rates)


def test_a_finished_stage_that_goes_on_warms_its_new_optimizer_up():
    stage = load_recipe(SHIPPED_RECIPE).stages["restorer"]
    assert learning_rate(stage, 0.5, 0) == pytest.approx(
        learning_rate(stage, 0.5, stage.warmup) / stage.warmup
    )
