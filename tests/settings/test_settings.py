"""Settings come from layers; every error names the place and suggests the nearest name."""

from importlib.resources import files
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from varfix.cli.terminal import join_hint
from varfix.engine.errors import ConfigError
from varfix.engine.settings.layers import Layer
from varfix.engine.settings.presets import load_preset, preset_names, preset_summary
from varfix.engine.settings.resolve import (
    env_layer,
    flag_layer,
    known_keys,
    resolve,
    set_layer,
    standard_layers,
)
from varfix.engine.settings.types import RENAMED_KEYS, Settings, Strength


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(call):
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def explained(error: ConfigError) -> str:
    return join_hint(error.message, error.hint)


def preset_error(text: str) -> str:
    return explained(refusal(lambda: resolve(load_preset(write("derain.yaml", text)))))


def test_no_layers_give_the_defaults():
    resolved = resolve([])
    assert resolved.settings == Settings()
    assert set(resolved.origins.values()) == {"built in"}
    assert list(resolved.origins) == list(known_keys())


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


def test_later_layers_win_and_origins_follow():
    layers = [
        Layer("one", {"strength": 0.5, "tile": {"overlap": 8}}),
        Layer("two", {"strength": 1}),
    ]
    resolved = resolve(layers)
    assert (resolved.settings.strength, resolved.settings.tile.overlap) == (1.0, 8)
    assert resolved.origins["strength"] == "two"
    assert resolved.origins["tile.overlap"] == "one"
    assert resolved.origins["tile.size"] == "built in"


def test_brightness_and_color_may_have_strengths_of_their_own():
    resolved = resolve([Layer("one", {"strength": {"luma": 0.6}})])
    assert resolved.settings.strength == Strength(luma=0.6, chroma=1.0)
    assert resolved.value("strength.luma") == 0.6
    assert resolved.origins["strength.luma"] == "one"
    assert resolved.origins["strength.chroma"] == "built in"
    assert resolve([set_layer(["strength.luma=0.6"])]).settings == resolved.settings


def test_one_strength_replaces_both_of_an_earlier_layer():
    layers = [Layer("one", {"strength": {"luma": 0.6}}), Layer("two", {"strength": 0.5})]
    resolved = resolve(layers)
    assert resolved.settings.strength == 0.5
    assert resolved.origins["strength.luma"] == "two"
    assert resolved.value("strength.chroma") == 0.5


def test_a_part_of_the_strength_leaves_the_other_part_as_it_was():
    layers = [Layer("one", {"strength": 0.5}), Layer("two", {"strength": {"chroma": 1}})]
    assert resolve(layers).settings.strength == Strength(luma=0.5, chroma=1.0)


def test_equal_parts_are_one_strength():
    """So that results of either spelling are up to date for the other."""
    layer = Layer("one", {"strength": {"luma": 0.5, "chroma": 0.5}})
    assert resolve([layer]).settings == Settings(strength=0.5)


def test_nested_and_dotted_keys_are_the_same():
    assert resolve([Layer("a", {"tile": {"overlap": 8}})]) == resolve(
        [Layer("a", {"tile.overlap": 8})]
    )


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
        ("tile: {overlap: wide}", "derain.yaml:1: tile.overlap: expected int, got str"),
        ("\n\ntile: {overlap: 1.5}", "derain.yaml:3: tile.overlap: expected int, got float"),
        ("tile: {overlap: -1}", "derain.yaml:1: tile.overlap: expected int >= 0, got -1"),
        ("strength: 2", "derain.yaml:1: strength: expected float <= 1.0, got 2"),
        ("strength: {luma: 2}", "derain.yaml:1: strength.luma: expected float <= 1.0, got 2"),
        ("strength: true", "derain.yaml:1: strength: expected float, got bool"),
        ("strength:", "derain.yaml:1: strength: expected float, got null"),
        ("output: {jpeg_quality: 101}", "output.jpeg_quality: expected int <= 100, got 101"),
        ("model: {task: rian}", 'got "rian"; did you mean "rain"?'),
        ("model: {task: [rain]}", "snow; got list"),
        ("tile: 64", "derain.yaml:1: tile: expected keys and values, got int"),
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


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("tile.overlap=48", "tile.overlap", 48),
        ("strength=1", "strength", 1.0),
        ("tile.size=null", "tile.size", None),
        ("output.flatten=#ffffff", "output.flatten", "#ffffff"),
        ("output.flatten=null", "output.flatten", None),
        ("device=cuda:0", "device", "cuda:0"),
        ("model.name=123", "model.name", "123"),
        ("model.name=a=b", "model.name", "a=b"),
        (" output.metadata = none ", "output.metadata", "none"),
    ],
)
def test_set_reads_the_value_the_key_expects(text, key, value):
    settings = resolve([set_layer([text])]).settings
    for name in key.split("."):
        settings = getattr(settings, name)
    assert settings == value
    assert type(settings) is type(value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("tile.overlap", '--set "tile.overlap": expected KEY=VALUE'),
        ("=3", '--set "=3": expected KEY=VALUE'),
        ("tile.overlap=[1", '--set: tile.overlap: cannot parse the value "[1"'),
        ("tile.overlaps=1", '--set: unknown key "tile.overlaps"; did you mean "tile.overlap"?'),
        ("output.format=gif", "--set: output.format: expected one of keep, png"),
    ],
)
def test_set_refuses_by_name(text, message):
    assert explained(refusal(lambda: resolve([set_layer([text])]))).startswith(message)


def test_environment_names_its_variable():
    resolved = resolve([env_layer({"VARFIX_TILE_OVERLAP": "48", "VARFIX_STRENGTH": "0.5"})])
    assert (resolved.settings.tile.overlap, resolved.settings.strength) == (48, 0.5)
    assert resolved.origins["tile.overlap"] == "VARFIX_TILE_OVERLAP"
    bad = refusal(lambda: resolve([env_layer({"VARFIX_STRENGTH": "much"})]))
    assert str(bad) == "VARFIX_STRENGTH: strength: expected float, got str"


def test_other_variables_are_not_settings():
    environ = {"VARFIX_DEBUG": "1", "VARFIX_OFFLINE": "1", "VARFIX_NONSENSE": "1", "HOME": "/"}
    assert env_layer({**environ, "VARFIX_STRENGTH": ""}).values == {}


def test_no_two_keys_share_a_variable():
    names = [key.replace(".", "_") for key in (*known_keys(), *RENAMED_KEYS)]
    assert len(set(names)) == len(names)


def test_flags_not_given_leave_settings_alone():
    layer = flag_layer({"strength": None, "model.name": "other"})
    resolved = resolve([layer])
    assert resolved.origins["strength"] == "built in"
    assert resolved.origins["model.name"] == "--model"


def test_precedence_is_flags_set_environment_preset_project_user(here):
    user = here / "user"
    user.mkdir()
    write("user/varfix.yaml", "io: {queue_mb: 1, jobs: 1}\ntile: {overlap: 1, size: 1, batch: 1}")
    write("varfix.yaml", "io: {jobs: 2}\ntile: {overlap: 2, size: 2, batch: 2}")
    write("p.yaml", "extends: derain\ntile: {overlap: 3, size: 3, batch: 3}")
    layers = standard_layers(
        ["p.yaml"],
        Path(),
        flags={"tile.batch": 6},
        assignments=["tile.overlap=5", "tile.batch=5"],
        environ={"VARFIX_TILE_SIZE": "4", "VARFIX_TILE_OVERLAP": "4"},
        user_dir=user,
    )
    found = resolve(layers)
    settings = found.settings
    assert settings.model.task == "rain"
    assert (settings.io.queue_mb, settings.io.jobs) == (1, 2)
    assert (settings.tile.size, settings.tile.overlap, settings.tile.batch) == (4, 5, 6)
    origins = [found.origins[f"tile.{key}"] for key in ("size", "overlap", "batch")]
    assert origins == ["VARFIX_TILE_SIZE", "--set", "--batch"]


def test_the_default_preset_does_not_hide_the_project_file(here):
    write("varfix.yaml", "model: {task: rain}")
    assert resolve(standard_layers((), here, user_dir=here / "no")).settings.model.task == "rain"
    chosen = standard_layers(["auto"], here, user_dir=here / "no")
    assert resolve(chosen).settings.model.task == "auto"


def test_the_preset_may_come_from_the_environment(here):
    layers = standard_layers((), here, environ={"VARFIX_PRESET": "dehaze"}, user_dir=here)
    assert resolve(layers).settings.model.task == "haze"


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
        (["denoise,"], "noise"),
    ],
)
def test_the_tasks_of_several_presets_are_joined(here, presets, task):
    assert merged(here, *presets).settings.model.task == task


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


def test_several_tasks_may_be_set(here):
    settings = resolve([set_layer(["model.task=noise, blur"])]).settings
    assert settings.model.tasks == ("noise", "blur")
    error = refusal(lambda: resolve([set_layer(["model.task=noise,fog"])]))
    assert "expected one of auto, noise, rain" in str(error)


VALUES = {
    "video.window": 7,
    "video.keys": 3,
    "video.lock": False,
    "video.segment": 2.5,
    "tile.whole": True,
}


def value_of(settings, key):
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def as_layer(form, here, key, value):
    text = str(value).lower()
    section, _, name = key.partition(".")
    if form == "set":
        return [set_layer([f"{key}={text}"])]
    if form == "environment":
        return [env_layer({f"VARFIX_{section}_{name}".upper(): text})]
    preset = "extends: derain\n" + (f"{key}: {text}" if form == "dotted" else "")
    preset += f"{section}:\n  {name}: {text}" if form == "preset" else ""
    return load_preset(write("mine.yaml", preset))


@pytest.mark.parametrize("form", ["set", "environment", "preset", "dotted"])
@pytest.mark.parametrize("old, new", RENAMED_KEYS.items())
def test_old_keys_are_accepted_with_a_warning(here, form, old, new):
    layers = as_layer(form, here, old, VALUES[old])
    resolved = resolve(layers)
    assert value_of(resolved.settings, new) == VALUES[old] != value_of(Settings(), new)
    place = resolved.origins[new]
    assert resolved.warnings == (f"{place}: {old} is deprecated; use {new}",)
    assert place == {"set": "--set", "environment": f"VARFIX_{old.replace('.', '_').upper()}"}.get(
        form, "mine.yaml:3" if form == "preset" else "mine.yaml:2"
    )


@pytest.mark.parametrize("form", ["set", "environment", "preset", "dotted"])
@pytest.mark.parametrize("old, new", RENAMED_KEYS.items())
def test_new_keys_need_no_warning(here, form, old, new):
    resolved = resolve(as_layer(form, here, new, VALUES[old]))
    assert value_of(resolved.settings, new) == VALUES[old]
    assert resolved.warnings == ()


def test_an_old_key_in_a_stronger_layer_wins():
    resolved = resolve(
        [Layer("a", {"video": {"deflicker_window": 1}}), set_layer(["video.window=2"])]
    )
    assert resolved.settings.video.deflicker_window == 2
    assert resolved.origins["video.deflicker_window"] == "--set"


def test_an_old_and_a_new_key_in_one_layer_are_rejected(here):
    text = "video:\n  window: 1\n  deflicker_window: 2\n"
    expected = "derain.yaml:2: video.window and video.deflicker_window are the same setting"
    assert preset_error(text) == f"{expected}; remove video.window"


def test_mistakes_under_an_old_key_are_named():
    error = refusal(lambda: resolve([set_layer(["video.window=many"])]))
    assert str(error) == "--set: video.deflicker_window: expected int, got str"


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "strength": st.floats(0, 1),
            "tile.size": st.none() | st.integers(1, 4096),
            "output.format": st.sampled_from(["keep", "png", "jpg"]),
            "io.queue_mb": st.integers(1, 10_000),
        },
    )
)
def test_settings_survive_being_written_and_read_again(values):
    settings = resolve([Layer("x", values)]).settings
    text = yaml.safe_dump(msgspec.to_builtins(settings))
    assert resolve([Layer("y", yaml.safe_load(text))]).settings == settings


@pytest.mark.parametrize("value", ["20s", "20.0 s", 20, 20.0])
@pytest.mark.parametrize("key", ["segment_seconds", "segment"])
def test_lengths_of_time_may_have_their_unit(value, key):
    resolved = resolve([Layer("here", {"video": {key: value}})])
    assert resolved.settings.video.segment_seconds == 20.0


def test_other_units_are_refused():
    with pytest.raises(ConfigError, match="expected float"):
        resolve([Layer("here", {"video": {"segment_seconds": "20m"}})])
