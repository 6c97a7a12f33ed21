"""The training loop: resumable at any moment, the same result however often it is stopped.

It knows no network; `varfix.engine.train.trainable` says how to train another one. On a GPU the
host only sends work and asks nothing back, but for the journal's lines every few seconds.
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
from varfix.engine.train.data.deal import deal
from varfix.engine.train.data.pairs import load_pairs
from varfix.engine.train.data.photos import load_photos
from varfix.engine.train.data.prefetch import feed
from varfix.engine.train.data.source import Blended, Source, Synthetic
from varfix.engine.train.devices import Hardware, OneDevice, hardware
from varfix.engine.train.initial_weights import load_initial, load_more
from varfix.engine.train.logs.metrics import Journal
from varfix.engine.train.logs.sample_sheets import Samples
from varfix.engine.train.logs.tally import Tally
from varfix.engine.train.optimizer import Optimizer, copy, follow
from varfix.engine.train.recipes.recipe import Recipe, StageRecipe, load_recipe
from varfix.engine.train.recipes.renamed_keys import Warn, ignore
from varfix.engine.train.request import Job
from varfix.engine.train.schedule import Clock, learning_rate
from varfix.engine.train.stages.objective import Objective, compile_trained
from varfix.engine.train.stages.stage import Stage
from varfix.engine.train.trainable import RECIPES, Program, program_named

SHIPPED_RECIPE = RECIPES / "varformer-s.yaml"
ENDLESS = 10**9
"""Steps of a run that is limited by time."""


def run_training(job: Job, warn: Warn = ignore) -> None:
    """Train from a recipe, or go on where the run was left.

    Args:
        job: what to train, on what, and where to.
        warn: receives a message for each key of the recipe that is given under its old name.

    Raises:
        ConfigError: If the recipe is wrong.
        NothingToDoError: If there is nothing to train on.
        ModelError: If the initial weights are not those of the recipe's network.
    """
    recipe = load_recipe(job.config or SHIPPED_RECIPE, [*job.overrides, *job.changes], warn)
    program = program_named(recipe.model)
    program.check(recipe)
    machine = hardware(job.devices)
    job.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, program, make_source(job, recipe), job.out, machine)
    if job.initial and not trainer.begun:
        trainer.begin_with(*job.initial)
    trainer.run()


def make_source(job: Job, recipe: Recipe) -> Source:
    """What to train on: damaged photographs, own pairs, or both mixed.

    Raises:
        NothingToDoError: If there is nothing.
    """
    sources: list[Source] = []
    if job.photos:
        sources.append(Synthetic(load_photos(job.photos), recipe.degradations))
    if job.pairs is not None:
        sources.append(load_pairs(*job.pairs, recipe.pairs_task))
    if not sources:
        raise NothingToDoError("nothing to train on", hint="give --photos, --pairs, or both")
    first, *others = sources
    return Blended(first, others[0], recipe.pairs_share) if others else first


class Trainer:
    """A run: model, averaged weights, optimizer, and where they stand."""

    def __init__(
        self,
        recipe: Recipe,
        program: Program,
        source: Source,
        out: Path,
        machine: Hardware | None = None,
    ) -> None:
        """Begin a run, or take up the one in `out`."""
        self.recipe, self.program, self.source, self.out = recipe, program, source, out
        self.machine = machine or OneDevice()
        self.journal = Journal(out / "metrics.jsonl")
        torch.manual_seed(recipe.seed)
        self.model, self.averaged = (program.build().to(self.machine.device) for _ in range(2))
        for network in (self.model, self.averaged):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged.eval().requires_grad_(False)
        self.averaged.load_state_dict(self.model.state_dict())
        self.balance = Balance(len(GROUPS)).to(self.machine.device)
        self.samples = Samples(out, source, recipe.seed)
        self.done = dict.fromkeys((stage.name for stage in program.stages), 0)
        self.clock = Clock(recipe.minutes)
        self.prepared = False  # all weights are those of a trained network
        self.optimizer_state: dict[str, dict[str, Any]] = {}  # of the unfinished stage, by name
        self._restore()

    @property
    def begun(self) -> bool:
        """Whether a step was ever done."""
        return any(self.done.values())

    def begin_with(self, weights: Path, *more: Path) -> None:
        """Load weights to begin with.

        Args:
            weights: of the whole network.
            more: of parts of it, in place of those.

        Raises:
            ConfigError: If an exported model lacks what a stage that is to run learns from.
            ModelError: As `load_initial`.
        """
        missing = load_initial(self.model, weights)
        for part in more:
            load_more(self.model, part)
        enough = self.program.from_export
        early = [stage.name for stage in self.program.stages if stage.name not in enough]
        wanted = [name for name in early if self.recipe.stages[name].steps]
        if weights.suffix == ".onnx" and missing and wanted:
            raise ConfigError(
                f'{weights.name} lacks the weights that stage "{wanted[0]}" requires',
                hint=f"skip it: {' '.join(f'--set {name}.steps=0' for name in early)}",
            )
        self.prepared = not missing
        self.averaged.load_state_dict(self.model.state_dict())

    def run(self) -> None:
        """Run every stage that is not finished, then write the averaged weights."""
        self.clock.start()
        for stage in self.program.stages:
            settings = self.recipe.stages[stage.name]
            if self._share(stage, settings) < 1.0:
                self._run_stage(stage, settings)
        if self.machine.rank == 0:
            save_weights(self.averaged, self.out / "weights.safetensors")
        self.machine.wait()

    def _share(self, stage: Stage, settings: StageRecipe) -> float:
        """Which share of a stage is over, by its steps or by the clock."""
        if settings.steps == 0:
            return 1.0
        by_time = self.clock.share
        return self.done[stage.name] / settings.steps if by_time is None else by_time

    def _run_stage(self, stage: Stage, settings: StageRecipe) -> None:
        source = self.source if settings.mix is None else self.source.mixed(settings.mix)
        batches = self.program.batches(source, settings, self.recipe.seed, self.machine.device)
        if self.done[stage.name] == 0 and not self.prepared:
            torch.manual_seed(self.recipe.seed)
            stage.start(self.model, batches)
            self.averaged.load_state_dict(self.model.state_dict())
        optimizer = self._optimizer(stage)
        if self.recipe.compile:
            compile_trained(self.model)
        objective = self.machine.ready(Objective(self.model, stage, self.balance))
        bar = tqdm(
            desc=stage.name,
            initial=self.done[stage.name],
            total=settings.steps if self.recipe.minutes is None else None,
            disable=self.machine.rank > 0,
        )
        pools = feed(batches, self._numbers(stage, settings), self.machine.device)
        with closing(pools), bar:
            ready = deal(
                pools,
                settings.parts,
                self.done[stage.name],
                lambda pool: stage.prepare(self.model, pool.to(self.machine.device)),
            )
            for _ in self._steps(stage, settings, objective, optimizer, ready):
                bar.update()
        self._finish(stage)

    def _numbers(self, stage: Stage, settings: StageRecipe) -> range:
        """Numbers of the pools that are left; every process takes some of its own."""
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
        """Take one step after the other until the stage is over."""
        tally = Tally(GROUPS, self.machine.device)
        while (share := self._share(stage, settings)) < 1.0:
            step = self.done[stage.name]
            with tally.waiting():
                batch = next(ready)
            rate = learning_rate(settings, share, optimizer.taken)
            # What a network draws by itself (dropout) must not depend on when a run was resumed.
            torch.manual_seed(self.recipe.seed * 1_000_003 + step * self.machine.count)
            optimizer.clear()
            self.machine.backward(objective(batch, tally))
            facts = optimizer.step(rate)
            tally.add(facts)
            self._average(stage, optimizer.taken, facts["left out"])
            self.done[stage.name] = step + 1
            if tally.age >= self.recipe.report_every:
                times = {"rate": rate, "elapsed": self.clock.elapsed}
                self._record(stage, step, tally.read() | times)
                self._recover(stage, optimizer)
            self._keep(stage, step, optimizer)
            yield

    def _optimizer(self, stage: Stage) -> Optimizer:
        """The optimizer as it was left, over what the stage trains; all else is frozen."""
        self.model.requires_grad_(False)
        trained = stage.parameters(self.model)
        for parameter in trained:
            parameter.requires_grad_(True)
        scales = list(self.balance.parameters())
        optimizer = Optimizer(
            trained, scales, self.recipe.grad_clip, self.recipe.skip_above_grad_norm
        )
        if stage.name in self.optimizer_state:
            optimizer.resume(self.optimizer_state[stage.name])
        return optimizer

    def _average(self, stage: Stage, taken: int, still: Tensor) -> None:
        """Let the averaged weights follow, in a new run sooner than in an old one."""
        decay = min(self.recipe.ema, taken / (taken + 9))
        followers, leaders = stage.parameters(self.averaged), stage.parameters(self.model)
        follow(followers, leaders, 1.0 - decay, still)

    def _recover(self, stage: Stage, optimizer: Optimizer) -> None:
        """Give up weights that ran away.

        They give large gradients for every batch, so that all steps are left out for ever. The
        averaged weights are from before they did; a fresh optimizer warms up.
        """
        if float(optimizer.left_out) >= self.recipe.rollback_after_skips:
            copy(stage.parameters(self.averaged), stage.parameters(self.model))
            optimizer.restart()

    def _finish(self, stage: Stage) -> None:
        """Later stages build on the averaged weights of this one."""
        copy(stage.parameters(self.averaged), stage.parameters(self.model))
        self._save(stage, {})

    def _record(self, stage: Stage, step: int, facts: dict[str, float]) -> None:
        if self.machine.rank > 0:
            return
        line = {"stage": stage.name, "step": step, "time": round(time.time(), 1)}
        self.journal.write(line | {name: round(value, 6) for name, value in facts.items()})

    def _keep(self, stage: Stage, step: int, optimizer: Optimizer) -> None:
        if (step + 1) % self.recipe.save_every == 0:
            self._save(stage, {stage.name: optimizer.state()})
        if self.machine.rank > 0:
            return
        if self.recipe.sample_every and (step + 1) % self.recipe.sample_every == 0:
            self.samples.write(self.program.restore, self.averaged, f"{stage.name}-{step + 1:06}")

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

    def _restore(self) -> None:
        state = load_state(self.out / "state.pt", self.machine.device)
        self.done = state["done"] if state else self.done
        if self.machine.rank == 0:
            self.journal.rewind(self.done)
        if state is None:
            return
        self.clock.resume(state["elapsed"])
        self.prepared = state["prepared"]
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.balance.load_state_dict(state["balance"])
        self.optimizer_state = state["optimizer"]
