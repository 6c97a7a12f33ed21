"""The training loop: resumable at any moment, the same result however often it is stopped.

It knows no network; `varfix.engine.train.trainable` says how to train another one.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from varfix.engine.errors import ConfigError, NothingToDoError
from varfix.engine.train.checkpoint import load_state, save_state, save_weights
from varfix.engine.train.data.pairs import load_pairs
from varfix.engine.train.data.photos import load_photos
from varfix.engine.train.data.prefetch import feed
from varfix.engine.train.data.source import Blended, Source, Synthetic
from varfix.engine.train.devices import Hardware, OneDevice, hardware
from varfix.engine.train.initial_weights import load_initial
from varfix.engine.train.logs.metrics import Journal
from varfix.engine.train.logs.sample_sheets import Samples
from varfix.engine.train.recipes.recipe import Recipe, StageRecipe, load_recipe
from varfix.engine.train.request import Job
from varfix.engine.train.schedule import learning_rate, steps_taken
from varfix.engine.train.trainable import RECIPES, Program, Stage, program_named

SHIPPED_RECIPE = RECIPES / "varformer-s.yaml"
BETAS = (0.9, 0.99)
"""The papers' second one is 0.999; short runs need a second moment that follows sooner."""


def run_training(job: Job) -> None:
    """Train from a recipe, or go on where the run was left.

    Raises:
        ConfigError: If the recipe is wrong.
        NothingToDoError: If there is nothing to train on.
        ModelError: If the initial weights are not those of the recipe's network.
    """
    recipe = load_recipe(job.config or SHIPPED_RECIPE, job.overrides)
    program = program_named(recipe.model)
    program.check(recipe)
    machine = hardware(job.devices)
    job.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, program, make_source(job, recipe, machine), job.out, machine)
    if job.initial is not None and not trainer.begun:
        trainer.begin_with(job.initial)
    trainer.run()


def make_source(job: Job, recipe: Recipe, machine: Hardware) -> Source:
    """What to train on: damaged photographs, own pairs, or both mixed.

    Raises:
        NothingToDoError: If there is nothing.
    """
    sources: list[Source] = []
    if job.photos:
        sources.append(Synthetic(load_photos(job.photos).to(machine.device), recipe.degradations))
    if job.pairs is not None:
        sources.append(load_pairs(*job.pairs, recipe.own_task))
    if not sources:
        raise NothingToDoError("nothing to train on", hint="give --photos, --pairs, or both")
    first, *others = sources
    return Blended(first, others[0], recipe.own) if others else first


class Objective(nn.Module):
    """A stage's losses as a module: what several devices share is a call of a module."""

    def __init__(self, model: nn.Module, stage: Stage) -> None:
        super().__init__()
        self.model, self.stage = model, stage

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """The losses of one batch, computed in bf16 where that is safe."""
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            losses = self.stage.losses(self.model, batch)
        return {name: loss.float() for name, loss in losses.items()}


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
        self.model = program.build().to(self.machine.device)
        self.averaged = program.build().to(self.machine.device).eval().requires_grad_(False)
        self.averaged.load_state_dict(self.model.state_dict())
        self.samples = Samples(out, source, recipe.seed)
        self.done = dict.fromkeys((stage.name for stage in program.stages), 0)
        self.left_out = 0  # steps in a row
        self.prepared = False  # all weights are those of a trained network
        self.optimizer_state: dict[str, dict[str, Any]] = {}  # of the unfinished stage, by name
        self._restore()

    @property
    def begun(self) -> bool:
        """Whether a step was ever done."""
        return any(self.done.values())

    def begin_with(self, weights: Path) -> None:
        """Load weights to begin with.

        Raises:
            ConfigError: If an exported model lacks what a stage that is to run learns from.
            ModelError: As `load_initial`.
        """
        missing = load_initial(self.model, weights)
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
        for stage in self.program.stages:
            settings = self.recipe.stages[stage.name]
            if self.done[stage.name] < settings.steps:
                self._run_stage(stage, settings)
        if self.machine.rank == 0:
            save_weights(self.averaged, self.out / "weights.safetensors")
        self.machine.wait()

    def _run_stage(self, stage: Stage, settings: StageRecipe) -> None:
        device = self.machine.device
        source = self.source if settings.mix is None else self.source.mixed(settings.mix)
        batches = self.program.batches(source, settings, self.recipe.seed, device)
        first = self.done[stage.name]
        if first == 0 and not self.prepared:
            torch.manual_seed(self.recipe.seed)
            stage.start(self.model, batches)
            self.averaged.load_state_dict(self.model.state_dict())
        optimizer = self._optimizer(stage, settings)
        objective = self.machine.ready(Objective(self.model, stage))
        # Every process takes batches of its own.
        mine = range(
            first * self.machine.count + self.machine.rank,
            settings.steps * self.machine.count,
            self.machine.count,
        )
        steps = tqdm(
            range(first, settings.steps),
            desc=stage.name,
            initial=first,
            total=settings.steps,
            disable=self.machine.rank > 0,
        )
        with closing(feed(batches, mine, device)) as ready:  # type: ignore[type-var]
            for step in steps:
                started = time.perf_counter()
                batch = next(ready).to(device)
                waited = time.perf_counter() - started
                rate = learning_rate(settings, step, steps_taken(optimizer))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                losses = self._step(objective, batch, optimizer, step)
                self._settle(stage, optimizer)
                self.done[stage.name] = step + 1
                clock = {"wait": waited, "took": time.perf_counter() - started}
                self._record(stage, step, losses | clock, optimizer)
        self._finish(stage)

    def _optimizer(self, stage: Stage, settings: StageRecipe) -> torch.optim.Adam:
        """The optimizer as it was left, over what the stage trains; all else is frozen."""
        self.model.requires_grad_(False)
        trained = stage.parameters(self.model)
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(trained, lr=settings.rate, betas=BETAS)
        if stage.name in self.optimizer_state:
            optimizer.load_state_dict(self.optimizer_state[stage.name])
        return optimizer

    def _step(
        self, objective: nn.Module, batch: Any, optimizer: torch.optim.Adam, step: int
    ) -> dict[str, float]:
        # Whatever a network draws by itself (dropout) must not depend on when a run was resumed.
        torch.manual_seed(self.recipe.seed * 1_000_003 + step * self.machine.count)
        optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = objective(batch)
        self.machine.backward(torch.stack(list(losses.values())).sum())
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(trained, self.recipe.clip))
        # Networks without normalization can run away from one bad batch; such a step is left out.
        if norm < self.recipe.skip:
            optimizer.step()
            self.left_out = 0
        else:
            self.left_out += 1
        return {name: float(loss.detach()) for name, loss in losses.items()} | {"norm": norm}

    def _settle(self, stage: Stage, optimizer: torch.optim.Adam) -> None:
        """Follow the weights with the averaged ones, or give up weights that ran away.

        A network that ran away gives large gradients for every batch, so that all steps are left
        out for ever. The averaged weights are from before it did; a fresh optimizer warms up.
        """
        if self.left_out >= self.recipe.recover:
            _copy(stage.parameters(self.averaged), stage.parameters(self.model))
            optimizer.state.clear()
            self.left_out = 0
        elif self.left_out == 0:
            _follow(
                stage.parameters(self.model), stage.parameters(self.averaged), 1.0 - self.recipe.ema
            )

    def _finish(self, stage: Stage) -> None:
        """Later stages build on the averaged weights of this one."""
        _copy(stage.parameters(self.averaged), stage.parameters(self.model))
        self._save({})

    def _record(
        self, stage: Stage, step: int, facts: dict[str, float], optimizer: torch.optim.Adam
    ) -> None:
        if self.machine.rank > 0:
            return
        line = {"stage": stage.name, "step": step, "time": round(time.time(), 1)}
        self.journal.write(line | {name: round(value, 5) for name, value in facts.items()})
        if (step + 1) % self.recipe.save_every == 0:
            self._save({stage.name: optimizer.state_dict()})
        if self.recipe.sample_every and (step + 1) % self.recipe.sample_every == 0:
            self.samples.write(self.program.restore, self.averaged, f"{stage.name}-{step + 1:06}")

    def _save(self, optimizer: dict[str, dict[str, Any]]) -> None:
        if self.machine.rank > 0:
            return
        state = {
            "done": self.done,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": optimizer,
            "left_out": self.left_out,
            "prepared": self.prepared,
        }
        save_state(state, self.out / "state.pt")

    def _restore(self) -> None:
        state = load_state(self.out / "state.pt", self.machine.device)
        self.done = state["done"] if state else self.done
        if self.machine.rank == 0:
            self.journal.rewind(self.done)
        if state is None:
            return
        self.left_out, self.prepared = state.get("left_out", 0), state.get("prepared", False)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer_state = state["optimizer"]


def _copy(source: list[nn.Parameter], target: list[nn.Parameter]) -> None:
    """Overwrite parameters with others of the same shapes, whatever they hold."""
    with torch.no_grad():
        for new, old in zip(source, target, strict=True):
            old.copy_(new)


def _follow(source: list[nn.Parameter], target: list[nn.Parameter], share: float) -> None:
    """Move parameters toward others by a share of the way."""
    with torch.no_grad():
        for new, old in zip(source, target, strict=True):
            old.lerp_(new, share)
