"""`varfix bench` as a user runs it."""

import json

import pytest

from varfix.cli.commands.bench import command


@pytest.mark.parametrize("sizes", ["", "2,", "0", "-1", "two", "1e6", "nan"])
def test_invalid_sizes_are_rejected(varfix, sizes):
    result = varfix("bench", "--sizes", sizes)
    assert result.exit_code == 2
    assert "--sizes" in result.stderr


@pytest.mark.slow
def test_it_measures_the_shipped_model_and_names_the_machine(varfix):
    result = varfix("bench", "--sizes", "0.3", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["provider"] == "CPUExecutionProvider"
    assert report["machine"]["cores"] >= 1
    assert report["start_seconds"] > 0
    (row,) = report["sizes"]
    assert row["bare_mp_per_second"] > 0
    assert row["memory_mb"] > 50


def test_its_help_names_every_figure():
    assert all(word in (command.epilog or "") for word in ("bare", "end to end", "memory", "start"))
