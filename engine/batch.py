"""Runs a plan: every picture decoded, restored, encoded and published, whatever befalls the others.

What happens is told to an observer. One picture's failure never ends the run; a full disk or a lost
device does, with everything finished kept (design/cli.md, sections 4, 5 and 9).
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from varfix.engine.clip_work import ClipWork, entry_of, frame_progress, open_clip, run_clip
from varfix.engine.errors import (
    DeviceError,
    DiskFullError,
    ExitCode,
    HostMemoryError,
    Interrupted,
    ItemError,
    ModelError,
    OutputError,
    SourceReadError,
    VarfixError,
)
from varfix.engine.events import (
    DeviceFacts,
    Event,
    ItemDone,
    ItemFail,
    ItemProgress,
    ItemSkip,
    ItemStart,
    ModelFacts,
    Observer,
    PlanDone,
    RetryCounts,
    RunEnd,
    RunStart,
    Status,
    Warn,
)
from varfix.engine.formats import Header
from varfix.engine.guards import largest_file
from varfix.engine.image import Picture, encode_picture, probe, read_picture, replace_pixels
from varfix.engine.lock import exclusive
from varfix.engine.manifest import Entry, digest
from varfix.engine.memory import automatic_queue, available
from varfix.engine.options import Options, Summary
from varfix.engine.pipeline import Pipeline, Stages
from varfix.engine.plan import Item, Plan, format_for, memory_of, plan_warnings
from varfix.engine.restorer import Restorer
from varfix.engine.settings import Settings
from varfix.engine.source import read_source, readable, spoken
from varfix.engine.tiled import restore_picture
from varfix.engine.video_flow import Hooks

_PROGRESS_EVERY: Final = 0.5
# Bytes: what is available is only an estimate, not worth refusing ordinary pictures for.
_ALWAYS_TRIED: Final = 1 << 30


@dataclass
class Work:
    """A picture on its way, and the seconds spent on it by stage."""

    picture: Picture
    stat: os.stat_result
    seconds: dict[str, float]
    retries: RetryCounts = field(default_factory=RetryCounts)


class Run:
    """One run of a plan."""

    def __init__(
        self,
        plan: Plan,
        restorer: Restorer,
        settings: Settings,
        observer: Observer,
        options: Options,
    ) -> None:
        self.plan, self.restorer, self.settings = plan, restorer, settings
        self.options = options
        self.failures: list[ItemFail] = []
        self.worst = ExitCode.OK
        self.ok = 0
        self.busy: Counter[str] = Counter()
        self._observer = observer
        self._lock = threading.RLock()
        self._start = time.monotonic()
        self._halt = threading.Event()  # set by --fail-fast
        self._jobs = settings.io.jobs or min(4, os.cpu_count() or 1)

    def tell(self, event: Event) -> None:
        """Pass an event on, one at a time."""
        with self._lock:
            self._observer(event)

    def go(self) -> Summary:
        """Run.

        Raises:
            OutputLockedError: Another run writes to the destination.
            OutputError: The disk is full or may not be written.
            DeviceError: The device failed for good.
        """
        with exclusive(self.plan.destination):
            self._announce()
            try:
                self._pipeline().run(self.plan.items)
            except VarfixError as fatal:
                if isinstance(fatal, DiskFullError):
                    fatal.hint = f"{self.ok} of {len(self.plan.items)} done; {fatal.hint}"
                self._end("failed", fatal.exit_code)
                raise
            finally:
                if self.plan.manifest is not None:
                    self.plan.manifest.close()
            return self._end(*self._outcome())

    def _pipeline(self) -> Pipeline[Item, Work | ClipWork, Work | ClipWork]:
        stages = Stages(
            cost=lambda item: item.cost,
            decode=self._decode,
            restore=self._restore,
            encode=self._encode,
            fail=self._fail,
        )
        queue = self.settings.io.queue_mb
        limit = automatic_queue() if queue is None else queue << 20
        return Pipeline(stages, self._jobs, limit, self._stopped)

    def _announce(self) -> None:
        restorer, plan = self.restorer, self.plan
        used = restorer.used
        self.tell(
            RunStart(
                version=version("varfix"),
                command=self.options.command,
                model=ModelFacts(name=restorer.card.name, sha256=self.options.model_sha256),
                device=DeviceFacts(
                    requested=used.requested,
                    used=used.device,
                    provider=used.provider,
                    precision=used.precision,
                ),
                tile=restorer.tile,
                batch=restorer.batch,
            )
        )
        self.tell(
            PlanDone(
                items=len(plan.items),
                skip_done=plan.skipped("done"),
                skip_stale=plan.skipped("stale"),
                skip_foreign=plan.skipped("foreign"),
                pixels=plan.pixels,
            )
        )
        for skip in plan.skips:
            self.tell(ItemSkip(id=skip.id, src=readable(skip.src), reason=skip.reason))
        for warning in plan_warnings(plan):
            self.tell(warning)

    def _decode(self, item: Item) -> Work | ClipWork:
        width, height = item.size or (None, None)
        self.tell(
            ItemStart(
                id=item.id,
                src=readable(item.src),
                dst=readable(item.dst),
                width=width,
                height=height,
                frames=item.frames,
            )
        )
        if item.is_clip:
            return open_clip(item, self.settings, self.plan.recipe)
        with _timed() as spent:
            header = item.header or probe(item.source)
            _check_memory(header)
            stat, data = read_source(item.source, largest_file(header))
            picture = read_picture(data, max_pixels=self.settings.limits.max_pixels)
        for text in picture.info.warnings:
            self._warn(item, "metadata", text)
        return Work(picture, stat, {"decode": spent()})

    def _restore(self, item: Item, work: Work | ClipWork) -> Work | ClipWork:
        if isinstance(work, ClipWork):
            return run_clip(item, work, self.restorer, self.settings, self._hooks(item, work))
        before = self.restorer.retries
        with _timed() as spent:
            pixels = restore_picture(
                self.restorer, work.picture.pixels, self.settings, self._progress(item)
            )
        after = self.restorer.retries
        seconds = work.seconds | {"infer": spent()}
        if self.options.watch is not None:
            self.options.watch(item.id, work.picture.pixels, pixels)
        retries = RetryCounts(fp32=after.fp32 - before.fp32, oom=after.oom - before.oom)
        return Work(replace_pixels(work.picture, pixels), work.stat, seconds, retries)

    def _hooks(self, item: Item, work: ClipWork) -> Hooks:
        """How a clip that is being restored meets this run."""

        def publish(part: Path) -> None:
            entry = None if self.plan.manifest is None else entry_of(item, work, part)
            move = self.options.publisher.move
            self._put(item, entry, lambda: move(part, item.target))

        return Hooks(
            stopped=self._stopped,
            progress=frame_progress(item.id, self.tell),
            warn=lambda code, text: self._warn(item, code, text),
            publish=publish,
        )

    def _encode(self, item: Item, work: Work | ClipWork) -> None:
        if isinstance(work, ClipWork):
            self._done(item, work.seconds, work.lasted, work.size, work.retries)
            return
        with _timed() as spent:
            wanted = format_for(item.source, item.target, self.settings)
            encoded = encode_picture(work.picture, wanted, self.settings.output)
            self._publish(item, work, encoded.data)
        for text in encoded.warnings:
            self._warn(item, "metadata", text)
        seconds = work.seconds | {"encode": spent()}
        self._done(item, seconds, sum(seconds.values()), len(encoded.data), work.retries)

    def _done(
        self, item: Item, seconds: dict[str, float], lasted: float, size: int, again: RetryCounts
    ) -> None:
        with self._lock:
            self.ok += 1
            self.busy.update(seconds)
            self.tell(
                ItemDone(
                    id=item.id,
                    seconds=round(lasted, 4),
                    stage={name: round(value, 4) for name, value in seconds.items()},
                    bytes=size,
                    retries=again,
                )
            )

    def _publish(self, item: Item, work: Work, data: bytes) -> None:
        entry = None
        if self.plan.manifest is not None:
            entry = _entry(item, work, self.plan.recipe, data)
        self._put(item, entry, lambda: self.options.publisher.publish(item.target, data))

    def _put(self, item: Item, entry: Entry | None, write: Callable[[], None]) -> None:
        """Write a result and enter it in the manifest, in the order that a kill leaves right.

        Entered first, a result that never came is missing, and made again; published first, it
        would pass for a stranger's. Only where an older result is replaced must the entry wait:
        it would vouch for the old one. (In place it cannot: the result's digest is compared.)
        """
        manifest = self.plan.manifest
        if manifest is None or entry is None:
            write()
            return
        replaces = _exists(item.target) and not _same_file(item.source, item.target)
        if not replaces:
            manifest.append(entry)
        write()
        if replaces:
            manifest.append(entry)

    def _fail(self, item: Item, error: Exception) -> None:
        """Write down a picture's failure; re-raise what no other picture would survive."""
        if isinstance(error, Interrupted):
            return  # a clip that was left because the run was asked to stop
        known = _as_varfix(error)
        event = ItemFail(
            id=item.id,
            src=readable(item.src),
            code=known.code,
            message=f"{self._label(item)}: {known.message}",
            hint=known.hint or None,
            retryable=isinstance(known, (SourceReadError, HostMemoryError, OutputError)),
        )
        fatal = isinstance(known, (OutputError, DeviceError, ModelError))
        with self._lock:
            if not fatal:
                self.failures.append(event)
                self.worst = max(self.worst, _severity(known))
                self.tell(event)
        if fatal:
            raise known from error
        if self.options.fail_fast:
            self._halt.set()

    def _progress(self, item: Item) -> Callable[[int, int], None]:
        last = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last >= _PROGRESS_EVERY:
                last = time.monotonic()
                self.tell(ItemProgress(id=item.id, done=done, total=total))

        return report

    def _warn(self, item: Item, code: str, text: str) -> None:
        self.tell(Warn(code=code, message=f"{self._label(item)}: {text}", id=item.id))

    def _label(self, item: Item) -> str:
        """A picture's name in messages: from here, as the user could type it."""
        return spoken(item.src if self.plan.destination is None else os.fspath(item.source))

    def _stopped(self) -> bool:
        return self._halt.is_set() or self.options.stop.is_set()

    def _outcome(self) -> tuple[Status, ExitCode]:
        """How a run ends that nothing broke off; a signal that came too late changes nothing."""
        left = len(self.plan.items) - self.ok - len(self.failures)
        asked = self.options.stop.code
        if asked is not None and (left > 0 or asked is ExitCode.SIGPIPE):
            return "stopped", asked
        if not self.failures:
            return "ok", ExitCode.OK
        return ("partial" if self.worst is ExitCode.PARTIAL else "failed"), self.worst

    def _end(self, status: Status, code: ExitCode) -> Summary:
        seconds = time.monotonic() - self._start
        # A clip's frames come one after the other: one thread for each of its stages.
        jobs = 1 if all(item.is_clip for item in self.plan.items) else self._jobs
        threads = {"infer": 1}
        share = {
            name: round(spent / max(seconds, 1e-9) / threads.get(name, jobs), 3)
            for name, spent in self.busy.items()
        }
        skipped = len(self.plan.skips)
        self.tell(
            RunEnd(
                status=status,
                exit=int(code),
                ok=self.ok,
                skipped=skipped,
                failed=len(self.failures),
                seconds=round(seconds, 3),
                per_second=round(self.ok / max(seconds, 1e-9), 4),
                busy=share,
            )
        )
        return Summary(self.ok, skipped, len(self.failures), seconds, tuple(self.failures), code)


def run_batch(
    plan: Plan, restorer: Restorer, settings: Settings, observer: Observer, options: Options
) -> Summary:
    """Run a plan; see `Run.go` for what it raises."""
    return Run(plan, restorer, settings, observer, options).go()


def _check_memory(header: Header) -> None:
    """Refuse a picture that does not fit: the system would end the whole run for it.

    Raises:
        HostMemoryError: More is needed than there is.
    """
    needed, there = memory_of(header), available()
    if needed > max(there, _ALWAYS_TRIED):
        raise HostMemoryError(
            f"needs about {needed / 1e9:.1f} GB to restore whole; {there / 1e9:.1f} GB available",
            hint="close other programs, or cut the picture into parts",
        )


def _exists(target: Path) -> bool:
    try:
        return target.exists()
    except OSError:  # a name too long to exist; publishing tells what is wrong with it
        return False


def _same_file(source: Path, target: Path) -> bool:
    try:
        return target.samefile(source)
    except OSError:  # the source has gone since it was read
        return False


def _entry(item: Item, work: Work, recipe: str, data: bytes) -> Entry:
    return Entry(
        dst=item.dst,
        src=item.src,
        size=work.stat.st_size,
        mtime_ns=work.stat.st_mtime_ns,
        recipe=recipe,
        out_size=len(data),
        out_sha256=digest(data),
        seconds=round(sum(work.seconds.values()), 4),
    )


def _as_varfix(error: Exception) -> VarfixError:
    """The error itself, or what it means for a picture."""
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


def _severity(error: VarfixError) -> ExitCode:
    return ExitCode.DEVICE if isinstance(error, HostMemoryError) else ExitCode.PARTIAL


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    start = time.monotonic()
    yield lambda: time.monotonic() - start
