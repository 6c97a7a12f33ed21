"""Folder arguments: paths, or addresses of object stores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from varfix.engine.storage.store import Store


class Folder(click.Path):
    """A folder's path, or an address such as `s3://bucket/folder`, which becomes a `Store`."""

    def convert(  # type: ignore[override]  # an address is no path
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | Store:
        """Return the path, checked as click does, or the store.

        Raises:
            ConfigError: The address cannot be opened, or a required extra is not installed.
        """
        from varfix.engine.storage.addresses import is_address
        from varfix.engine.storage.open import open_store

        text = os.fspath(value)
        if not text:
            self.fail("the name is empty (is a shell variable unset?)", param, ctx)
        if isinstance(text, str) and is_address(text):
            return open_store(text)
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]
        return path


FOLDER_IN: Final = Folder(exists=True, file_okay=False, path_type=Path)
FOLDER_OUT: Final = Folder(file_okay=False, path_type=Path)
