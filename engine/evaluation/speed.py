"""How fast a model is here: bare, and from files to files.

The images are made, not shipped: noise with the spectrum of photographs, so that decoders and
encoders have the work that photographs give them. What is restored matters to no network's speed.
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

from varfix.engine.batch.context import Options
from varfix.engine.batch.plan import BatchRequest, plan_batch
from varfix.engine.batch.run import run_batch
from varfix.engine.events import Event, RunEnd
from varfix.engine.image.picture import Picture, PictureInfo
from varfix.engine.image.writer import write_picture
from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.restoration.restorer import DeviceUsed, Restorer, Retries
from varfix.engine.settings.types import OutputSettings, Settings

Floats = npt.NDArray[np.float32]

ASPECT: Final = 1.5
"""Width over height of the images, as most cameras have it."""

WORTHWHILE: Final = 24.0
"""Megapixels that a measurement restores, where that takes at most `MOST` images."""

MOST: Final = 40
_SLOPE: Final = 1.1  # spectral amplitude falls with frequency, to this power, in photographs
_GRAIN: Final = 6.0 / 255.0


@dataclass(frozen=True)
class Speed:
    """What was measured at one size.

    Attributes:
        width: of the images in pixels.
        height: of the images in pixels.
        pictures: how many were restored from files to files.
        bare: seconds per megapixel in the model alone, on the tiles of these images.
        whole: seconds per megapixel from JPEG files to JPEG files, the model being loaded.
        busy: share of the time from files to files that each stage was at work.
        cpu: seconds of CPU per megapixel in the model alone, over all threads.
        memory: the greatest memory of the process so far, in bytes.
    """

    width: int
    height: int
    pictures: int
    bare: float
    whole: float
    busy: dict[str, float]
    cpu: float
    memory: int

    @property
    def megapixels(self) -> float:
        """Size of one image."""
        return self.width * self.height / 1e6

    @property
    def overhead(self) -> float:
        """Time from files to files over that in the model alone."""
        return self.whole / self.bare


def synthetic_image(megapixels: float, seed: int = 0) -> Floats:
    """Make an image (H, W, 3) in [0, 1], of a size that is a multiple of nothing in particular.

    Args:
        megapixels: about as many, at an aspect of 3:2.
        seed: the same seed gives the same image on every machine, but for rounding.
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
    """How many images of a size make a worthwhile measurement."""
    return max(1, min(MOST, round(WORTHWHILE / megapixels)))


def measure(restorer: Restorer, settings: Settings, megapixels: float, folder: Path) -> Speed:
    """Measure one size.

    Args:
        restorer: the model, ready to run.
        settings: as a run of `varfix dir` would have them.
        megapixels: of each image.
        folder: an empty folder for the images and their results.
    """
    pixels = synthetic_image(megapixels)
    height, width = pixels.shape[:2]
    size = height * width / 1e6
    count = image_count(megapixels)
    end, seconds = time_files(restorer, pixels, settings, count, folder)
    memory = peak_memory()  # before the tiles are held for the bare run
    bare, cpu = time_model(restorer, pixels, settings, max(1, count // 4))
    return Speed(
        width=width,
        height=height,
        pictures=count,
        bare=bare / size,
        whole=seconds / count / size,
        busy=end.busy,
        cpu=cpu / size,
        memory=memory,
    )


class CallRecorder:
    """A restorer that remembers what it was asked, so that the model alone can be asked again."""

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        self.asked: list[Callable[[], object]] = []

    @property
    def card(self) -> ModelCard:
        """The card of the restorer behind."""
        return self._restorer.card

    @property
    def tile(self) -> int:
        """The tile of the restorer behind."""
        return self._restorer.tile

    @property
    def tile_step(self) -> int:
        """The step of the restorer behind."""
        return self._restorer.tile_step

    @property
    def batch(self) -> int:
        """The batch of the restorer behind."""
        return self._restorer.batch

    @property
    def used(self) -> DeviceUsed:
        """Where the restorer behind computes."""
        return self._restorer.used

    @property
    def retries(self) -> Retries:
        """What the restorer behind had to repeat."""
        return self._restorer.retries

    def prior(self, thumbnail: Floats, task: str) -> Floats | None:
        """Ask, and remember the question."""
        self.asked.append(lambda: self._restorer.prior(thumbnail, task))
        return self._restorer.prior(thumbnail, task)

    def restore(self, tiles: Floats, prior: Floats | None) -> Floats:
        """Ask, and remember the question."""
        self.asked.append(lambda: self._restorer.restore(tiles, prior))
        return self._restorer.restore(tiles, prior)


def time_model(
    restorer: Restorer, pixels: Floats, settings: Settings, times: int
) -> tuple[float, float]:
    """Seconds, and CPU seconds, of one image in the model alone, on the very tiles of a run."""
    recorder = CallRecorder(restorer)
    restore_image(recorder, pixels, settings)
    start, before = time.perf_counter(), time.process_time()
    for _ in range(times):
        for ask in recorder.asked:
            ask()
    return (time.perf_counter() - start) / times, (time.process_time() - before) / times


def time_files(
    restorer: Restorer, pixels: Floats, settings: Settings, count: int, folder: Path
) -> tuple[RunEnd, float]:
    """Restore `count` JPEG files into another folder, as `varfix dir` does; the end and seconds."""
    source = folder / "in"
    source.mkdir()
    picture = Picture(pixels, None, PictureInfo(format="jpeg", depth=8))
    data = write_picture(picture, "jpeg", OutputSettings())
    for number in range(count):
        (source / f"{number:04}.jpg").write_bytes(data)
    ends: list[RunEnd] = []

    def observe(event: Event) -> None:
        if isinstance(event, RunEnd):
            ends.append(event)

    start = time.perf_counter()
    plan = plan_batch(source, folder / "out", BatchRequest(), settings, recipe="bench")
    run_batch(plan, restorer, settings, observe, Options("bench", ""))
    return ends[0], time.perf_counter() - start


def peak_memory() -> int:
    """The greatest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
