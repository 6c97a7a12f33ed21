"""The training recipe: all parameters of a run, read from a YAML file."""

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
    """A stage of training.

    Attributes:
        steps: Optimizer steps; 0 omits the stage.
        batch_size: Whole images per step; per pool if steps use a part of its patches.
        image_sizes: Sides of the images; one is drawn for each batch or pool.
        patches: Patches of each image (restorer only).
        patch: Side of a patch in pixels.
        per_step: Patches of a step, of different images if possible; 0 = all patches. All patches
            of a pool are used before the next pool is created.
        wide: Share of pools with patches of twice the side, and a quarter as many of them.
        informed: Share of images for which the restorer gets the true degradation scores, slightly
            perturbed, instead of those of the prior.
        fitted: Share of images with shifted tones whose tone grid is fitted to the target.
        learning_rate: Highest rate, after `warmup` steps; falls to `min_learning_rate` as a cosine.
        min_learning_rate: Rate at the end of the stage.
        warmup: Steps of the linear warm-up.
        skip_above_grad_norm: As the recipe's, for this stage; None for the recipe's.
        mix: Shares of the degradations in this stage; None for the recipe's.
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
    skip_above_grad_norm: float | None = None
    mix: dict[str, float] | None = None

    @property
    def parts(self) -> int:
        """Steps of a pool."""
        return max(1, self.batch_size * self.patches // self.per_step) if self.per_step else 1


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole run.

    In the file, each stage is a section with its name, next to the other keys.

    Attributes:
        model: The network, a key of `varfix.engine.train.trainable.TRAINABLES`.
        stages: Recipe of each stage by name.
        mix: Relative share of each degradation.
        seed: Seed of weights, crops and degradations.
        tone_jitter: Share of images whose tone is changed before the degradation.
        jpeg_share: Share of degraded images that are finally compressed as JPEG.
        task_hint_share: Share of images whose task the model receives.
        pairs_share: Share of images from the user's own pairs, if given.
        pairs_task: Task of those pairs, a member of `varfix.engine.models.card.TASKS`.
        ema: Decay of the averaged weights, which are the result.
        grad_clip: Largest gradient norm.
        skip_above_grad_norm: Steps with a larger gradient norm, or NaN, are skipped.
        rollback_after_skips: Number of consecutive skipped steps after which the weights return to
            the averaged ones.
        minutes: Time limit in place of the stages' steps, over all sessions; None = steps. Only one
            stage can be trained with a time limit.
        compile: Whether to compile the networks.
        report_every: Seconds between lines of metrics.
        save_every: Steps between saved states.
        sample_every: Steps between sample sheets and curves; 0 = none.
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
        """The mix as `degrade` takes it."""
        return Mix(self.mix, self.tone_jitter, self.jpeg_share, self.task_hint_share)


def load_recipe(path: Path, overrides: Sequence[str] = (), warn: Warn = ignore) -> Recipe:
    """Read a recipe.

    Args:
        path: A YAML file.
        overrides: `KEY=VALUE` with dotted keys and YAML values.
        warn: Receives a message for each key under its old name.

    Raises:
        ConfigError: The file cannot be read, or contains an unknown key or degradation.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ConfigError(f"{path.name}: expected keys and values, as in varformer-s.yaml")
        data = _current(data, path.name, warn)
        for override in overrides:
            _override(data, override, warn)
        # Not strict: in YAML 1.1, a number such as 5e-4, without a point, is text.
        recipe = msgspec.convert(_grouped(data, path.name), Recipe, strict=False)
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


def _grouped(data: dict[str, Any], name: str) -> dict[str, Any]:
    """Move the sections of the stages, the keys that are not fields of `Recipe`, under `stages`."""
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
            f"{name}: minutes: {len(trained)} stages have steps, expected one",
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
