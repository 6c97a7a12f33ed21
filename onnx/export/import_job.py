"""Request and answer of an import, which runs in a process of its own."""

from __future__ import annotations

import msgspec

from varfix.engine import errors
from varfix.engine.errors import ModelError, VarfixError
from varfix.engine.models.card import ModelCard


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint to import, and options.

    Attributes:
        checkpoint: Path of the file.
        target: Path of the restore graph, `NAME.onnx`.
        licence: SPDX expression of the weights.
        training: Training data of the weights.
        tile: Edge of the tiles in pixels; None chooses it.
        free_size: Whether to try a graph of free height and width.
        fp16: Whether to write an fp16 variant.
        allow_noncommercial: Whether to accept networks that forbid commercial use.
        threads: Threads of PyTorch; None = all cores.
    """

    checkpoint: str
    target: str
    licence: str = "LicenseRef-unstated"
    training: str = ""
    tile: int | None = None
    free_size: bool = False
    fp16: bool = False
    allow_noncommercial: bool = False
    threads: int | None = None


class ImportFailure(msgspec.Struct, frozen=True):
    """An error of the process."""

    code: str
    message: str
    hint: str = ""

    def error(self) -> VarfixError:
        """Return the exception that the process raised."""
        kind = _classes(VarfixError).get(self.code, ModelError)
        return kind(self.message, hint=self.hint)


class ImportAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The results of the process.

    Attributes:
        card: The card of the written model; None if none was written.
        own: Architecture of a checkpoint that varfix exports without spandrel.
        notes: Notes for the user about the installed packages.
        failure: Why nothing was written.
    """

    card: ModelCard | None = None
    own: str = ""
    notes: tuple[str, ...] = ()
    failure: ImportFailure | None = None


def _classes(kind: type[VarfixError]) -> dict[str, type[VarfixError]]:
    """Return the error classes by code, the more general ones last to win."""
    found: dict[str, type[VarfixError]] = {}
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            found |= _classes(child)
    return found | {kind.code: kind}
