"""`varfix completion`: a script that completes commands, options, presets and models."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from varfix.cli.options import Command

VARIABLE: Final = "_VARFIX_COMPLETE"

_EPILOG: Final = """\b
Run once for your shell, then open a new one:
  bash   varfix completion bash > ~/.local/share/bash-completion/completions/varfix
  zsh    varfix completion zsh > ~/.zfunc/_varfix     (with ~/.zfunc in fpath)
  fish   varfix completion fish > ~/.config/fish/completions/varfix.fish

\b
For the current shell only:
  source <(varfix completion bash)
"""


@click.command("completion", cls=Command, epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a completion script for SHELL."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(click.Group("varfix"), {}, "varfix", VARIABLE).source())
