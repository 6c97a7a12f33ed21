"""Says what made the result of an image: program, model, settings, name of the source."""

from __future__ import annotations

import functools
from contextlib import suppress
from importlib.metadata import version
from pathlib import PurePosixPath

from varfix.engine.formats import FORMATS, output_format
from varfix.engine.image.decoded_image import DecodedImage, replace_xmp
from varfix.engine.image.metadata.provenance import (
    Provenance,
    parameters_in,
    with_provenance,
)
from varfix.engine.settings.types import Settings, Strength


def restored_by(model: str, settings: Settings, source: str) -> Provenance:
    """Return what makes the result of an image.

    Args:
        model: Name of the model.
        settings: Settings of the run.
        source: Name of the source; empty if it has none.
    """
    parameters = {"model.name": model, "model.task": settings.model.task}
    if settings.model.level is not None:
        parameters["model.level"] = f"{settings.model.level:g}"
    if settings.tile.tone_lock != "auto":
        parameters["tile.tone_lock"] = settings.tile.tone_lock
    return _provenance(parameters | _strengths(settings.strengths), source)


def blended_by(result: bytes | None, strength: Strength, source: str) -> Provenance:
    """Return what makes a blend of an image and its result.

    Args:
        result: XMP of the result, which says how it was made.
        strength: Shares of the result.
        source: Name of the source.
    """
    parameters = dict(
        text.split("=", 1) for text in (parameters_in(result) or "").split("; ") if "=" in text
    )
    uniform = parameters.pop("strength", "1")
    shares = (parameters.pop(key, uniform) for key in ("strength.luma", "strength.chroma"))
    luma, chroma = (_share(text) for text in shares)
    made = Strength(luma=luma * strength.luma, chroma=chroma * strength.chroma)
    return _provenance(parameters | _strengths(made), source)


def _share(text: str) -> float:
    """Return a strength in XMP, which another program may have changed."""
    with suppress(ValueError):
        return min(max(float(text), 0.0), 1.0)
    return 1.0


def _strengths(strength: Strength) -> dict[str, str]:
    if strength.is_uniform:
        return {"strength": f"{strength.luma:g}"}
    return {"strength.luma": f"{strength.luma:g}", "strength.chroma": f"{strength.chroma:g}"}


def _provenance(parameters: dict[str, str], source: str) -> Provenance:
    texts = "; ".join(f"{key}={value}" for key, value in parameters.items())
    return Provenance(_software(), texts, PurePosixPath(source).name)


def stated(image: DecodedImage, fmt: str, made_by: Provenance) -> DecodedImage:
    """Return the image with XMP that says what made it, if its format stores XMP.

    Args:
        image: The restored image.
        fmt: Format of the result, or `keep`.
        made_by: What made it.
    """
    if not FORMATS[output_format(image.info.format, fmt)].exif:
        return image
    return replace_xmp(image, with_provenance(image.info.xmp, made_by))


@functools.cache
def _software() -> str:
    return f"varfix {version('varfix')}"
