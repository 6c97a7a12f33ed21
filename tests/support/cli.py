"""The command line, run in this process with the exit codes that the script has."""

import sys

from click.testing import CliRunner

from varfix.cli.main import invoke

HOMES = (
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HOME", "APPDATA", "LOCALAPPDATA"),
)


class Script:
    """What `CliRunner` needs of a command: `run` without leaving the interpreter for good."""

    name = "varfix"

    def main(self, args, prog_name, **extra):
        sys.exit(invoke(args))


def run_here(*arguments, stdin=None):
    """Run `varfix ARGUMENTS`; the result has exit_code, stdout and stderr."""
    return CliRunner().invoke(Script(), [str(argument) for argument in arguments], input=stdin)


def move_home(monkeypatch, home):
    """Keep the settings of the machine, of its user and of the checkout out of a test."""
    for variable in HOMES:
        monkeypatch.setenv(variable, str(home))
    for variable in ("NO_COLOR", "FORCE_COLOR", "VARFIX_PRESET", "VARFIX_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(home)
    return home
