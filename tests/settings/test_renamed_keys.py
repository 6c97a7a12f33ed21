"""Settings are accepted under their old names, with a warning."""

import pytest
from support.presets import preset_error, refusal, write

from varfix.engine.settings.layers import Layer
from varfix.engine.settings.presets import load_preset
from varfix.engine.settings.resolve import env_layer, resolve, set_layer
from varfix.engine.settings.types import RENAMED_KEYS, Settings

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
    told = 'expected a whole number from 0 to 60, got "many"'
    assert str(error) == f"--set: video.deflicker_window: {told}"
