"""The `varfix` command: imports commands lazily and turns errors into exit codes.

This module imports nothing heavy, so that `varfix --help` is fast.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, NoReturn

import click
from click.shell_completion import shell_complete

from varfix.cli.signals import exit_on_termination
from varfix.cli.stdio import discard, open_missing, silence_libraries
from varfix.cli.terminal import Terminal, join_hint
from varfix.engine.errors import (
    DiskFullError,
    ExitCode,
    HostMemoryError,
    NothingToDoError,
    VarfixError,
)

# Texts of errors of the system's loader, C++ and ONNX Runtime about lack of memory.
_NO_MEMORY: Final = (
    "cannot allocate memory",
    "failed to map segment",
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
)

# One line for each command, here and not in its module, so that `--help` need not import it. The
# module is `varfix.cli.commands.NAME`, with `_` for `-`.
COMMANDS: dict[str, str] = {
    "dir": "Restore a folder of images, and its subfolders.",
    "image": "Restore one image; '-' reads stdin or writes stdout.",
    "video": "Restore a video; audio, subtitles and timestamps are kept.",
    "diagnose": "Say what is wrong with the images of a folder; write nothing.",
    "blend": "Change the strength of results, without the model.",
    "undo": "Bring the originals back after 'varfix dir --in-place'.",
    "eval": "Measure PSNR and SSIM of restored images.",
    "bench": "Measure the speed of a model on this machine.",
    "models": "List, show, fetch and verify models.",
    "doctor": "Check which devices and formats work on this machine.",
    "export-onnx": "Export a checkpoint to ONNX.",
    "train": "Train a restoration network on a folder of images.",
    "completion": "Print a shell completion script for bash, zsh or fish.",
}

EPILOG = """\b
Examples:
  varfix dir photos restored                 restore every image under photos/
  varfix dir -p denoise photos restored      remove noise only
  varfix dir --in-place photos               replace images, keep the originals
  varfix undo photos                         bring the originals back
  varfix image night.jpg night.fixed.jpg     one image
  varfix video clip.mp4                      one video, to clip.varfix.mp4
  curl -s URL | varfix image - - > out.png   from stdin to stdout

\b
To resume an interrupted run, run the same command again: finished images are
skipped. A file under its final name is always complete.

\b
Exit codes:
  0  every image was restored, or skipped because it is up to date
  1  the run finished, but some images failed (each is named)
  2  invalid usage or configuration
  3  nothing to do: no readable image matched
  4  model missing, damaged, or not one that varfix can run
  5  device unavailable, or out of memory
  6  output problem: disk full, permission denied, or folder locked by another run
  130 / 143 / 141  stopped by Ctrl-C / by SIGTERM / reader of stdout closed it

\b
Settings are taken from, strongest first: options and --set, VARFIX_* variables,
--preset, ./varfix.yaml, the user's varfix.yaml, built-in values.
"""


class LazyGroup(click.Group):
    """A group that imports the module of a command when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names, the most used first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None if there is no command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"varfix.cli.commands.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown name, suggest a similar one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(_unknown_command(name), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview from `COMMANDS`, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="varfix", message="varfix %(version)s")
def main() -> None:
    """Restore damaged images and videos: noise, rain, haze, low light, blur, snow.

    varfix never changes or deletes its inputs; --in-place replaces them and keeps the originals. It
    keeps names, sizes, orientation, color profiles and metadata, and uses a GPU if one works.
    """


def run() -> NoReturn:
    """Run the command line and exit with its exit code; entry point of the script."""
    open_missing()
    if not _is_debugging(sys.argv):
        silence_libraries()
    exit_on_termination()
    sys.exit(invoke(sys.argv[1:]))


def _is_debugging(arguments: Sequence[str]) -> bool:
    """Return whether debugging output is on, so that output of libraries is shown."""
    return "-vv" in arguments or os.environ.get("VARFIX_DEBUG", "") not in ("", "0")


def invoke(arguments: Sequence[str]) -> int:
    """Run the command line `arguments` and return its exit code; never raises."""
    terminal = Terminal()
    try:
        code = _dispatch(arguments, terminal)
        sys.stdout.flush()
    except BaseException as error:
        code = _exit_code(error, terminal)
    return code


def _unknown_command(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"commands: {', '.join(COMMANDS)}"
    return f'unknown command "{name}"; {hint}'


def _dispatch(arguments: Sequence[str], terminal: Terminal) -> int:
    completion = os.environ.get("_VARFIX_COMPLETE")
    if completion:
        return shell_complete(main, {}, "varfix", "_VARFIX_COMPLETE", completion)
    # Not `main.main`: click exits with 1 on a closed pipe and on Ctrl-C, even in standalone mode
    # off.
    with main.make_context("varfix", list(arguments), obj=terminal) as context:
        result = main.invoke(context)
    return result if isinstance(result, int) else ExitCode.OK


def _exit_code(error: BaseException, terminal: Terminal) -> int:
    """Print `error` and return its exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else ExitCode.PARTIAL
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        discard(sys.stdout)
        return ExitCode.SIGPIPE
    if isinstance(error, KeyboardInterrupt | EOFError | click.Abort):
        terminal.error("interrupted")
        return ExitCode.SIGINT
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    return _report(error, terminal)


def _report(error: BaseException, terminal: Terminal) -> int:
    known = _translated(error)
    if known is not None:
        for name in known.ignored if isinstance(known, NothingToDoError) else ():
            terminal.detail(f"ignored {name}")
        terminal.error(join_hint(known.message, known.hint))
        code = known.exit_code
    else:
        terminal.error(
            f"internal error: {type(error).__name__}: {error}; please report it with the output of"
            " -vv"
        )
        code = ExitCode.PARTIAL
    _show_traceback(error, terminal)
    return code


def _translated(error: BaseException) -> VarfixError | None:
    if isinstance(error, VarfixError):
        return error
    if _lacks_memory(error):
        return HostMemoryError("not enough memory to start", hint="close other programs")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{error.filename or 'output'}: no space left on the disk")
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        return VarfixError(f"{place}{error.strerror or error}")
    return None


def _lacks_memory(error: BaseException) -> bool:
    """Return whether Python, the system or a library could not get memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return not isinstance(error, OSError) and any(words in text for words in _NO_MEMORY)


def _show_traceback(error: BaseException, terminal: Terminal) -> None:
    text = "".join(traceback.format_exception(error))
    if terminal.verbose >= 2:
        click.echo(text, err=True)
    if os.environ.get("VARFIX_DEBUG", "") not in ("", "0"):
        click.echo(f"traceback written to {_write_traceback(text)}", err=True)


def _write_traceback(text: str) -> Path:
    from varfix.engine.system.app_folders import cache_folder

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("traceback-%Y%m%d-%H%M%S.txt")
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path
