"""A smaller output is made again if it was cut short, and kept if another program shrank it."""

import io

import numpy as np
import pytest
from PIL import Image

from varfix.engine.batch.completeness import is_complete
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.settings.types import Settings
from varfix.engine.storage.manifest import FileManifest, image_entry


def png(seed=0, side=12):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def planned_again(folder, data, left):
    """Publish and record `data`, leave `left` under its name, and plan the same run again."""
    source, out = folder / "in", folder / "out"
    source.mkdir()
    out.mkdir()
    (source / "a.png").write_bytes(png(1))
    stat = (source / "a.png").stat()
    manifest = FileManifest(out)
    manifest.append(image_entry("a.png", "a.png", stat, "fingerprint", data))
    manifest.close()
    (out / "a.png").write_bytes(left)
    return plan_batch(source, out, BatchRequest(), Settings(), "fingerprint")


@pytest.mark.parametrize("left", [0, 1, 60, 200])
def test_a_truncated_result_is_made_again(tmp_path, left):
    data = png(2)
    assert left < len(data)
    plan = planned_again(tmp_path, data, data[:left])
    assert [item.target.name for item in plan.items] == ["a.png"]


def test_a_result_that_another_program_made_smaller_is_kept(tmp_path):
    plan = planned_again(tmp_path, png(2, side=40), png(2, side=8))
    assert [skip.reason for skip in plan.skips] == ["foreign"]


def test_an_image_is_complete_to_its_last_row_only(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(3))
    assert is_complete(path)
    path.write_bytes(png(3)[:-30])
    assert not is_complete(path)
    assert not is_complete(tmp_path / "missing.png")
