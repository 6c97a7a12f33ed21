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
        if param is not None and param.name == "src" and Path(text).is_file():
            self.fail(f"{text} is a file: use 'varfix {_command_for(text)}' for it", param, ctx)
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]
        return path


def _command_for(name: str) -> str:
    from varfix.engine.formats import is_video

    return "video" if is_video(Path(name)) else "image"


class SingleFile(click.Path):
    """A file's path, or `-` for stdin."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path, checked as click does."""
        if isinstance(value, str) and value and Path(value).is_dir():
            self.fail(f"{value} is a folder: use 'varfix dir' for it", param, ctx)
        return super().convert(value, param, ctx)


FILE_IN: Final = SingleFile(exists=True, dir_okay=False, allow_dash=True)
FOLDER_IN: Final = Folder(exists=True, file_okay=False, path_type=Path)
FOLDER_OUT: Final = Folder(file_okay=False, path_type=Path)
