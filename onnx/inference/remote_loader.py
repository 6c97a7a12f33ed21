"""Packs a model for workers on other machines: its name, or its files if it is not shipped."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from varfix.engine.models.registry import MODELS
from varfix.engine.restoration.restorer import OpenedModel, WarningHandler
from varfix.engine.settings.types import Settings
from varfix.engine.system.atomic import write_file
from varfix.onnx.files.model_files import find_model, model_digest
from varfix.onnx.inference.open_model import open_restorer


@dataclass(frozen=True)
class PackedModelLoader:
    """Opens a model on a worker.

    Attributes:
        settings: Settings, resolved on the machine that started the run.
        threads: Threads of a computation on a CPU.
        files: Names and contents of the model files; empty for a shipped model.
    """

    settings: Settings
    threads: int
    files: tuple[tuple[str, bytes], ...] = ()

    def __call__(self, warn: WarningHandler) -> OpenedModel:
        """Open the model on this machine."""
        name = self._unpacked() if self.files else self.settings.model.name
        restorer = open_restorer(name, self.settings, warn=warn, threads=self.threads)
        return OpenedModel(restorer, model_digest(name))

    def _unpacked(self) -> str:
        """Write the files to a folder shared by the workers of this machine; return the first path.

        Existing files are compared, because other users may write to a temporary folder.
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


def pack_model(settings: Settings, threads: int) -> PackedModelLoader:
    """Pack the model of `settings` for workers.

    Raises:
        ModelMissingError: The model is unknown or not installed.
    """
    name = settings.model.name
    entry = MODELS.get(name)
    if entry is not None and entry.release is None:
        return PackedModelLoader(settings, threads)
    found = find_model(name)
    paths = [path for path in (found.restore, found.prior, found.fp16) if path.is_file()]
    return PackedModelLoader(
        settings, threads, tuple((path.name, path.read_bytes()) for path in paths)
    )
