"""What the maps of VarFormer-S say is what its network holds for likely, and acts on."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.cards import GUIDED
from support.identity import IDENTITY_CARD
from support.sessions import ON_CPU

from varfix.engine.image.reader import decode_image
from varfix.engine.models.card import TASKS
from varfix.engine.restoration.findings import KINDS
from varfix.engine.restoration.prior_input import PriorInput, thumbnail
from varfix.onnx.inference.map_findings import findings_in
from varfix.onnx.inference.open_model import open_restorer

PICTURES = Path(__file__).parents[1] / "pictures"
CARD = msgspec.structs.replace(GUIDED, tasks=TASKS, prior_channels=422)


def maps_of(tone=0.0, **probabilities):
    maps = np.zeros((422, 16, 16), np.float32)
    maps[:320] = 7.0  # the scales decide nothing
    maps[321:340, 3, 4] = tone
    for kind, probability in probabilities.items():
        maps[KINDS.index(kind) - len(KINDS)] = probability
    return maps


def acted(task="auto", tone=0.0, **probabilities):
    findings = findings_in(maps_of(tone, **probabilities), CARD, task)
    return {kind: round(finding.acted, 3) for kind, finding in findings.items() if finding.acted}


def test_every_kind_has_its_probability():
    findings = findings_in(maps_of(rain=0.25, snow=0.75), CARD, "auto")
    assert tuple(findings) == KINDS == TASKS[1:]
    assert {kind: finding.probability for kind, finding in findings.items()} == {
        **dict.fromkeys(KINDS, 0.0),
        "rain": 0.25,
        "snow": 0.75,
    }


def test_what_is_plain_is_acted_on():
    assert acted(noise=0.99, blur=0.45) == {"noise": 1.0, "blur": 0.5}
    assert acted(tone=0.1, haze=0.9) == {"haze": 0.5}
    assert acted(tone=0.1, haze=0.8, lowlight=0.89) == {}


def test_what_was_asked_for_needs_less():
    assert acted("haze", tone=0.1, haze=0.8) == {"haze": 1.0}
    assert acted("lowlight", tone=0.1, haze=0.8) == {}


def test_a_tone_that_is_left_alone_is_not_acted_on():
    assert acted(haze=0.99, rain=0.99) == {"rain": 1.0}


@pytest.mark.parametrize("card", [GUIDED, IDENTITY_CARD], ids=["guided", "unguided"])
def test_maps_of_other_models_say_nothing(card):
    assert findings_in(maps_of(haze=1.0), card, "auto") is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("animals/kitten-noise.png", "noise"),
        ("animals/osprey-rain.jpg", "rain"),
        ("animals/otter-dark.jpg", "lowlight"),
        ("places/tunnel-haze.jpg", "haze"),
    ],
)
def test_the_shipped_model_finds_what_is_wrong(shipped, name, kind):
    pixels = decode_image((PICTURES / name).read_bytes(), max_pixels=10**6).pixels
    assert shipped.prior(PriorInput(thumbnail(pixels, shipped.card.thumbnail), "auto")) is not None
    findings = shipped.findings
    assert max(findings, key=lambda each: findings[each].probability) == kind
    assert findings[kind].acted > 0.5


def test_several_tasks_find_and_treat_what_each_does(shipped):
    path = PICTURES / "animals" / "kitten-noise.png"
    small = thumbnail(decode_image(path.read_bytes(), max_pixels=10**6).pixels, 256)
    # A veil over the noisy image: half of it is white.
    small = (0.45 * small + 0.5).astype(np.float32)
    alone = {
        task: (shipped.prior(PriorInput(small, task)), shipped.findings)
        for task in ("noise", "haze")
    }
    both, found = shipped.prior(PriorInput(small, "noise,haze")), shipped.findings
    evidence = np.maximum(alone["noise"][0][-6:], alone["haze"][0][-6:])
    np.testing.assert_array_equal(both[-6:], evidence)
    assert both.shape == alone["haze"][0].shape
    for kind in KINDS:
        acted = [findings[kind].acted for _, findings in alone.values()]
        assert min(acted) <= found[kind].acted <= max(acted)


@pytest.fixture(scope="module")
def shipped():
    return open_restorer("varformer-s", ON_CPU)
