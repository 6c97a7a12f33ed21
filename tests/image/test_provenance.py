"""XMP that says what made a result keeps all that the source's XMP says."""

import json
import shutil
import subprocess
from xml.etree import ElementTree

import pytest
from PIL import Image
from support.images import noise, opened, saved

from varfix.engine.image.metadata.provenance import (
    Provenance,
    parameters_in,
    with_provenance,
)

MADE = Provenance("varfix 9.8", "model.name=m; strength=1", 'a "b" <c> & d.jpg')
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
MM = "{http://ns.adobe.com/xap/1.0/mm/}"
EVENT = "{http://ns.adobe.com/xap/1.0/sType/ResourceEvent#}"

LIGHTROOM = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="uuid:1" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:e="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
    xmlns:dc="http://purl.org/dc/elements/1.1/" xmp:CreatorTool="Lightroom 5" xmp:Rating="4">
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">H\xc3\xa4user</rdf:li></rdf:Alt></dc:title>
   <xmpMM:Pantry><rdf:Bag><rdf:li rdf:parseType="Resource"><xmpMM:History><rdf:Seq>
    <rdf:li e:action="created"/></rdf:Seq></xmpMM:History></rdf:li></rdf:Bag></xmpMM:Pantry>
   <xmpMM:History><rdf:Seq>
    <rdf:li rdf:parseType="Resource"><e:action>saved</e:action>
     <e:softwareAgent>Lightroom 5</e:softwareAgent></rdf:li>
   </rdf:Seq></xmpMM:History>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def history(packet):
    """The actions and programs in the history of the image itself."""
    root = ElementTree.fromstring(packet)
    (found,) = root.findall(f"./{RDF}RDF/{RDF}Description/{MM}History/{RDF}Seq")
    keys = [f"{EVENT}action", f"{EVENT}softwareAgent"]
    return [tuple(item.get(key) or item.findtext(key) for key in keys) for item in found]


def test_without_xmp_a_packet_is_made():
    packet = with_provenance(None, MADE)
    assert history(packet) == [("filtered", "varfix 9.8")]
    assert parameters_in(packet) == MADE.parameters
    assert len(packet) < 1000


def test_a_second_run_is_a_second_event():
    packet = with_provenance(with_provenance(None, MADE), MADE)
    assert history(packet) == [("filtered", "varfix 9.8")] * 2
    assert packet.count(b"CreatorTool") == packet.count(b"dc:source") == 1


def test_all_bytes_of_a_packet_stay_and_the_history_goes_on():
    packet = with_provenance(LIGHTROOM, MADE)
    assert history(packet) == [("saved", "Lightroom 5"), ("filtered", "varfix 9.8")]
    assert packet.count(b'CreatorTool="Lightroom 5"') == packet.count(b"CreatorTool") == 1
    added = iter(packet)
    assert all(byte in added for byte in LIGHTROOM)  # a subsequence
    assert b'rdf:about="uuid:1" xmlns:dc=' in packet


def test_parameters_are_found_in_the_last_event_of_varfix():
    packet = with_provenance(LIGHTROOM, MADE)
    other = Provenance("other 1", "strength=9", "")
    assert parameters_in(with_provenance(packet, other)) == MADE.parameters
    rewritten = packet.replace(b"<e:softwareAgent>Lightroom 5", b"<e:softwareAgent>varfix 0.2")
    rewritten = rewritten.replace(b"varfix 9.8", b"else").replace(
        b"</e:softwareAgent>", b"</e:softwareAgent><e:parameters>strength=0.5</e:parameters>"
    )
    assert parameters_in(rewritten) == "strength=0.5"
    assert parameters_in(LIGHTROOM) is parameters_in(None) is parameters_in(b"<") is None


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"no XML",
        b"<a/>",
        LIGHTROOM[:300],
        LIGHTROOM.decode().encode("utf-16"),
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + LIGHTROOM[LIGHTROOM.index(b"<x:") :],
        b'<RDF xmlns="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>',
        b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>',
    ],
)
def test_what_cannot_be_extended_stays_as_it_is(packet):
    assert with_provenance(packet, MADE) == packet


def test_what_xml_cannot_store_is_replaced():
    packet = with_provenance(None, Provenance("v", "p", "a\x01\udcff\ufffe.jpg"))
    assert "a\ufffd\ufffd\ufffd.jpg".encode() in packet
    ElementTree.fromstring(packet)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("source", [None, LIGHTROOM])
def test_exiftool_reads_it(tmp_path, source):
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(Image.fromarray(noise()), "JPEG", xmp=with_provenance(source, MADE)))
    assert opened(path.read_bytes()).info["xmp"]
    ask = ["exiftool", "-j", "-struct", "-G1", "-validate", "-warning", "-XMP:all", str(path)]
    (found,) = json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)
    assert found["XMP-xmp:CreatorTool"] == ("Lightroom 5" if source else "varfix 9.8")
    assert found["XMP-dc:Source"] == MADE.source
    assert found["XMP-xmpMM:History"][-1] == {
        "Action": "filtered",
        "SoftwareAgent": "varfix 9.8",
        "Parameters": MADE.parameters,
    }
    if source:
        assert found["XMP-xmp:Rating"] == 4
        assert found["XMP-dc:Title"] == "Häuser"
    assert not [key for key in found if key.endswith("Warning")]
