"""What makes the shipped model fast changes no bit of what it computes on a CPU.

The two exceptions say by how much: several tiles at once (here), and 8-bit integers (`test_int8`).
"""

import cv2
import numpy as np
import pytest

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.batch.provenance import restored_by, stated
from varfix.engine.batch.run import run_batch
from varfix.engine.image.decoded_image import replace_pixels
from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image_bytes
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.settings.types import IoSettings, OutputSettings, Settings, TileSettings
from varfix.onnx.files.model_files import find_model
from varfix.onnx.inference.hardware import THREADS_VARIABLE
from varfix.onnx.inference.multi_gpu import MultiGpuRestorer
from varfix.onnx.inference.open_model import open_restorer
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

ON_CPU = Settings(device="cpu", tile=TileSettings(size=128, overlap=32))
SIDES = (150, 230)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.random((5, 7, 3)), SIDES[::-1], interpolation=cv2.INTER_CUBIC)
    noisy = smooth + rng.normal(0.0, 0.1, smooth.shape)
    return noisy.clip(0.0, 1.0).astype(np.float32)


@pytest.fixture(scope="module")
def restorer():
    return open_restorer("varformer-s", ON_CPU)


@pytest.fixture(scope="module")
def plain(restorer, image):
    """The image restored tile by tile."""
    assert restorer.batch == 1
    restored = restore_image(restorer, image, ON_CPU)
    assert np.abs(restored - image).mean() > 0.01  # there is something to compute
    return restored


@pytest.fixture(scope="module")
def feeds():
    """Tiles and thumbnails for the bare graphs, by the graph's attribute of the model's files."""
    rng = np.random.default_rng(0)
    tile = rng.random((2, 3, 64, 128), np.float32)
    prior = 0.1 * rng.standard_normal((2, 422, 4, 8), np.float32)
    thumbnail = rng.random((1, 3, 256, 256), np.float32)
    return {
        "restore": ("restored", {"tile": tile, "prior": prior}),
        "prior": (
            "prior",
            {
                "thumbnail": thumbnail,
                "task": np.array([0]),
                "crops": rng.random((1, 5, 3, 64, 64), np.float32),
                "probabilities": np.full((1, 2, 6), -1.0, np.float32),
            },
        ),
    }


@pytest.mark.parametrize("graph", ["restore", "prior"])
def test_a_graph_optimized_earlier(graph, feeds, sources):
    path, (output, inputs) = getattr(find_model("varformer-s"), graph), feeds[graph]
    start(path, SessionPlan(CPU))
    kept = start(path, SessionPlan(CPU))
    fresh = start(path.read_bytes(), SessionPlan(CPU))
    assert sources[-2].optimized
    assert sources[-1] == path.read_bytes()
    np.testing.assert_array_equal(kept.run([output], inputs), fresh.run([output], inputs))


def test_sizes_that_are_left_free(feeds):
    path, (output, inputs) = find_model("varformer-s").restore, feeds["restore"]
    sizes = {"height": 64, "width": 128, "prior_height": 4, "prior_width": 8}
    free, pinned = start(path, SessionPlan(CPU)), start(path, SessionPlan(CPU, sizes))
    np.testing.assert_array_equal(free.run([output], inputs), pinned.run([output], inputs))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(threads, image, plain, monkeypatch):
    monkeypatch.setenv(THREADS_VARIABLE, str(threads))
    other = open_restorer("varformer-s", ON_CPU)
    np.testing.assert_array_equal(restore_image(other, image, ON_CPU), plain)


@pytest.mark.parametrize("batch", [2, 8])
def test_several_tiles_at_once(batch, image, plain):
    """Sums are taken in another order: the last bit may differ.

    On a CPU tiles go one by one unless someone says otherwise.
    """
    together = Settings(device="cpu", tile=TileSettings(size=128, overlap=32, batch=batch))
    other = open_restorer("varformer-s", together)
    assert other.batch == batch
    restored = restore_image(other, image, together)
    np.testing.assert_allclose(restored, plain, rtol=0, atol=1e-6)
    eight_bits = [(255.0 * pixels).round() for pixels in (restored, plain)]
    assert (eight_bits[0] != eight_bits[1]).mean() < 1e-4


def test_several_devices(restorer, image, plain):
    other = open_restorer("varformer-s", ON_CPU)
    both = MultiGpuRestorer([restorer, other], "cuda:0,1")
    assert both.batch == 2
    np.testing.assert_array_equal(restore_image(both, image, ON_CPU), plain)


@pytest.mark.parametrize("jobs", [1, 3])
def test_decoding_and_encoding_in_parallel_with_the_model(jobs, restorer, image, tmp_path):
    source, kinds = tmp_path / "in", ("jpg", "png", "jpg")
    source.mkdir()
    images = [np.roll(image, 30 * number, axis=1) for number in range(len(kinds))]
    for number, (kind, pixels) in enumerate(zip(kinds, images, strict=True)):
        data = (255.0 * pixels[:60, :90, ::-1]).round().astype(np.uint8)
        cv2.imwrite(str(source / f"{number}.{kind}"), data)
    settings = Settings(device="cpu", tile=ON_CPU.tile, io=IoSettings(jobs=jobs))
    plan = plan_batch(source, tmp_path / "out", BatchRequest(), settings, fingerprint="r")
    assert run_batch(plan, restorer, settings, lambda event: None, RunOptions("dir", "")).ok == len(
        kinds
    )
    for path in source.iterdir():
        whole = decode_image(path.read_bytes(), max_pixels=10**6)
        restored = restore_image(restorer, whole.pixels, settings)
        image_alone = replace_pixels(whole, restored)
        made_by = restored_by(restorer.card.name, settings, path.name)
        alone = encode_image_bytes(
            stated(image_alone, "keep", made_by), whole.info.format, OutputSettings()
        )
        assert (tmp_path / "out" / path.name).read_bytes() == alone
