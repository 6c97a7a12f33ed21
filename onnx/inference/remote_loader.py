"""A model on its way to other machines: by its name where they have it, else with its files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from varfix.engine.cluster.worker import Warner
from varfix.engine.models.card import MODELS
from varfix.engine.settings.types import Settings
from varfix.engine.system.atomic import write_file
from varfix.onnx.files.model_files import find_model, model_digest
from varfix.onnx.inference.cores import THREADS_VARIABLE
from varfix.onnx.inference.open_model import OnnxRestorer, open_restorer


@dataclass(frozen=True)
class ModelOpening:
    """Opens a model on a worker; see `station.Opening`.

    Attributes:
        settings: resolved on the machine that started the run.
        threads: that a computation may have.
        files: names and contents of the model's files; none for a model that comes with varfix.
    """

    settings: Settings
    threads: int
    files: tuple[tuple[str, bytes], ...] = ()

    def __call__(self, warn: Warner) -> tuple[OnnxRestorer, str]:
        """Open the model on this machine."""
        os.environ[THREADS_VARIABLE] = str(self.threads)
        name = self._unpacked() if self.files else self.settings.model.name
        return open_restorer(name, self.settings, warn=warn), model_digest(name)

    def _unpacked(self) -> str:
        """Write the files where other workers on this machine write the same, and name the first.

        What is there counts only if it is the same: others may write to such a folder.
        """
        total = hashlib.sha256(b"".join(data for _, data in self.files)).hexdigest()
        user = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir()) / f"varfix-models-{user}" / total[:32]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in self.files:
            path = folder / name
            if not path.is_file() or path.read_bytes() != data:
                write_file(path, data)
        return os.fspath(folder / self.files[0][0])


def opening_for(settings: Settings, threads: int) -> ModelOpening:
    """Pack what workers need to open the model of `settings`.

    Raises:
        ModelMissingError: It is not known, or not here.
    """
    name = settings.model.name
    entry = MODELS.get(name)
    if entry is not None and entry.release is None:
        return ModelOpening(settings, threads)
    found = find_model(name)
    paths = [path for path in (found.restore, found.prior, found.half) if path.is_file()]
    return ModelOpening(settings, threads, tuple((path.name, path.read_bytes()) for path in paths))
