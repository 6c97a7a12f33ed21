"""Measures restorations: pairs of files, fixed synthetic damage, scores.

Everything is measured after rounding to 8 bits, as in a file, because users get files and published
figures are computed from files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from varfix.engine.errors import (
    ConfigError,
    ItemError,
    NothingToDoError,
    PlanError,
    SourceReadError,
)
from varfix.engine.evaluation.metrics import Scores, score
from varfix.engine.evaluation.synthetic_damage import PROTOCOLS, add_noise, compress_jpeg, damage
from varfix.engine.formats import format_of
from varfix.engine.image.decoded_image import DecodedImage, Floats, Integers, to_floats, to_integers
from varfix.engine.image.reader import decode_image

Restore = Callable[[Floats], Floats]
"""Takes and returns (H, W, 3) float32 in [0, 1]."""

Degrade = Callable[[Integers, int], Integers]
"""Damages (H, W, 1 or 3) uint8, given the index of the file in its sorted folder."""

Compare = Callable[[Floats, Floats], Scores]
"""Scores an image against its target, both (H, W, 3) in [0, 1]; raises ValueError if impossible."""


@dataclass(frozen=True)
class Pair:
    """An image to measure, its target, and its name in reports."""

    name: str
    source: Path
    target: Path


@dataclass(frozen=True)
class Sample:
    """An image to restore and its target, (H, W, 1 or 3) uint8 each."""

    name: str
    source: Integers
    target: Integers


@dataclass(frozen=True)
class Pairing:
    """The pairs of two folders, and the number of targets without an image."""

    pairs: tuple[Pair, ...]
    unused: int = 0


@dataclass(frozen=True)
class Measured:
    """Scores of one image, or of several on average.

    Attributes:
        name: The file's name.
        restored: After restoration.
        before: Scores of the damaged input; None if only the result is known.
    """

    name: str
    restored: Scores
    before: Scores | None = None

    @property
    def gain(self) -> float | None:
        """Gain in PSNR by the restoration, in dB; None without an input to compare with."""
        if self.before is None:
            return None
        # Equal infinities: both are perfect.
        if self.restored.psnr == self.before.psnr:
            return 0.0
        return self.restored.psnr - self.before.psnr


def find_images(folder: Path) -> list[Path]:
    """Return all images under a folder except hidden ones, sorted by relative path as text.

    Raises:
        NothingToDoError: The folder does not exist, or contains no image.
    """
    found = [path for path in folder.rglob("*") if _is_image(path, folder)]
    if not found:
        reason = "no images" if folder.is_dir() else "no such folder"
        raise NothingToDoError(f"{folder}: {reason}")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def find_pairs(sources: Path, targets: Path) -> Pairing:
    """Match every image under `sources` with the image of the same name under `targets`.

    Names include folders; the extension matters only if more than one file matches. Two files are a
    pair whatever their names.

    Raises:
        NothingToDoError: There are no images.
        PlanError: An image has no target, or more than one.
    """
    if sources.is_file() and targets.is_file():
        return Pairing((Pair(sources.name, sources, targets),))
    found = find_images(targets)
    by_name = _by_name(found, targets)
    pairs = tuple(_pair(path, sources, targets, by_name) for path in find_images(sources))
    return Pairing(pairs, len(found) - len({pair.target for pair in pairs}))


@dataclass(frozen=True)
class NumberedDegradation:
    """A degradation that takes a number.

    Attributes:
        least: The smallest number.
        greatest: The largest number.
        example: For error messages.
        apply: Damages samples by that number, given the index of the file.
    """

    least: float
    greatest: float
    example: str
    apply: Callable[[Integers, float, int], Integers]


NUMBERED: Mapping[str, NumberedDegradation] = MappingProxyType(
    {
        "noise": NumberedDegradation(0, 255, "noise:25", add_noise),
        "jpeg": NumberedDegradation(
            1, 100, "jpeg:20", lambda samples, quality, _: compress_jpeg(samples, round(quality))
        ),
    }
)
"""Degradations as `NAME:NUMBER`: the deviation in 0..255, the quality of libjpeg."""


def parse_degradation(text: str) -> Degrade:
    """Read `noise:SIGMA`, `jpeg:QUALITY`, or a protocol name of `synthetic_damage`.

    Raises:
        ConfigError: The degradation is unknown, or its number is out of range.
    """
    kind, colon, number = text.partition(":")
    if kind in PROTOCOLS:
        if colon:
            raise ConfigError(f"--degrade {text}: {kind} takes no number")
        return lambda samples, index: damage(samples, kind, index)
    if kind not in NUMBERED:
        known = ", ".join(["noise:SIGMA", "jpeg:QUALITY", *PROTOCOLS])
        raise ConfigError(
            f'--degrade {text}: unknown degradation "{kind}"', hint=f"use one of {known}"
        )
    found = NUMBERED[kind]
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not found.least <= value <= found.greatest:
        raise ConfigError(
            f"--degrade {text}: expected a number from {found.least:g} to {found.greatest:g}, "
            f"as in {found.example}"
        )
    return lambda samples, index: found.apply(samples, value, index)


def score_files(pairs: Iterable[Pair], max_pixels: int) -> Iterator[Measured]:
    """Compare the files of each pair.

    Raises:
        ItemError: A file cannot be read or compared; an average without it would be misleading.
    """
    for pair in pairs:
        restored, target = _read(pair.source, max_pixels), _read(pair.target, max_pixels)
        yield Measured(pair.name, _compare(pair.name, _stored(restored), _stored(target)))


def score_restored(pairs: Iterable[Pair], restore: Restore, max_pixels: int) -> Iterator[Measured]:
    """Restore the source of each pair; compare it with the target before and after.

    Raises:
        ItemError: As `score_files`.
    """
    return (measure(read(), restore) for read in paired_samples(pairs, max_pixels))


def score_degraded(
    folder: Path, degrade: Degrade, restore: Restore, max_pixels: int
) -> Iterator[Measured]:
    """Damage every image under a folder, restore it, compare it with itself before and after.

    Raises:
        NothingToDoError: There are no images.
        ItemError: As `score_files`.
    """
    return (measure(read(), restore) for read in degraded_samples(folder, degrade, max_pixels))


def paired_samples(pairs: Iterable[Pair], max_pixels: int) -> list[Callable[[], Sample]]:
    """Return one function for each pair, which reads it when called."""

    def read(pair: Pair) -> Sample:
        source, target = (_stored(_read(p, max_pixels)) for p in (pair.source, pair.target))
        return Sample(pair.name, source, target)

    return [partial(read, pair) for pair in pairs]


def degraded_samples(folder: Path, degrade: Degrade, max_pixels: int) -> list[Callable[[], Sample]]:
    """Return one function for each image under a folder, which reads and damages it when called.

    Raises:
        NothingToDoError: There are no images.
    """

    def read(index: int, path: Path) -> Sample:
        target = _stored(_read(path, max_pixels))
        return Sample(path.relative_to(folder).as_posix(), degrade(target, index), target)

    return [partial(read, index, path) for index, path in enumerate(find_images(folder))]


def measure(sample: Sample, restore: Restore, compare: Compare = score) -> Measured:
    """Restore one image; compare it with its target before and after.

    Raises:
        ItemError: It cannot be compared or restored.
    """
    name, source, target = sample.name, sample.source, sample.target
    before = _compare(name, source, target, compare)  # finds different sizes before the restoration
    try:
        restored = restore(to_floats(source))
        result = to_integers(restored, depth=8, gray=source.shape[2] == 1)
    except ItemError as error:
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from error
    return Measured(name, _compare(name, result, target, compare), before)


def mean(measured: Sequence[Measured]) -> Measured:
    """Average each score over at least one image."""
    before = [scores.before for scores in measured if scores.before is not None]
    restored = Scores.mean([scores.restored for scores in measured])
    return Measured("mean", restored, Scores.mean(before) if before else None)


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and format_of(path) is not None and path.is_file()


def _by_name(found: Iterable[Path], folder: Path) -> dict[PurePosixPath, list[Path]]:
    """Index files by relative path, with and without extension."""
    index: dict[PurePosixPath, list[Path]] = {}
    for path in found:
        name = PurePosixPath(path.relative_to(folder).as_posix())
        for key in (name, name.with_suffix("")):
            index.setdefault(key, []).append(path)
    return index


def _pair(
    path: Path, sources: Path, targets: Path, by_name: Mapping[PurePosixPath, list[Path]]
) -> Pair:
    name = PurePosixPath(path.relative_to(sources).as_posix())
    candidates = by_name.get(name) or by_name.get(name.with_suffix("")) or []
    if not candidates:
        raise PlanError(f"{path}: no target of the same name under {targets}")
    if len(candidates) > 1:
        names = ", ".join(candidate.name for candidate in candidates)
        raise PlanError(f"{path}: more than one target under {targets} ({names})")
    return Pair(str(name), path, candidates[0])


def _read(path: Path, max_pixels: int) -> DecodedImage:
    try:
        return decode_image(path.read_bytes(), max_pixels=max_pixels)
    except OSError as error:
        raise SourceReadError(f"{path}: {error.strerror or error}") from error
    except ItemError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error


def _stored(image: DecodedImage) -> Integers:
    """Return the samples of an 8-bit file of the image: (H, W, 1 or 3) uint8."""
    return to_integers(image.pixels, depth=8, gray=image.info.mode == "gray")


def _compare(name: str, restored: Integers, target: Integers, compare: Compare = score) -> Scores:
    if restored.shape[:2] != target.shape[:2]:
        sizes = " and ".join(f"{w} x {h}" for h, w in (restored.shape[:2], target.shape[:2]))
        raise ItemError(f"{name}: the images differ in size ({sizes} pixels)")
    try:
        return compare(to_floats(restored), to_floats(target))
    except ValueError as error:
        raise ItemError(f"{name}: {error}") from error
