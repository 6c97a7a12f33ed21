"""`varfix eval` prints what `engine.evaluate` measures."""

import json

import pytest

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def folders(tmp_path, image):
    for number, name in enumerate(("a.png", "sub/b.png")):
        image(tmp_path / "restored" / name, number)
        image(tmp_path / "target" / name, number + 10)
    return tmp_path / "restored", tmp_path / "target"


def rows(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_files_and_their_mean_are_printed(varfix, folders):
    result = varfix("eval", *folders)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["PSNR", "SSIM", "PSNR-Y", "SSIM-Y"]
    assert [line[0] for line in lines[1:]] == ["a.png", "sub/b.png", "mean"]
    first, second, average = (float(line[1]) for line in lines[1:])
    assert average == pytest.approx((first + second) / 2, abs=2e-3)


def test_json_has_a_line_per_file_and_one_for_the_mean(varfix, folders):
    first, second, average = rows(varfix("eval", "--json", *folders))
    assert first["file"] == "a.png"
    assert set(first["restored"]) == {"psnr", "ssim", "psnr_y", "ssim_y"}
    assert average["mean_of"] == 2
    middle = (first["restored"]["psnr"] + second["restored"]["psnr"]) / 2
    assert average["restored"]["psnr"] == pytest.approx(middle)
    assert "gain" not in average


def test_equal_images_are_null_in_json_and_inf_in_the_table(varfix, folders):
    target = folders[1]
    assert rows(varfix("eval", "--json", target, target))[-1]["restored"]["psnr"] is None
    assert "inf" in varfix("eval", target, target).stdout


def test_degrade_restores_and_shows_the_gain(varfix, folders, identity):
    arguments = ("eval", "--degrade", "noise:25", "-m", identity, "-d", "cpu", folders[1])
    result = varfix(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert "CPUExecutionProvider" in result.stderr
    first = rows(result)[0]
    assert first["gain"] == 0.0
    assert first["restored"] == first["input"]
    assert 18 < first["input"]["psnr"] < 24
    assert "gain" in varfix(*arguments).stdout.splitlines()[0]


def test_pairs_are_restored_first(varfix, folders, identity):
    result = varfix("eval", "--pairs", "-m", identity, "-d", "cpu", "--json", *folders)
    assert result.exit_code == 0, result.stderr
    plain = rows(varfix("eval", "--json", *folders))
    restored = rows(result)
    assert [row["restored"] for row in restored] == [row["restored"] for row in plain]
    assert restored[-1]["input"] == plain[-1]["restored"]


def test_targets_without_an_image_are_mentioned(varfix, folders, image):
    image(folders[1] / "c.png")
    assert "1 of the targets have no matching image" in varfix("eval", *folders).stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["."], "expected RESTORED and TARGET, got 1 path(s)"),
        (["--pairs", "."], "expected INPUT and TARGET, got 1"),
        (["--degrade", "noise:25", ".", "."], "expected CLEAN, got 2"),
        (["--degrade", "noise:25", "--pairs", "."], "exclude each other"),
        (["--all", ".", "--pairs"], "--pairs and --all exclude each other"),
        (["--all", ".", "."], "expected no path with --all, got 1"),
        (["--only", "kodak24", ".", "."], "require --all"),
        (["--compare", "mine", ".", "."], "require --all"),
        (["--degrade", "fog:1", "."], 'unknown degradation "fog"'),
        (["nowhere", "."], "'nowhere' does not exist"),
        (["-p", "denoize", ".", "."], 'did you mean "denoise"?'),
        (["--set", "tile.overlaps=3", ".", "."], 'did you mean "tile.overlap"?'),
    ],
)
def test_meaningless_usage_is_rejected(varfix, arguments, text):
    result = varfix("eval", *arguments)
    assert result.exit_code == 2
    assert text in result.stderr


def test_no_images_is_nothing_to_do(varfix, tmp_path):
    result = varfix("eval", tmp_path, tmp_path)
    assert result.exit_code == 3
    assert f"{tmp_path}: no images" in result.stderr


def test_all_prints_the_table_as_markdown_or_as_json(varfix, folders, identity):
    val = folders[0].parent / "val"
    val.mkdir()
    folders[1].rename(val / "kodak24")
    arguments = ("eval", "--all", val, "-m", identity, "-d", "cpu")
    result = varfix(*arguments)
    assert result.exit_code == 0, result.stderr
    table = result.stdout.splitlines()
    assert table[0].startswith("| set | images | input | auto |")
    assert [line.count("|") for line in table] == [10] * len(table)
    found = rows(varfix(*arguments, "--json", "--sample", "1", "--only", "kodak24"))
    assert [row["set"] for row in found] == [line.split("|")[1].strip() for line in table[2:]]
    assert {row["pictures"] for row in found} == {1}
    assert all(row["worst"] == 0.0 for row in found if row["input"])


@pytest.fixture
def two_models(tmp_path, shelf, monkeypatch):
    """Install the model `twin`, an identity with an input for a level; return a path of another."""
    monkeypatch.setenv("VARFIX_MODELS", str(tmp_path / "models"))
    (tmp_path / "models/twin").mkdir(parents=True)
    nodes = [("Sub", ["level", "level"], ["zero"], {}), ("Add", ["tile", "zero"], ["restored"], {})]
    free = ["batch", 3, "height", "width"]
    card = shelf.card(name="twin", level="noise", level_default=15.0)
    path = shelf.save(
        "twin.onnx", nodes, [("tile", 1, free), ("level", 1, [1])], [("restored", 1, free)], card
    )
    path.rename(tmp_path / "models/twin/twin.onnx")
    return shelf.restore("plain.onnx", card=shelf.card(tasks=("auto", "noise")))


def test_compared_models_share_a_table(varfix, folders, two_models):
    val = folders[0].parent / "val"
    val.mkdir()
    folders[1].rename(val / "kodak24")
    arguments = ("eval", "--all", val, "-m", two_models, "-d", "cpu", "--compare", "twin, twin")
    result = varfix(*arguments)
    assert result.exit_code == 0, result.stderr
    head, _, *table = (
        [cell.strip() for cell in t.split("|")[1:-1]] for t in result.stdout.splitlines()
    )
    assert head[:3] == ["set", "images", "input"]
    plain, twin = ["plain.onnx", "SSIM", "plain.onnx, preset", "CPU-s / MP"], "twin"
    assert head[3:] == [*plain, twin, "SSIM", "CPU-s / MP"]
    assert {len(row) for row in table} == {len(head)}
    first = table[0]
    assert first[2] == first[3] == first[5] == first[7]  # both change nothing
    found = rows(varfix(*arguments, "--json", "--sample", "1"))
    assert [row["model"] for row in found[:2]] == ["plain.onnx", "twin"]
    assert len(found) == 2 * len(table)
    assert [row["result"]["preset"] is None for row in found[:2]] == [False, True]


def test_a_level_goes_to_the_compared_models_that_have_one(varfix, folders, two_models):
    val = folders[0].parent / "val"
    val.mkdir()
    folders[1].rename(val / "kodak24")
    common = ("eval", "--all", val, "--sample", "1", "-d", "cpu", "--set", "model.level=25")
    assert varfix(*common, "-m", two_models, "--compare", "twin").exit_code == 0
    refused = varfix(*common, "-m", two_models, "--compare", "varformer-s")
    assert refused.exit_code == 2
    assert "hand-made has no input for a noise level" in refused.stderr


def test_a_compared_model_that_is_missing_is_an_error_before_anything_is_measured(
    varfix, folders, two_models
):
    result = varfix("eval", "--all", folders[0], "-m", two_models, "--compare", "gone")
    assert result.exit_code == 4
    assert "gone" in result.stderr
    assert result.stdout == ""


def test_all_without_any_set_is_nothing_to_do(varfix, tmp_path, identity):
    result = varfix("eval", "--all", tmp_path, "-m", identity, "-d", "cpu")
    assert result.exit_code == 3
    assert ": no test sets" in result.stderr
