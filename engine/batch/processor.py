"""Makes results: an image or clip decoded, restored, encoded, published. The middle of every run.

A maker knows its run only through a desk, so that it is the same object in this process and on
another machine (engine/README.md). What befalls one image is told and ends nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from varfix.engine.batch.clip_task import ClipWork, entry_of, frame_progress, open_clip, run_clip
from varfix.engine.batch.context import Watcher
from varfix.engine.batch.pipeline import Pipeline, Stages
from varfix.engine.batch.plan import Item, check_fetched, format_for, memory_of
from varfix.engine.errors import (
    DeviceError,
    HostMemoryError,
    Interrupted,
    ItemError,
    ModelError,
    OutputError,
    SourceReadError,
    VarfixError,
    WorkerLostError,
)
from varfix.engine.events import (
    Event,
    ItemDone,
    ItemFail,
    ItemProgress,
    ItemStart,
    RetryCounts,
    Warn,
)
from varfix.engine.formats import Header
from varfix.engine.image.picture import Picture, replace_pixels
from varfix.engine.image.reader import read_picture
from varfix.engine.image.writer import encode_picture
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.storage.identity import Identity, KnownFile
from varfix.engine.storage.manifest import Entry, image_entry
from varfix.engine.storage.store import Store
from varfix.engine.system.atomic import move_result, other_names
from varfix.engine.system.display_names import printable, single_line
from varfix.engine.system.memory import available_memory, default_queue_bytes
from varfix.engine.video.frame_pipeline import ClipCallbacks

_PROGRESS_EVERY: Final = 0.5
_RETRYABLE: Final = (SourceReadError, HostMemoryError, OutputError, WorkerLostError)
# Bytes: what is available is only an estimate, not worth refusing ordinary images for.
_ALWAYS_TRIED: Final = 1 << 30


@dataclass(frozen=True)
class Terms:
    """What all results of a run have in common.

    Attributes:
        settings: resolved.
        recipe: digest of model and settings.
        source: where the sources are.
        target: where the results go.
        alone: it is a single file, whose name is that which the user gave it.
    """

    settings: Settings
    recipe: str
    source: Store
    target: Store
    alone: bool = False

    def label(self, item: Item) -> str:
        """An image's name in messages: from here, as the user could type it."""
        return single_line(item.src if self.alone else self.source.label(item.src))

    def source_name(self, item: Item) -> str:
        """Return the name of an image in the source store."""
        return item.source.name if self.alone else item.src

    def publish(self, item: Item, data: bytes) -> None:
        """Write the result of an image; see `Store.publish`."""
        if _is_alias(item.target, item.source):
            item.target.unlink()  # followed, it would lead to the source, which nothing changes
        name = item.target.name if self.alone else item.dst
        self.target.publish(name, data, overwrite=item.replaces)


def _is_alias(target: Path, source: Path) -> bool:
    """Return whether a result's path is a link to its own source, and not the source itself."""
    with suppress(OSError):
        same_entry = target.name == source.name and target.parent.samefile(source.parent)
        return target.is_symlink() and not same_entry and target.samefile(source)
    return False


def _counted(others: int) -> str:
    return "another hard link keeps" if others == 1 else f"{others} other hard links keep"


class Desk(Protocol):
    """What a maker meets of its run; used by several threads at once."""

    def tell(self, event: Event) -> None:
        """Take note of an event."""
        ...

    def stopped(self) -> bool:
        """Whether nothing new is to be started."""
        ...

    def put(self, item: Item, entry: Callable[[], Entry], write: Callable[[], None]) -> None:
        """Publish a result by `write`, and remember it by what `entry` returns."""
        ...


@dataclass
class Work:
    """An image on its way, and the seconds spent on it by stage."""

    picture: Picture
    stat: Identity
    seconds: dict[str, float]
    retries: RetryCounts = field(default_factory=RetryCounts)


class Maker:
    """Makes the results of one run, with one model."""

    def __init__(
        self,
        terms: Terms,
        restorer: Restorer,
        desk: Desk,
        watch: Watcher | None = None,
    ) -> None:
        """Prepare.

        Args:
            terms: what all results have in common.
            restorer: the model.
            desk: of the run.
            watch: shown each restored image, on the thread that restores.
        """
        self._terms, self._settings = terms, terms.settings
        self._restorer, self._desk = restorer, desk
        self._watch = watch

    def run(self, items: Iterable[Item], ready: Callable[[], bool] = lambda: True) -> None:
        """Make the results of `items`, several at a time; see `Pipeline.run` for `ready`.

        Raises:
            OutputError: The disk is full or may not be written.
            DeviceError: The device failed for good.
            ModelError: The model fits none of the images.
        """
        stages = Stages(
            cost=lambda item: item.cost,
            decode=self._decode,
            restore=self._restore,
            encode=self._encode,
            fail=self._fail,
        )
        settings, stopped = self._settings, self._desk.stopped
        Pipeline(stages, jobs_of(settings), queue_of(settings), stopped).run(items, ready)

    def _decode(self, item: Item) -> Work | ClipWork:
        width, height = item.size or (None, None)
        self._desk.tell(
            ItemStart(
                id=item.id,
                src=printable(item.src),
                dst=printable(item.dst),
                width=width,
                height=height,
                frames=item.frames,
            )
        )
        if item.is_clip:
            return open_clip(item, self._settings, self._terms.recipe)
        with _timed() as spent:
            name = self._terms.source_name(item)
            known = KnownFile(item.header, item.stamp)
            fetched = self._terms.source.fetch(name, known, _check_memory)
            check_fetched(item, fetched, self._settings)
            picture = read_picture(fetched.data, max_pixels=self._settings.limits.max_pixels)
        for text in picture.info.warnings:
            self._warn(item, "metadata", text)
        return Work(picture, fetched.stat, {"decode": spent()})

    def _restore(self, item: Item, work: Work | ClipWork) -> Work | ClipWork:
        if isinstance(work, ClipWork):
            return run_clip(item, work, self._restorer, self._settings, self._hooks(item, work))
        before = self._restorer.retries
        with _timed() as spent:
            pixels = restore_image(
                self._restorer,
                work.picture.pixels,
                self._settings,
                self._progress(item),
                overwrite_input=self._watch is None,
            )
        after = self._restorer.retries
        seconds = work.seconds | {"infer": spent()}
        if self._watch is not None:
            self._watch(item.id, work.picture.pixels, pixels)
        retries = RetryCounts(fp32=after.fp32 - before.fp32, oom=after.oom - before.oom)
        return Work(replace_pixels(work.picture, pixels), work.stat, seconds, retries)

    def _hooks(self, item: Item, work: ClipWork) -> ClipCallbacks:
        """How a clip that is being restored meets this run."""

        def publish(part: Path) -> None:
            self._desk.put(
                item,
                lambda: entry_of(item, work, part),
                lambda: move_result(part, item.target),
            )

        return ClipCallbacks(
            is_stopping=self._desk.stopped,
            progress=frame_progress(item.id, self._desk.tell),
            warn=lambda code, text: self._warn(item, code, text),
            publish=publish,
        )

    def _encode(self, item: Item, work: Work | ClipWork) -> None:
        if isinstance(work, ClipWork):
            self._done(item, work, work.lasted, work.size)
            return
        with _timed() as spent:
            wanted = format_for(item.source, item.target, self._settings)
            encoded = encode_picture(work.picture, wanted, self._settings.output)
            others = other_names(item.target)
            self._desk.put(
                item,
                lambda: self._entry(item, work, encoded.data),
                lambda: self._terms.publish(item, encoded.data),
            )
        for text in encoded.warnings:
            self._warn(item, "metadata", text)
        if others:
            self._warn(item, "hard_links", f"{_counted(others)} the file as it was before")
        work.seconds = work.seconds | {"encode": spent()}
        self._done(item, work, sum(work.seconds.values()), len(encoded.data))

    def _entry(self, item: Item, work: Work, data: bytes) -> Entry:
        entry = image_entry((item.dst, item.src), work.stat, self._terms.recipe, data)
        return replace(entry, seconds=round(sum(work.seconds.values()), 4))

    def _done(self, item: Item, work: Work | ClipWork, lasted: float, size: int) -> None:
        self._desk.tell(
            ItemDone(
                id=item.id,
                seconds=round(lasted, 4),
                stage={name: round(value, 4) for name, value in work.seconds.items()},
                bytes=size,
                retries=work.retries,
            )
        )

    def _fail(self, item: Item, error: Exception) -> None:
        """Tell of an image's failure; raise what no other image would survive."""
        if isinstance(error, Interrupted):
            return  # a clip that was left because the run was asked to stop
        known = _as_varfix(error)
        if isinstance(known, (OutputError, DeviceError, ModelError)):
            raise known from error
        self._desk.tell(failure(self._terms.label(item), item, known))

    def _progress(self, item: Item) -> Callable[[int, int], None]:
        last = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last >= _PROGRESS_EVERY:
                last = time.monotonic()
                self._desk.tell(ItemProgress(id=item.id, done=done, total=total))

        return report

    def _warn(self, item: Item, code: str, text: str) -> None:
        self._desk.tell(Warn(code=code, message=f"{self._terms.label(item)}: {text}", id=item.id))


def jobs_of(settings: Settings) -> int:
    """Threads that read, and as many that write."""
    return settings.io.jobs or min(4, os.cpu_count() or 1)


def queue_of(settings: Settings) -> int:
    """Bytes of images in flight."""
    queue = settings.io.queue_mb
    return default_queue_bytes() if queue is None else queue << 20


def failure(label: str, item: Item, error: VarfixError) -> ItemFail:
    """The event of an image, called `label`, that is given up because of `error`."""
    return ItemFail(
        id=item.id,
        src=printable(item.src),
        code=error.code,
        message=f"{label}: {error.message}",
        hint=error.hint or None,
        retryable=isinstance(error, _RETRYABLE),
    )


def _check_memory(header: Header) -> None:
    """Refuse an image that does not fit: the system would end the whole run for it.

    Raises:
        HostMemoryError: More is needed than there is.
    """
    needed, there = memory_of(header), available_memory()
    if needed > max(there, _ALWAYS_TRIED):
        raise HostMemoryError(
            f"needs about {needed / 1e9:.1f} GB to restore whole; {there / 1e9:.1f} GB available",
            hint="close other programs, or cut the image into parts",
        )


def _as_varfix(error: Exception) -> VarfixError:
    """The error itself, or what it means for an image."""
    if isinstance(error, VarfixError):
        return error
    if isinstance(error, MemoryError):
        return HostMemoryError("does not fit into memory", hint="close other programs")
    unexpected = ItemError(
        f"unexpected error ({type(error).__name__}: {error})",
        hint="please report this; VARFIX_DEBUG=1 writes a traceback",
    )
    unexpected.__cause__ = error
    return unexpected


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    start = time.monotonic()
    yield lambda: time.monotonic() - start
