"""Reports a missing extra when a command cannot import it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from varfix.engine.errors import ConfigError

_TRAIN: Final = frozenset({"matplotlib", "onnx", "onnxscript", "safetensors", "torch", "tqdm"})


@contextmanager
def require_train_extra(command: str) -> Iterator[None]:
    """Report imports of the block that fail because the `train` extra is not installed.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _TRAIN:
            raise
        raise ConfigError(
            f"varfix {command} requires {missing}, which is not installed",
            hint='run: pip install "varfix[train]"',
        ) from error
