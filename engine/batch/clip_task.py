"""One video of a run: the same events, failures and manifest entries as for images."""

from __future__ import annotations

import time
from pathlib import Path

from varfix.engine.batch.fingerprint import item_fingerprint
from varfix.engine.batch.image_task import TaskEnvironment, retry_counts, with_judgement
from varfix.engine.batch.item import Item
from varfix.engine.batch.progress import frame_progress
from varfix.engine.events import ItemDone
from varfix.engine.restoration.findings import Judgement
from varfix.engine.restoration.findings_recorder import FindingsRecorder
from varfix.engine.restoration.restorer import Retries
from varfix.engine.restoration.retry_counter import RetryCounter
from varfix.engine.storage.identity import Identity
from varfix.engine.storage.manifest import Entry
from varfix.engine.system.atomic import move_result
from varfix.engine.system.digests import edge_digest_of_file
from varfix.engine.video.clip import Clip
from varfix.engine.video.frame_pipeline import ClipCallbacks
from varfix.engine.video.probe import probe_for
from varfix.engine.video.restore_clip import ClipRequest, restore_clip
from varfix.engine.video.sources.numbered_images import identity_of


class ClipTask:
    """The stages of one video; each runs once, in the order of the methods.

    `restore` also encodes and publishes: the frames of a video do not fit into memory.
    """

    def __init__(self, item: Item, environment: TaskEnvironment) -> None:
        assert item.video is not None
        self._item, self._part, self._env = item, item.video, environment
        self._clip: Clip | None = item.video.clip
        self._stat: Identity | None = None
        context = environment.context
        self._fingerprint = item_fingerprint(item, context.fingerprint, context.settings)
        self._stages: dict[str, float] = {}
        self._seconds = 0.0
        self._bytes = 0
        self._tone_shift: float | None = None
        self._retries = Retries()
        self._judgement: Judgement | None = None

    def open(self) -> None:
        """Read the header, if the plan could not.

        Raises:
            DecodeError: The video cannot be restored.
            SourceReadError: The file cannot be read.
        """
        path = self._item.source.path
        if path is None:
            return  # the header of a pipe was read for the plan
        self._stat = identity_of(path)
        self._clip = self._clip or probe_for(path, self._env.context.settings)

    def restore(self) -> None:
        """Restore, encode and publish the video; see `restore_clip` for what it raises."""
        assert self._clip is not None
        item, context = self._item, self._env.context
        recorder, began = FindingsRecorder(self._env.restorer), time.monotonic()
        counter = RetryCounter(recorder)
        request = ClipRequest(
            source=item.source.path,
            target=item.target.path,
            clip=self._clip,
            time_range=self._part.time_range,
            fingerprint=self._fingerprint,
            pipe=self._part.pipe,
        )
        times = restore_clip(request, counter, context.settings, self._callbacks())
        self._stages = dict(times.seconds)
        if times.frames:
            self._tone_shift = round(times.tone_shift / times.frames, 5)
        self._seconds = time.monotonic() - began
        self._bytes = 0 if item.target.path is None else item.target.path.stat().st_size
        self._retries, self._judgement = counter.retries, recorder.judgement

    def write(self) -> None:
        """Do nothing: `restore` has published the result."""

    def report(self) -> ItemDone:
        """Return the event of the finished video."""
        done = ItemDone(
            id=self._item.id,
            seconds=round(self._seconds, 4),
            stage={name: round(value, 4) for name, value in self._stages.items()},
            bytes=self._bytes,
            retries=retry_counts(self._retries),
            tone_shift=self._tone_shift,
        )
        return with_judgement(done, self._judgement)

    def _callbacks(self) -> ClipCallbacks:
        item, target, port = self._item, self._item.target.path, self._env.port

        def publish(part: Path) -> None:
            assert target is not None
            times = None if self._stat is None else self._env.context.times_for(self._stat)
            port.publish(item, lambda: self._entry(part), lambda: move_result(part, target, times))

        return ClipCallbacks(
            is_stopping=port.is_stopping,
            progress=frame_progress(item.id, port.emit),
            warn=lambda code, text: self._env.warn(item, code, text),
            publish=publish,
        )

    def _entry(self, part: Path) -> Entry:
        """Return the manifest entry of a finished video that is about to be moved to its place."""
        assert self._stat is not None
        return Entry(
            dst=self._item.target.event_name,
            src=self._item.source.event_name,
            size=self._stat.st_size,
            mtime_ns=self._stat.st_mtime_ns,
            recipe=self._fingerprint,
            out_size=part.stat().st_size,
            out_sha256=edge_digest_of_file(part),
            seconds=round(self._seconds, 4),
        )
