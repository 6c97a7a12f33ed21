"""The outermost layer of an ONNX file, read and written without the onnx package.

An ONNX file is one protobuf message: a list of (number, value) fields, of which the graph is one
and each metadata pair another. Walking that list is all that cards and checksums need; what is
inside the graph stays closed here. So a model's facts are known without loading it, and without
a 20 MB dependency that only exporting needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

VARINT: Final = 0
BYTES: Final = 2
_FIXED_WIDTHS: Final = {1: 8, 5: 4}  # wire type -> bytes

# Field numbers of onnx.ModelProto and of its StringStringEntryProto.
IR_VERSION: Final = 1
GRAPH: Final = 7
METADATA: Final = 14
KEY: Final = 1
VALUE: Final = 2


class WireError(ValueError):
    """The bytes are not a complete protobuf message."""


class Field(NamedTuple):
    """One field of a message: `data[start:end]` is all of it, `data[body:end]` its value."""

    number: int
    kind: int
    start: int
    body: int
    end: int


def fields(data: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in file order.

    Raises:
        WireError: A field has an impossible tag, or ends after the data does.
    """
    at = 0
    while at < len(data):
        tag, body = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise WireError(f"impossible field number at byte {at}")
        body, end = _extent(data, kind, body)
        if end > len(data):
            raise WireError(f"ends early: {end} bytes announced, {len(data)} there")
        yield Field(number, kind, at, body, end)
        at = end


def _extent(data: memoryview, kind: int, at: int) -> tuple[int, int]:
    if kind == BYTES:
        length, body = _varint(data, at)
        return body, body + length
    if kind == VARINT:
        return at, _varint(data, at)[1]
    if kind in _FIXED_WIDTHS:
        return at, at + _FIXED_WIDTHS[kind]
    raise WireError(f"impossible wire type {kind} at byte {at}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number at `at` and the position after it."""
    value = 0
    for index in range(10):  # a 64-bit number takes at most ten groups of seven bits
        if at + index >= len(data):
            raise WireError("ends early, inside a number")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise WireError(f"impossible number at byte {at}")


def _encode_varint(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def encode_bytes(number: int, value: bytes) -> bytes:
    """Return a length-delimited field."""
    return _encode_varint(number << 3 | BYTES) + _encode_varint(len(value)) + value


def encode_pair(key: str, value: str) -> bytes:
    """Return one metadata pair as a field of the model message; inverse of `decode_pair`."""
    entry = encode_bytes(KEY, key.encode()) + encode_bytes(VALUE, value.encode())
    return encode_bytes(METADATA, entry)


def decode_pair(entry: memoryview) -> tuple[str, str]:
    """Return key and value of the body of a metadata field.

    Raises:
        WireError: The body is not a pair of texts.
    """
    parts = {field.number: bytes(entry[field.body : field.end]) for field in fields(entry)}
    try:
        return parts.get(KEY, b"").decode(), parts.get(VALUE, b"").decode()
    except UnicodeDecodeError as error:
        raise WireError("a metadata pair is not text") from error
