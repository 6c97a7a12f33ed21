"""Preset files, and the errors in them."""

from pathlib import Path

import pytest

from varfix.cli.terminal import join_hint
from varfix.engine.errors import ConfigError
from varfix.engine.settings.presets import load_preset
from varfix.engine.settings.resolve import resolve


def refusal(call):
    """Return the error with which a call is refused."""
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value


def write(name: str, text: str) -> str:
    """Write a file and return its name."""
    Path(name).write_text(text, encoding="utf-8")
    return name


def explained(error: ConfigError) -> str:
    """Return an error as the user reads it."""
    return join_hint(error.message, error.hint)


def preset_error(text: str) -> str:
    """Return the error of a preset with this text."""
    return explained(refusal(lambda: resolve(load_preset(write("derain.yaml", text)))))
