"""HDR is restored in a tone-mapped copy; the change is applied to the signal, metadata are kept."""

import json
import subprocess
from fractions import Fraction
from shutil import which

import numpy as np
import pytest
from support.identity import IdentityRestorer

from varfix.engine.errors import ExitCode
from varfix.engine.events import Warn
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.video.clip import Layout
from varfix.engine.video.color import YcbcrConverter
from varfix.engine.video.probe import probe_clip
from varfix.engine.video.tone_map import HLG, PQ, ToneMap, tone_map_for

from .conftest import facts, images

DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"


@pytest.fixture
def hdr_film(film):
    def make(transfer, name="hdr.mp4"):
        params = f"log-level=error:master-display={DISPLAY}:max-cll=1000,400"
        return film(
            name,
            codec="libx265",
            pix_fmt="yuv420p10le",
            tags=(9, transfer, 9, 1),
            count=3,  # of two, x265 makes times at random
            size=(64, 48),
            options={"x265-params": params},
        )

    return make


def frame_facts(path):
    """Side data of the first frame, as FFmpeg's program reads it."""
    if which("ffprobe") is None:
        pytest.skip("the program ffprobe is not installed")
    words = ["ffprobe", "-v", "error", "-show_frames", "-read_intervals", "%+#1", "-of", "json"]
    words += ["-select_streams", "v:0", str(path)]
    found = subprocess.run(words, check=True, capture_output=True)
    return {
        data["side_data_type"]: data
        for data in json.loads(found.stdout)["frames"][0]["side_data_list"]
    }


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("codec", ["auto", "av1"])
def test_metadata_are_kept(hdr_film, restore, tmp_path, transfer, codec):
    source = hdr_film(transfer)
    made = restore(source, tmp_path / "out.mp4", codec=codec)
    assert made.summary.exit_code == ExitCode.OK
    assert not made.of(Warn)
    assert facts(made.path)["tags"] == facts(source)["tags"]
    assert facts(made.path)["format"] == "yuv420p10le"
    before, after = frame_facts(source), frame_facts(made.path)
    for kind in ("Mastering display metadata", "Content light level metadata"):
        for key, value in before[kind].items():
            if key != "side_data_type":
                found = float(Fraction(str(after[kind][key])))
                assert found == pytest.approx(float(Fraction(str(value))), rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_an_unchanged_signal_is_stored_bit_for_bit(hdr_film, restore, transfer):
    source = hdr_film(transfer)
    made = restore(source, codec="ffv1")
    assert images(made.path) == images(source)
    (lost,) = made.of(Warn)
    assert lost.code == "metadata_lost"


def test_a_model_sees_a_copy_of_standard_brightness():
    """BT.2408: diffuse white, 203 cd/m2, is at 58 % of PQ and 75 % of HLG; middle gray at 38 %."""
    for kind, white in ((PQ, 0.58), (HLG, 0.75)):
        assert float(ToneMap(kind).to_model(np.float32(white))) == pytest.approx(0.82, abs=0.02)
    gray = [float(ToneMap(kind).to_model(np.float32(0.38))) for kind in (PQ, HLG)]
    assert gray == pytest.approx([0.46, 0.46], abs=0.05)
    for kind in (PQ, HLG):
        assert ToneMap(kind).to_model(np.float32([0, 1])) == pytest.approx([0, 1])
    assert tone_map_for(1) is None


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_the_curve_increases_and_is_inverted(transfer):
    tone_map, signal = ToneMap(transfer), np.linspace(0, 1, 1001, dtype=np.float32)
    shown = tone_map.to_model(signal)
    assert (np.diff(shown) >= 0).all()
    assert (np.diff(shown)[100:] > 0).all()
    back = tone_map.to_signal(shown)
    assert np.abs(back - signal)[100:].max() < 1e-3


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_a_change_is_that_of_the_tone_mapped_copy(transfer):
    layout = Layout(8, 8, 10, 1, 1)
    converter = YcbcrConverter(layout, 9, transfer)
    rng = np.random.default_rng(1)
    planes = tuple(
        np.full((8, 8), 480, "<u2") + rng.integers(-9, 9, (8, 8)).astype("<u2") for _ in range(3)
    )
    wanted = np.clip(converter.to_rgb(planes) * 0.9, 0, 1)
    found = converter.to_rgb(converter.apply_change(planes, wanted))
    assert np.abs(found - wanted).max() < 0.004


def test_restored_frames_are_darker_in_the_result_as_well(hdr_film, restore):
    class Darker(IdentityRestorer):
        def restore(self, tiles, prior):
            return RestoredTiles(tiles * np.float32(0.8))

    source = hdr_film(PQ)
    made = restore(source, codec="ffv1", restorer=Darker())
    assert made.summary.exit_code == ExitCode.OK
    assert images(made.path) != images(source)
    assert probe_clip(made.path).tags.transfer == PQ
