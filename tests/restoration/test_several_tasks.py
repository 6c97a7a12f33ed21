"""Maps and findings of several tasks become one, without mixing two tone grids."""

import numpy as np

from varfix.engine.restoration.findings import Finding
from varfix.engine.restoration.several_tasks import merge_findings, merge_maps, strongest_tone

CHANNELS, TONE = 422, slice(320, 416)


def maps(scales, tone, **evidence):
    made = np.zeros((CHANNELS, 16, 16), np.float32)
    made[:320], made[TONE] = scales, tone
    for channel, value in evidence.items():
        made[int(channel.removeprefix("c"))] = value
    return made


def test_scales_are_averaged_the_strongest_tone_and_the_greatest_evidence_taken():
    weak, strong = maps(1.0, 0.1, c416=0.9, c417=0.2), maps(2.0, -0.3, c416=0.4, c417=0.7)
    merged = merge_maps([weak, strong])
    assert (merged[:320] == 1.5).all()
    assert (merged[TONE] == np.float32(-0.3)).all()
    np.testing.assert_allclose(merged[416:, 3, 5], [0.9, 0.7, 0, 0, 0, 0], rtol=1e-6)
    assert strongest_tone([weak, strong]) == 1
    np.testing.assert_array_equal(merge_maps([strong, weak]), merged)


def test_one_task_is_left_as_it_is():
    only = maps(1.0, 0.1)
    assert merge_maps([only]) is only


def test_a_kind_is_acted_on_if_any_task_does_but_tone_only_by_the_tone_that_is_taken():
    first = {"noise": Finding(0.4, 1.0), "haze": Finding(0.9, 0.2)}
    second = {"noise": Finding(0.4, 0.1), "haze": Finding(0.9, 0.0)}
    assert merge_findings([first, second], tone=1) == {
        "noise": Finding(0.4, 1.0),
        "haze": Finding(0.9, 0.0),
    }
    assert merge_findings([first, second], tone=0)["haze"].acted == 0.2
