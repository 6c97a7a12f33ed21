"""A mistake in a recipe is named; old keys have the meaning of the current ones, with a warning."""

import pytest

from varfix.engine.errors import ConfigError
from varfix.engine.train.loop import SHIPPED_RECIPE, run_training
from varfix.engine.train.recipes.recipe import Recipe, StageRecipe, load_recipe
from varfix.engine.train.recipes.renamed_keys import RENAMED_KEYS, RENAMED_STAGE_KEYS
from varfix.engine.train.request import TrainRequest
from varfix.engine.train.trainable import trainable_named

OLD = """
mix: {identity: 1.0}
mood: 0.1
compressed: 0.2
hinted: 0.3
own: 0.4
own_task: haze
clip: 2.0
skip: 7.0
recover: 5
restorer: {steps: 9, pictures: 3, sides: [64, 96], rate: 1.0e-3, last_rate: 1.0e-5}
"""
CURRENT = """
mix: {identity: 1.0}
tone_jitter: 0.1
jpeg_share: 0.2
task_hint_share: 0.3
pairs_share: 0.4
pairs_task: haze
grad_clip: 2.0
skip_above_grad_norm: 7.0
rollback_after_skips: 5
restorer:
  steps: 9
  batch_size: 3
  image_sizes: [64, 96]
  learning_rate: 1.0e-3
  min_learning_rate: 1.0e-5
"""


@pytest.fixture
def recipe_file(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


def test_old_keys_have_the_meaning_of_the_current_ones(recipe_file):
    warnings = []
    old = load_recipe(recipe_file(OLD), warn=warnings.append)
    assert len(warnings) == len(RENAMED_KEYS) + len(RENAMED_STAGE_KEYS)
    assert "mine.yaml: clip is deprecated; use grad_clip" in warnings
    assert "mine.yaml: restorer: rate is deprecated; use learning_rate" in warnings
    assert old == load_recipe(recipe_file(CURRENT), warn=pytest.fail)


def test_every_renamed_key_has_a_current_name():
    for names, fields in (
        (RENAMED_KEYS, Recipe.__struct_fields__),
        (RENAMED_STAGE_KEYS, StageRecipe.__struct_fields__),
    ):
        assert set(names.values()) <= set(fields)
        assert not set(names) & set(fields)


@pytest.mark.parametrize(
    ("override", "warning"),
    [
        ("clip=3", "--set clip=3: clip is deprecated; use grad_clip"),
        ("heads.rate=0.5", "--set heads.rate=0.5: rate is deprecated; use learning_rate"),
        (
            "heads={steps: 1, pictures: 2, rate: 0.5}",
            "--set heads={steps: 1, pictures: 2, rate: 0.5}: heads: rate is deprecated;"
            " use learning_rate",
        ),
    ],
)
def test_old_keys_can_be_set_and_override_the_file(override, warning):
    warnings = []
    recipe = load_recipe(SHIPPED_RECIPE, [override], warnings.append)
    assert warning in warnings
    assert recipe.grad_clip == 3.0 or recipe.stages["heads"].learning_rate == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mix: {identity: 1.0}\nclip: 1\ngrad_clip: 1\n", "clip and grad_clip are the same"),
        (
            "mix: {identity: 1.0}\nheads: {steps: 1, rate: 1, learning_rate: 1, batch_size: 1}\n",
            "heads: rate and learning_rate are the same setting",
        ),
    ],
)
def test_both_names_of_a_key_at_once_are_rejected(recipe_file, text, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe_file(text))


def test_a_run_forwards_the_warnings(tmp_path, recipe_file):
    warnings = []
    request = TrainRequest(tmp_path / "out", config=recipe_file(OLD))
    with pytest.raises(ConfigError, match="section"):  # the recipe has one of four stages
        run_training(request, warnings.append)
    assert len(warnings) == len(RENAMED_KEYS) + len(RENAMED_STAGE_KEYS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vqvae.stepz=3", 'no key "vqvae.stepz"'),
        ("vqvea.steps=3", 'no key "vqvea.steps"'),
        ("mix={fog: 1.0}", 'unknown degradation "fog"'),
        ("seed=one", "Expected `int`"),
        ("judge.mix={fog: 1.0}", 'unknown degradation "fog"'),
        ("pairs_task=fog", 'no task "fog"'),
    ],
)
def test_an_invalid_recipe_is_rejected_with_the_name_of_the_key(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(SHIPPED_RECIPE, [override])


def test_numbers_may_be_written_without_a_point():
    recipe = load_recipe(
        SHIPPED_RECIPE, ["heads.learning_rate=5e-4", "restorer.learning_rate=1e-3", "grad_clip=1"]
    )
    assert (recipe.stages["heads"].learning_rate, recipe.stages["restorer"].learning_rate) == (
        5e-4,
        1e-3,
    )
    assert recipe.grad_clip == 1.0


def test_a_mistyped_key_of_a_recipe_is_rejected_with_a_suggestion(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mix: {identity: 1.0}\nsed: 3\n")
    with pytest.raises(ConfigError, match='unknown key "sed"') as error:
        load_recipe(path)
    assert error.value.hint == 'did you mean "seed"?'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vqvae: {steps: 1, batch_size: 1}\n", 'no section "prior"'),
        ("foo: {steps: 1, batch_size: 1}\n", 'unknown key "foo"'),
        ("model: other\n", 'no model "other"'),
    ],
)
def test_a_recipe_must_have_the_stages_of_its_model(tmp_path, folder, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text("mix: {identity: 1.0}\n" + text)
    with pytest.raises(ConfigError, match=message):
        run_training(TrainRequest(tmp_path / "out", [folder], config=path))
    assert not (tmp_path / "out").exists()


def test_a_key_with_a_default_can_be_set_if_the_file_does_not_contain_it():
    recipe = load_recipe(SHIPPED_RECIPE, ["vqvae.warmup=7", "rollback_after_skips=9"])
    assert recipe.stages["vqvae"].warmup == 7
    assert recipe.rollback_after_skips == 9


def test_the_shipped_recipe_fits_its_model():
    recipe = load_recipe(SHIPPED_RECIPE)
    trainable_named(recipe.model).check(recipe)
