"""The main command: overview, errors, exit codes."""

import errno
import os
import subprocess
import sys
import types

import click
import pytest

import varfix.cli.main as door
from varfix.cli.main import COMMANDS, invoke
from varfix.engine.errors import (
    DeviceUnavailableError,
    DiskFullError,
    ExitCode,
    ModelMissingError,
    NothingToDoError,
)

HEAVY = {"torch", "onnx", "onnxruntime", "cv2", "av", "PIL", "numpy", "rich"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["dir"], ["no-such-command"]])
def test_help_and_usage_errors_load_no_heavy_library(arguments):
    code = f"""
import sys
import types
from varfix.cli.main import invoke
invoke({arguments!r})
print("loaded:", *{HEAVY} & {{*sys.modules}})
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1].strip() == "loaded:"


def test_help_shows_every_command_and_every_exit_code(varfix):
    result = varfix("--help")
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert f"  {name}" in result.stdout
        assert line in result.stdout
    for code in ExitCode:
        assert str(int(code)) in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(varfix, name):
    result = varfix(name, "-h")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"Usage: varfix {name}")


@pytest.mark.parametrize("name", ["dir", "image", "eval", "train", "export-onnx", "models"])
def test_help_gives_examples_that_begin_with_the_command(varfix, name):
    examples = varfix(name, "--help").stdout.partition("Examples:")[2]
    assert f"varfix {name} " in examples


@pytest.mark.parametrize("name", ["dir", "image", "eval"])
def test_every_option_has_a_section_and_a_text(varfix, name):
    command = door.main.get_command(None, name)
    context = click.Context(command)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    other = command.get_help(context).partition("\nOther:")[2]
    assert other.split()[:2] == ["-h,", "--help"] or other.split()[0] == "--help"


def test_an_error_about_a_mistyped_command_names_the_nearest(varfix):
    result = varfix("dri", "a", "b")
    assert result.exit_code == ExitCode.USAGE
    assert 'unknown command "dri"; did you mean "dir"?' in result.stderr


def test_an_error_about_an_unknown_command_lists_all(varfix):
    assert "commands: dir, image" in varfix("zzz").stderr


def test_no_command_shows_help(varfix):
    result = varfix()
    assert result.exit_code == ExitCode.USAGE
    assert "Commands:" in result.stdout + result.stderr


def failing(monkeypatch, error):
    """Make `varfix boom` raise `error`."""

    @click.command("boom")
    def command():
        raise error

    module = types.ModuleType("varfix.cli.commands.boom")
    vars(module)["command"] = command
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "boom", "Fail.")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NothingToDoError("in: no images"), 3, "Error: in: no images"),
        (ModelMissingError("net: gone", hint="get it"), 4, "Error: net: gone; get it"),
        (DeviceUnavailableError("no cuda."), 5, "Error: no cuda."),
        (DiskFullError("out/: no space left"), 6, "Error: out/: no space left"),
        (OSError(errno.ENOSPC, "No space left on device", "out/a.png"), 6, "out/a.png: no space"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 1, "a: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.UsageError("wrong"), 2, "Error: wrong"),
        (SystemExit(7), 7, ""),
    ],
)
def test_every_kind_of_error_has_its_text_and_code(varfix, monkeypatch, error, code, text):
    failing(monkeypatch, error)
    result = varfix("boom")
    assert result.exit_code == code
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_a_closed_pipe_is_silent(monkeypatch, capsys):
    failing(monkeypatch, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    monkeypatch.setattr(door, "discard", lambda stream: None)  # capsys shares the real one
    assert invoke(["boom"]) == ExitCode.SIGPIPE
    assert capsys.readouterr().err == ""


def test_an_internal_error_requests_a_report(varfix, monkeypatch):
    failing(monkeypatch, TypeError("oops"))
    result = varfix("boom")
    assert result.exit_code == 1
    assert "internal error: TypeError: oops" in result.stderr


def test_varfix_debug_writes_the_traceback_to_a_file(varfix, monkeypatch, own_settings):
    monkeypatch.setenv("VARFIX_DEBUG", "1")
    failing(monkeypatch, NothingToDoError("nothing"))
    result = varfix("boom")
    assert "traceback written to" in result.stderr
    (path,) = own_settings.rglob("traceback-*.txt")
    assert "NothingToDoError: nothing" in path.read_text()


def test_verbose_twice_shows_the_traceback(varfix, tmp_path):
    arguments = ("eval", tmp_path, tmp_path)
    assert "Traceback" not in varfix(*arguments).stderr
    assert "Traceback" in varfix(*arguments, "-vv").stderr


def test_color_follows_the_option_and_environment_variables(varfix, tmp_path, monkeypatch):
    arguments = ("eval", tmp_path, tmp_path)
    assert "\x1b[" not in varfix(*arguments).stderr
    assert "\x1b[" not in varfix(*arguments, "--color", "never").stderr
    assert "\x1b[" in varfix(*arguments, "--color", "always").stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in varfix(*arguments).stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in varfix(*arguments).stderr


def test_the_shell_can_complete_commands(monkeypatch, capsys):
    monkeypatch.setenv("_VARFIX_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "varfix do")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert invoke([]) == 0
    assert "doctor" in capsys.readouterr().out


def test_output_into_a_closed_pipe_ends_with_141(process):
    reader, writer = os.pipe()
    os.close(reader)  # before the start: the help is written in one go
    running = process("--help", stdout=writer)
    os.close(writer)
    assert running.wait(30) == ExitCode.SIGPIPE
    assert running.stderr.read() == b""
