"""The same frames give the same bytes, whatever was in memory before."""

import os
import subprocess
import sys

import pytest

ENCODE = """
import hashlib, sys
from pathlib import Path
import numpy as np
from varfix.engine.clip import Clip, Layout
from varfix.engine.settings import VideoSettings
from varfix.engine.video_write import PieceWriter, encoding_for
layout, rng = Layout(80, 48), np.random.default_rng(0)
settings = VideoSettings(codec=sys.argv[2])
writer = PieceWriter(Path(sys.argv[1]), encoding_for(Clip(layout), settings))
base = rng.integers(16, 235, (48, 80))
for number in range(8):
    # Flicker, which x264 weighs by what it finds between the frames.
    luma = (np.roll(base, number, 1) * (0.6 + 0.4 * rng.random())).astype(np.uint8)
    writer.add((luma, *(np.full((24, 40), 128, np.uint8),) * 2))
writer.finish()
print(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc fills memory on request")
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "ffv1"])
def test_what_lies_in_memory_changes_nothing(tmp_path, codec):
    found = set()
    for filling in ("0", "85"):
        line = [sys.executable, "-c", ENCODE, str(tmp_path / "a.mkv"), codec]
        env = {**os.environ, "MALLOC_PERTURB_": filling}
        found.add(subprocess.run(line, env=env, check=True, capture_output=True).stdout)
    assert len(found) == 1
