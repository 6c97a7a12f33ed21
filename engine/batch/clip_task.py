"""A clip among the items of a run: the same events, failures and manifest as for images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from varfix.engine.batch.fingerprint import clip_fingerprint
from varfix.engine.batch.plan import Item
from varfix.engine.events import ItemProgress, RetryCounts
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.storage.manifest import Entry
from varfix.engine.system.digests import edge_digest_of_file
from varfix.engine.system.files import open_source
from varfix.engine.video.clip import Clip
from varfix.engine.video.frame_pipeline import ClipCallbacks
from varfix.engine.video.probe import probe_for
from varfix.engine.video.restore_clip import ClipRequest, restore_clip

_PROGRESS_EVERY: Final = 0.5


@dataclass
class ClipWork:
    """A clip on its way.

    Attributes:
        clip: its header.
        stat: of the source, as it was when the header was read; None for a pipe.
        recipe: digest of model and settings.
        seconds: by stage, once restored.
        lasted: seconds from beginning to end.
        size: bytes of the result.
        retries: what the model had to do again.
    """

    clip: Clip
    stat: os.stat_result | None
    recipe: str
    seconds: dict[str, float] = field(default_factory=dict)
    lasted: float = 0.0
    size: int = 0
    retries: RetryCounts = field(default_factory=RetryCounts)


def open_clip(item: Item, settings: Settings, recipe: str) -> ClipWork:
    """Read the header, if the plan could not.

    Raises:
        DecodeError: It is no clip that can be restored.
        SourceReadError: It cannot be read.
    """
    if item.pipe.source is not None:
        return ClipWork(item.pipe.source.clip, None, recipe)
    with open_source(item.source) as file:
        stat = os.fstat(file.fileno())
    clip = item.clip or probe_for(item.source, settings)
    return ClipWork(clip, stat, clip_fingerprint(recipe, settings, item.cut))


def run_clip(
    item: Item, work: ClipWork, restorer: Restorer, settings: Settings, hooks: ClipCallbacks
) -> ClipWork:
    """Restore and publish a clip; see `restore_clip` for what it raises."""
    before, began = restorer.retries, time.monotonic()
    job = ClipRequest(item.source, item.target, work.clip, item.cut, work.recipe, item.pipe)
    spent = restore_clip(job, restorer, settings, hooks)
    after = restorer.retries
    work.seconds = dict(spent.seconds)
    work.lasted = time.monotonic() - began
    work.size = 0 if item.pipe.target is not None else item.target.stat().st_size
    work.retries = RetryCounts(fp32=after.fp32 - before.fp32, oom=after.oom - before.oom)
    return work


def entry_of(item: Item, work: ClipWork, part: Path) -> Entry:
    """What the manifest is told of a finished clip that is about to be moved to its place."""
    assert work.stat is not None
    return Entry(
        dst=item.dst,
        src=item.src,
        size=work.stat.st_size,
        mtime_ns=work.stat.st_mtime_ns,
        recipe=work.recipe,
        out_size=part.stat().st_size,
        out_sha256=edge_digest_of_file(part),
        seconds=round(work.lasted, 4),
    )


def frame_progress(id_: int, tell: Callable[[ItemProgress], None]) -> Callable[[int, int], None]:
    """Make what counts frames: it tells at most two events a second.

    The speed is that of this run; what an earlier one has finished does not count.
    """
    start = last = time.monotonic()
    first: int | None = None

    def report(done: int, total: int) -> None:
        nonlocal last, first
        now = time.monotonic()
        if first is None:
            first = done - 1
        if done != total and now - last < _PROGRESS_EVERY:
            return
        last = now
        fps = (done - first) / max(now - start, 1e-6)
        eta = max(0, total - done) / fps if fps > 0 else None
        tell(
            ItemProgress(
                id=id_,
                done=done,
                total=total,
                unit="frame",
                fps=round(fps, 3),
                eta=None if eta is None else round(eta, 1),
            )
        )

    return report
