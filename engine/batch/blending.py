"""Blends images with their results once more, at another strength, without the model.

Everything but the pixels is stored as if the source were restored at that strength. The pixels of a
result are read from its file: if that is compressed with loss, the blend has a share of the loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from varfix.engine.batch.output_format import format_for
from varfix.engine.batch.pipeline import Pipeline, Stages
from varfix.engine.batch.processor import as_varfix, jobs_of, queue_of
from varfix.engine.batch.provenance import blended_by, stated
from varfix.engine.errors import DecodeUnsupportedError, ItemError, OutputError, VarfixError
from varfix.engine.image.decoded_image import DecodedImage, replace_pixels
from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image
from varfix.engine.restoration.strength import blend
from varfix.engine.settings.types import Settings
from varfix.engine.storage.identity import UNKNOWN, FetchedFile, Identity
from varfix.engine.storage.local import LocalStore
from varfix.engine.storage.manifest import Entry, FileManifest, image_entry
from varfix.engine.storage.originals import has_been_in_place
from varfix.engine.storage.scan import Filters, scan
from varfix.engine.system.digests import edge_digest, edge_digest_of_file
from varfix.engine.system.file_times import times_of

# Bytes per byte of a file, for the images in memory at the same time: two, of 40 bytes per pixel.
_BYTES_PER_BYTE: Final = 200


@dataclass(frozen=True)
class BlendItem:
    """An image, its result, and the file to write.

    Attributes:
        name: Name of the source below its folder.
        dst: Name of the result below its folder, and of the blend.
        source: File of the source.
        result: File of the result.
        target: File to write.
        entry: Record of the result; None where there is none, and for files that the user named.
        remedy: What to do if the record shows that source and result do not belong together.
    """

    name: str
    dst: str
    source: Path
    result: Path
    target: Path
    entry: Entry | None = None
    remedy: str = ""

    def check(self, source: Identity, size: int, digest: str) -> None:
        """Reject a source or a result that was replaced since: the blend would mix two images.

        Args:
            source: Identity of the source.
            size: Bytes of the result.
            digest: The `edge_digest` of the result.

        Raises:
            ItemError: The record says otherwise.
        """
        if self.entry is None:
            return
        if not self.entry.is_from(source):
            raise ItemError(
                f"{self.result} was made from another image (size or time of this one differ)",
                hint=self.remedy,
            )
        if (size, digest) != (self.entry.out_size, self.entry.out_sha256):
            raise ItemError(
                f"{self.result} is not as varfix wrote it (changed or replaced by another program)",
                hint=self.remedy,
            )


@dataclass
class BlendPlan:
    """What is blended.

    Attributes:
        items: Images that have a result.
        missing: Names of the images that have none.
        videos: Names of videos and animations, which are not blended.
    """

    items: list[BlendItem] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)


def plan_blends(source: Path, results: Path, out: Path) -> BlendPlan:
    """Find the result of each image below `source`: by the manifest, else by its name.

    Args:
        source: Folder of the images.
        results: Folder of their results.
        out: Folder of the blends, in which they have the names of the results.
    """
    plan = BlendPlan()
    manifest, remedy = FileManifest(results), _remedy(source, results)
    recorded = manifest.results()
    # Originals that were kept in place are in a folder of their results.
    inner = [
        folder.resolve()
        for folder in (results, out)
        if not source.resolve().is_relative_to(folder.resolve())
    ]
    found = scan(source, None, Filters())
    for name in found.sources:
        path = source / name
        if any(path.resolve().is_relative_to(folder) for folder in inner):
            continue
        dst = recorded.get(name, name)
        entry = manifest.entry_of(dst)
        if found.is_video(name):
            plan.videos.append(name)
        elif (results / dst).is_file() and (entry is None or entry.src == name):
            ends = path, results / dst, out / dst
            plan.items.append(BlendItem(name, dst, *ends, entry, remedy))
        else:
            plan.missing.append(name)
    return plan


def _remedy(source: Path, results: Path) -> str:
    """Return the hint about an image and a result that do not belong together."""
    anyway = "name the two files, not the folders, to blend them anyway"
    if has_been_in_place(results):
        return anyway  # a run over both folders would take results for images
    return f"use 'varfix dir --overwrite {source} {results}' to restore it again, or {anyway}"


@dataclass
class _Blend:
    """An image on its way."""

    item: BlendItem
    fetched: FetchedFile
    image: DecodedImage
    result: DecodedImage


@dataclass
class BlendRun:
    """Blends the items of a plan and counts them.

    Attributes:
        settings: Strength, output and limits.
        out: Folder of the blends.
        manifest: Record of the blends in `out`; None for a single file.
        overwrite: Replace what exists.
        report: Receives an item, and an error or a warning about it.
        is_stopping: Returns whether nothing new may be started.
        done: Number of blends written.
        skipped: Number of blends that are up to date.
        kept: Number of existing files that are not replaced.
        failed: Number of items that failed.
    """

    settings: Settings
    out: LocalStore
    manifest: FileManifest | None
    overwrite: bool
    report: Callable[[BlendItem, VarfixError | str], None]
    is_stopping: Callable[[], bool] = lambda: False
    done: int = 0
    skipped: int = 0
    kept: int = 0
    failed: int = 0

    def run(self, items: Iterable[BlendItem]) -> None:
        """Blend items; several are read and written at the same time.

        Raises:
            OutputLockedError: Another run writes to the folder.
            OutputError: The disk is full or cannot be written.
        """
        stages = Stages(
            cost=_cost,
            decode=self._open,
            restore=self._blend,
            encode=self._write,
            fail=self._fail,
        )
        pipeline = Pipeline(
            stages, jobs_of(self.settings), queue_of(self.settings), self.is_stopping
        )
        if self.manifest is None:
            pipeline.run(items)
            return
        with self.out.lock(), closing(self.manifest):
            pipeline.run(item for item in items if self._is_wanted(item, self.manifest))

    def _is_wanted(self, item: BlendItem, manifest: FileManifest) -> bool:
        try:
            item.check(
                item.source.stat(), item.result.stat().st_size, edge_digest_of_file(item.result)
            )
            state = manifest.status(item.dst, item.source.stat(), self._fingerprint(item))
        except (OSError, ItemError):
            return True  # reading it reports the reason
        self.skipped += state == "done"
        self.kept += state in ("stale", "foreign") and not self.overwrite
        return state in ("missing", "smaller") or (state != "done" and self.overwrite)

    def _fingerprint(self, item: BlendItem) -> str:
        """Return the digest of everything that decides a blend, besides its source."""
        parts = (self.settings.strength, self.settings.output, edge_digest_of_file(item.result))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _open(self, item: BlendItem) -> _Blend:
        limit = self.settings.limits.max_pixels
        fetched, restored = _read(item.source), _read(item.result).data
        item.check(fetched.stat, len(restored), edge_digest(restored))
        image = decode_image(fetched.data, max_pixels=limit)
        result = decode_image(restored, max_pixels=limit)
        if result.pixels.shape != image.pixels.shape:
            sizes = [
                f"{pixels.shape[1]} x {pixels.shape[0]}" for pixels in (result.pixels, image.pixels)
            ]
            raise DecodeUnsupportedError(
                f"{item.result} is not its result (it has {sizes[0]} px, the image {sizes[1]} px)"
            )
        return _Blend(item, replace(fetched, data=b""), image, result)

    def _blend(self, item: BlendItem, work: _Blend) -> _Blend:
        strength = self.settings.strengths
        if not strength.is_zero:
            restored = np.ascontiguousarray(work.result.pixels)
            pixels = blend(work.image.pixels, restored, strength)
            work.image = replace_pixels(work.image, pixels)
        return work

    def _write(self, item: BlendItem, work: _Blend) -> None:
        wanted = format_for(item.source.name, item.target.name, self.settings)
        made_by = blended_by(work.result.info.xmp, self.settings.strengths, item.name)
        image = stated(work.image, wanted, made_by)
        encoded = encode_image(image, wanted, self.settings.output)
        stat = work.fetched.stat
        times = times_of(stat) if self.settings.output.times == "keep" else None
        name = item.dst if self.manifest is not None else item.target.name
        recording: AbstractContextManager[None] = nullcontext()
        if self.manifest is not None:
            entry = image_entry(item.dst, item.name, stat, self._fingerprint(item), encoded.data)
            recording = self.manifest.recording(entry, self.out.replaces(item.dst, item.source))
        with recording:
            self.out.publish(name, encoded.data, overwrite=self.overwrite, times=times)
        for text in (*work.image.info.warnings, *encoded.warnings):
            self.report(item, text)
        self.done += 1

    def _fail(self, item: BlendItem, error: Exception) -> None:
        known = as_varfix(error)
        if isinstance(known, OutputError):
            raise known from error
        self.failed += 1
        self.report(item, known)


def _read(path: Path) -> FetchedFile:
    return LocalStore(path.parent).fetch(path.name, UNKNOWN, lambda header: None)


def _cost(item: BlendItem) -> int:
    try:
        return item.source.stat().st_size * _BYTES_PER_BYTE
    except OSError:
        return 0
