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
from varfix.engine.train.recipes.renamed_keys import (
    RENAMED_KEYS,
    RENAMED_STAGE_KEYS,
    Warn,
    ignore,
    rename_keys,
)


class StageRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One stage of training.

    Attributes:
        steps: optimizer steps; a stage of 0 steps is left out.
        batch_size: whole images per step, or per pool where a step takes some patches of it.
        image_sizes: sides of the images, one of them chosen for each step.
        patches: patches cut from each image (restorer only).
        patch: side of a patch in pixels.
        per_step: patches of an optimizer step, of as many images as there are; 0 for all of them
            at once. The pool is used up before the next one is made.
        wide: share of pools dealt in patches of twice the side, a quarter as many for each step.
        informed: share of images whose evidence is the truth, blurred a little, and not what the
            prior finds.
        fitted: share of images with shifted tones whose tone grid is one that fits the target.
        learning_rate: the highest, after `warmup` steps; falls to `min_learning_rate` by cosine.
        mix: shares of the degradations in this stage; None for the recipe's.
    """

    steps: int
    batch_size: int
    image_sizes: tuple[int, ...] = (256,)
    patches: int = 0
    patch: int = 128
    per_step: int = 0
    wide: float = 0.0
    informed: float = 0.0
    fitted: float = 0.0
    learning_rate: float = 4e-4
    min_learning_rate: float = 1e-6
    warmup: int = 50
    mix: dict[str, float] | None = None

    @property
    def parts(self) -> int:
        """Steps that a pool is dealt out to."""
        return max(1, self.batch_size * self.patches // self.per_step) if self.per_step else 1


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole run.

    In the file the stages stand beside the other keys, each under its name.

    Attributes:
        model: what is trained, a key of `varfix.engine.train.program.PROGRAMS`.
        stages: recipe of every stage by name.
        mix: relative share of each degradation.
        seed: of weights, cuts and degradations.
        tone_jitter: share of images whose target is re-toned.
        jpeg_share: share of degraded images that are JPEG-compressed at last.
        task_hint_share: share of images whose task is told to the model.
        pairs_share: share of images that come from the user's own pairs, where there are any.
        pairs_task: what those pairs are an example of: a member of `varfix.engine.models.TASKS`.
        ema: decay of the averaged weights that are exported.
        grad_clip: largest gradient norm.
        skip_above_grad_norm: gradient norm from which on a step is left out; NaN always is.
        rollback_after_skips: steps left out in a row after which the weights return to the
            averaged ones.
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
    tone_jitter: float = 0.3
    jpeg_share: float = 0.12
    task_hint_share: float = 0.5
    pairs_share: float = 0.5
    pairs_task: str = "auto"
    ema: float = 0.998
    grad_clip: float = 1.0
    skip_above_grad_norm: float = 100.0
    rollback_after_skips: int = 20
    minutes: float | None = None
    compile: bool = False
    report_every: float = 10.0
    save_every: int = 100
    sample_every: int = 500

    @property
    def degradations(self) -> Mix:
        """The mix in the form that `degrade` takes."""
        return Mix(self.mix, self.tone_jitter, self.jpeg_share, self.task_hint_share)


def load_recipe(path: Path, overrides: Sequence[str] = (), warn: Warn = ignore) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file.
        overrides: `KEY=VALUE` with dotted keys and YAML values.
        warn: receives a message for each key that is given under its old name.

    Raises:
        ConfigError: If the file cannot be read, or names an unknown key or degradation.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ConfigError(f"{path.name}: expected keys and values, as in varformer-s.yaml")
        data = _current(data, path.name, warn)
        for override in overrides:
            _override(data, override, warn)
        # Not strict: YAML 1.1 takes 5e-4, written without a point, for a word.
        recipe = msgspec.convert(_sorted(data, path.name), Recipe, strict=False)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    _check(recipe, path.name)
    return recipe


def _current(data: dict[str, Any], place: str, warn: Warn) -> dict[str, Any]:
    """Return a recipe, or a part of one, with all keys under their current names."""
    renamed = rename_keys(data, RENAMED_KEYS, place, warn)
    for key, value in renamed.items():
        if isinstance(value, dict) and key not in Recipe.__struct_fields__:
            renamed[key] = rename_keys(value, RENAMED_STAGE_KEYS, f"{place}: {key}", warn)
    return renamed


def _sorted(data: dict[str, Any], name: str) -> dict[str, Any]:
    """Move the sections of the stages, which are all keys not known here, under `stages`."""
    known = {field for field in Recipe.__struct_fields__ if field != "stages"}
    stages = {key: value for key, value in data.items() if key not in known}
    for key, value in stages.items():
        if not isinstance(value, dict):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'did you mean "{near[0]}"?' if near else "a stage has steps, batch_size, ..."
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
    if recipe.pairs_task not in TASKS:
        raise ConfigError(
            f'{name}: pairs_task: no task "{recipe.pairs_task}"', hint=", ".join(TASKS)
        )


def _override(data: dict[str, Any], override: str, warn: Warn) -> None:
    key, separator, text = override.partition("=")
    *parents, last = key.split(".")
    section: Any = data
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    place, value = f"--set {override}", yaml.safe_load(text)
    if parents:
        ((last, value),) = rename_keys({last: value}, RENAMED_STAGE_KEYS, place, warn).items()
    else:
        ((last, value),) = _current({last: value}, place, warn).items()
    fields = StageRecipe.__struct_fields__ if parents else Recipe.__struct_fields__
    known = isinstance(section, dict) and (last in section or last in fields)
    if not separator or not known:
        raise ConfigError(f'{place}: the recipe has no key "{key}"')
    section[last] = value
