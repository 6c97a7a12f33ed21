"""Fades and cross-fades keep their course under `auto`: a change of level is the film's own."""

from pathlib import Path

import av
import numpy as np
import pytest
from support.cli import move_home, run_here

CLIPS = Path(__file__).parents[3] / "shared/data/clips"


def levels(path):
    """Mean luma of each frame, in [0, 1]."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    return np.array([frame.mean() for frame in frames]) / 255.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fade", "white", "cross"])
def test_the_mean_brightness_follows_the_source(name, tmp_path, monkeypatch):
    source, target = CLIPS / f"{name}.mkv", tmp_path / "out.mkv"
    if not source.is_file():
        pytest.skip("../shared is not here")
    move_home(monkeypatch, tmp_path / "home")
    result = run_here("video", source, target, "-d", "cpu", "--codec", "ffv1")
    assert result.exit_code == 0, result.stderr
    before, after = levels(source), levels(target)
    assert len(before) == len(after)
    slope = np.polyfit(before, after, 1)[0]
    assert slope == pytest.approx(1.0, abs=0.05)
