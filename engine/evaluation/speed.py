"""Measures the speed of a model on this machine: the model alone, and from files to files.

The images are synthetic: noise with the spectrum of camera images, so that decoders and encoders
have a realistic load. The content of an image does not change the speed of a network.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.batch.run import run_batch
from varfix.engine.events import Event, RunEnd
from varfix.engine.image.decoded_image import DecodedImage, ImageInfo
from varfix.engine.image.writer import encode_image_bytes
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.restoration.restorer import RestoredTiles, Restorer
from varfix.engine.restoration.restorer_proxy import RestorerProxy
from varfix.engine.settings.types import OutputSettings, Settings

Floats = npt.NDArray[np.float32]

ASPECT: Final = 1.5
"""Width divided by height of the images, as in most cameras."""

MEGAPIXELS: Final = 24.0
"""Megapixels of all images of a measurement, with at most `MAX_IMAGES` images."""

MAX_IMAGES: Final = 40
_SLOPE: Final = 1.1  # spectral amplitude of camera images falls with this power of frequency
_GRAIN: Final = 6.0 / 255.0


@dataclass(frozen=True)
class Speed:
    """Results of one image size.

    Attributes:
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        images: Number of images restored from files to files.
        model_seconds: Seconds per megapixel in the model alone, on the tiles of these images.
        file_seconds: Seconds per megapixel from JPEG files to JPEG files, with a loaded model.
        busy: Share of the time from files to files in which each stage worked.
        cpu: CPU seconds per megapixel in the model alone, over all threads.
        memory: Peak memory of the process so far, in bytes.
    """

    width: int
    height: int
    images: int
    model_seconds: float
    file_seconds: float
    busy: dict[str, float]
    cpu: float
    memory: int

    @property
    def megapixels(self) -> float:
        """Size of one image."""
        return self.width * self.height / 1e6

    @property
    def overhead(self) -> float:
        """Time from files to files divided by time in the model alone."""
        return self.file_seconds / self.model_seconds


def synthetic_image(megapixels: float, seed: int = 0) -> Floats:
    """Generate an image (H, W, 3) in [0, 1], whose sides are no particular multiple.

    Args:
        megapixels: Approximate size, at an aspect ratio of 3:2.
        seed: Equal seeds give equal images on every machine, except for rounding.
    """
    import cv2

    height = max(1, round((megapixels * 1e6 / ASPECT) ** 0.5))
    width = max(1, round(height * ASPECT))
    rng = np.random.Generator(np.random.PCG64(seed))
    # Octaves of noise, each enlarged: a spectrum without a transform of the whole image.
    pixels = np.zeros((height, width, 3), np.float32)
    cells, strength = 2, 1.0
    while cells < min(height, width):
        coarse = rng.standard_normal((cells, round(cells * ASPECT), 3), np.float32)
        pixels += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, strength = cells * 2, strength * 2.0**-_SLOPE
    pixels = 0.5 + 0.2 * pixels
    pixels += _GRAIN * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels, 0.0, 1.0)


def image_count(megapixels: float) -> int:
    """Return the number of images of a size for a reliable measurement."""
    return max(1, min(MAX_IMAGES, round(MEGAPIXELS / megapixels)))


def measure(restorer: Restorer, settings: Settings, megapixels: float, folder: Path) -> Speed:
    """Measure one size.

    Args:
        restorer: The model, ready to run.
        settings: The settings of a run of `varfix dir`.
        megapixels: Size of each image.
        folder: An empty folder for the images and their results.
    """
    pixels = synthetic_image(megapixels)
    height, width = pixels.shape[:2]
    size = height * width / 1e6
    count = image_count(megapixels)
    end, seconds = time_files(restorer, pixels, settings, count, folder)
    memory = peak_memory()  # before the recorded tiles take memory
    model_seconds, cpu = time_model(restorer, pixels, settings, max(1, count // 4))
    return Speed(
        width=width,
        height=height,
        images=count,
        model_seconds=model_seconds / size,
        file_seconds=seconds / count / size,
        busy=end.busy,
        cpu=cpu / size,
        memory=memory,
    )


class CallRecorder(RestorerProxy):
    """A restorer that records its calls, so that they can be repeated in the model alone.

    Attributes:
        calls: Functions that repeat one call each, in order.
    """

    def __init__(self, restorer: Restorer) -> None:
        """Wrap a restorer."""
        super().__init__(restorer)
        self.calls: list[Callable[[], object]] = []

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Record and forward the call."""
        self.calls.append(lambda: self._restorer.prior(prior_input))
        return self._restorer.prior(prior_input)

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Record and forward the call."""
        self.calls.append(lambda: self._restorer.restore(tiles, prior))
        return self._restorer.restore(tiles, prior)


def time_model(
    restorer: Restorer, pixels: Floats, settings: Settings, times: int
) -> tuple[float, float]:
    """Return seconds and CPU seconds of one image in the model alone, on the tiles of a run."""
    recorder = CallRecorder(restorer)
    restore_image(recorder, pixels, settings)
    start, before = time.perf_counter(), time.process_time()
    for _ in range(times):
        for call in recorder.calls:
            call()
    return (time.perf_counter() - start) / times, (time.process_time() - before) / times


def time_files(
    restorer: Restorer, pixels: Floats, settings: Settings, count: int, folder: Path
) -> tuple[RunEnd, float]:
    """Restore `count` JPEG files as `varfix dir` does; return the last event and seconds."""
    source = folder / "in"
    source.mkdir()
    image = DecodedImage(pixels, None, ImageInfo(format="jpeg", depth=8))
    data = encode_image_bytes(image, "jpeg", OutputSettings())
    for number in range(count):
        (source / f"{number:04}.jpg").write_bytes(data)
    ends: list[RunEnd] = []

    def observe(event: Event) -> None:
        if isinstance(event, RunEnd):
            ends.append(event)

    start = time.perf_counter()
    plan = plan_batch(source, folder / "out", BatchRequest(), settings, fingerprint="bench")
    run_batch(plan, restorer, settings, observe, RunOptions("bench", ""))
    return ends[0], time.perf_counter() - start


def peak_memory() -> int:
    """Return the peak resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
