"""Released models are fetched, converted once, listed, verified and removed by name.

That what the exporter writes is the network is tests/onnx/test_released.py's business; here it
writes a graph that returns its input.
"""

import hashlib
import json
import shutil

import numpy as np
import pytest
from support.http_server import Server

from varfix.engine.errors import ExitCode, ModelContractError
from varfix.engine.models.registry import MODELS
from varfix.onnx.export import architectures

CONTENT = bytes(range(256)) * 8000  # 2 MB
OFFICIAL = ("--arch", "varformer")
PATH = "/wsy541/VarFormer/resolve/main/net_g_last.pth"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setenv("VARFIX_MODELS", str(folder))
    for variable in ("VARFIX_MIRROR", "VARFIX_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture(autouse=True)
def exported(shelf, monkeypatch):
    """What was given to the exporter, which only writes the identity."""
    calls = []

    def export(architecture, checkpoints, target, facts):
        calls.append((architecture, [path.read_bytes() for path in checkpoints], facts))
        made = shelf.restore("made.onnx", card=shelf.card(name=target.stem, licence=facts.licence))
        shutil.move(made, target)

    monkeypatch.setattr(architectures, "export_model", export)
    return calls


@pytest.fixture
def server(monkeypatch):
    made = Server(CONTENT, PATH)
    monkeypatch.setenv("VARFIX_MIRROR", made.root)
    yield made
    made.close()


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "net_g_last.pth"
    path.write_bytes(CONTENT)
    return path


def left(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_pulled_model_is_there_whole(varfix, server, folder, exported):
    result = varfix("models", "pull", "varformer-d16")
    assert result.exit_code == 0, result.stderr
    assert server.paths == [PATH]
    ((architecture, contents, facts),) = exported
    assert (architecture, contents) == ("varformer", [CONTENT])
    assert (facts.depth, facts.licence) == (16, "LicenseRef-unstated")
    made = folder / "varformer-d16"
    assert left(made) == ["LICENSE.md", "origin.json", "varformer-d16.onnx"]
    assert "No license for this code" in (made / "LICENSE.md").read_text()
    (origin,) = json.loads((made / "origin.json").read_text())["files"]
    assert origin["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert origin["size"] == len(CONTENT)
    assert left(folder / ".downloads" / "varformer-d16") == []
    assert "No license for this code" in result.stderr  # shown before it is used


def test_a_pulled_model_can_be_used_listed_verified_and_removed(
    varfix, server, folder, image, pixels, tmp_path
):
    varfix("models", "pull", "-q", "varformer-d16")
    rows = json.loads(varfix("models", "list", "--json").stdout)
    assert {row["name"]: row["installed"] for row in rows}["varformer-d16"]
    assert "varformer-d16: ok" in varfix("models", "verify").stdout
    source = image(tmp_path / "in.png")
    assert varfix("image", "-m", "varformer-d16", source, tmp_path / "out.png").exit_code == 0
    assert np.array_equal(pixels(tmp_path / "out.png"), pixels(source))
    assert varfix("models", "rm", "varformer-d16").exit_code == 0
    assert left(folder) == [".downloads"]
    assert varfix("models", "rm", "varformer-d16").exit_code == ExitCode.MODEL


def test_an_interrupted_download_is_resumed_by_the_same_command(
    varfix, server, folder, monkeypatch
):
    monkeypatch.setattr("varfix.engine.system.download.time.sleep", lambda seconds: None)
    server.cut_after = [1_000_000] + [0] * 9
    result = varfix("models", "pull", "varformer-d16")
    assert result.exit_code == ExitCode.MODEL
    assert "1000000 of 2048000" in result.stderr
    assert "run the same command again to resume" in result.stderr
    server.cut_after, server.asked = [], []
    assert varfix("models", "pull", "varformer-d16").exit_code == 0
    assert server.asked == ["bytes=1000000-"]


def test_a_corrupted_download_is_exit_4_and_installs_nothing(varfix, server, folder, exported):
    server.redirect_digest = hashlib.sha256(CONTENT).hexdigest()
    server.content = CONTENT[:-1] + b"!"
    result = varfix("models", "pull", "varformer-d16")
    assert result.exit_code == ExitCode.MODEL
    assert "checksum mismatch" in result.stderr
    assert "download removed" in result.stderr
    assert exported == []
    assert left(folder / ".downloads" / "varformer-d16") == []


def test_another_file_at_the_same_address_is_noticed(varfix, server, exported):
    varfix("models", "pull", "-q", "varformer-d16")
    server.content, server.etag = CONTENT[::-1], '"two"'
    result = varfix("models", "pull", "--overwrite", "varformer-d16")
    assert result.exit_code == ExitCode.MODEL
    assert "differs from the previous download" in result.stderr
    assert len(exported) == 1


@pytest.mark.parametrize("how", [{"VARFIX_OFFLINE": "1"}, {}])
def test_offline_prints_a_hint_and_sends_no_request(varfix, server, monkeypatch, how):
    for name, value in how.items():
        monkeypatch.setenv(name, value)
    result = varfix("models", "pull", "varformer-d16", *([] if how else ["--offline"]))
    assert result.exit_code == ExitCode.MODEL
    assert f"{server.root}{PATH}" in result.stderr
    assert "varfix models import varformer-d16 FILE" in result.stderr
    assert server.asked == []


def test_the_checkpoint_stays_with_an_option(varfix, server, folder):
    varfix("models", "pull", "-q", "--keep", "varformer-d16")
    kept = folder / ".downloads" / "varformer-d16" / "net_g_last.pth"
    assert kept.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["varformer-s", "varformer-z"])
def test_only_published_models_can_be_pulled(varfix, server, name):
    result = varfix("models", "pull", name)
    assert result.exit_code == ExitCode.USAGE
    assert "pull one of varformer-d16" in result.stderr


def test_an_imported_model_has_the_name_and_facts_that_were_given(
    varfix, checkpoint, folder, exported, tmp_path
):
    (tmp_path / "terms.txt").write_text("do as you like")
    options = ("--licence", "MIT", "--training", "rain", "--terms", tmp_path / "terms.txt")
    assert varfix("models", "import", "mine", checkpoint, *OFFICIAL, *options).exit_code == 0
    ((architecture, _, facts),) = exported
    assert (architecture, facts.licence, facts.training, facts.depth) == (
        "varformer",
        "MIT",
        "rain",
        None,
    )
    assert (folder / "mine" / "LICENSE.md").read_text() == "do as you like"
    assert "mine" in varfix("models").stdout


def test_an_installed_model_is_replaced_only_with_an_option(varfix, checkpoint, exported):
    assert varfix("models", "import", "mine", checkpoint, *OFFICIAL).exit_code == 0
    again = varfix("models", "import", "mine", checkpoint, *OFFICIAL)
    assert again.exit_code == ExitCode.USAGE
    assert "--overwrite" in again.stderr
    assert varfix("models", "import", "--overwrite", "mine", checkpoint, *OFFICIAL).exit_code == 0
    assert len(exported) == 2


def test_a_failed_import_leaves_the_installed_model_alone(varfix, checkpoint, folder, monkeypatch):
    assert varfix("models", "import", "mine", checkpoint, *OFFICIAL).exit_code == 0
    before = {p.name: p.read_bytes() for p in (folder / "mine").iterdir()}

    def fail(architecture, checkpoints, target, facts):
        target.write_bytes(b"half of it")
        raise ModelContractError("not the network")

    monkeypatch.setattr(architectures, "export_model", fail)
    failed = varfix("models", "import", "--overwrite", "mine", checkpoint, *OFFICIAL)
    assert failed.exit_code == ExitCode.MODEL
    assert {p.name: p.read_bytes() for p in (folder / "mine").iterdir()} == before
    assert left(folder) == ["mine"]


def test_files_of_a_killed_import_are_removed_or_restored(varfix, checkpoint, folder):
    assert varfix("models", "import", "mine", checkpoint, *OFFICIAL).exit_code == 0
    (folder / ".mine.part").mkdir()
    (folder / ".mine.part" / "mine.onnx").write_bytes(b"half of it")
    (folder / "mine").rename(folder / ".mine.old")  # killed between two renames
    assert varfix("models", "import", "mine", checkpoint, *OFFICIAL).exit_code == 0
    assert left(folder) == ["mine"]


def test_a_disk_without_room_is_exit_6(varfix, checkpoint, monkeypatch, tmp_path, exported):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    result = varfix("models", "import", "mine", checkpoint, *OFFICIAL)
    assert result.exit_code == ExitCode.OUTPUT
    assert "no space left" in result.stderr
    assert exported == []


@pytest.mark.parametrize("name", ["varformer-s", "../evil", "Mine", "a/b", "x.onnx", ""])
def test_used_or_invalid_names_are_rejected(varfix, checkpoint, name):
    assert varfix("models", "import", name, checkpoint).exit_code == ExitCode.USAGE


def test_a_missing_checkpoint_is_exit_4(varfix, tmp_path):
    assert varfix("models", "import", "mine", tmp_path / "gone.pth").exit_code == ExitCode.MODEL


def test_an_unknown_architecture_is_named(varfix, checkpoint):
    result = varfix("models", "import", "mine", checkpoint, "--arch", "resnet")
    assert result.exit_code == ExitCode.USAGE
    assert 'unknown architecture: "resnet"' in result.stderr


def test_the_error_about_a_missing_published_model_has_a_hint(varfix):
    assert MODELS["varformer-d16"].release
    result = varfix("models", "show", "varformer-d16")
    assert result.exit_code == ExitCode.MODEL
    assert "varfix models pull varformer-d16" in result.stderr


@pytest.mark.parametrize("command", [("models", "import"), ("export-onnx",)])
def test_the_old_spelling_of_license_works_but_is_hidden(varfix, command):
    text = varfix(*command, "--help").stdout
    assert "--license SPDX" in text
    assert "--licence" not in text
    given = varfix(*command, "--licence")
    assert "requires an argument" in given.stderr
