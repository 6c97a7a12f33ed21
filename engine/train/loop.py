"""The training loop. A run can be resumed at any time, with the same result.

It does not depend on a network; `varfix.engine.train.trainable` describes how to add one. On a GPU,
the CPU only submits work, and reads values every few seconds for the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from varfix.engine.errors import ConfigError, NothingToDoError
from varfix.engine.train.balance import Balance
from varfix.engine.train.checkpoint import load_state, save_parts, save_state, save_weights
from varfix.engine.train.data.batches import GROUPS
from varfix.engine.train.data.pairs import load_pairs
from varfix.engine.train.data.photos import load_photos
from varfix.engine.train.data.pools import split_pools
from varfix.engine.train.data.prefetch import feed
from varfix.engine.train.data.source import Blended, Source, Synthetic
from varfix.engine.train.devices import Hardware, SingleDevice, hardware
from varfix.engine.train.initial_weights import load_initial, load_partial
from varfix.engine.train.logs.metrics import MetricsLog
from varfix.engine.train.logs.sample_sheets import Samples
from varfix.engine.train.logs.step_means import StepMeans
from varfix.engine.train.optimizer import Optimizer, copy_weights, update_averages
from varfix.engine.train.recipes.recipe import Recipe, StageRecipe, load_recipe
from varfix.engine.train.recipes.renamed_keys import Warn, ignore
from varfix.engine.train.request import TrainRequest
from varfix.engine.train.schedule import Clock, learning_rate
from varfix.engine.train.stages.objective import Objective, compile_trained
from varfix.engine.train.stages.stage import Stage
from varfix.engine.train.trainable import RECIPES, Trainable, trainable_named

SHIPPED_RECIPE = RECIPES / "varformer-s.yaml"
ENDLESS = 10**9
"""Steps of a run that is limited by time."""


def run_training(request: TrainRequest, warn: Warn = ignore) -> None:
    """Train from a recipe, or resume the run.

    Args:
        request: What to train, on which images, and the folder of the run.
        warn: Receives a message for each key of the recipe under its old name.

    Raises:
        ConfigError: The recipe is invalid.
        NothingToDoError: There are no training images.
        ModelError: The initial weights are not those of the recipe's network.
    """
    recipe = load_recipe(
        request.config or SHIPPED_RECIPE, [*request.overrides, *request.changes], warn
    )
    trainable = trainable_named(recipe.model)
    trainable.check(recipe)
    machine = hardware(request.devices)
    request.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, trainable, make_source(request, recipe), request.out, machine)
    if request.initial and not trainer.has_begun:
        trainer.initialize(*request.initial)
    trainer.run()


def make_source(request: TrainRequest, recipe: Recipe) -> Source:
    """Return the training images: synthetic degradations, own pairs, or both.

    Raises:
        NothingToDoError: There are none.
    """
    sources: list[Source] = []
    if request.photos:
        sources.append(Synthetic(load_photos(request.photos), recipe.degradations))
    if request.pairs is not None:
        sources.append(load_pairs(*request.pairs, recipe.pairs_task))
    if not sources:
        raise NothingToDoError("nothing to train on", hint="use --photos, --pairs, or both")
    first, *others = sources
    return Blended(first, others[0], recipe.pairs_share) if others else first


class Trainer:
    """A run: network, averaged weights, optimizer, and progress."""

    def __init__(
        self,
        recipe: Recipe,
        trainable: Trainable,
        source: Source,
        out: Path,
        machine: Hardware | None = None,
    ) -> None:
        """Begin a run, or resume the one in `out`."""
        self.recipe, self.trainable, self.source, self.out = recipe, trainable, source, out
        self.machine = machine or SingleDevice()
        self.metrics = MetricsLog(out / "metrics.jsonl")
        torch.manual_seed(recipe.seed)
        self.model, self.averaged = (trainable.build().to(self.machine.device) for _ in range(2))
        for network in (self.model, self.averaged):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged.eval().requires_grad_(False)
        self.averaged.load_state_dict(self.model.state_dict())
        self.balance = Balance(len(GROUPS)).to(self.machine.device)
        self.samples = Samples(out, source, recipe.seed)
        self.done = dict.fromkeys((stage.name for stage in trainable.stages), 0)
        self.clock = Clock(recipe.minutes)
        self.prepared = False  # whether all weights are trained ones
        self.optimizer_state: dict[str, dict[str, Any]] = {}  # of the unfinished stage, by name
        self._resume()

    @property
    def has_begun(self) -> bool:
        """Whether a step has been done."""
        return any(self.done.values())

    def initialize(self, weights: Path, *more: Path) -> None:
        """Load initial weights.

        Args:
            weights: File of the whole network.
            more: Files of parts of the network, which replace those.

        Raises:
            ConfigError: An exported model lacks weights from which a stage learns.
            ModelError: As `load_initial`.
        """
        missing = load_initial(self.model, weights)
        for part in more:
            load_partial(self.model, part)
        enough = self.trainable.from_export
        early = [stage.name for stage in self.trainable.stages if stage.name not in enough]
        wanted = [name for name in early if self.recipe.stages[name].steps]
        if weights.suffix == ".onnx" and missing and wanted:
            raise ConfigError(
                f'{weights.name} lacks the weights that stage "{wanted[0]}" requires',
                hint=f"skip it: {' '.join(f'--set {name}.steps=0' for name in early)}",
            )
        self.prepared = not missing
        self.averaged.load_state_dict(self.model.state_dict())

    def run(self) -> None:
        """Run every unfinished stage, then write the averaged weights."""
        self.clock.start()
        for stage in self.trainable.stages:
            settings = self.recipe.stages[stage.name]
            if self._share(stage, settings) < 1.0:
                self._run_stage(stage, settings)
        if self.machine.rank == 0:
            save_weights(self.averaged, self.out / "weights.safetensors")
        self.machine.wait()

    def _share(self, stage: Stage, settings: StageRecipe) -> float:
        """Return the finished share of a stage, by steps or by time."""
        if settings.steps == 0:
            return 1.0
        by_time = self.clock.share
        return self.done[stage.name] / settings.steps if by_time is None else by_time

    def _run_stage(self, stage: Stage, settings: StageRecipe) -> None:
        source = self.source if settings.mix is None else self.source.mixed(settings.mix)
        make_batches = self.trainable.batches_of(stage.name)
        batches = make_batches(source, settings, self.recipe.seed, self.machine.device)
        if self.done[stage.name] == 0 and not self.prepared:
            torch.manual_seed(self.recipe.seed)
            stage.start(self.model, batches)
            self.averaged.load_state_dict(self.model.state_dict())
        optimizer = self._optimizer(stage)
        if self.recipe.compile:
            compile_trained(self.model)
        objective = self.machine.wrap(Objective(self.model, stage, self.balance))
        bar = tqdm(
            desc=stage.name,
            initial=self.done[stage.name],
            total=settings.steps if self.recipe.minutes is None else None,
            disable=self.machine.rank > 0,
        )
        pools = feed(batches, self._numbers(stage, settings), self.machine.device)
        with closing(pools), bar:
            ready = split_pools(
                pools,
                settings.parts,
                self.done[stage.name],
                lambda pool: stage.prepare(self.model, pool.to(self.machine.device)),
            )
            for _ in self._steps(stage, settings, objective, optimizer, ready):
                bar.update()
        self._finish(stage)

    def _numbers(self, stage: Stage, settings: StageRecipe) -> range:
        """Return the numbers of the remaining pools of this process."""
        steps = ENDLESS if self.recipe.minutes is not None else settings.steps
        first, last = self.done[stage.name] // settings.parts, -(-steps // settings.parts)
        processes = self.machine.count
        return range(first * processes + self.machine.rank, last * processes, processes)

    def _steps(
        self,
        stage: Stage,
        settings: StageRecipe,
        objective: nn.Module,
        optimizer: Optimizer,
        ready: Iterator[Any],
    ) -> Iterator[None]:
        """Take steps until the stage is finished."""
        means = StepMeans(GROUPS, self.machine.device)
        while (share := self._share(stage, settings)) < 1.0:
            step = self.done[stage.name]
            with means.waiting():
                batch = next(ready)
            rate = learning_rate(settings, share, optimizer.taken)
            # Random values in the network (dropout) must not depend on when the run was resumed.
            torch.manual_seed(self.recipe.seed * 1_000_003 + step * self.machine.count)
            optimizer.clear()
            self.machine.backward(objective(batch, means))
            facts = optimizer.step(rate)
            means.add(facts)
            self._average(stage, optimizer.taken, facts["left out"])
            self.done[stage.name] = step + 1
            if means.age >= self.recipe.report_every:
                times = {"rate": rate, "elapsed": self.clock.elapsed}
                self._record(stage, step, means.read() | times)
                self._roll_back(stage, optimizer)
            self._save_outputs(stage, step, optimizer)
            yield

    def _optimizer(self, stage: Stage) -> Optimizer:
        """Return the optimizer of a stage in its last state; freeze all other weights."""
        self.model.requires_grad_(False)
        trained = stage.parameters(self.model)
        for parameter in trained:
            parameter.requires_grad_(True)
        scales = list(self.balance.parameters())
        own = self.recipe.stages[stage.name].skip_above_grad_norm
        skip = self.recipe.skip_above_grad_norm if own is None else own
        optimizer = Optimizer(trained, scales, self.recipe.grad_clip, skip)
        if stage.name in self.optimizer_state:
            optimizer.resume(self.optimizer_state[stage.name])
        return optimizer

    def _average(self, stage: Stage, taken: int, still: Tensor) -> None:
        """Update the averaged weights; the decay is lower at the beginning of a run."""
        decay = min(self.recipe.ema, taken / (taken + 9))
        followers, leaders = stage.parameters(self.averaged), stage.parameters(self.model)
        update_averages(followers, leaders, 1.0 - decay, still)

    def _roll_back(self, stage: Stage, optimizer: Optimizer) -> None:
        """Replace diverged weights by the averaged ones.

        Diverged weights have large gradients for every batch, so that all further steps would be
        skipped. The averaged weights are from before; a new optimizer warms up.
        """
        if float(optimizer.left_out) >= self.recipe.rollback_after_skips:
            copy_weights(stage.parameters(self.averaged), stage.parameters(self.model))
            optimizer.restart()

    def _finish(self, stage: Stage) -> None:
        """Continue with the averaged weights in later stages."""
        copy_weights(stage.parameters(self.averaged), stage.parameters(self.model))
        self._save(stage, {})

    def _record(self, stage: Stage, step: int, facts: dict[str, float]) -> None:
        if self.machine.rank > 0:
            return
        line = {"stage": stage.name, "step": step, "time": round(time.time(), 1)}
        self.metrics.write(line | {name: round(value, 6) for name, value in facts.items()})

    def _save_outputs(self, stage: Stage, step: int, optimizer: Optimizer) -> None:
        if (step + 1) % self.recipe.save_every == 0:
            self._save(stage, {stage.name: optimizer.state()})
        if self.machine.rank > 0:
            return
        if self.recipe.sample_every and (step + 1) % self.recipe.sample_every == 0:
            self.samples.write(self.trainable.restore, self.averaged, f"{stage.name}-{step + 1:06}")

    def _save(self, stage: Stage, optimizer: dict[str, dict[str, Any]]) -> None:
        if self.machine.rank > 0:
            return
        state = {
            "done": self.done,
            "elapsed": self.clock.elapsed,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "balance": self.balance.state_dict(),
            "optimizer": optimizer,
            "prepared": self.prepared,
        }
        save_state(state, self.out / "state.pt")
        if self.recipe.minutes is not None:
            trained = {id(parameter) for parameter in stage.parameters(self.averaged)}
            named = self.averaged.named_parameters()
            save_parts({n: p for n, p in named if id(p) in trained}, self.out, stage.name)

    def _resume(self) -> None:
        state = load_state(self.out / "state.pt", self.machine.device)
        self.done = state["done"] if state else self.done
        if self.machine.rank == 0:
            self.metrics.rewind(self.done)
        if state is None:
            return
        self.clock.resume(state["elapsed"])
        self.prepared = state["prepared"]
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.balance.load_state_dict(state["balance"])
        self.optimizer_state = state["optimizer"]
