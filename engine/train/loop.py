"""The training loop: resumable at any moment, the same result however often it is stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import shared_cache
from torch.utils.data import DataLoader
from tqdm import tqdm

from varfix.engine.networks.varformer_s import VarformerS, build_varformer_s
from varfix.engine.train.checkpoint import load_state, save_state, save_weights
from varfix.engine.train.journal import Journal
from varfix.engine.train.photos import Photos, load_photos
from varfix.engine.train.recipe import Recipe, StageRecipe, load_recipe
from varfix.engine.train.stages import STAGES, Batch, Batches, Stage, stage_recipes

SHIPPED_RECIPE = Path(__file__).with_name("varformer-s.yaml")
BETAS = (0.9, 0.99)
"""The papers' second one is 0.999; short runs need a second moment that follows sooner."""


def run_training(
    config: str | None, photos: Sequence[Path], out: Path, overrides: Sequence[str] = ()
) -> None:
    """Train from a recipe, or go on where `out` was left.

    Args:
        config: recipe YAML; None for the recipe of the model that ships.
        photos: folders of clean photographs.
        out: folder of the run: `state.pt`, `metrics.jsonl`, `weights.safetensors`.
        overrides: `KEY=VALUE` changes to the recipe.

    Raises:
        ConfigError: If the recipe is wrong.
        NothingToDoError: If there are no photographs.
    """
    recipe = load_recipe(Path(config) if config else SHIPPED_RECIPE, overrides)
    out.mkdir(parents=True, exist_ok=True)
    Trainer(recipe, load_photos(photos), out, build_varformer_s).run()


class Trainer:
    """A run: model, averaged weights, optimiser, and where they stand."""

    def __init__(
        self, recipe: Recipe, photos: Photos, out: Path, build: Callable[[], VarformerS]
    ) -> None:
        """Begin a run, or take up the one in `out`; `build` makes the network to train."""
        self.recipe, self.photos, self.out = recipe, photos, out
        self.journal = Journal(out / "metrics.jsonl")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self.model = build().to(self.device)
        self.averaged = build().to(self.device)
        self.averaged.load_state_dict(self.model.state_dict())
        self.done = dict.fromkeys((s.name for s in STAGES), 0)
        self.optimizer_state: dict[str, dict[str, Any]] = {}  # of the unfinished stage, by name
        self._restore()

    def run(self) -> None:
        """Run every stage that is not finished, then write the averaged weights."""
        for stage in STAGES:
            settings = stage_recipes(self.recipe)[stage.name]
            if self.done[stage.name] < settings.steps:
                self._run_stage(stage, settings)
        save_weights(self.averaged, self.out / "weights.safetensors")

    def _run_stage(self, stage: Stage, settings: StageRecipe) -> None:
        batches = Batches(self.photos, settings, self.recipe.degradations, self.recipe.seed)
        first = self.done[stage.name]
        if first == 0:
            stage.start(self.model, batches)
            self.averaged.load_state_dict(self.model.state_dict())
        trained = stage.parameters(self.model)
        optimizer = torch.optim.Adam(trained, lr=settings.rate, betas=BETAS)
        if stage.name in self.optimizer_state:
            optimizer.load_state_dict(self.optimizer_state[stage.name])
        steps = range(first, settings.steps)
        for step, batch in tqdm(
            zip(steps, self._load(batches, steps), strict=True),
            desc=stage.name,
            initial=first,
            total=settings.steps,
        ):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step, steps_taken(optimizer))
            losses = self._step(stage, batch, optimizer, trained)
            self._average(stage)
            self.done[stage.name] = step + 1
            self._log(stage, step, losses)
            if (step + 1) % self.recipe.save_every == 0:
                self._save({stage.name: optimizer.state_dict()})
        self._finish(stage)

    def _load(self, batches: Batches, steps: range) -> Iterator[Batch]:
        """Batches made ahead by one other process, so that the next is ready in time."""
        loader = DataLoader(
            batches, batch_size=None, sampler=list(steps), num_workers=1, prefetch_factor=4
        )
        try:
            for batch in loader:
                yield batch.to(self.device)
        finally:
            # Its weak references would outlive the module that frees them, and say so at exit.
            shared_cache.clear()

    def _step(
        self, stage: Stage, batch: Batch, optimizer: torch.optim.Adam, trained: list[nn.Parameter]
    ) -> dict[str, float]:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            losses = stage.losses(self.model, batch)
        total: Tensor = torch.stack([loss.float() for loss in losses.values()]).sum()
        total.backward()
        norm = nn.utils.clip_grad_norm_(trained, self.recipe.clip)
        # Networks without normalisation can run away from one bad batch; such a step is left out.
        if float(norm) < self.recipe.skip:
            optimizer.step()
        return {name: float(loss.detach()) for name, loss in losses.items()} | {"norm": float(norm)}

    def _average(self, stage: Stage) -> None:
        with torch.no_grad():
            pairs = zip(stage.parameters(self.averaged), stage.parameters(self.model), strict=True)
            for averaged, current in pairs:
                averaged.lerp_(current, 1.0 - self.recipe.ema)

    def _finish(self, stage: Stage) -> None:
        """Later stages build on the averaged weights of this one."""
        for current, averaged in zip(
            stage.parameters(self.model), stage.parameters(self.averaged), strict=True
        ):
            current.data.copy_(averaged.data)
        self._save({})

    def _log(self, stage: Stage, step: int, losses: dict[str, float]) -> None:
        line = {"stage": stage.name, "step": step, "time": round(time.time(), 1)}
        self.journal.write(line | {name: round(value, 5) for name, value in losses.items()})

    def _save(self, optimizer: dict[str, dict[str, Any]]) -> None:
        state = {
            "done": self.done,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": optimizer,
        }
        save_state(state, self.out / "state.pt")

    def _restore(self) -> None:
        state = load_state(self.out / "state.pt", self.device)
        if state is None:
            return
        self.done = state["done"]
        self.journal.rewind(self.done)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer_state = state["optimizer"]


def learning_rate(stage: StageRecipe, step: int, taken: int) -> float:
    """A cosine from `rate` to `last_rate`, behind a linear warm-up.

    The warm-up counts the steps that the optimiser has taken, not those of the stage: a finished
    stage that goes on for longer begins with an empty optimiser, whose first steps are far too
    large at the full rate (measured: 30 of them destroyed a trained restorer).
    """
    share = max(0, step - stage.warmup) / max(1, stage.steps - stage.warmup)
    falling = stage.last_rate + 0.5 * (stage.rate - stage.last_rate) * (
        1.0 + math.cos(math.pi * share)
    )
    return falling * min(1.0, (taken + 1) / max(1, stage.warmup))


def steps_taken(optimizer: torch.optim.Optimizer) -> int:
    """How many steps stand behind the optimiser's moments."""
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)
