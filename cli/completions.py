"""What the shell may offer for options whose values are names: presets, models, devices."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def preset_items(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a preset: built-in names with what they are for, else files."""
    from varfix.engine.settings.presets import preset_names, preset_summary

    known = [(name, preset_summary(name)) for name in preset_names()]
    return _items(known, incomplete)


def model_items(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a model: known names with what they restore, else files."""
    from varfix.engine.models.card import MODELS

    known = [(entry.name, entry.summary) for entry in MODELS.values()]
    return _items(known, incomplete)


def device_items(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a device by name, whether or not this machine has it."""
    known = {"auto": "the best that works", "cpu": "", "cuda": "NVIDIA", "tensorrt": "NVIDIA"}
    return [
        CompletionItem(name, help=about or None)
        for name, about in known.items()
        if name.startswith(incomplete)
    ]


def _items(known: list[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    names = [
        # click's script for fish ends the text at the first comma.
        CompletionItem(name, help=about.replace(",", ";"))
        for name, about in known
        if name.startswith(incomplete)
    ]
    # First: bash forgets, on being told to offer files, what came before.
    return [CompletionItem(incomplete, type="file"), *names]
