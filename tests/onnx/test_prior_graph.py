"""Prior graphs of both kinds are run: those that see a thumbnail, and those that look closer."""

from types import SimpleNamespace

import numpy as np

from varfix.engine.models.card import TASKS
from varfix.engine.restoration.findings import KINDS
from varfix.engine.restoration.prior_input import CROP, PLACES, PriorInput, native_crops
from varfix.onnx.inference.map_findings import named_findings
from varfix.onnx.inference.prior_graph import prior_session

THUMBNAIL = np.random.default_rng(0).random((256, 256, 3), np.float32)


def graph(inputs, outputs):
    named = [[SimpleNamespace(name=name) for name in names] for names in (inputs, outputs)]
    return prior_session(SimpleNamespace(get_inputs=lambda: named[0], get_outputs=lambda: named[1]))


def test_a_graph_that_takes_a_thumbnail_alone_gets_nothing_else():
    old = graph(["thumbnail", "task"], ["prior"])
    feeds = old.feeds(PriorInput(THUMBNAIL, "haze", native_crops(THUMBNAIL)))
    assert set(feeds) == {"thumbnail", "task"}
    assert feeds["task"].tolist() == [TASKS.index("haze")]
    np.testing.assert_array_equal(feeds["thumbnail"][0].transpose(1, 2, 0), THUMBNAIL)
    assert old.outputs == ["prior"]


def test_a_graph_that_looks_closer_gets_the_crops_of_the_image():
    image = np.random.default_rng(1).random((300, 400, 3), np.float32)
    new = graph(["thumbnail", "task", "crops"], ["prior", "found"])
    feeds = new.feeds(PriorInput(THUMBNAIL, "auto", native_crops(image)))
    assert feeds["crops"].shape == (1, len(PLACES), 3, CROP, CROP)
    np.testing.assert_array_equal(feeds["crops"][0, 0].transpose(1, 2, 0), image[118:182, 168:232])
    assert new.outputs == ["prior", "found"]


def test_without_crops_the_thumbnail_is_all_there_is_to_look_at():
    new = graph(["thumbnail", "task", "crops"], ["prior", "found"])
    feeds = new.feeds(PriorInput(THUMBNAIL, "auto", None))
    np.testing.assert_array_equal(feeds["crops"][0].transpose(0, 2, 3, 1), native_crops(THUMBNAIL))


def test_what_is_known_of_a_scene_is_passed_on_and_what_is_not_is_left_to_the_graph():
    scenes = graph(["thumbnail", "task", "crops", "probabilities"], ["prior", "found"])
    held = np.arange(12, dtype=np.float32).reshape(2, 6) / 12.0
    np.testing.assert_array_equal(
        scenes.feeds(PriorInput(THUMBNAIL, "auto", None, held))["probabilities"], held[None]
    )
    unknown = scenes.feeds(PriorInput(THUMBNAIL, "auto"))["probabilities"]
    assert unknown.shape == (1, 2, 6)
    assert (unknown < 0.0).all()


def test_findings_are_named_by_the_tasks():
    table = np.arange(24, dtype=np.float32).reshape(4, 6) / 32.0
    found = named_findings(table)
    assert tuple(found) == KINDS == TASKS[1:]
    rain = found["rain"]
    values = (rain.probability, rain.head_share, rain.strength, rain.acted)
    assert values == (1 / 32, 7 / 32, 13 / 32, 19 / 32)
