"""Says what made the result of an image: program, model, settings, name of the source."""

from __future__ import annotations

import functools
from importlib.metadata import version
from pathlib import PurePosixPath

from varfix.engine.formats import FORMATS, output_format
from varfix.engine.image.decoded_image import DecodedImage, replace_xmp
from varfix.engine.image.metadata.provenance import (
    Provenance,
    blended_parameters,
    parameters_in,
    with_provenance,
)
from varfix.engine.settings.types import Settings


def restored_by(model: str, settings: Settings, source: str) -> Provenance:
    """Return what makes the result of an image.

    Args:
        model: Name of the model.
        settings: Settings of the run.
        source: Name of the source; empty if it has none.
    """
    parameters = {
        "model.name": model,
        "model.task": settings.model.task,
        "model.level": settings.model.level,
        "strength": f"{settings.strength:g}",
    }
    texts = [f"{key}={value}" for key, value in parameters.items() if value is not None]
    return Provenance(_software(), "; ".join(texts), PurePosixPath(source).name)


def blended_by(result: bytes | None, strength: float, source: str) -> Provenance:
    """Return what makes a blend of an image and its result.

    Args:
        result: XMP of the result, which says how it was made.
        strength: Share of the result.
        source: Name of the source.
    """
    parameters = blended_parameters(parameters_in(result), strength)
    return Provenance(_software(), parameters, PurePosixPath(source).name)


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
