"""The folders that the system gives an application: cache, data, configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import platformdirs

_NAME: Final = "varfix"


def cache_folder() -> Path:
    """Return the user's folder for files that can be recreated; it may not exist."""
    return platformdirs.user_cache_path(_NAME, appauthor=False)


def data_folder() -> Path:
    """Return the user's folder for installed files; it may not exist."""
    return platformdirs.user_data_path(_NAME, appauthor=False)


def history_folder() -> Path:
    """Return the user's folder for the record of single results; it may not exist."""
    return platformdirs.user_state_path(_NAME, appauthor=False) / "results"


def config_folder() -> Path:
    """Return the user's folder for settings; it may not exist."""
    return platformdirs.user_config_path(_NAME, appauthor=False)
