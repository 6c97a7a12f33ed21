"""`varfix dir` beside other ways to restore the same files, measured in turn in one run.

    python tests/bench/compare.py --megapixels 1 --pictures 4 --rounds 3

`bare` runs the model's graphs alone on the very tiles; `eager` is the released script's way of
working (PyTorch, one image after the other, nothing overlaps) with VarFormer-S of fresh weights;
`opencv` and `nlmeans` are filters that people use instead. Every round runs all of them; printed
are medians of the rounds, and of the ratios within a round. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import click
import cv2
import numpy as np

from varfix.engine.evaluation.speed import synthetic_image, time_files, time_model
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.onnx.inference.open_model import open_restorer

Way = Callable[[Path], float]
MULTIPLE = 64


def read(path: Path) -> np.ndarray:
    """An image as 8-bit BGR."""
    image = cv2.imread(str(path))
    assert image is not None, path
    return image


def one_by_one(
    sources: list[Path], folder: Path, change: Callable[[np.ndarray], np.ndarray]
) -> float:
    """Seconds for reading, changing and writing each file in turn."""
    folder.mkdir()
    start = time.perf_counter()
    for path in sources:
        cv2.imwrite(str(folder / path.name), change(read(path)), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return time.perf_counter() - start


def eager_network() -> Callable[[np.ndarray], np.ndarray]:
    """VarFormer-S in PyTorch on whole images."""
    import torch

    from varfix.engine.networks.varformer_s.model import build_varformer_s
    from varfix.engine.train.data.batches import sampling_matrix

    network = build_varformer_s().eval()

    @torch.inference_mode()
    def change(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        small = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
        h, w = -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE
        padded = np.pad(image, ((0, h - height), (0, w - width), (0, 0)), "reflect")
        thumbnail, tile = (
            torch.from_numpy(pixels[:, :, ::-1].copy()).permute(2, 0, 1)[None] / 255.0
            for pixels in (small, padded)
        )
        maps = network.prior(thumbnail, torch.zeros(1, dtype=torch.int64)).maps
        begin = torch.zeros(1, dtype=torch.int64)
        rows = sampling_matrix(begin, h, height)[0]
        columns = sampling_matrix(begin, w, width)[0]
        maps = rows @ maps @ columns.T
        restored = network.restorer(tile, maps)[0].clamp(0.0, 1.0)[0].permute(1, 2, 0)
        return (restored[:height, :width].numpy()[:, :, ::-1] * 255.0).round().astype(np.uint8)

    return change


def opencv_filter(image: np.ndarray) -> np.ndarray:
    """OpenCV's non-local means with its usual parameters."""
    return cv2.fastNlMeansDenoisingColored(image, None, 10, 10, 7, 21)


def ffmpeg_filter(image: np.ndarray) -> np.ndarray:
    """FFmpeg's nlmeans with its default parameters."""
    import av

    graph = av.filter.Graph()
    frame = av.VideoFrame.from_ndarray(image, format="bgr24")
    source = graph.add_buffer(
        template=None, width=frame.width, height=frame.height, format="bgr24", time_base=1
    )
    steps = [source, graph.add("format", "yuv444p"), graph.add("nlmeans"), graph.add("buffersink")]
    for before, after in pairwise(steps):
        before.link_to(after)
    graph.configure()
    frame.pts = 0
    source.push(frame)
    source.push(None)
    result = steps[-1].pull()
    assert isinstance(result, av.VideoFrame)
    return result.to_ndarray(format="bgr24")


def ways(restorer: Restorer, settings: Settings, megapixels: float, count: int) -> dict[str, Way]:
    """What is compared: name and a function from an empty folder to seconds."""
    pixels = synthetic_image(megapixels)
    eight_bits = (pixels[:, :, ::-1] * 255.0).round().astype(np.uint8)
    eager = eager_network()

    def sources(folder: Path) -> list[Path]:
        paths = [folder / f"{number:04}.jpg" for number in range(count)]
        for path in paths:
            cv2.imwrite(str(path), eight_bits, [cv2.IMWRITE_JPEG_QUALITY, 95])
        return paths

    def filtered(change: Callable[[np.ndarray], np.ndarray]) -> Way:
        return lambda folder: one_by_one(sources(folder), folder / "out", change)

    return {
        "varfix dir": lambda folder: time_files(restorer, pixels, settings, count, folder)[1],
        "bare": lambda folder: time_model(restorer, pixels, settings, count)[0] * count,
        "eager": filtered(eager),
        "opencv": filtered(opencv_filter),
        "nlmeans": filtered(ffmpeg_filter),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", default="", help="names to leave out, separated by commas")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    settings = Settings()
    restorer = open_restorer(settings.model.name, settings)
    every = ways(restorer, settings, given.megapixels, given.pictures)
    chosen = {name: way for name, way in every.items() if name not in given.skip.split(",")}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(given.rounds):
        for name, way in chosen.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds[name].append(way(Path(folder)))
    total = given.pictures * given.megapixels
    ours = seconds["varfix dir"]
    report = {
        name: {
            "seconds_per_megapixel": round(statistics.median(taken) / total, 4),
            "varfix_over_this": round(
                statistics.median(a / b for a, b in zip(ours, taken, strict=True)), 4
            ),
        }
        for name, taken in seconds.items()
    }
    if given.json:
        click.echo(json.dumps(report))
        return
    for name, facts in report.items():
        cost, ratio = facts["seconds_per_megapixel"], facts["varfix_over_this"]
        click.echo(f"{name:12} {cost:9.3f} s/MP   varfix over this {ratio:.3f}")


if __name__ == "__main__":
    main()
