"""`varfix blend`: mix images with their results at another strength, without the model."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.options import Command, option, options_record, terminal_options
from varfix.cli.signals import handle_signals
from varfix.cli.terminal import Terminal, join_hint
from varfix.engine.errors import ExitCode, NothingToDoError, PlanError, VarfixError
from varfix.engine.formats import format_of
from varfix.engine.system.counts import counted, them

if TYPE_CHECKING:
    from varfix.engine.batch.blending import BlendItem, BlendPlan, BlendRun
    from varfix.engine.settings.types import Settings

_EPILOG: Final = """\b
Examples:
  varfix dir photos restored
  varfix blend -s 0.6 photos restored softer           the same at 60 %, in seconds
  varfix blend --set strength.luma=0.6 photos restored grainy   all color noise removed
  varfix blend -s 0.6 night.jpg night.fixed.jpg night.softer.jpg

\b
The model is not used, and need not be installed. OUT is what 'varfix dir -s' would
write at this strength, with metadata and file times of SRC, and with the names and
formats of DST. From results that are compressed with loss, such as JPEG, it also
has a share of their loss.
"""


_STRENGTHS: Final = ("strength", "strength.luma", "strength.chroma")


@dataclass(frozen=True)
class BlendOptions:
    """Options of the command."""

    strength: float | None
    assignments: tuple[str, ...]
    overwrite: bool

    def settings(self) -> Settings:
        """Return the settings, of which strength, output, io and limits count.

        Raises:
            ConfigError: A variable, file or option is invalid.
            click.UsageError: No strength is given.
        """
        from varfix.engine.settings.resolve import resolve, standard_layers

        flags = {"strength": self.strength, "output.format": "keep"}
        layers = standard_layers(
            (), Path.cwd(), flags=flags, assignments=self.assignments, environ=os.environ
        )
        resolved = resolve(layers)
        given = {key: resolved.origins[key] for key in _STRENGTHS}
        if set(given.values()) == {"built in"}:
            raise click.UsageError("Missing option '-s' / '--strength'.")
        return resolved.settings


_options = options_record(
    "options",
    BlendOptions,
    option(
        "Restoration",
        "-s",
        "--strength",
        type=click.FloatRange(0, 1),
        metavar="0..1",
        help="Share of the result: 0 returns the source, 1 the result. Required, unless"
        " strength.luma and strength.chroma are set, the shares in brightness and in color.",
    ),
    option(
        "Output",
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a setting, for example strength.luma=0.6 or output.metadata=safe; may be"
        " repeated.",
    ),
    option(
        "Output",
        "--overwrite",
        is_flag=True,
        help="Replace existing files; blends that are up to date are still skipped.",
    ),
)


@click.command("blend", cls=Command, epilog=_EPILOG)
@click.argument("src", type=click.Path(exists=True, path_type=Path))
@click.argument("dst", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_options
@terminal_options
def command(src: Path, dst: Path, out: Path, options: BlendOptions, terminal: Terminal) -> int:
    """Blend SRC, an image or a folder, with its result DST, and write OUT.

    In folders, the result of an image is found by the manifest of DST, else by its name.
    """
    from varfix.engine.batch.blending import BlendRun
    from varfix.engine.batch.stop import StopRequest
    from varfix.engine.storage.local import LocalStore
    from varfix.engine.storage.manifest import FileManifest

    settings, stop = options.settings(), StopRequest()
    _check_apart(src, dst, out)
    plan = _plan(src, dst, out, options.overwrite)
    for name in plan.missing:
        terminal.warn(f"{src / name}: {dst} holds no result of this image")
    if plan.videos:
        videos = counted(len(plan.videos), "video is", "videos are")
        terminal.warn(f"{videos} skipped: only images are blended")
    if not plan.items:
        raise NothingToDoError(f"{dst} holds no result of an image in {src}")

    def report(item: BlendItem, text: VarfixError | str) -> None:
        if isinstance(text, str):
            terminal.warn(f"{item.source}: {text}")
        else:
            terminal.error(join_hint(f"{item.source}: {text.message}", text.hint))

    store = LocalStore(out if src.is_dir() else plan.items[0].target.parent)
    manifest = FileManifest(out) if src.is_dir() else None
    run = BlendRun(settings, store, manifest, options.overwrite, report, stop.is_set)
    with ExitStack() as stack:
        drop = store.discard_unfinished
        stack.enter_context(handle_signals(stop, terminal.say, lambda: _summary(run), drop))
        stack.enter_context(terminal.busy(f"Blending {counted(len(plan.items), 'image')}"))
        run.run(plan.items)
    terminal.say(_summary(run))
    if run.kept:
        kept = counted(run.kept, "existing file is", "existing files are")
        terminal.warn(f"{kept} left alone; use --overwrite to replace {them(run.kept)}")
    if stop.code is not None:
        return stop.code
    return ExitCode.PARTIAL if run.failed or plan.missing else ExitCode.OK


def _plan(src: Path, dst: Path, out: Path, overwrite: bool) -> BlendPlan:
    from varfix.engine.batch.blending import BlendItem, BlendPlan, plan_blends

    if src.is_dir() != dst.is_dir():
        raise click.UsageError("SRC and DST must both be files, or both be folders")
    if src.is_dir():
        if out.exists() and not out.is_dir():
            raise click.UsageError(f"OUT {out} is not a folder")
        return plan_blends(src, dst, out)
    target = out / dst.name if out.is_dir() else out
    if format_of(target) is None:
        raise click.UsageError(f"{target}: unknown extension")
    if target.exists() and not overwrite:
        raise PlanError(f"{target} exists", hint="add --overwrite to replace it")
    return BlendPlan([BlendItem(src.name, target.name, src, dst, target)])


def _check_apart(src: Path, dst: Path, out: Path) -> None:
    """Reject an OUT that is SRC or DST: a second blend would start from the first blend."""
    for name, path in (("SRC", src), ("DST", dst)):
        if out.resolve() == path.resolve():
            raise click.UsageError(f"OUT is {name}: name another file or folder")


def _summary(run: BlendRun) -> str:
    counts = {"blended": run.done, "up to date": run.skipped, "failed": run.failed}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing done"
