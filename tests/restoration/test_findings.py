"""What a model finds in an item is kept, and summed up for a video."""

import numpy as np
import pytest
from support.identity import IdentityRestorer
from support.judging import DARK, HAZY, Judging

from varfix.engine.restoration.findings import TREATED, Finding, summarize
from varfix.engine.restoration.findings_recorder import FindingsRecorder
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.settings.types import Settings

PIXELS = np.zeros((20, 30, 3), np.float32)


def judged(restorer, times=1, settings=Settings()):  # noqa: B008 (frozen)
    recorder = FindingsRecorder(restorer)
    for _ in range(times):
        restore_image(recorder, PIXELS, settings)
    return recorder.judgement


def test_an_image_has_the_probability_of_each_kind_and_what_was_treated():
    judgement = judged(Judging())
    assert judgement.found == {"haze": 0.93, "noise": 0.41}
    assert judgement.applied == ("haze",)


def test_a_video_has_the_mean_and_what_was_treated_in_any_frame():
    judgement = judged(Judging(given=(HAZY, DARK)), times=2)
    assert judgement.found == {"haze": pytest.approx(0.48), "noise": pytest.approx(0.61)}
    assert judgement.applied == ("noise", "haze")  # the most likely first


def test_what_nobody_would_see_is_not_treated():
    kinds = {"rain": Finding(0.9, TREATED), "snow": Finding(0.9, 0.99 * TREATED)}
    assert summarize([kinds]).applied == ("rain",)


def test_a_model_that_judges_nothing_has_no_judgement():
    assert judged(IdentityRestorer()) is None
    assert summarize([]) is None


def test_at_strength_zero_nothing_is_judged():
    assert judged(Judging(), settings=Settings(strength=0.0)) is None


def test_each_recorder_has_its_own_findings():
    restorer = Judging(given=(HAZY, DARK))
    first, second = judged(restorer), judged(restorer)
    assert (first.applied, second.applied) == (("haze",), ("noise",))
