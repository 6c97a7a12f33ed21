"""States in the XMP of a result what made it: program, model, settings, name of the source.

Properties follow the XMP specification: `xmp:CreatorTool` is the first tool that made the image, so
an existing one stays; every run appends an event to `xmpMM:History`. An event has no time: the same
run on the same image gives the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP: Final = "http://ns.adobe.com/xap/1.0/"
_DC: Final = "http://purl.org/dc/elements/1.1/"
_MM: Final = "http://ns.adobe.com/xap/1.0/mm/"
_EVENT: Final = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
_TOOL, _SOURCE, _HISTORY = f"{_XMP} CreatorTool", f"{_DC} source", f"{_MM} History"
_ACTION: Final = "filtered"
_AGENT: Final = re.compile(r"varfix\b")
# Characters that XML cannot store, not even escaped.
_UNSTORABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HEAD: Final = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
_TAIL: Final = b'<?xpacket end="w"?>'


@dataclass(frozen=True)
class Provenance:
    """What made a result.

    Attributes:
        software: Program and version.
        parameters: Model and settings, as `key=value; key=value`.
        source: Name of the source's file, without its folder; empty if it has none.
    """

    software: str
    parameters: str
    source: str


def with_provenance(packet: bytes | None, made_by: Provenance) -> bytes | None:
    """Return an XMP packet that also states what made the result.

    Args:
        packet: The source's packet; all of it is kept.
        made_by: What made the result.

    Returns:
        The packet; the one of the source, unchanged, if it cannot be parsed.
    """
    if packet is None:
        return _new_packet(made_by)
    try:
        found = _Scan(packet)
    except (expat.ExpatError, ValueError):
        return packet
    properties = _properties(made_by, found.properties)
    inserted = [(found.end, _description(found, properties, made_by))]
    if found.history_end is not None:
        inserted.append((found.history_end, _event(found.prefix, made_by)))
    for at, text in sorted(inserted, reverse=True):
        packet = packet[:at] + text.encode() + packet[at:]
    return packet


def parameters_in(packet: bytes | None) -> str | None:
    """Return the parameters of the last event that varfix wrote; None without one."""
    if packet is None:
        return None
    try:
        events = _Scan(packet).events
    except (expat.ExpatError, ValueError):
        return None
    own = [event for event in events if _AGENT.match(event.get("softwareAgent", ""))]
    return own[-1].get("parameters") if own else None


def _new_packet(made_by: Provenance) -> bytes:
    empty = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"></rdf:RDF></x:xmpmeta>'
    )
    packet = with_provenance(empty.encode(), made_by)
    assert packet is not None
    return _HEAD + packet + _TAIL


def _properties(made_by: Provenance, known: set[str]) -> str:
    """Return the simple properties that the packet lacks, as attributes."""
    texts = []
    if _TOOL not in known:
        texts.append(f' xmlns:xmp="{_XMP}" xmp:CreatorTool={_quoted(made_by.software)}')
    if made_by.source and _SOURCE not in known:
        texts.append(f' xmlns:dc="{_DC}" dc:source={_quoted(made_by.source)}')
    return "".join(texts)


def _description(found: _Scan, properties: str, made_by: Provenance) -> str:
    """Return an element with the properties, and the history if the packet has none."""
    rdf, history = found.prefix, ""
    if _HISTORY not in found.properties:
        history = (
            f'<xmpMM:History xmlns:xmpMM="{_MM}"><{rdf}:Seq>{_event(rdf, made_by)}</{rdf}:Seq>'
            "</xmpMM:History>"
        )
    if not properties and not history:
        return ""
    about = _quoted(found.about)
    return f"<{rdf}:Description {rdf}:about={about}{properties}>{history}</{rdf}:Description>"


def _event(rdf: str, made_by: Provenance) -> str:
    return (
        f'<{rdf}:li xmlns:stEvt="{_EVENT}" stEvt:action="{_ACTION}"'
        f" stEvt:softwareAgent={_quoted(made_by.software)}"
        f" stEvt:parameters={_quoted(made_by.parameters)}/>"
    )


def _quoted(text: str) -> str:
    return quoteattr(_UNSTORABLE.sub("\ufffd", text))


@dataclass
class _Scan:
    """Places in a packet, found by parsing it.

    Attributes:
        packet: The packet, in UTF-8.
        end: Offset of the end tag of the RDF element.
        prefix: Prefix of its namespace.
        about: What its descriptions are about.
        properties: Names of the properties of the image.
        history_end: Offset of the end tag of the list of events; None without a list.
        events: Fields of the events by their names.

    Raises:
        ExpatError: The packet is not XML.
        ValueError: It is not XMP, or cannot be extended.
    """

    packet: bytes
    end: int = -1
    prefix: str = ""
    about: str = ""
    properties: set[str] = field(default_factory=set)
    history_end: int | None = None
    events: list[dict[str, str]] = field(default_factory=list)
    _path: list[str] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.namespace_prefixes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = lambda name: self._close(parser.CurrentByteIndex)
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = _refuse
        parser.Parse(self.packet.strip(b"\x00"), True)
        if self.end < 0 or not self.prefix:
            raise ValueError("not XMP")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        uri, _, rest = name.partition(" ")
        local, _, prefix = rest.partition(" ")
        self._path.append(f"{uri} {local}")
        self._text.clear()
        inner = self._inner()
        if inner == [f"{_RDF} RDF"]:
            self.prefix = prefix
        fields = {" ".join(key.split(" ")[:2]): value for key, value in attributes.items()}
        if inner == [f"{_RDF} RDF", f"{_RDF} Description"]:
            self.about = fields.get(f"{_RDF} about", "") or self.about
            self.properties.update(fields)
        elif len(inner) == 3:
            self.properties.add(inner[2])
        elif len(inner) >= 5 and inner[2] == _HISTORY:
            self._add_event(inner, fields)

    def _add_event(self, inner: list[str], fields: dict[str, str]) -> None:
        if len(inner) == 5:
            self.events.append({})
        self.events[-1].update(
            {key.removeprefix(f"{_EVENT} "): value for key, value in fields.items()}
        )

    def _close(self, at: int) -> None:
        inner = self._inner()
        if inner == [f"{_RDF} RDF"]:
            self.end = self._end_tag(at)
        elif len(inner) == 4 and inner[2] == _HISTORY:
            self.history_end = self._end_tag(at)
        elif len(inner) == 6 and inner[2] == _HISTORY and self.events:
            self.events[-1].setdefault(inner[5].removeprefix(f"{_EVENT} "), "".join(self._text))
        self._path.pop()

    def _inner(self) -> list[str]:
        """Return the names of the open elements from the RDF element on."""
        rdf = f"{_RDF} RDF"
        return self._path[self._path.index(rdf) :] if rdf in self._path else []

    def _end_tag(self, at: int) -> int:
        if not self.packet.startswith(b"</", at):
            raise ValueError("an empty element, which cannot be extended")
        return at


def _refuse(*_: object) -> None:
    raise ValueError("XMP has no document type")
