"""Shell completion of presets, models and devices."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def preset_items(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a preset, the last of several: built-in names with their summaries, and files."""
    from varfix.engine.settings.presets import preset_names, preset_summary

    earlier, comma, _ = incomplete.rpartition(",")
    before = earlier + comma
    known = [(before + name, preset_summary(name)) for name in preset_names()]
    return _items(known, incomplete)


def model_items(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a model: known names with their summaries, and files."""
    from varfix.engine.models.registry import MODELS

    known = [(entry.name, entry.summary) for entry in MODELS.values()]
    return _items(known, incomplete)


def device_items(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the name of a device, whether or not this machine has it."""
    known = {
        "auto": "the best device that works",
        "cpu": "",
        "cuda": "NVIDIA",
        "tensorrt": "NVIDIA",
    }
    return [
        CompletionItem(name, help=about or None)
        for name, about in known.items()
        if name.startswith(incomplete)
    ]


def _items(known: list[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    names = [
        # click's fish script cuts the text at the first comma.
        CompletionItem(name, help=about.replace(",", ";"))
        for name, about in known
        if name.startswith(incomplete)
    ]
    # First: in bash, an item of type file discards the items before it.
    return [CompletionItem(incomplete, type="file"), *names]
