"""The file that marks an imported model, and the remedy if such a model is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ORIGIN: Final = "origin.json"
_EXPORT: Final = "export it with varfix export-onnx"


def remedy(path: Path, otherwise: str = _EXPORT) -> str:
    """Return a hint for a file of a model that is damaged or missing.

    Args:
        path: The file.
        otherwise: The hint for a file that was not imported.
    """
    folder = path.parent
    if not (folder / ORIGIN).is_file():
        return otherwise
    return f"import it again: varfix models import {folder.name} FILE --overwrite (into {folder})"
