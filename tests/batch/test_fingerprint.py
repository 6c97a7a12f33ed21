"""The fingerprint changes with everything that changes results, and with nothing else."""

import pytest

from varfix.engine.batch.fingerprint import settings_fingerprint
from varfix.engine.settings.types import (
    IoSettings,
    ModelSettings,
    OutputSettings,
    Settings,
    TileSettings,
)


@pytest.mark.parametrize(
    "changed",
    [
        Settings(strength=0.5),
        Settings(model=ModelSettings(task="rain")),
        Settings(tile=TileSettings(overlap=8)),
        Settings(output=OutputSettings(format="png")),
        Settings(output=OutputSettings(jpeg_quality=80)),
        Settings(output=OutputSettings(metadata="none")),
    ],
)
def test_settings_that_change_results_change_the_fingerprint(changed):
    assert settings_fingerprint(changed, "sha", 512) != settings_fingerprint(Settings(), "sha", 512)


def test_the_model_and_its_tile_change_the_fingerprint():
    fingerprints = {
        settings_fingerprint(Settings(), *facts) for facts in (("a", 512), ("b", 512), ("a", 256))
    }
    assert len(fingerprints) == 3


@pytest.mark.parametrize(
    "changed",
    [
        Settings(device="cpu"),
        Settings(tile=TileSettings(batch=1)),
        Settings(io=IoSettings(jobs=7, queue_mb=9)),
    ],
)
def test_settings_that_change_only_speed_do_not(changed):
    assert settings_fingerprint(changed, "sha", 512) == settings_fingerprint(Settings(), "sha", 512)
