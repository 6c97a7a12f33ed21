"""Reads, writes and checks the model card inside an ONNX file.

The checksum covers every outermost field of the file except the metadata, in order of field number:
graph, weights, opsets and producer, but not the card. So a card can be corrected without touching
the checksum, the checksum can live in the card, and `verify_model` needs nothing but the file. It
finds damage (a bad disk, a broken transfer, a mixed-up pair); it is no signature.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from varfix.engine.errors import ModelChecksumError, ModelContractError, ModelMissingError
from varfix.engine.models.card import PREFIX, ModelCard, from_metadata, to_metadata
from varfix.engine.system.atomic import replacement
from varfix.onnx.files import protobuf as wire

PRIOR_SUFFIX: Final = ".prior.onnx"
HALF_SUFFIX: Final = ".fp16.onnx"
INT8_SUFFIX: Final = ".int8.onnx"
DECODER_SUFFIX: Final = ".decoder.onnx"
MADE_FROM: Final = "made-from"
"""Metadata of a graph in integers: the checksum of the graph that it was made from."""
WEIGHTS_SUFFIX: Final = ".data"
_EXPORT: Final = "Export with varfix export-onnx."


def prior_path(path: Path) -> Path:
    """Return where the prior graph of the restore graph at `path` lies."""
    return path.with_name(path.name.removesuffix(".onnx") + PRIOR_SUFFIX)


def half_path(path: Path) -> Path:
    """Return where the half-precision graph of the restore graph at `path` lies."""
    return path.with_name(path.name.removesuffix(".onnx") + HALF_SUFFIX)


def int8_path(path: Path) -> Path:
    """Return where the graph in 8-bit integers lies that goes with the restore graph at `path`."""
    return path.with_name(path.name.removesuffix(".onnx") + INT8_SUFFIX)


def decoder_path(path: Path) -> Path:
    """Return where the graph lies that draws latents of the restore graph at `path`."""
    return path.with_name(path.name.removesuffix(".onnx") + DECODER_SUFFIX)


def weights_path(path: Path) -> Path:
    """Return where the weights of the graph at `path` lie, if they are not inside."""
    return path.with_name(path.name + WEIGHTS_SUFFIX)


def read_card(path: Path) -> ModelCard:
    """Return the card inside the ONNX file at `path`, without loading the graph.

    Raises:
        ModelMissingError: The file is not there or may not be read.
        ModelContractError: It is no ONNX file, incomplete, or has no valid card.
    """
    metadata = read_metadata(path)
    try:
        return from_metadata(metadata)
    except ModelContractError as error:
        raise ModelContractError(f"{path.name}: {error.message}", hint=error.hint) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata pairs of the ONNX file at `path`; raises as `read_card`."""
    with _mapped(path) as data:
        return dict(
            wire.decode_pair(data[field.body : field.end])
            for field in _model_fields(data)
            if field.number == wire.METADATA
        )


def write_card(path: Path, card: ModelCard) -> ModelCard:
    """Put `card` into the ONNX file at `path`, with the checksum of its graph filled in.

    Other metadata stays, an older card goes, and the file is replaced in one step.

    Returns:
        The card as written.
    """
    with replacement(path) as part:
        # The mapping ends before the rename: Windows does not replace a mapped file.
        return _write_with_card(path, part, card)


def _write_with_card(path: Path, part: Path, card: ModelCard) -> ModelCard:
    with _mapped(path) as data:
        card = msgspec.structs.replace(card, sha256=_digest(data))
        kept = [field for field in _model_fields(data) if _stays(field, data)]
        with part.open("wb") as file:
            file.writelines(data[field.start : field.end] for field in kept)
            file.writelines(wire.encode_pair(*pair) for pair in to_metadata(card).items())
    return card


def _stays(field: wire.Field, data: memoryview) -> bool:
    if field.number != wire.METADATA:
        return True
    return not wire.decode_pair(data[field.body : field.end])[0].startswith(PREFIX)


def graph_digest(path: Path) -> str:
    """Return the SHA-256, in hex, of the ONNX file at `path` without its metadata."""
    with _mapped(path) as data:
        return _digest(data)


def checked_digest(path: Path) -> str:
    """Return `graph_digest`, compared with the card's where the file has a card.

    Weights beside the graph count by the digest that the card has of them: gigabytes are read by
    `verify_model`, not before every run.

    Raises:
        ModelChecksumError: The graph is not the one its card was written for.
    """
    digest = graph_digest(path)
    if read_metadata(path).get(f"{PREFIX}sha256"):
        card = read_card(path)
        _compare(path, digest, card.sha256)
        if card.weights:
            check_weights(path)
        digest += card.weights
    return digest


def verify_model(path: Path) -> ModelCard:
    """Check that the graph at `path`, and the prior graph beside it, are the ones of their cards.

    Returns:
        The card of the file at `path`.

    Raises:
        ModelMissingError: A file is not there.
        ModelContractError: A file is no ONNX file with a card, or the two do not belong together.
        ModelChecksumError: A graph is not the one its card was written for.
    """
    card = _verified(path)
    if card.guidance == "image" and not path.name.endswith(PRIOR_SUFFIX):
        _verified(prior_path(path))
        check_companion(card, prior_path(path), path)
    for companion in (half_path(path), decoder_path(path)):
        if companion.is_file():
            _verified(companion)
            check_companion(card, companion, path)
    if int8_path(path).is_file():
        _verified(int8_path(path))
        check_twin(card, int8_path(path), path)
    return card


def check_companion(card: ModelCard, companion: Path, path: Path) -> None:
    """Refuse a graph of another model: the cards of one model differ in their digests only.

    Args:
        card: The card of the restore graph at `path`.
        companion: The prior graph, or a graph of another precision, that goes with it.
        path: The restore graph, for the message.

    Raises:
        ModelMissingError: The companion is not there.
        ModelContractError: It is no ONNX file with a card, or its card says something else.
    """
    if not companion.is_file():
        raise ModelMissingError(
            f"{path.name}: {companion.name} must lie beside it, and does not.", hint=_EXPORT
        )
    digests = {"sha256": card.sha256, "weights": card.weights}
    if msgspec.structs.replace(read_card(companion), **digests) != card:
        raise ModelContractError(
            f"{companion.name} belongs to another model than {path.name}: their cards differ.",
            hint=_EXPORT,
        )


def check_twin(card: ModelCard, twin: Path, path: Path) -> None:
    """Refuse a graph in integers that was not made from the restore graph at `path`.

    Raises:
        ModelMissingError: The twin is not there.
        ModelContractError: It was made from another graph, such as that of older weights.
    """
    check_companion(card, twin, path)
    if read_metadata(twin).get(MADE_FROM) != card.sha256:
        raise ModelContractError(
            f"{twin.name} was made from other weights than {path.name}.",
            hint=f"Make it again: varfix export-onnx --int8 PHOTOS {path.name} {twin.name}",
        )


def _verified(path: Path) -> ModelCard:
    card = read_card(path)
    _compare(path, graph_digest(path), card.sha256)
    if card.weights:
        check_weights(path)
        _compare(weights_path(path), file_digest(weights_path(path)), card.weights)
    return card


def check_weights(path: Path) -> None:
    """Refuse a graph whose weights should lie beside it, and do not.

    Raises:
        ModelMissingError: They are not there.
    """
    weights = weights_path(path)
    if not weights.is_file():
        raise ModelMissingError(
            f"{path.name}: its weights, {weights.name}, must lie beside it, and do not.",
            hint="Keep the names of both files.",
        )


def file_digest(path: Path) -> str:
    """Return the SHA-256, in hex, of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(path: Path, digest: str, wanted: str) -> None:
    if digest != wanted:
        raise ModelChecksumError(
            f"{path.name}: checksum mismatch, the graph is not the one its card was written for.",
            hint="Copy or export it again; if it came with varfix, reinstall varfix.",
        )


def _digest(data: memoryview) -> str:
    digest = hashlib.sha256()
    kept = [field for field in _model_fields(data) if field.number != wire.METADATA]
    for field in sorted(kept, key=lambda field: field.number):  # stable: repeated fields keep order
        digest.update(data[field.start : field.end])
    return digest.hexdigest()


def _model_fields(data: memoryview) -> list[wire.Field]:
    found = list(wire.fields(data))
    if not {wire.IR_VERSION, wire.GRAPH} <= {field.number for field in found}:
        raise wire.WireError("no graph inside")
    return found


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """Map a file of any size, so that a card at the end of a gigabyte costs one page.

    The map is left to the garbage collector: closing it would fail while a traceback holds a slice.

    Raises:
        ModelMissingError: The file is not there or may not be read.
        ModelContractError: It is empty, or the body found that it is no ONNX file.
    """
    data = memoryview(_map(path))
    try:
        yield data
    except wire.WireError as error:
        raise ModelContractError(
            f"{path.name}: not a complete ONNX file ({error}).", hint=_EXPORT
        ) from error


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ModelContractError(f"{path.name}: empty file (0 bytes).", hint=_EXPORT)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelMissingError(f"{path}: {error.strerror or error}.") from error
