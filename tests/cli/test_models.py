"""`varfix models` lists models and finds damaged ones."""

import json

import pytest

from varfix.engine.models.registry import MODELS


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_every_known_model_is_listed(varfix, arguments):
    result = varfix("models", *arguments)
    assert result.exit_code == 0
    for entry in MODELS.values():
        assert entry.name in result.stdout
        assert entry.summary in result.stdout


def test_the_list_in_json_shows_what_is_installed(varfix):
    rows = json.loads(varfix("models", "list", "--json").stdout)
    assert [row["name"] for row in rows] == list(MODELS)
    assert all(isinstance(row["installed"], bool) for row in rows)


def test_show_prints_the_card_of_a_file(varfix, shelf):
    path = shelf.restore(card=shelf.card(name="mine", tasks=("noise", "rain")))
    text = varfix("models", "show", path).stdout
    assert "noise, rain" in text
    assert "CC0-1.0" in text
    assert json.loads(varfix("models", "show", path, "--json").stdout)["tile"] == 64


def test_the_values_of_a_card_are_in_one_column(varfix, shelf):
    card = shelf.card(network="NAFNet", network_license="MIT", level="noise", level_default=15.0)
    lines = varfix("models", "show", shelf.restore(card=card)).stdout.splitlines()
    begins = {len(line) - len(line.partition(" ")[2].lstrip()) for line in lines}
    assert len(begins) == 1
    assert any(line.split() == ["license", "CC0-1.0"] for line in lines)


def test_an_unknown_model_is_exit_4(varfix):
    result = varfix("models", "show", "varformer-z")
    assert result.exit_code == 4
    assert "varformer-s" in result.stderr


def test_verify_accepts_a_whole_model(varfix, shelf):
    result = varfix("models", "verify", shelf.pair())
    assert result.exit_code == 0
    assert "ok, sha256" in result.stdout


def test_verify_finds_every_broken_file_and_checks_the_rest(varfix, shelf):
    whole = shelf.restore("whole.onnx")
    broken = shelf.restore("broken.onnx")
    data = bytearray(broken.read_bytes())
    at = data.index(b"Identity")
    data[at : at + 8] = b"Sigmoid_"
    broken.write_bytes(data)
    result = varfix("models", "verify", broken, whole)
    assert result.exit_code == 4
    assert "broken.onnx: checksum mismatch" in result.stderr
    assert f"{whole}: ok" in result.stdout
