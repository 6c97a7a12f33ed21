"""Training of the judge: its batches and its losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.errors import NothingToDoError
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.judge import CROP, PLACES, SIDE
from varfix.engine.networks.varformer_s.model import VarformerS
from varfix.engine.networks.varformer_s.tone_grid import apply_tone
from varfix.engine.train.data.photos import Photos
from varfix.engine.train.data.source import Blended, Source, Synthetic
from varfix.engine.train.degradations.random_draws import chance, integer, uniform
from varfix.engine.train.recipes.recipe import StageRecipe
from varfix.engine.train.scenes.camera import luma_of
from varfix.engine.train.scenes.examples import Example, Floats, Scenes, make_example
from varfix.engine.train.scenes.panoramas import Panoramas
from varfix.engine.train.stages.stage import PlainStage

Losses = dict[str, Tensor]

TONE_WEIGHT = 10.0
MEAN_WEIGHT = 0.5
STRENGTH_WEIGHT = 2.0
WHOLE_STRENGTH = 0.3
"""Root mean square of a change that counts as strength one."""

FALSE_HINTS = 0.08
"""Share of bright good images for which the judge is told that they are hazy or dark: it must leave
them alone, for a user asks for a folder, not for each image."""

TIMES = 2
"""How often an example is used: mirrored, in another batch of the same examples."""


@dataclass(frozen=True)
class JudgeBatch:
    """What a step sees.

    Attributes:
        thumbnail: (B, 3, 192, 192) in [0, 1], whole degraded images.
        target: (B, 3, 96, 96), the same images good, half as large.
        crops: (B, 5, 3, 64, 64), pieces of the degraded images at native size.
        present: (B, 6), 1 where a kind of `KINDS` is there, 0 where not, -1 where nobody can tell.
        belief: (B, 6) in [0, 1], what the tone grid is told.
        strength: (B, 6) in [0, 1], how much each kind changed its image.
    """

    thumbnail: Tensor
    target: Tensor
    crops: Tensor
    present: Tensor
    belief: Tensor
    strength: Tensor

    def to(self, device: torch.device) -> JudgeBatch:
        """The batch on another device."""
        return JudgeBatch(**{name: value.to(device) for name, value in vars(self).items()})

    def split(self, part: int, parts: int) -> JudgeBatch:
        """All of it: its images are not cut into patches."""
        del part, parts
        return self


class JudgeBatches(torch.utils.data.Dataset[JudgeBatch]):
    """Batch number `i`, always the same for the same arguments."""

    def __init__(self, scenes: Scenes, mix: Mapping[str, float], stage: StageRecipe, seed: int):
        """Keep what batches are made of.

        Args:
            scenes: where images come from.
            mix: share of each name of `DEGRADATIONS`.
            stage: size and number of the batches, and sides of the images.
            seed: of all of it.
        """
        self.scenes, self.names, self.stage, self.seed = scenes, list(mix), stage, seed
        self.shares = torch.tensor([mix[name] for name in self.names])
        self._made: tuple[int, list[Example]] = (-1, [])

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> JudgeBatch:
        """Draw, degrade, save, shrink, cut."""
        pool, turn = divmod(step, TIMES)
        if self._made[0] != pool:
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + pool)
            self._made = (pool, [self._example(rng) for _ in range(self.stage.batch_size)])
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step + 500_000_000)
        return _batched(self._made[1], bool(turn % 2), rng)

    def _example(self, rng: torch.Generator) -> Example:
        name = self.names[int(torch.multinomial(self.shares, 1, generator=rng))]
        side = self.stage.image_sizes[integer(0, len(self.stage.image_sizes), rng)]
        return make_example(self.scenes, name, side, rng)


def _batched(examples: list[Example], mirrored: bool, rng: torch.Generator) -> JudgeBatch:
    step = -1 if mirrored else 1
    images = [np.ascontiguousarray(e.image[:, ::step]) for e in examples]
    targets = [np.ascontiguousarray(e.target[:, ::step]) for e in examples]
    return JudgeBatch(
        thumbnail=_stacked([shrunk(image, SIDE) for image in images]),
        target=_stacked([shrunk(target, SIDE // 2) for target in targets]),
        crops=torch.stack([_stacked(cut_crops(image, rng)) for image in images]),
        present=torch.from_numpy(np.stack([e.present for e in examples])),
        belief=torch.stack([_told(e, rng) for e in examples]),
        strength=torch.from_numpy(
            np.clip(np.stack([e.strength for e in examples]) / WHOLE_STRENGTH, 0.0, 1.0)
        ),
    )


def _told(example: Example, rng: torch.Generator) -> Tensor:
    """What the tone grid is told: nearly the truth, or of a bright good image now and then not."""
    applied = torch.from_numpy(example.applied)
    sure = uniform((len(KINDS),), 0.7, 1.0, rng)
    doubt = uniform((len(KINDS),), 0.0, 0.1, rng)
    told = applied * sure + (1.0 - applied) * doubt
    good = not bool(applied.any()) and float(luma_of(example.target).mean()) > 0.3
    if good and chance(FALSE_HINTS, rng):
        told[KINDS.index("haze" if chance(0.5, rng) else "lowlight")] = sure[0]
    return told


def shrunk(image: Floats, side: int) -> Floats:
    """An image (H, W, 3) as a square, each pixel the mean of the area that it covers."""
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def cut_crops(image: Floats, rng: torch.Generator) -> list[Floats]:
    """Pieces of the middle and of the four quarters, as the runtime cuts them.

    Where exactly they lie is left to chance.
    """
    height, width = image.shape[:2]
    crops = []
    for across, down in PLACES:
        shift = uniform((2,), -0.1, 0.1, rng)
        top = round((down + float(shift[0])) * height - CROP / 2)
        left = round((across + float(shift[1])) * width - CROP / 2)
        top, left = min(max(top, 0), height - CROP), min(max(left, 0), width - CROP)
        crops.append(image[top : top + CROP, left : left + CROP])
    return crops


def _stacked(images: list[Floats]) -> Tensor:
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())


def judge_batches(
    source: Source, stage: StageRecipe, seed: int, device: torch.device
) -> JudgeBatches:
    """The batches of a run's judge.

    Raises:
        NothingToDoError: The run has no photographs.
    """
    del device  # images are made by the CPU, which is as fast as any device learns from them
    while isinstance(source, Blended):
        source = source.first
    if not isinstance(source, Synthetic) or not isinstance(source.photos, Photos):
        raise NothingToDoError(
            "the judge cannot learn from pairs of images alone", hint="add --photos FOLDER"
        )
    scenes = Scenes(source.photos, Panoramas(list(source.photos.panoramas)))
    return JudgeBatches(scenes, source.mix.weights, stage, seed)


class JudgeStage(PlainStage):
    """Thumbnails and crops to what is there, how strong it is, and the tone grid."""

    name = "judge"

    def parameters(self, model: VarformerS) -> list[nn.Parameter]:
        """All of the judge: its encoder is trained end to end."""
        return list(model.prior.judge.parameters())

    def losses(self, model: VarformerS, batch: JudgeBatch) -> Losses:
        """Cross-entropy of what is there; its strength; tone for what is really there.

        Tone is compared as means of 4x4 pixels of the thumbnail, which is what a grid can change.
        The mean of an image counts by itself: whoever doubts between two exposures does half of
        both.
        """
        judge, layout = model.prior.judge, torch.channels_last
        seen = judge.look(batch.thumbnail.contiguous(memory_format=layout), batch.crops)
        grid = judge.grid(seen, batch.belief).float()
        return {
            "tone": TONE_WEIGHT * toned_difference(batch.thumbnail, grid, batch.target),
            "found": known_mean(
                functional.binary_cross_entropy_with_logits(
                    seen.logits.float(), batch.present.clamp_min(0.0), reduction="none"
                ),
                batch.present,
            ),
            "strength": STRENGTH_WEIGHT
            * known_mean((seen.strength.float() - batch.strength).abs(), batch.present),
        }


def toned_difference(thumbnail: Tensor, grid: Tensor, target: Tensor) -> Tensor:
    """How far images are from their targets after the tone grid, with the error of their means.

    Args:
        thumbnail: (B, 3, 192, 192).
        grid: (B, 96, 16, 16).
        target: (B, 3, 96, 96).
    """
    folded = functional.pixel_unshuffle(functional.avg_pool2d(thumbnail, 2), 2)
    toned = functional.pixel_shuffle(apply_tone(folded, grid), 2)
    error = functional.avg_pool2d(toned - target, 2)
    local = (error.square() + 1e-5).sqrt().mean()
    return local + MEAN_WEIGHT * error.mean((1, 2, 3)).abs().mean()


def known_mean(values: Tensor, present: Tensor) -> Tensor:
    """Mean of values (B, 6) where it is known what is there."""
    known = (present >= 0.0).to(values.dtype)
    return (values * known).sum() / known.sum().clamp_min(1.0)
