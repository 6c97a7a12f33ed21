"""Judges the images of a folder without restoring them: a thumbnail of each, and the prior."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from varfix.engine.batch.context import RunContext, RunPort, failure_event
from varfix.engine.batch.image_task import check_memory, rounded
from varfix.engine.batch.item import Item
from varfix.engine.batch.pipeline import Pipeline, Stages
from varfix.engine.batch.processor import as_varfix, jobs_of, queue_of
from varfix.engine.errors import ConfigError, DeviceError, ModelError, OutputError
from varfix.engine.events import ItemJudged
from varfix.engine.image.reader import decode_draft
from varfix.engine.restoration.findings_recorder import FindingsRecorder
from varfix.engine.restoration.prior_input import PriorInput, native_crops, thumbnail
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.storage.identity import KnownFile
from varfix.engine.system.display_names import printable

# A draft of this many times the side of the thumbnail: the thumbnail averages the rest, as it
# averages the image itself.
_DRAFT = 2


@dataclass(frozen=True)
class Thumbnail:
    """What the model sees of an image.

    Attributes:
        prior_input: Thumbnail, and crops at full size: grain does not survive a draft.
        width: Width of the image in pixels.
        height: Its height.
        seconds: Time of reading it.
    """

    prior_input: PriorInput
    width: int
    height: int
    seconds: float


def check_judges(restorer: Restorer) -> None:
    """Reject a model that does not say what is wrong with an image.

    Raises:
        ConfigError: It restores without judging.
    """
    card = restorer.card
    if card.guidance == "image":
        gray = np.full((card.thumbnail, card.thumbnail, 3), 0.5, np.float32)
        restorer.prior(PriorInput(gray))
    if restorer.findings is None:
        raise ConfigError(f"{card.name} does not judge images", hint="add --model varformer-s")


@dataclass(frozen=True)
class JudgingExecutor:
    """Judges the items of a run instead of restoring them (see `Executor`).

    Attributes:
        restorer: A model that `check_judges` accepts.
        size: Number of workers.
    """

    restorer: Restorer
    size: int = field(default=1, init=False)

    def run(self, items: Sequence[Item], context: RunContext, port: RunPort) -> None:
        """Judge all items.

        Raises:
            OutputError: The events or the table cannot be written.
            DeviceError: The device failed permanently.
            ModelError: The model fits none of the images.
        """
        settings = context.settings

        def read(item: Item) -> Thumbnail:
            began = time.monotonic()
            known = KnownFile(item.header, item.source.version)
            fetched = context.source.fetch(item.source.name, known, check_memory)
            side = self.restorer.card.thumbnail
            draft = decode_draft(
                fetched.data,
                max_pixels=settings.limits.max_pixels,
                side=_DRAFT * side,
                cut=native_crops,
            )
            assert draft.pieces is not None  # because of `cut`
            small, seconds = thumbnail(draft.pixels, side), time.monotonic() - began
            prior_input = PriorInput(small, settings.model.task, draft.pieces)
            return Thumbnail(prior_input, draft.width, draft.height, seconds)

        def judge(item: Item, view: Thumbnail) -> None:
            port.emit(self._judged(item, view))

        def fail(item: Item, error: Exception) -> None:
            known = as_varfix(error)
            if isinstance(known, OutputError | DeviceError | ModelError):
                raise known from error
            port.emit(failure_event(context.label(item), item, known))

        stages = Stages(
            cost=lambda item: item.cost,
            decode=read,
            restore=judge,
            encode=lambda item, done: None,
            fail=fail,
        )
        jobs, queue = jobs_of(settings), queue_of(settings)
        Pipeline(stages, jobs, queue, port.is_stopping).run(items)

    def _judged(self, item: Item, view: Thumbnail) -> ItemJudged:
        began, recorder = time.monotonic(), FindingsRecorder(self.restorer)
        recorder.prior(view.prior_input)
        judgement = recorder.judgement
        assert judgement is not None  # checked by `check_judges`
        stage = {"decode": view.seconds, "infer": time.monotonic() - began}
        return ItemJudged(
            id=item.id,
            src=printable(item.source.event_name),
            width=view.width,
            height=view.height,
            seconds=round(sum(stage.values()), 4),
            stage={name: round(value, 4) for name, value in stage.items()},
            found=rounded(judgement.found),
            applied=judgement.applied,
        )
