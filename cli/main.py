"""The `varfix` command: commands loaded when asked for, errors turned into exit codes once.

Nothing heavy is imported here: `varfix --help` must answer at once.
"""

from __future__ import annotations

import difflib
import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click
from click.shell_completion import shell_complete

from varfix.cli.stdio import discard, open_missing, silence_libraries
from varfix.cli.terminal import Terminal, worded
from varfix.engine.errors import DiskFullError, ExitCode, HostMemoryError, VarfixError

# What the system's loader, C++ and ONNX Runtime say when there is no memory.
_NO_MEMORY: Final = (
    "cannot allocate memory",
    "failed to map segment",
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
)

# The overview's line of each command, which must not cost an import of the command. Its module is
# `varfix.cli.commands.NAME`, with `_` for `-`.
COMMANDS: dict[str, str] = {
    "dir": "Restore a folder of images, and its subfolders.",
    "image": "Restore one image; '-' reads stdin or writes stdout.",
    "video": "Restore a clip: frames, with sound and times as is.",
    "eval": "Measure PSNR and SSIM of restored images.",
    "bench": "Measure the speed of a model on this machine.",
    "models": "List, show, fetch and verify models.",
    "doctor": "Check which devices and formats really work here.",
    "export-onnx": "Turn a training checkpoint into a model.",
    "train": "Train a restoration network on a folder of photos.",
    "completion": "Let bash, zsh or fish complete all this.",
}

EPILOG = """\b
Examples:
  varfix dir photos restored                 restore every image under photos/
  varfix dir -p denoise photos restored      only noise is to be removed
  varfix image night.jpg night.fixed.jpg     one image
  varfix video clip.mp4                      one clip, into clip.varfix.mp4
  curl -s URL | varfix image - - > out.png   bytes in, bytes out

\b
Stopped or failed half-way? Run the same command again: finished images are
skipped, and a file under its final name is always complete.

\b
Exit codes:
  0  every image was restored, or skipped because it already was
  1  finished, but some images failed (each is named)
  2  wrong usage or configuration
  3  nothing to do: no readable image matched
  4  model missing, damaged, or not one that varfix can run
  5  device unavailable, or out of memory
  6  output problem: disk full, permission, or another run holds the folder
  130 / 143 / 141  stopped by Ctrl-C / by SIGTERM / reader of the output went away

\b
Settings come from, strongest first: options and --set, VARFIX_* variables,
the --preset, ./varfix.yaml, the user's configuration, built-in values.
"""


class LazyGroup(click.Group):
    """A group that imports a command's module when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"varfix.cli.commands.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, suggesting near names for a mistyped one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(_unknown_command(name), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview from the table above, importing no command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="varfix", message="varfix %(version)s")
def main() -> None:
    """Restore damaged photographs and clips: noise, rain, haze, darkness, blur, snow.

    varfix never changes or deletes its inputs, keeps names, sizes, orientation, color profiles and
    metadata, and uses a graphics card when there is one that really works.
    """


def run() -> NoReturn:
    """Run the command line and leave with its exit code: the entry point of the script."""
    open_missing()
    if not _is_debugging(sys.argv):
        silence_libraries()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminated)
    sys.exit(invoke(sys.argv[1:]))


def _is_debugging(arguments: Sequence[str]) -> bool:
    """Return whether somebody looks for a fault and wants to read what libraries print."""
    return "-vv" in arguments or os.environ.get("VARFIX_DEBUG", "") not in ("", "0")


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """Leave in order, removing temporary files; a run of images listens by itself instead."""
    raise SystemExit(int(ExitCode.SIGTERM))


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
    # Not `main.main`: click answers a closed pipe and Ctrl-C with exit code 1, even when asked to
    # leave errors alone.
    with main.make_context("varfix", list(arguments), obj=terminal) as context:
        result = main.invoke(context)
    return result if isinstance(result, int) else ExitCode.OK


def _exit_code(error: BaseException, terminal: Terminal) -> int:
    """Tell people about `error` and return the exit code it stands for."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else ExitCode.PARTIAL
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        discard(sys.stdout)
        return ExitCode.SIGPIPE
    if isinstance(error, KeyboardInterrupt | EOFError | click.Abort):
        terminal.error("Interrupted.")
        return ExitCode.SIGINT
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    return _report(error, terminal)


def _report(error: BaseException, terminal: Terminal) -> int:
    known = _translated(error)
    if known is not None:
        terminal.error(worded(known.message, known.hint))
        code = known.exit_code
    else:
        terminal.error(
            f"varfix broke: {type(error).__name__}: {error}. Please report it with the traceback"
            " that -vv shows."
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
        return DiskFullError(f"{error.filename or 'output'}: no space left")
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
        click.echo(f"Traceback written to {_write_traceback(text)}", err=True)


def _write_traceback(text: str) -> Path:
    from varfix.engine.system.app_folders import cache_folder

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("traceback-%Y%m%d-%H%M%S.txt")
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path
