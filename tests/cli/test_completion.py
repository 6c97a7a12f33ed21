"""Shells complete commands, options, and the names that options take."""

import shutil
import subprocess
import sys

import pytest

from varfix.cli.main import COMMANDS, invoke
from varfix.engine.models.registry import MODELS
from varfix.engine.settings.presets import preset_names

SHELLS = ["bash", "zsh", "fish"]


@pytest.fixture
def offered(monkeypatch, capsys):
    """The words that bash offers at the end of a command line."""

    def ask(line):
        monkeypatch.setenv("_VARFIX_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        assert invoke([]) == 0
        return capsys.readouterr().out.split()

    return ask


def test_commands_are_offered(offered):
    assert offered("varfix ") == [f"plain,{name}" for name in COMMANDS]
    assert offered("varfix do") == ["plain,doctor"]


@pytest.mark.parametrize("command", ["dir", "image"])
def test_presets_are_offered_and_files(offered, command):
    assert offered(f"varfix {command} -p ") == ["file,", *(f"plain,{n}" for n in preset_names())]
    assert offered(f"varfix {command} --preset deh") == ["file,deh", "plain,dehaze"]
    assert offered(f"varfix {command} -p denoise,deh") == [
        "file,denoise,deh",
        "plain,denoise,dehaze",
    ]


@pytest.mark.parametrize("before", ["dir -m", "image a b --model", "models show", "models verify"])
def test_models_are_offered_and_files(offered, before):
    assert offered(f"varfix {before} ") == ["file,", *(f"plain,{name}" for name in MODELS)]
    assert offered(f"varfix {before} zzz") == ["file,zzz"]


def test_devices_choices_and_options_are_offered(offered):
    assert offered("varfix dir -d c") == ["plain,cpu", "plain,cuda"]
    assert offered("varfix dir --precision f") == ["plain,fp32", "plain,fp16"]
    assert offered("varfix dir --rep") == ["plain,--report"]
    assert offered("varfix completion ") == [f"plain,{shell}" for shell in SHELLS]


def test_folders_are_offered_where_folders_are_wanted(offered):
    assert offered("varfix dir ph") == ["dir,ph"]
    assert offered("varfix image ph") == ["file,ph"]


def test_a_preset_is_offered_with_what_it_is_for(monkeypatch, capsys):
    monkeypatch.setenv("_VARFIX_COMPLETE", "fish_complete")
    monkeypatch.setenv("COMP_WORDS", "varfix dir -p ")
    monkeypatch.setenv("COMP_CWORD", "deh")
    assert invoke([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "plain,dehaze\tRemove haze; fog and smoke." in lines
    assert all(line.count(",") == 1 for line in lines)  # the script cuts at the second


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_what_its_shell_understands(varfix, shell, tmp_path):
    result = varfix("completion", shell)
    assert result.exit_code == 0, result.stderr
    assert "_VARFIX_COMPLETE" in result.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(result.stdout)
    check = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, check=False)
    assert (check.returncode, check.stderr) == (0, b"")


def test_another_shell_is_refused_by_name(varfix):
    result = varfix("completion", "tcsh")
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_by_the_script(varfix, tmp_path):
    script = tmp_path / "script"
    script.write_text(varfix("completion", "bash").stdout)
    command = tmp_path / "varfix"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m varfix.cli "$@"\n')
    command.chmod(0o755)
    line = f"""
compopt() {{ :; }}
source "{script}"
COMP_WORDS=(varfix dir --preset der) COMP_CWORD=3
_varfix_completion "{command}"
echo "${{COMPREPLY[@]}}"
"""
    shell = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert shell.stdout.split() == ["derain"], shell.stderr
