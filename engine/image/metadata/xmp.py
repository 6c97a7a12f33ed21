"""Corrects XMP packets for the result: orientation, extended packets, references to lost data."""

from __future__ import annotations

import hashlib
import re
from typing import Final

_ORIENTATION: Final = re.compile(
    rb"(tiff:Orientation\s*=\s*[\"']|<tiff:Orientation>)\s*[2-8](?=\s*[\"'<])"
)
_NOTE: Final = b"http://ns.adobe.com/xmp/note/"
_WRAPPER: Final = re.compile(rb"<\?xpacket[^>]*\?>")
_RDF: Final = re.compile(rb"<([\w.-]+):RDF\b([^<>]*)>")
_NAMESPACE: Final = re.compile(rb"xmlns:([\w.-]+)\s*=\s*[\"']([^\"'<]*)[\"']")
_STUB: Final = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
    b' xmpNote:HasExtendedXMP="%s"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)

# Bytes of the largest packet that fits into one JPEG segment.
LARGEST_IN_JPEG: Final = 65502

# Properties that refer to data outside of the image: namespace, names, and the name of the data.
_POINTERS: Final = (
    (
        b"http://ns.google.com/photos/1.0/camera/",
        rb"(?:Motion|MicroVideo)[\w.-]*",
        "the video of a motion photo",
    ),
    (b"http://ns.oppo.com/photos/1.0/camera/", rb"[\w.-]+", "the video of a motion photo"),
    (b"http://ns.adobe.com/hdr-gain-map/1.0/", rb"[\w.-]+", "the HDR gain map"),
    (b"http://ns.apple.com/HDRGainMap/1.0/", rb"[\w.-]+", "the HDR gain map"),
    (b"http://ns.google.com/photos/1.0/container/", rb"[\w.-]+", ""),
    (b"http://ns.google.com/photos/1.0/container/item/", rb"[\w.-]+", ""),
)


def upright(packet: bytes) -> bytes:
    """Return the packet with orientation 1; its length does not change."""
    return _ORIENTATION.sub(lambda match: match.group()[:-1] + b"1", packet)


def without_pointers(packet: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return the packet without properties that refer to lost data, and the names of that data."""
    lost = []
    for namespace, names, what in _POINTERS:
        packet, number = _without(packet, namespace, names)
        if number and what and what not in lost:
            lost.append(what)
    return packet, tuple(lost)


def _without(packet: bytes, namespace: bytes, names: bytes) -> tuple[bytes, int]:
    """Remove the properties of a namespace, written as attributes or as elements."""
    number = 0
    for prefix in {found[1] for found in _NAMESPACE.finditer(packet) if found[2] == namespace}:
        name = re.escape(prefix) + b":" + names
        # Elements first: their contents may have attributes of the same namespace.
        spans = _elements(packet, name)
        for start, end in reversed(spans):
            packet = packet[:start] + packet[end:]
        attribute = rb"\s(?:" + name + rb")\s*=\s*(?:\"[^\"<]*\"|'[^'<]*')"
        packet, attributes = re.subn(attribute, b"", packet)
        number += len(spans) + attributes
    return packet, number


def _elements(packet: bytes, name: bytes) -> list[tuple[int, int]]:
    """Return the spans of the outermost elements whose name matches a pattern, in linear time."""
    spans: list[tuple[int, int]] = []
    opened: tuple[bytes, int] | None = None
    for tag in re.finditer(rb"<(/?)(" + name + rb")(?=[\s/>])[^<>]*?(/?)>", packet):
        if opened is None and tag[3]:
            spans.append(tag.span())
        elif opened is None and not tag[1]:
            opened = tag[2], tag.start()
        elif opened is not None and tag[1] and tag[2] == opened[0]:
            spans.append((opened[1], tag.end()))
            opened = None
    return spans


def extension_named_in(packet: bytes) -> bytes | None:
    """Return the identifier of the extended packet that a packet refers to, if any."""
    found = re.search(rb":HasExtendedXMP\s*(?:=\s*[\"']|>)\s*([0-9A-Fa-f]{32})", packet)
    return found[1] if found else None


def without_extension(packet: bytes) -> bytes:
    """Return the packet without its reference to an extended packet."""
    return _without(packet, _NOTE, rb"HasExtendedXMP")[0]


def merge(packet: bytes, extended: bytes) -> bytes:
    """Return one packet with the properties of both.

    Raises:
        ValueError: A packet is not XMP.
    """
    own, end, prefix = _contents(packet)
    other, behind, other_prefix = _contents(extended)
    if prefix != other_prefix:
        raise ValueError("the extended XMP is damaged")
    known = {found[1] for found in _NAMESPACE.finditer(packet[:own])}
    declared = _NAMESPACE.finditer(extended[:other])
    more = b"".join(b" " + found[0] for found in declared if found[1] not in known)
    body = packet[own:end] + extended[other:behind]
    return without_extension(packet[: own - 1] + more + b">" + body + packet[end:])


def _contents(packet: bytes) -> tuple[int, int, bytes]:
    """Return the start and end of the contents of the RDF element, and its prefix.

    Raises:
        ValueError: The packet has no RDF element.
    """
    found = _RDF.search(packet)
    end = -1 if found is None else packet.rfind(b"</" + found[1] + b":RDF>")
    if found is None or end < found.end():
        raise ValueError("the XMP is damaged")
    return found.end(), end, found[1]


def split(packet: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a packet that is too large for a JPEG segment (XMP specification part 3, 1.1.3.1).

    Returns:
        A main packet, which refers to the extended packet; the identifier of the extended packet;
        and the extended packet.

    Raises:
        ValueError: The packet is not XMP.
    """
    _contents(packet)
    extended = _WRAPPER.sub(b"", packet).strip()
    name = hashlib.md5(extended, usedforsecurity=False).hexdigest().upper().encode()
    return _STUB % name, name, extended
