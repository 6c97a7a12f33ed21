"""The options that commands share, and the records in which commands receive them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from varfix.cli.completions import device_items, model_items, preset_items
from varfix.cli.terminal import Terminal
from varfix.engine.formats import format_named

if TYPE_CHECKING:
    from varfix.engine.settings.resolve import Resolved

    _CountOrAutoType = click.ParamType[int | str]
else:
    _CountOrAutoType = click.ParamType  # only click 8.4 and later know what it holds

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]
Record = TypeVar("Record")

FORMATS = ("keep", "png", "jpg", "webp", "tiff", "avif", "bmp")
EXTRA_FORMATS = ("heic", "jxl")  # offered where their packages are installed

# The help page's sections, and the options in each, by parameter name.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Restoration": ("preset", "model", "strength", "whole", "assignments"),
    "Measurement": ("degrade", "pairs", "everything", "only"),
    "Selection": ("include", "exclude", "flat", "files_from", "null", "begin", "end", "sample"),
    "Output": ("format", "codec", "crf", "name", "overwrite", "explain", "dry_run"),
    "Machine": ("device", "precision", "batch", "jobs", "cluster", "fail_fast"),
    "Messages": ("as_json", "log_file", "report", "quiet", "verbose", "color"),
}


class Command(click.Command):
    """A command whose help page lists its options by purpose instead of in one heap."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one block per section of `SECTIONS`, then whatever is in none."""
        records = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                records[parameter.name] = record
        for title, names in SECTIONS.items():
            _write(title, [records.pop(name) for name in names if name in records], formatter)
        _write("Other", list(records.values()), formatter)


def _write(title: str, rows: list[tuple[str, str]], formatter: click.HelpFormatter) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)


class CountOrAuto(_CountOrAutoType):
    """A whole number from 1, or `auto`."""

    name = "auto|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number, or the text `auto`."""
        if str(value).lower() == "auto":
            return "auto"
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"'{value}' is neither 'auto' nor a whole number from 1.", param, ctx)
        return int(value)


class FormatChoice(click.Choice[str]):
    """A format that this installation writes; for the others, how to get them."""

    def __init__(self) -> None:
        extra = [name for name in EXTRA_FORMATS if format_named(name).available]
        super().__init__([*FORMATS, *extra], case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the format's name, in lower case."""
        name = str(value).lower()
        if name in EXTRA_FORMATS and name not in self.choices:
            self.fail(f"'{name}' is not available; {format_named(name).remedy}", param, ctx)
        return super().convert(value, param, ctx)


@dataclass(frozen=True)
class ModelOptions:
    """What restores, and where; None for what was not given."""

    preset: str | None
    model: str | None
    strength: float | None
    device: str | None
    precision: str | None
    batch: int | str | None
    whole: bool
    assignments: tuple[str, ...]

    @property
    def label(self) -> str:
        """The preset's name as headlines and file names show it."""
        preset = self.preset or os.environ.get("VARFIX_PRESET") or "auto"
        return Path(preset).stem if preset.endswith((".yaml", ".yml")) else preset

    def resolve(self, terminal: Terminal, more: Mapping[str, Any] | None = None) -> Resolved:
        """Return the settings of this run, each value with its origin.

        Args:
            terminal: Shows a warning for each setting that was given under an old key.
            more: Settings given by other options, by dotted key; None for options not given.

        Raises:
            ConfigError: A preset, variable or option is not understood.
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
        # `auto` must also undo what a preset file says, which None in `flags` would not.
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
    """Where the machine-readable record of the run goes."""

    as_json: bool
    log_file: Path | None


def packed(name: str, record: type[Record], *options: Decorator) -> Decorator:
    """Offer `options`, and hand their values to the command as one `record` called `name`."""
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


model_options = packed(
    "model",
    ModelOptions,
    click.option(
        "-p",
        "--preset",
        metavar="NAME|FILE",
        shell_complete=preset_items,
        help="What is wrong with the images: auto, denoise, dejpeg, derain, dehaze, lowlight,"
        " deblur, desnow; 'fast' for 8-bit integers on a CPU; or a YAML file of settings."
        "  [default: auto]",
    ),
    click.option(
        "-m",
        "--model",
        metavar="NAME|PATH",
        shell_complete=model_items,
        help="A model's name ('varfix models' lists them) or an .onnx file, also one from"
        " elsewhere.  [default: from the preset]",
    ),
    click.option(
        "-s",
        "--strength",
        type=click.FloatRange(0, 1),
        metavar="0..1",
        help="How much of the restoration to apply: 0 keeps the source, 1 takes the model's"
        " result, values between are a blend.  [default: 1]",
    ),
    click.option(
        "-d",
        "--device",
        metavar="DEVICE",
        shell_complete=device_items,
        help="auto, cpu, cuda, cuda:1, tensorrt. 'auto' takes the best one that really works; a"
        " device asked for by name is used, or the run fails with code 5.  [default: auto]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "int8"]),
        help="Arithmetic. 'auto' uses fp16 only where device and model are known to be good at"
        " it; 'int8' makes a CPU faster, for a few hundredths of a dB.  [default: auto]",
    ),
    click.option(
        "--batch",
        type=CountOrAuto(),
        metavar="auto|N",
        help="Tiles per run; 'auto' goes by free memory. It changes speed and memory, not"
        " results.  [default: auto]",
    ),
    click.option(
        "--whole",
        is_flag=True,
        help="For models of one size only, such as varformer-d16: squash each image to that size"
        " and stretch it back, as their own programs do, instead of cutting tiles.",
    ),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any setting of a preset file, such as tile.overlap=48 or output.jpeg_quality=90;"
        " may be repeated. 'varfix dir -nv SRC DST' lists all keys.",
    ),
)

output_options = packed(
    "output",
    OutputOptions,
    click.option(
        "-f",
        "--format",
        type=FormatChoice(),
        help="Format of the results; 'keep' is the source's own.  [default: keep]",
    ),
    click.option(
        "--overwrite",
        is_flag=True,
        help="Replace outputs that exist, but for those already made exactly as asked for.",
    ),
    click.option(
        "-n",
        "--dry-run",
        is_flag=True,
        help="Show what would be done and with which model and device, then stop. With -v also"
        " every setting and where it comes from.",
    ),
)

event_options = packed(
    "events",
    EventOptions,
    click.option("--json", "as_json", is_flag=True, help="Write events as JSON lines to stdout."),
    click.option(
        "--log-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="PATH",
        help="Append the same JSON lines to a file, whatever the screen shows.",
    ),
)


def terminal_options(function: Function) -> Function:
    """Offer -q, -v and --color, and pass the `Terminal` that they configure as `terminal`."""

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


# Eager, so that the other options' error messages already obey them.
_TERMINAL_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_configure,
        help="Show errors only.",
    ),
    click.option(
        "-v",
        "--verbose",
        count=True,
        is_eager=True,
        expose_value=False,
        callback=_configure,
        help="Show more; -vv also shows tracebacks.",
    ),
    click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        is_eager=True,
        expose_value=False,
        callback=_configure,
        help="Color messages; 'auto' honors NO_COLOR, FORCE_COLOR and TERM=dumb.  [default: auto]",
    ),
)
