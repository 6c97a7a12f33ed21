"""Options that several commands share, and the records that hold their values."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import click

from varfix.cli.completions import device_items, model_items, preset_items
from varfix.cli.terminal import Terminal
from varfix.engine.formats import format_named

if TYPE_CHECKING:
    from varfix.engine.settings.resolve import Resolved

    _CountOrAutoType = click.ParamType[int | str]
else:
    _CountOrAutoType = click.ParamType  # generic only from click 8.4 on

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]
Record = TypeVar("Record")

FORMATS = ("keep", "png", "jpg", "webp", "tiff", "avif", "bmp")
EXTRA_FORMATS = ("heic", "jxl")  # offered if their packages are installed

Section = Literal[
    "Restoration", "Measurement", "Selection", "Output", "Machine", "Messages", "Other"
]
SECTIONS: tuple[Section, ...] = get_args(Section)
"""Sections of a help page, in their order."""


class SectionOption(click.Option):
    """An option with the section of the help page that lists it."""

    def __init__(self, *declarations: Any, section: Section = "Other", **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.section: Section = section


class HiddenAliases(click.Option):
    """An option whose help shows its first spelling only."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the help without the other spellings."""
        spellings = self.opts
        self.opts = spellings[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = spellings


def option(section: Section, *names: str, **attributes: Any) -> Decorator:
    """Return a decorator that adds an option to a command, as `click.option` does.

    Args:
        section: Section of the help page.
        names: Spellings of the option, and optionally the name of its parameter.
        attributes: As for `click.option`.
    """
    return click.option(*names, cls=SectionOption, section=section, **attributes)


class Command(click.Command):
    """A command whose help page lists its options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one block for each section that has options."""
        rows: dict[Section, list[tuple[str, str]]] = {title: [] for title in SECTIONS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                section: Section = "Other"
                if isinstance(parameter, SectionOption):
                    section = parameter.section
                rows[section].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class CountOrAuto(_CountOrAutoType):
    """A positive integer, or `auto`."""

    name = "auto|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number, or the text `auto`."""
        if str(value).lower() == "auto":
            return "auto"
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"'{value}' is neither 'auto' nor a positive integer", param, ctx)
        return int(value)


class FormatChoice(click.Choice[str]):
    """A format that this installation can write."""

    def __init__(self) -> None:
        extra = [name for name in EXTRA_FORMATS if format_named(name).available]
        super().__init__([*FORMATS, *extra], case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name of the format in lower case; a missing extra is an error with a hint."""
        name = str(value).lower()
        if name in EXTRA_FORMATS and name not in self.choices:
            self.fail(f"'{name}' is not available; {format_named(name).remedy}", param, ctx)
        return super().convert(value, param, ctx)


@dataclass(frozen=True)
class ModelOptions:
    """Model, device and settings; None for options that were not given."""

    preset: tuple[str, ...]
    model: str | None
    strength: float | None
    device: str | None
    precision: str | None
    batch: int | str | None
    whole: bool
    assignments: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name of the preset for messages and file names; several are joined by `+`."""
        from varfix.engine.settings.presets import chosen_presets

        chosen = chosen_presets(self.preset, os.environ) or ("auto",)
        return "+".join(
            Path(name).stem if name.endswith((".yaml", ".yml")) else name for name in chosen
        )

    def resolve(self, terminal: Terminal, more: Mapping[str, Any] | None = None) -> Resolved:
        """Return the settings of this run, each value with its origin.

        Args:
            terminal: Shows a warning for each setting that was given under an old key.
            more: Settings given by other options, by dotted key; None for options not given.

        Raises:
            ConfigError: A preset, variable or option is invalid.
        """
        from varfix.engine.settings.resolve import resolve, standard_layers

        flags = {
            "model.name": self.model,
            "strength": self.strength,
            "device": self.device,
            "model.precision": self.precision,
            "tile.batch": self.batch,
            "tile.resize_whole": self.whole or None,
            **(more or {}),
        }
        # `auto` must override a value of a preset file; None in `flags` would not.
        automatic = [f"{key}=null" for key, value in flags.items() if value == "auto"]
        automatic = [text for text in automatic if text.startswith(("tile.", "io."))]
        given = {k: v for k, v in flags.items() if f"{k}=null" not in automatic}
        layers = standard_layers(
            self.preset,
            Path.cwd(),
            flags=given,
            assignments=[*self.assignments, *automatic],
            environ=os.environ,
        )
        resolved = resolve(layers)
        for warning in resolved.warnings:
            terminal.warn(warning)
        return resolved


@dataclass(frozen=True)
class OutputOptions:
    """How results are stored."""

    format: str | None
    overwrite: bool
    dry_run: bool


@dataclass(frozen=True)
class EventOptions:
    """Where events are written."""

    as_json: bool
    log_file: Path | None


def options_record(name: str, record: type[Record], *options: Decorator) -> Decorator:
    """Add `options` to a command, which receives their values as one record.

    Args:
        name: Name of the parameter that receives the record.
        record: Dataclass whose fields are named as the parameters of the options.
        options: Decorators that add the options.
    """
    keys = [field.name for field in fields(record)]  # type: ignore[arg-type]

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            parts = {key: values.pop(key) for key in keys}
            return function(**values, **{name: record(**parts)})

        wrapped: Function = command
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped

    return decorate


model_options = options_record(
    "model",
    ModelOptions,
    option(
        "Restoration",
        "-p",
        "--preset",
        multiple=True,
        metavar="NAME|FILE",
        shell_complete=preset_items,
        help="Degradation to correct: auto, denoise, dejpeg, derain, dehaze, lowlight,"
        " deblur (the shipped model does not sharpen yet), desnow; 'fast' for 8-bit integers"
        " on a CPU; or a YAML file of settings."
        " 'denoise,dehaze', or -p repeated, corrects all of them; of other settings the last"
        " preset counts."
        "  [default: auto]",
    ),
    option(
        "Restoration",
        "-m",
        "--model",
        metavar="NAME|PATH",
        shell_complete=model_items,
        help="Name of a model ('varfix models' lists them), or path of any .onnx file."
        "  [default: from the preset]",
    ),
    option(
        "Restoration",
        "-s",
        "--strength",
        type=click.FloatRange(0, 1),
        metavar="0..1",
        help="Strength of the restoration: 0 returns the source, 1 the model's result, values"
        " between are a blend. Brightness and color may differ: '--set strength.luma=0.6' keeps"
        " some grain, and removes all color noise.  [default: 1]",
    ),
    option(
        "Machine",
        "-d",
        "--device",
        metavar="DEVICE",
        shell_complete=device_items,
        help="auto, cpu, cuda, cuda:1, tensorrt. 'auto' selects the best device that works; a named"
        " device is used, or the run fails with exit code 5.  [default: auto]",
    ),
    option(
        "Machine",
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "int8"]),
        help="Precision of the computation. 'auto' uses fp16 only if device and model support it"
        " well; 'int8' is faster on a CPU and costs a few hundredths of a dB.  [default: auto]",
    ),
    option(
        "Machine",
        "--batch",
        type=CountOrAuto(),
        metavar="auto|N",
        help="Tiles per batch; 'auto' depends on free memory. Changes speed and memory, not"
        " results.  [default: auto]",
    ),
    option(
        "Restoration",
        "--whole",
        is_flag=True,
        help="For models of a fixed size, such as varformer-d16: resize each image to the model's"
        " input size and back, as the reference code does, instead of tiling.",
    ),
    option(
        "Restoration",
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a setting, for example tile.overlap=48 or output.jpeg_quality=90; may be"
        " repeated. 'varfix dir -nv SRC DST' lists all keys.",
    ),
)

dry_run_option = option(
    "Output",
    "-n",
    "--dry-run",
    is_flag=True,
    help="Show what would be done, with model and device, and exit. With -v, also show every"
    " setting and its origin.",
)

output_options = options_record(
    "output",
    OutputOptions,
    option(
        "Output",
        "-f",
        "--format",
        type=FormatChoice(),
        help="Format of the results; 'keep' is the format of the source. A JPEG keeps its"
        " chroma subsampling and about its size: it gets up to quality 90 where that is no larger;"
        " --set output.jpeg_quality=95 gives another quality.  [default: keep]",
    ),
    option(
        "Output",
        "--overwrite",
        is_flag=True,
        help="Replace existing outputs; results that are up to date are still skipped.",
    ),
    dry_run_option,
)

event_options = options_record(
    "events",
    EventOptions,
    option(
        "Messages", "--json", "as_json", is_flag=True, help="Write events as JSON lines to stdout."
    ),
    option(
        "Messages",
        "--log-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="PATH",
        help="Append the same JSON lines to a file.",
    ),
)


def terminal_options(function: Function) -> Function:
    """Add -q, -v and --color; the command receives the configured `Terminal` as `terminal`."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        return function(**values, terminal=click.get_current_context().find_object(Terminal))

    wrapped: Function = command
    for option in reversed(_TERMINAL_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _configure(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    terminal = context.ensure_object(Terminal)
    setattr(terminal, str(parameter.name), value)


# Eager, so that they apply to error messages of the other options.
_TERMINAL_OPTIONS: tuple[Decorator, ...] = (
    option(
        "Messages",
        "-q",
        "--quiet",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_configure,
        help="Show errors only.",
    ),
    option(
        "Messages",
        "-v",
        "--verbose",
        count=True,
        is_eager=True,
        expose_value=False,
        callback=_configure,
        help="Show more; -vv also shows tracebacks.",
    ),
    option(
        "Messages",
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        is_eager=True,
        expose_value=False,
        callback=_configure,
        help="Color messages; 'auto' honors NO_COLOR, FORCE_COLOR and TERM=dumb.  [default: auto]",
    ),
)
