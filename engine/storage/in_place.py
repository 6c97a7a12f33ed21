"""A folder whose images are replaced by their results, while their originals are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from varfix.engine.errors import PlanError
from varfix.engine.formats import Header
from varfix.engine.storage.identity import UNKNOWN, FetchedFile, Identity, KnownFile
from varfix.engine.storage.local import LocalStore
from varfix.engine.storage.manifest import FileManifest, ResultStatus
from varfix.engine.storage.originals import Originals
from varfix.engine.storage.scan import Filters, ScanResult
from varfix.engine.storage.store import Store
from varfix.engine.system.file_times import FileTimes
from varfix.engine.system.folder_lock import lock_folder


@dataclass
class LeftAlone:
    """Names of files that a plan in place leaves alone.

    Attributes:
        videos: Videos.
        final: Results whose originals are no longer kept.
    """

    videos: list[str] = field(default_factory=list)
    final: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class InPlaceStore(LocalStore):
    """Both ends of a run in place: images are read from their originals; see `store.Store`."""

    originals: Originals
    left_alone: LeftAlone = field(default_factory=LeftAlone, compare=False)

    def find(self, filters: Filters, files: tuple[str, ...] | None, target: Store) -> ScanResult:
        """Walk the folder, or take the files that are listed; without videos and originals."""
        found = super().find(filters, files, LocalStore(self.originals.folder))
        videos = {name for name in found.sources if found.is_video(name)}
        self.left_alone.videos[:] = [name for name in found.sources if name in videos]
        found.sources = [name for name in found.sources if name not in videos]
        found.ignored += self.left_alone.videos
        return found

    def manifest(self) -> FileManifest:
        """Read the folder's manifest."""
        return InPlaceManifest(self.folder, self.originals, self.left_alone.final)

    def fetch(self, name: str, known: KnownFile, admit: Callable[[Header], None]) -> FetchedFile:
        """Read the original of an image."""
        path = self.originals.source(name)
        return LocalStore(path.parent).fetch(path.name, UNKNOWN, admit)

    def publish(
        self, name: str, data: bytes, *, overwrite: bool, times: FileTimes | None = None
    ) -> None:
        """Keep the original, then replace it.

        Raises:
            TakenError: The image was changed after its original was kept.
        """
        self.originals.keep(name, hashlib.sha256(data).hexdigest())
        super().publish(name, data, overwrite=overwrite, times=times)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the locks of the folder and of the originals."""
        with lock_originals(self.originals):
            yield


class InPlaceManifest(FileManifest):
    """The manifest of a folder whose images are replaced."""

    def __init__(self, destination: Path, originals: Originals, final: list[str]) -> None:
        """Read the manifest.

        Args:
            destination: The folder.
            originals: Its originals.
            final: Receives the names of results whose originals are not kept.
        """
        super().__init__(destination)
        self._originals, self._final = originals, final

    def prepare(self) -> None:
        """Remove second names of images that an interrupted run did not replace."""
        self._originals.reload()
        self._originals.remove_unused()

    def status(self, dst: str, source: Identity | None, fingerprint: str) -> ResultStatus:
        """Return the status of an image, whose source is its original.

        A result without its original is done: restoring it once more would not restore the image.
        An image that was changed after it was restored is foreign.
        """
        if not self._originals.is_kept(dst):
            return self._status_of_image(dst, fingerprint)
        original = self._originals.path(dst).stat()
        is_intact = self.is_intact(dst)
        if is_intact and super().status(dst, original, fingerprint) == "done":
            return "done"
        if not (self.destination / dst).exists() or self._originals.is_original(dst):
            return "missing"
        if self._originals.is_result(dst):
            # If the manifest has another entry, the run was interrupted after it wrote the result.
            return "stale" if is_intact else "missing"
        return "foreign"

    def _status_of_image(self, dst: str, fingerprint: str) -> ResultStatus:
        if not self.is_intact(dst):
            return "missing"
        path = self.destination / dst
        if super().status(dst, path.stat(), fingerprint) != "done":
            self._final.append(dst)
        return "done"


@contextmanager
def lock_originals(originals: Originals) -> Iterator[None]:
    """Hold the locks of a folder and of its originals.

    Raises:
        OutputLockedError: Another run holds one of them.
        OutputError: A folder cannot be written.
    """
    with ExitStack() as stack:
        stack.enter_context(lock_folder(originals.root))
        if not originals.is_inside:
            stack.enter_context(lock_folder(originals.folder))
        yield


def open_in_place(folder: Path, backup: Path | None = None) -> InPlaceStore:
    """Open a folder whose images are to be replaced.

    Args:
        folder: The folder.
        backup: Folder of the originals; None = in the state folder.

    Raises:
        PlanError: Earlier originals are in another folder, or `backup` contains the images.
    """
    folder = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
    if backup is not None and LocalStore(backup).relative_path_of(LocalStore(folder)) is not None:
        raise PlanError(
            f"--backup {backup} contains {folder}", hint="name a folder beside it, or inside"
        )
    originals = Originals(folder, backup)
    originals.check_folder()
    return InPlaceStore(folder, originals)
