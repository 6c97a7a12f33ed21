"""Measure the flicker of restored videos: `python tests/bench/deflicker.py PHOTO [PHOTO …]`.

Videos are created from images: stills, pans (2 pixels per frame) and a moving square, with new
noise in every frame, with constant or varying haze, or dark. Each is restored frame by frame, with
the deflicker filter, and averaged over time. JSON goes to stdout, with machine and commit; a table
to stderr.

Figures, mean over frames:
    flicker: mean absolute difference, in 8-bit code values, of the change from each frame to the
        next to that of the clean clip.
    coarse: the same for means over squares of 16 pixels, which are visible as pumping.
    psnr: against the clean video, in dB, which shows whether the filter blurs.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from varfix.engine.evaluation.metrics import psnr
from varfix.engine.image.reader import decode_image
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.video.deflicker import DeflickerSettings, deflicker
from varfix.onnx.inference.open_model import open_restorer

Clip = list[npt.NDArray[np.float32]]

SIZE = (160, 256)
PACE = 2  # pixels per frame
SQUARE = 16

RUNS = {
    "frame by frame": DeflickerSettings(window=0),
    "prior": DeflickerSettings(lowpass=False),
    "prior and lock": DeflickerSettings(),
    "and averaged": DeflickerSettings(denoise_window=3),
}


def still(photo: npt.NDArray[np.float32], count: int) -> Clip:
    """One crop from the middle of the photograph, again and again."""
    return [crop(photo, 0)] * count


def pan(photo: npt.NDArray[np.float32], count: int) -> Clip:
    """A crop that moves."""
    return [crop(photo, PACE * (at - count // 2)) for at in range(count)]


def moving(photo: npt.NDArray[np.float32], count: int) -> Clip:
    """A still over which a square of another part moves, 5 pixels per frame."""
    clip = []
    for at, frame in enumerate(still(photo, count)):
        drawn, left = frame.copy(), 20 + 5 * at
        drawn[48:112, left : left + 64] = photo[:64, :64]
        clip.append(drawn)
    return clip


def crop(photo: npt.NDArray[np.float32], shift: int) -> npt.NDArray[np.float32]:
    """A window of SIZE, `shift` pixels right of the photograph's middle."""
    top, left = ((have - want) // 2 for have, want in zip(photo.shape[:2], SIZE, strict=True))
    left += shift
    if top < 0 or not 0 <= left <= photo.shape[1] - SIZE[1]:
        raise SystemExit(f"a photograph of {photo.shape[1]}x{photo.shape[0]} is too small")
    return photo[top : top + SIZE[0], left : left + SIZE[1]]


def noisy(clip: Clip, sigma: float) -> Clip:
    """White noise of `sigma` code values, new in every frame; as an 8-bit file holds it."""
    noise = [
        np.random.default_rng(at).normal(0, sigma / 255, (*SIZE, 3)) for at in range(len(clip))
    ]
    return [
        (np.rint(np.clip(frame + grain, 0, 1) * 255) / 255).astype(np.float32)
        for frame, grain in zip(clip, noise, strict=True)
    ]


def hazy(clip: Clip, period: int | None) -> Clip:
    """Haze, thick above and thin below; its density swings by a third over `period` frames."""
    distance = np.linspace(1.2, 0.4, SIZE[0], dtype=np.float32)[:, None, None]
    swings = [0.35 * np.sin(2 * np.pi * at / period) if period else 0.0 for at in range(len(clip))]
    through = [np.exp(-(1.0 + swing) * distance) for swing in swings]
    return noisy(
        [frame * left + 0.85 * (1 - left) for frame, left in zip(clip, through, strict=True)], 5
    )


def dark(clip: Clip) -> Clip:
    """An eighth of the light, and the noise that comes with that."""
    return noisy([(frame**2.2 / 8) ** (1 / 2.2) for frame in clip], 8)


CLIPS: dict[str, tuple[Callable[..., Clip], Callable[[Clip], Clip]]] = {
    "still, noise 25": (still, lambda clip: noisy(clip, 25)),
    "pan, noise 25": (pan, lambda clip: noisy(clip, 25)),
    "object, noise 25": (moving, lambda clip: noisy(clip, 25)),
    "still, haze": (still, lambda clip: hazy(clip, None)),
    "still, haze varies slowly": (still, lambda clip: hazy(clip, 48)),
    "still, haze varies fast": (still, lambda clip: hazy(clip, 8)),
    "pan, haze": (pan, lambda clip: hazy(clip, None)),
    "still, dark": (still, dark),
    "pan, dark": (pan, dark),
}


def measure(clip: Clip, clean: Clip) -> dict[str, float]:
    """The three figures of a clip."""
    changes = [
        (after - before) - (clean_after - clean_before)
        for (before, after), (clean_before, clean_after) in zip(
            pairwise(clip), pairwise(clean), strict=True
        )
    ]
    squares = (SIZE[1] // SQUARE, SIZE[0] // SQUARE)
    coarse = [cv2.resize(change, squares, interpolation=cv2.INTER_AREA) for change in changes]
    return {
        "flicker": 255 * float(np.mean(np.abs(changes))),
        "coarse": 255 * float(np.mean(np.abs(coarse))),
        "psnr": float(
            np.mean(
                [psnr(frame, clean_frame) for frame, clean_frame in zip(clip, clean, strict=True)]
            )
        ),
    }


def restored(
    restorer: Restorer, clip: Clip, settings: Settings, deflicker_settings: DeflickerSettings
) -> Clip:
    """Return the restored video."""
    frames = deflicker(restorer, enumerate(clip), range(len(clip)), settings, deflicker_settings)
    return [pixels for _, pixels in frames]


def rows(
    photo: Path, restorer: Restorer, settings: Settings, count: int
) -> Iterator[dict[str, object]]:
    """Yield a row for each video and way of restoring it."""
    pixels = decode_image(photo.read_bytes(), max_pixels=settings.limits.max_pixels).pixels
    for name, (move, degrade) in CLIPS.items():
        clean = move(pixels, count)
        source = degrade(clean)
        yield {"photo": photo.name, "clip": name, "run": "source", **measure(source, clean)}
        for run, deflicker_settings in RUNS.items():
            began = time.perf_counter()
            figures = measure(restored(restorer, source, settings, deflicker_settings), clean)
            seconds = (time.perf_counter() - began) / count
            row = {"photo": photo.name, "clip": name, "run": run, **figures}
            yield {**row, "seconds_per_frame": seconds}


def line(row: dict[str, object]) -> str:
    """Return a row as a line of the table."""
    figures = " ".join(f"{row[key]:8.3f}" for key in ("flicker", "coarse", "psnr"))
    return f"{row['photo']:12} {row['clip']:26} {row['run']:15} {figures}\n"


def commit() -> str:
    """The commit that is checked out, where there is one."""
    words = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True)
    return found.stdout.strip()


def main() -> None:
    """Measure every clip of every photograph."""
    parser = argparse.ArgumentParser(description="Measure the flicker of restored videos.")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--model", default="varformer-s")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    settings = Settings(device=given.device)
    restorer = open_restorer(given.model, settings)
    sys.stderr.write(f"{'photo':12} {'clip':26} {'run':15}  flicker   coarse     psnr\n")
    table = []
    for photo in given.photos:
        for row in rows(photo, restorer, settings, given.frames):
            sys.stderr.write(line(row))
            table.append(row)
    machine = {"machine": platform.processor() or platform.machine(), "commit": commit()}
    used = {"provider": restorer.used.provider, "precision": restorer.used.precision}
    model = {"model": restorer.card.name, "sha256": restorer.card.sha256}
    sys.stdout.write(json.dumps({**machine, **used, **model, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
