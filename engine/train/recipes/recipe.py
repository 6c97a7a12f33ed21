"""The training recipe: everything that decides a run, read from one YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from varfix.engine.errors import ConfigError
from varfix.engine.models.card import TASKS
from varfix.engine.train.degradations.mix import DEGRADATIONS, Mix


class StageRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One stage of training.

    Attributes:
        steps: optimizer steps; a stage of 0 steps is left out.
        pictures: whole images per step, or per pool where a step takes some patches of it.
        sides: sides of the images, one of them chosen for each step.
        patches: patches cut from each image (restorer only).
        patch: side of a patch in pixels.
        per_step: patches of an optimizer step, of as many images as there are; 0 for all of them
            at once. The pool is used up before the next one is made.
        wide: share of pools dealt in patches of twice the side, a quarter as many for each step.
        informed: share of images whose evidence is the truth, blurred a little, and not what the
            prior finds.
        fitted: share of images with shifted tones whose tone grid is one that fits the target.
        rate: peak learning rate, after `warmup` steps; falls to `last_rate` by cosine.
        mix: shares of the degradations in this stage; None for the recipe's.
    """

    steps: int
    pictures: int
    sides: tuple[int, ...] = (256,)
    patches: int = 0
    patch: int = 128
    per_step: int = 0
    wide: float = 0.0
    informed: float = 0.0
    fitted: float = 0.0
    rate: float = 4e-4
    last_rate: float = 1e-6
    warmup: int = 50
    mix: dict[str, float] | None = None

    @property
    def parts(self) -> int:
        """Steps that a pool is dealt out to."""
        return max(1, self.pictures * self.patches // self.per_step) if self.per_step else 1


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole run.

    In the file the stages stand beside the other keys, each under its name.

    Attributes:
        model: what is trained, a key of `varfix.engine.train.program.PROGRAMS`.
        stages: recipe of every stage by name.
        mix: relative share of each degradation.
        seed: of weights, cuts and degradations.
        mood: share of images whose target is re-toned.
        compressed: share of degraded images that are JPEG-compressed at last.
        hinted: share of images whose task is told to the model.
        own: share of images that come from the user's own pairs, where there are any.
        own_task: what those pairs are an example of: a member of `varfix.engine.models.TASKS`.
        ema: decay of the averaged weights that are exported.
        clip: largest gradient norm.
        skip: gradient norm from which on a step is left out; NaN always is.
        recover: steps left out in a row after which the weights return to the averaged ones.
        minutes: that training may take, instead of the stages' steps, all sessions together; None
            for the steps. Only one stage can be trained so.
        compile: whether networks are compiled.
        report_every: seconds between lines of the journal.
        save_every: steps between saved states.
        sample_every: steps between sample sheets and curves; 0 for none.
    """

    model: str = "varformer-s"
    stages: dict[str, StageRecipe]
    mix: dict[str, float]
    seed: int = 1
    mood: float = 0.3
    compressed: float = 0.12
    hinted: float = 0.5
    own: float = 0.5
    own_task: str = "auto"
    ema: float = 0.998
    clip: float = 1.0
    skip: float = 100.0
    recover: int = 20
    minutes: float | None = None
    compile: bool = False
    report_every: float = 10.0
    save_every: int = 100
    sample_every: int = 500

    @property
    def degradations(self) -> Mix:
        """The mix in the form that `degrade` takes."""
        return Mix(self.mix, self.mood, self.compressed, self.hinted)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; `overrides` are `KEY=VALUE` with dotted keys and YAML values.

    Raises:
        ConfigError: If the file cannot be read, or names an unknown key or degradation.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ConfigError(f"{path.name}: expected keys and values, as in varformer-s.yaml")
        for override in overrides:
            _override(data, override)
        # Not strict: YAML 1.1 takes 5e-4, written without a point, for a word.
        recipe = msgspec.convert(_sorted(data, path.name), Recipe, strict=False)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    _check(recipe, path.name)
    return recipe


def _sorted(data: dict[str, Any], name: str) -> dict[str, Any]:
    """Move the sections of the stages, which are all keys not known here, under `stages`."""
    known = {field for field in Recipe.__struct_fields__ if field != "stages"}
    stages = {key: value for key, value in data.items() if key not in known}
    for key, value in stages.items():
        if not isinstance(value, dict):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else "A stage has steps, pictures, ..."
            raise ConfigError(f'{name}: unknown key "{key}"', hint=hint)
    return {key: value for key, value in data.items() if key in known} | {"stages": stages}


def _check(recipe: Recipe, name: str) -> None:
    mixes = [recipe.mix, *(stage.mix or {} for stage in recipe.stages.values())]
    unknown = sorted(set().union(*mixes) - set(DEGRADATIONS))
    if unknown:
        raise ConfigError(
            f'{name}: unknown degradation "{unknown[0]}"',
            hint=f"known: {', '.join(DEGRADATIONS)}",
        )
    trained = [stage for stage, settings in recipe.stages.items() if settings.steps]
    if recipe.minutes is not None and len(trained) > 1:
        raise ConfigError(
            f"{name}: minutes: {len(trained)} stages are to be trained, expected one",
            hint=" ".join(f"--set {stage}.steps=0" for stage in trained[:-1]),
        )
    if recipe.own_task not in TASKS:
        raise ConfigError(f'{name}: own_task: no task "{recipe.own_task}"', hint=", ".join(TASKS))


def _override(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    *parents, last = key.split(".")
    place: Any = data
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    fields = StageRecipe.__struct_fields__ if parents else Recipe.__struct_fields__
    if not separator or not isinstance(place, dict) or (last not in place and last not in fields):
        raise ConfigError(f'--set {override}: the recipe has no key "{key}"')
    place[last] = yaml.safe_load(value)
