"""Reads, writes and verifies the model card in an ONNX file.

The checksum covers every top-level field of the file except the metadata, in order of field number:
graph, weights, opsets and producer, but not the card. So the card can hold the checksum, and can be
corrected without changing it. The checksum detects damage and mixed-up files; it is not a
signature.
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
from varfix.engine.models.card import PREFIX, SPECIALISTS, ModelCard, from_metadata, to_metadata
from varfix.engine.system.atomic import replacement
from varfix.onnx.files import protobuf
from varfix.onnx.files.origin_file import remedy

PRIOR_SUFFIX: Final = ".prior.onnx"
FP16_SUFFIX: Final = ".fp16.onnx"
INT8_SUFFIX: Final = ".int8.onnx"
DECODER_SUFFIX: Final = ".decoder.onnx"
SPECIALIST_SUFFIXES: Final = {name: f".{name}.onnx" for name in SPECIALISTS}
MADE_FROM: Final = "made-from"
"""Metadata key of an int8 variant: the checksum of the original graph."""
WEIGHTS_SUFFIX: Final = ".data"
_COPY_AGAIN: Final = "copy or export it again, or reinstall varfix if it is a shipped model"
_COPY_ALL: Final = "copy all files of the model, and keep their names"


def prior_path(path: Path) -> Path:
    """Return the path of the prior graph of the restore graph at `path`."""
    return path.with_name(path.name.removesuffix(".onnx") + PRIOR_SUFFIX)


def fp16_path(path: Path) -> Path:
    """Return the path of the fp16 variant of the restore graph at `path`."""
    return path.with_name(path.name.removesuffix(".onnx") + FP16_SUFFIX)


def int8_path(path: Path) -> Path:
    """Return the path of the int8 variant of the restore graph at `path`."""
    return path.with_name(path.name.removesuffix(".onnx") + INT8_SUFFIX)


def decoder_path(path: Path) -> Path:
    """Return the path of the decoder of the prior of the restore graph at `path`."""
    return path.with_name(path.name.removesuffix(".onnx") + DECODER_SUFFIX)


def specialist_path(path: Path, specialist: str) -> Path:
    """Return the path of a specialist, a key of `SPECIALISTS`, of the restore graph at `path`."""
    return path.with_name(path.name.removesuffix(".onnx") + SPECIALIST_SUFFIXES[specialist])


def specialist_paths(path: Path) -> dict[str, Path]:
    """Return the specialists that stand next to the restore graph at `path`, by name."""
    paths = {name: specialist_path(path, name) for name in SPECIALISTS}
    return {name: found for name, found in paths.items() if found.is_file()}


def weights_path(path: Path) -> Path:
    """Return the path of the external weights of the graph at `path`."""
    return path.with_name(path.name + WEIGHTS_SUFFIX)


def read_card(path: Path) -> ModelCard:
    """Return the card in the ONNX file at `path`, without loading the graph.

    Raises:
        ModelMissingError: The file does not exist or is not readable.
        ModelContractError: The file is not a complete ONNX file, or has no valid card.
    """
    metadata = read_metadata(path)
    try:
        return from_metadata(metadata)
    except ModelContractError as error:
        hint = remedy(path, error.hint)
        raise ModelContractError(f"{path.name}: {error.message}", hint=hint) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata pairs of the ONNX file at `path`; raises as `read_card`."""
    with _mapped(path) as data:
        return dict(
            protobuf.decode_pair(data[field.body : field.end])
            for field in _model_fields(data)
            if field.number == protobuf.METADATA
        )


def write_card(path: Path, card: ModelCard) -> ModelCard:
    """Write `card` with the checksum of the graph to the ONNX file at `path`.

    An older card is replaced, other metadata is kept, and the file is replaced atomically.

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
            file.writelines(protobuf.encode_pair(*pair) for pair in to_metadata(card).items())
    return card


def _stays(field: protobuf.Field, data: memoryview) -> bool:
    if field.number != protobuf.METADATA:
        return True
    return not protobuf.decode_pair(data[field.body : field.end])[0].startswith(PREFIX)


def graph_digest(path: Path) -> str:
    """Return the SHA-256, in hex, of the ONNX file at `path` without its metadata."""
    with _mapped(path) as data:
        return _digest(data)


def checked_digest(path: Path) -> str:
    """Return `graph_digest`, verified if the file has a card.

    For external weights, the digest in the card is used: only `verify_model` reads gigabytes.

    Raises:
        ModelChecksumError: The graph does not match its card.
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
    """Verify the graph at `path` and the other graphs of its model against their cards.

    Returns:
        The card of the file at `path`.

    Raises:
        ModelMissingError: A file is missing.
        ModelContractError: A file is not an ONNX file with a card, or belongs to another model.
        ModelChecksumError: A graph does not match its card.
    """
    card = _verified(path)
    if card.guidance == "image" and not path.name.endswith(PRIOR_SUFFIX):
        _require_companion(prior_path(path), path)
        _verified(prior_path(path))
        check_companion(card, prior_path(path), path)
    for companion in (fp16_path(path), decoder_path(path), *specialist_paths(path).values()):
        if companion.is_file():
            _verified(companion)
            check_companion(card, companion, path)
    if int8_path(path).is_file():
        _verified(int8_path(path))
        check_int8_companion(card, int8_path(path), path)
    return card


def check_companion(card: ModelCard, companion: Path, path: Path) -> None:
    """Reject a graph of another model: cards of one model differ in their digests only.

    Args:
        card: The card of the restore graph at `path`.
        companion: The prior graph, or a variant of another precision.
        path: The restore graph, for the message.

    Raises:
        ModelMissingError: The companion is missing.
        ModelContractError: It is not an ONNX file with a card, or its card differs.
    """
    _require_companion(companion, path)
    digests = {"sha256": card.sha256, "weights": card.weights}
    if msgspec.structs.replace(read_card(companion), **digests) != card:
        raise ModelContractError(
            f"{companion.name}: belongs to another model than {path.name} (the cards differ)",
            hint=remedy(path),
        )


def _require_companion(companion: Path, path: Path) -> None:
    if not companion.is_file():
        raise ModelMissingError(
            f"{path.name}: {companion.name} not found next to it", hint=remedy(path, _COPY_ALL)
        )


def check_int8_companion(card: ModelCard, companion: Path, path: Path) -> None:
    """Reject an int8 variant that was not made from the restore graph at `path`.

    Raises:
        ModelMissingError: The int8 variant is missing.
        ModelContractError: It was made from another graph, such as one with older weights.
    """
    check_companion(card, companion, path)
    if read_metadata(companion).get(MADE_FROM) != card.sha256:
        raise ModelContractError(
            f"{companion.name}: made from other weights than {path.name}",
            hint=f"run: varfix export-onnx --int8 IMAGES {path.name} {companion.name}",
        )


def _verified(path: Path) -> ModelCard:
    card = read_card(path)
    _compare(path, graph_digest(path), card.sha256)
    if card.weights:
        check_weights(path)
        _compare(weights_path(path), file_digest(weights_path(path)), card.weights)
    return card


def check_weights(path: Path) -> None:
    """Reject a graph whose external weights are missing.

    Raises:
        ModelMissingError: The weights are missing.
    """
    weights = weights_path(path)
    if not weights.is_file():
        raise ModelMissingError(
            f"{path.name}: weights {weights.name} not found next to it",
            hint=remedy(path, "copy both files, and keep their names"),
        )


def file_digest(path: Path) -> str:
    """Return the SHA-256, in hex, of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(path: Path, digest: str, wanted: str) -> None:
    if digest != wanted:
        raise ModelChecksumError(
            f"{path.name}: checksum mismatch (the graph does not match its card)",
            hint=remedy(path, _COPY_AGAIN),
        )


def _digest(data: memoryview) -> str:
    digest = hashlib.sha256()
    kept = [field for field in _model_fields(data) if field.number != protobuf.METADATA]
    for field in sorted(kept, key=lambda field: field.number):  # stable: repeated fields keep order
        digest.update(data[field.start : field.end])
    return digest.hexdigest()


def _model_fields(data: memoryview) -> list[protobuf.Field]:
    found = list(protobuf.fields(data))
    if not {protobuf.IR_VERSION, protobuf.GRAPH} <= {field.number for field in found}:
        raise protobuf.ProtobufError("no graph inside")
    return found


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """Map a file, so that a card at the end of a gigabyte costs one page.

    The garbage collector closes the map: an explicit close fails while a traceback holds a slice.

    Raises:
        ModelMissingError: The file does not exist or is not readable.
        ModelContractError: The file is empty or not an ONNX file.
    """
    data = memoryview(_map(path))
    try:
        yield data
    except protobuf.ProtobufError as error:
        raise ModelContractError(
            f"{path.name}: not a complete ONNX file ({error})", hint=remedy(path)
        ) from error


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ModelContractError(f"{path.name}: empty file", hint=remedy(path))
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ModelMissingError(
            f"{path}: model file cannot be read ({reason})", hint=remedy(path, "check its path")
        ) from error
