"""Presets extend and join each other; an error in one names its file and line."""

from importlib.resources import files

import pytest
from support.presets import preset_error, refusal, write

from varfix.engine.settings.presets import load_preset, preset_names, preset_summary
from varfix.engine.settings.resolve import resolve, standard_layers
from varfix.engine.settings.types import Settings


@pytest.mark.parametrize("name", preset_names())
def test_built_in_presets_resolve_and_have_a_summary(name):
    task = resolve(load_preset(name)).settings.model.task
    assert (task == "auto") == (name in ("auto", "fast"))
    assert preset_summary(name).endswith(".")
    assert not preset_summary(name).startswith("#")


def test_presets_choose_different_tasks():
    models = {name: resolve(load_preset(name)).settings.model for name in preset_names()}
    assert models.pop("dejpeg") == models["denoise"]  # JPEG is a kind of noise to the models
    assert len(set(models.values())) == len(models)


def test_every_shipped_preset_is_named():
    shipped = {p.name for p in files("varfix.presets").iterdir() if p.name.endswith(".yaml")}
    assert shipped == {f"{name}.yaml" for name in preset_names()}


def test_values_from_files_know_their_line(here):
    layers = load_preset(write("mine.yaml", "# about\nextends: derain\ntile:\n  overlap: 16\n"))
    resolved = resolve(layers)
    assert resolved.settings.model.task == "rain"
    assert resolved.origins["tile.overlap"] == "mine.yaml:4"
    assert resolved.origins["model.task"] == "preset derain"


def test_unknown_key_is_refused_with_file_line_and_suggestion(here):
    text = "extends: derain\nstrength: 1\ntile:\n  overlaps: 32\n"
    expected = 'derain.yaml:4: unknown key "tile.overlaps"; did you mean "tile.overlap"?'
    assert preset_error(text) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "tile: {overlap: wide}",
            'derain.yaml:1: tile.overlap: expected a whole number of at least 0, got "wide"',
        ),
        (
            "\n\ntile: {overlap: 1.5}",
            "derain.yaml:3: tile.overlap: expected a whole number of at least 0, got 1.5",
        ),
        (
            "tile: {overlap: -1}",
            "derain.yaml:1: tile.overlap: expected a whole number of at least 0, got -1",
        ),
        ("strength: 2", "derain.yaml:1: strength: expected a number from 0 to 1, got 2"),
        (
            "strength: {luma: 2}",
            "derain.yaml:1: strength.luma: expected a number from 0 to 1, got 2",
        ),
        ("strength: true", "derain.yaml:1: strength: expected a number from 0 to 1, got true"),
        ("strength:", "derain.yaml:1: strength: expected a number from 0 to 1, got null"),
        (
            "output: {jpeg_quality: 101}",
            "expected a whole number from 1 to 100, or source; got 101",
        ),
        ("model: {task: rian}", 'got "rian"; did you mean "rain"?'),
        ("model: {task: [rain]}", "snow; got a list"),
        ("tile: 64", "derain.yaml:1: tile: expected keys and values, got 64"),
        ("overlap: 3", 'unknown key "overlap"; did you mean "tile.overlap"?'),
        ("strength: {of: 3}", 'unknown key "strength.of"; did you mean "strength"?'),
        ("zzz: 3", 'derain.yaml:1: unknown key "zzz"'),
        ("strength: 1\nstrength: 0", 'derain.yaml:2: "strength" is defined twice'),
        ("tile: {size: 1}\ntile: {overlap: 1}", 'derain.yaml:2: "tile" is defined twice'),
        ("a: [1", "derain.yaml:1: invalid YAML"),
        ("strength: 1\n\tx: 2", "derain.yaml:2: invalid YAML"),
        ("- strength", "derain.yaml: expected keys and values, got list"),
        ("a: &a {b: *a}", "derain.yaml: invalid YAML"),
        ("extends: [derain]", "derain.yaml:1: extends: expected a single preset, got list"),
    ],
)
def test_mistakes_in_presets_are_named(here, text, message):
    assert message in preset_error(text)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "tile:\n", "tile: {}\n"])
def test_empty_presets_and_sections_change_nothing(here, text):
    assert resolve(load_preset(write("empty.yaml", text))).settings == Settings()


def test_null_returns_a_choice_to_the_model_card(here):
    write("base.yaml", "tile: {size: 128}")
    layers = load_preset(write("top.yaml", "extends: base.yaml\ntile: {size: null}"))
    assert [layer.origin for layer in layers] == ["base.yaml", "top.yaml"]
    assert resolve(layers).settings.tile.size is None


def test_extends_is_relative_to_its_file(here):
    (here / "sub").mkdir()
    write("sub/base.yaml", "strength: 0.25")
    assert (
        resolve(load_preset(write("sub/top.yaml", "extends: base.yaml"))).settings.strength == 0.25
    )


def test_a_preset_that_extends_itself_is_refused(here):
    write("a.yaml", "extends: b.yaml")
    write("b.yaml", "strength: 1\nextends: ./a.yaml")
    error = refusal(lambda: load_preset("a.yaml"))
    assert "extends itself" in error.message


def test_unknown_preset_lists_the_built_in_ones():
    error = refusal(lambda: load_preset("dernoise"))
    assert error.message.startswith('unknown preset "dernoise"; built-in presets: auto, ')
    assert all(name in error.message for name in preset_names())
    assert error.hint == 'did you mean "denoise"?'


def test_missing_and_unreadable_files_are_refused(here):
    assert str(refusal(lambda: load_preset("no.yaml"))) == "no.yaml: preset file not found"
    (here / "folder.yaml").mkdir()
    assert "cannot read the preset" in str(refusal(lambda: load_preset("folder.yaml")))
    (here / "latin.yaml").write_bytes(b"# caf\xe9\n")
    assert "not UTF-8" in str(refusal(lambda: load_preset("latin.yaml")))


def merged(here, *presets, environ=None):
    layers = standard_layers(presets, here, environ=environ, user_dir=here / "no")
    return resolve(layers)


@pytest.mark.parametrize(
    ("presets", "task"),
    [
        (["denoise,dehaze"], "noise,haze"),
        (["dehaze", "denoise"], "noise,haze"),
        (["dehaze, fast"], "haze"),
        (["fast,auto"], "auto"),
        (["denoise,dejpeg,denoise"], "noise"),
    ],
)
def test_the_tasks_of_several_presets_are_joined(here, presets, task):
    assert merged(here, *presets).settings.model.task == task


@pytest.mark.parametrize("text", ["", " ", ",", "denoise,", "denoise,,dehaze"])
def test_an_empty_name_is_refused_and_not_auto(here, text):
    """An unset shell variable must not run another preset."""
    expected = f'--preset "{text}": a name is empty'
    assert str(refusal(lambda: merged(here, "dehaze", text))) == expected


def test_the_variable_may_be_empty_but_not_one_of_its_names(here):
    assert merged(here, environ={"VARFIX_PRESET": " "}).settings.model.task == "auto"
    error = refusal(lambda: merged(here, environ={"VARFIX_PRESET": "denoise,"}))
    assert str(error) == 'VARFIX_PRESET "denoise,": a name is empty'


def test_of_other_settings_the_last_preset_counts(here):
    write("a.yaml", "extends: derain\ntile: {overlap: 1, size: 64}\nstrength: {luma: 0.5}")
    write("b,c.yaml", "model: {task: 'snow, rain'}\ntile: {overlap: 2}")
    resolved = merged(here, "a.yaml,fast", "b,c.yaml")
    settings = resolved.settings
    assert settings.model.tasks == ("rain", "snow")
    assert (settings.tile.overlap, settings.tile.size, settings.model.precision) == (2, 64, "int8")
    assert resolved.origins["model.task"] == "presets a.yaml, fast, b,c.yaml"
    assert resolved.origins["tile.overlap"] == "b,c.yaml:2"
    assert merged(here, environ={"VARFIX_PRESET": "derain,a.yaml"}).settings.model.task == "rain"


def test_one_preset_keeps_its_place(here):
    assert merged(here, "dehaze").origins["model.task"] == "preset dehaze"


def test_an_unknown_preset_among_several_is_named(here):
    assert 'unknown preset "dehase"' in str(refusal(lambda: merged(here, "denoise,dehase")))
