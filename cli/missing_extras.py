"""Says which optional part is missing when a command cannot import it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from varfix.engine.errors import ConfigError

_TRAIN: Final = frozenset({"matplotlib", "onnx", "onnxscript", "safetensors", "torch", "tqdm"})


@contextmanager
def needing_train_extra(command: str) -> Iterator[None]:
    """Import what only the `train` extra brings inside the block.

    Raises:
        ConfigError: It is not installed; the message says how to.
    """
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _TRAIN:
            raise
        raise ConfigError(
            f"varfix {command} needs {missing}, which is not installed.",
            hint='Fix: pip install "varfix[train]".',
        ) from error
