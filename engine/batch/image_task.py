"""One image of a run: read, restored, encoded and published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from varfix.engine.batch.context import PixelObserver, RunContext, RunPort
from varfix.engine.batch.item import STDIN, Item, memory_of
from varfix.engine.batch.output_format import check_fetched, format_for
from varfix.engine.batch.progress import image_progress
from varfix.engine.batch.provenance import restored_by, stated
from varfix.engine.errors import HostMemoryError
from varfix.engine.events import ItemDone, RetryCounts, Warn
from varfix.engine.formats import Header
from varfix.engine.image.decoded_image import DecodedImage, replace_pixels
from varfix.engine.image.metadata.provenance import Provenance
from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image
from varfix.engine.restoration.findings import Judgement
from varfix.engine.restoration.findings_recorder import FindingsRecorder
from varfix.engine.restoration.restore_image import restore_and_measure
from varfix.engine.restoration.restorer import Restorer, Retries
from varfix.engine.restoration.retry_counter import RetryCounter
from varfix.engine.restoration.tone_lock import tone_shift
from varfix.engine.storage.identity import Identity, KnownFile
from varfix.engine.storage.manifest import Entry, image_entry
from varfix.engine.system.atomic import other_names
from varfix.engine.system.memory import available_memory

# Bytes: available memory is an estimate, so ordinary images are always tried.
_ALWAYS_TRIED: Final = 1 << 30


@dataclass(frozen=True)
class TaskEnvironment:
    """What the tasks of a run use.

    Attributes:
        context: What all results share.
        restorer: The model.
        port: How tasks report to the run.
        observe: Receives each restored image, on the thread that restores.
    """

    context: RunContext
    restorer: Restorer
    port: RunPort
    observe: PixelObserver | None = None

    def warn(self, item: Item, code: str, text: str) -> None:
        """Emit a warning about an item."""
        message = f"{self.context.label(item)}: {text}"
        self.port.emit(Warn(code=code, message=message, id=item.id))


class ImageTask:
    """The stages of one image; each runs once, in the order of the methods."""

    def __init__(self, item: Item, environment: TaskEnvironment) -> None:
        self._item, self._env = item, environment
        self._image: DecodedImage | None = None
        self._stat: Identity | None = None
        self._seconds: dict[str, float] = {}
        self._retries = Retries()
        self._judgement: Judgement | None = None
        self._bytes = 0
        self._tone_shift = 0.0

    def open(self) -> None:
        """Read and decode the image."""
        context = self._env.context
        settings = context.settings
        with _timed() as spent:
            source = self._item.source
            known = KnownFile(self._item.header, source.version)
            fetched = context.source.fetch(source.name, known, check_memory)
            check_fetched(self._item, fetched, settings)
            self._image = decode_image(fetched.data, max_pixels=settings.limits.max_pixels)
        for text in self._image.info.warnings:
            self._env.warn(self._item, "metadata", text)
        self._stat = fetched.stat
        self._seconds["decode"] = spent()

    def restore(self) -> None:
        """Restore the pixels."""
        assert self._image is not None
        observe, recorder = self._env.observe, FindingsRecorder(self._env.restorer)
        counter = RetryCounter(recorder)
        settings = self._env.context.settings
        with _timed() as spent:
            restored = restore_and_measure(
                counter,
                self._image.pixels,
                settings,
                image_progress(self._item.id, self._env.port.emit),
                overwrite_input=observe is None,
            )
        self._retries, self._judgement = counter.retries, recorder.judgement
        self._tone_shift = tone_shift(restored.tone_change, settings.strengths)
        self._seconds["infer"] = spent()
        if observe is not None:
            observe(self._item.id, self._image.pixels, restored.pixels)
        if not settings.strengths.is_zero:
            self._image = replace_pixels(self._image, restored.pixels)

    def write(self) -> None:
        """Encode the result and publish it."""
        assert self._image is not None
        assert self._stat is not None
        item, context, stat = self._item, self._env.context, self._stat
        with _timed() as spent:
            wanted = format_for(item.source.name, item.target.name, context.settings)
            image = stated(self._image, wanted, self._provenance())
            encoded = encode_image(image, wanted, context.settings.output)
            links = 0 if item.target.path is None else other_names(item.target.path)
            self._env.port.publish(
                item,
                lambda: self._entry(encoded.data),
                lambda: context.publish(item, encoded.data, stat),
            )
        for text in encoded.warnings:
            self._env.warn(item, "metadata", text)
        if links:
            self._env.warn(item, "hard_links", f"{_kept_links(links)} the file as it was before")
        self._seconds["encode"] = spent()
        self._bytes = len(encoded.data)

    def report(self) -> ItemDone:
        """Return the event of the finished image."""
        done = ItemDone(
            id=self._item.id,
            seconds=round(sum(self._seconds.values()), 4),
            stage={name: round(value, 4) for name, value in self._seconds.items()},
            bytes=self._bytes,
            retries=retry_counts(self._retries),
            tone_shift=round(self._tone_shift, 5),
        )
        return with_judgement(done, self._judgement)

    def _provenance(self) -> Provenance:
        source = self._item.source
        name = "" if source.given == STDIN else source.name
        return restored_by(self._env.restorer.card.name, self._env.context.settings, name)

    def _entry(self, data: bytes) -> Entry:
        assert self._stat is not None
        dst, src = self._item.target.event_name, self._item.source.event_name
        entry = image_entry(dst, src, self._stat, self._env.context.fingerprint, data)
        return replace(entry, seconds=round(sum(self._seconds.values()), 4))


def retry_counts(retries: Retries) -> RetryCounts:
    """Return repetitions as they are reported in events."""
    return RetryCounts(fp32=retries.fp32, oom=retries.oom)


def with_judgement(done: ItemDone, judgement: Judgement | None) -> ItemDone:
    """Return the event with what was found and treated, if the model judged the item."""
    if judgement is None:
        return done
    found = rounded(judgement.found)
    return msgspec.structs.replace(done, found=found, applied=judgement.applied)


def rounded(found: Mapping[str, float]) -> dict[str, float]:
    """Return probabilities as they are reported in events."""
    return {kind: round(probability, 3) for kind, probability in found.items()}


def check_memory(header: Header) -> None:
    """Reject an image that does not fit into memory: the system would kill the whole run.

    Raises:
        HostMemoryError: The image needs more memory than available.
    """
    needed, available = memory_of(header), available_memory()
    if needed > max(available, _ALWAYS_TRIED):
        raise HostMemoryError(
            f"needs about {needed / 1e9:.1f} GB of memory ({available / 1e9:.1f} GB available)",
            hint="close other programs, or split the image into parts",
        )


def _kept_links(count: int) -> str:
    return "another hard link keeps" if count == 1 else f"{count} other hard links keep"


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    start = time.monotonic()
    yield lambda: time.monotonic() - start
