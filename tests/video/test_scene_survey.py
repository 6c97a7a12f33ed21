"""A scene is judged once, from frames that show something, and treated so until the next cut."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from support.cards import GUIDED
from support.flicker import scene
from support.identity import IdentityRestorer

from varfix.engine.models.card import TASKS, ModelCard
from varfix.engine.restoration.findings import Finding
from varfix.engine.settings.types import Settings
from varfix.engine.video.deflicker import DeflickerPorts, DeflickerSettings, deflicker
from varfix.engine.video.scene_survey import JUDGED_FRAMES, VISIBLE, SceneSurvey, contrast_of

DARK = (0, TASKS.index("lowlight") - 1)
NOISE = (0, TASKS.index("noise") - 1)


@dataclass
class Judging(IdentityRestorer):
    """Finds darkness where the mean is low, and as much noise everywhere; records decisions."""

    card: ModelCard = GUIDED
    seen: list[float] = field(default_factory=list)
    decided: list[np.ndarray | None] = field(default_factory=list)

    def prior(self, prior_input):
        mean = float(prior_input.thumbnail.mean())
        self.seen.append(mean)
        self.decided.append(prior_input.probabilities)
        found = {kind: Finding(0.0, 0.0) for kind in TASKS[1:]}
        found["lowlight"] = Finding(float(mean < 0.3), 0.0)
        found["noise"] = Finding(0.5, 0.0, head_share=0.25)
        self.findings = found
        return np.zeros((2, 16, 16), np.float32)


def survey_of(clip, restorer=None):
    return SceneSurvey(restorer or Judging(), enumerate(clip), "auto")


def small(frame):
    return frame[::4, ::4]


def faded(image, levels):
    return [(image * level).astype(np.float32) for level in levels]


def test_a_fade_to_black_is_not_dark_and_a_dark_scene_is():
    bright, dim = scene(1), 0.3 * scene(2)
    fade = survey_of(faded(bright, np.linspace(1.0, 0.0, 30)))
    assert fade.at(0).probabilities[DARK] == fade.at(29).probabilities[DARK] == 0.0
    assert survey_of([dim] * 20).at(0).probabilities[DARK] == 1.0


def test_a_fade_from_black_is_judged_by_what_it_fades_to():
    clip = [np.zeros_like(scene(1))] * 10 + faded(scene(1), np.linspace(0.0, 1.0, 20))
    assert survey_of(clip + [scene(1)] * 10).at(0).probabilities[DARK] == 0.0


def test_every_frame_of_a_scene_is_treated_for_the_same_until_the_cut():
    bright, dim = scene(1), 0.3 * scene(2)
    survey = survey_of([bright] * 9 + [dim] * 9)
    assert {float(survey.at(i).of_frame(small(bright))[DARK]) for i in range(9)} == {0.0}
    assert {float(survey.at(i).of_frame(small(dim))[DARK]) for i in range(9, 18)} == {1.0}
    assert survey.at(3).probabilities[DARK] == 0.0  # earlier scenes are not forgotten


def test_a_frame_that_fades_out_is_brightened_less_and_denoised_as_before():
    dim = 0.3 * scene(2)
    judgement = survey_of([dim] * 20).at(0)
    for level in (0.4, 0.1, 0.0):
        held = judgement.of_frame(small(dim * np.float32(level)))
        share = contrast_of(small(dim)) * level / (VISIBLE * judgement.contrast)
        assert held[DARK] == pytest.approx(share, abs=1e-4)
        assert held[NOISE] == 0.5


def test_a_long_scene_is_judged_from_its_beginning_and_not_read_to_its_end():
    restorer, read = Judging(), []

    def frames():
        for number in range(4 * JUDGED_FRAMES):
            read.append(number)
            yield number, scene(1)

    survey = SceneSurvey(restorer, frames(), "auto")
    survey.at(0)
    assert len(read) < JUDGED_FRAMES + 5
    looked = len(restorer.seen)
    survey.at(2 * JUDGED_FRAMES)
    assert len(restorer.seen) == looked <= 12


def test_judgements_do_not_depend_on_where_a_restoration_begins():
    clip = [scene(1)] * 7 + faded(scene(2), np.linspace(1.0, 0.1, 9)) + [0.3 * scene(3)] * 6
    whole = survey_of(clip)
    expected = [whole.at(i).of_frame(small(frame)) for i, frame in enumerate(clip)]
    late = survey_of(clip)
    for i in range(12, len(clip)):
        np.testing.assert_array_equal(late.at(i).of_frame(small(clip[i])), expected[i])


def test_a_clip_of_one_frame_and_a_black_one_are_judged():
    assert survey_of([scene(1)]).at(0).probabilities[NOISE] == 0.5
    black = survey_of([np.zeros_like(scene(1))] * 5).at(4)
    assert black.of_frame(np.zeros((16, 16, 3), np.float32))[NOISE] == 0.5


def test_models_that_do_not_say_what_is_wrong_decide_by_themselves():
    class Silent(Judging):
        def prior(self, prior_input):
            super().prior(prior_input)
            self.findings = None

    assert survey_of([scene(1)] * 4, Silent()).at(2).of_frame(small(scene(1))) is None


def test_the_filter_passes_what_was_decided_to_each_key_frame():
    restorer = Judging()
    clip = faded(scene(1), np.linspace(1.0, 0.0, 20))
    ports = DeflickerPorts(survey_of(clip, Judging()))
    results = deflicker(
        restorer, enumerate(clip), range(20), Settings(), DeflickerSettings(), ports
    )
    assert len(list(results)) == 20
    assert restorer.decided
    assert all(given is not None and given[DARK] == 0.0 for given in restorer.decided)
    alone = Judging()
    list(deflicker(alone, enumerate(clip), range(20), Settings(), DeflickerSettings()))
    assert all(given is None for given in alone.decided)
