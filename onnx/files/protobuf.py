"""Reads and writes the top-level fields of an ONNX file without the onnx package.

An ONNX file is a protobuf message, a list of (number, value) fields: the graph is a field, and each
metadata pair is a field. Cards and checksums need only this list, so a card is read without loading
the graph, and without a 20 MB dependency that only export needs.
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


class ProtobufError(ValueError):
    """The bytes are not a complete protobuf message."""


class Field(NamedTuple):
    """A field of a message: `data[start:end]` with its tag, `data[body:end]` its value."""

    number: int
    kind: int
    start: int
    body: int
    end: int


def fields(data: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in file order.

    Raises:
        ProtobufError: A field has an invalid tag, or ends after the data.
    """
    at = 0
    while at < len(data):
        tag, body = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ProtobufError(f"invalid field number at byte {at}")
        body, end = _extent(data, kind, body)
        if end > len(data):
            raise ProtobufError(f"truncated: expected {end} bytes, found {len(data)}")
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
    raise ProtobufError(f"invalid wire type {kind} at byte {at}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number at `at` and the position after it."""
    value = 0
    for index in range(10):  # a 64-bit number takes at most ten groups of seven bits
        if at + index >= len(data):
            raise ProtobufError("truncated inside a number")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ProtobufError(f"invalid number at byte {at}")


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
    """Return key and value of a metadata field's body.

    Raises:
        ProtobufError: The body is not a pair of UTF-8 texts.
    """
    parts = {field.number: bytes(entry[field.body : field.end]) for field in fields(entry)}
    try:
        return parts.get(KEY, b"").decode(), parts.get(VALUE, b"").decode()
    except UnicodeDecodeError as error:
        raise ProtobufError("a metadata pair is not UTF-8 text") from error
