"""The training recipe: everything that decides a run, read from one YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import yaml

from varfix.engine.errors import ConfigError
from varfix.engine.train.degrade import DEGRADATIONS, Mix


class StageRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One stage of training.

    Attributes:
        steps: optimiser steps; a stage of 0 steps is left out.
        pictures: whole pictures per step.
        sides: sides of the pictures, one of them chosen for each step.
        patches: patches cut from each picture (restorer only).
        patch: side of a patch in pixels.
        rate: peak learning rate, after `warmup` steps; falls to `last_rate` by cosine.
    """

    steps: int
    pictures: int
    sides: tuple[int, ...] = (256,)
    patches: int = 0
    patch: int = 128
    rate: float = 4e-4
    last_rate: float = 1e-6
    warmup: int = 50


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole run.

    Attributes:
        seed: of weights, cuts and degradations.
        vqvae: stage 1a, the VQ-VAE on clean pictures.
        prior: stage 1b, encoder, adapter, transformer and tone on degraded thumbnails.
        restorer: stage 2, the local network on patches, with the prior frozen.
        mix: relative share of each degradation.
        mood: share of pictures whose target is re-toned.
        ema: decay of the averaged weights that are exported.
        clip: largest gradient norm.
        skip: gradient norm from which on a step is left out; NaN always is.
        save_every: steps between saved states.
    """

    vqvae: StageRecipe
    prior: StageRecipe
    restorer: StageRecipe
    mix: dict[str, float]
    seed: int = 1
    mood: float = 0.3
    compressed: float = 0.12
    hinted: float = 0.5
    ema: float = 0.998
    clip: float = 1.0
    skip: float = 100.0
    save_every: int = 100

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
        for override in overrides:
            _override(data, override)
        recipe = msgspec.convert(data, Recipe)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    unknown = sorted(set(recipe.mix) - set(DEGRADATIONS))
    if unknown:
        raise ConfigError(
            f'{path.name}: unknown degradation "{unknown[0]}"',
            hint=f"known: {', '.join(DEGRADATIONS)}",
        )
    return recipe


def _override(data: dict[str, object], override: str) -> None:
    key, separator, value = override.partition("=")
    *parents, last = key.split(".")
    place = data
    for parent in parents:
        below = place.get(parent)
        place = below if isinstance(below, dict) else {}
    if not separator or last not in place:
        raise ConfigError(f'--set {override}: the recipe has no key "{key}"')
    place[last] = yaml.safe_load(value)
