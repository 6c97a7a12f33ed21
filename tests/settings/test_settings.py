"""Settings come from layers; every error names the place and suggests the nearest name."""

from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.presets import explained, refusal, write

from varfix.engine.errors import ConfigError
from varfix.engine.settings.layers import Layer
from varfix.engine.settings.resolve import (
    env_layer,
    flag_layer,
    known_keys,
    resolve,
    set_layer,
    standard_layers,
)
from varfix.engine.settings.types import RENAMED_KEYS, Settings, Strength


def test_no_layers_give_the_defaults():
    resolved = resolve([])
    assert resolved.settings == Settings()
    assert set(resolved.origins.values()) == {"built in"}
    assert list(resolved.origins) == list(known_keys())


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


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("tile.overlap=48", "tile.overlap", 48),
        ("strength=1", "strength", 1.0),
        ("tile.size=null", "tile.size", None),
        ("output.flatten=#ffffff", "output.flatten", "#ffffff"),
        ("output.flatten=White", "output.flatten", "White"),
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
        ("output.flatten=purpleish", '--set: output.flatten: "purpleish" is not a color; use a'),
        ("output.flatten=#12345", '--set: output.flatten: "#12345" is not a color; use a name'),
        ("output.format=gif", "--set: output.format: expected one of keep, png"),
        ("strength=nan", '--set: strength: expected a number from 0 to 1, got "nan"'),
        (
            "tile.overlap=abc",
            '--set: tile.overlap: expected a whole number of at least 0, got "abc"',
        ),
        (
            "output.jpeg_quality=95.5",
            "--set: output.jpeg_quality: expected a whole number from 1 to 100, or source; got",
        ),
        ("video.compare=abc", '--set: video.compare: expected true or false, got "abc"'),
        ("cluster.cpus=0", "--set: cluster.cpus: expected a number above 0, got 0"),
    ],
)
def test_set_refuses_by_name(text, message):
    assert explained(refusal(lambda: resolve([set_layer([text])]))).startswith(message)


def test_environment_names_its_variable():
    resolved = resolve([env_layer({"VARFIX_TILE_OVERLAP": "48", "VARFIX_STRENGTH": "0.5"})])
    assert (resolved.settings.tile.overlap, resolved.settings.strength) == (48, 0.5)
    assert resolved.origins["tile.overlap"] == "VARFIX_TILE_OVERLAP"
    bad = refusal(lambda: resolve([env_layer({"VARFIX_STRENGTH": "much"})]))
    assert str(bad) == 'VARFIX_STRENGTH: strength: expected a number from 0 to 1, got "much"'


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


def test_several_tasks_may_be_set(here):
    settings = resolve([set_layer(["model.task=noise, blur"])]).settings
    assert settings.model.tasks == ("noise", "blur")
    error = refusal(lambda: resolve([set_layer(["model.task=noise,fog"])]))
    assert "expected one of auto, noise, rain" in str(error)


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
    with pytest.raises(ConfigError, match=r"expected a number above 0 and up to 600, got \"20m\""):
        resolve([Layer("here", {"video": {"segment_seconds": "20m"}})])
