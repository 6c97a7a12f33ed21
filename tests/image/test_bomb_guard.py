"""Files made to exhaust whoever opens them are refused early, by name, at little cost."""

import lzma
import struct
import subprocess
import sys
import zlib

import pytest

from varfix.engine.errors import DecodeTruncatedError, DecodeUnknownError, DecodeUnsupportedError
from varfix.engine.image import isobmff
from varfix.engine.image.bomb_guard import largest_file
from varfix.engine.image.header import probe
from varfix.engine.image.reader import decode_image
from varfix.engine.system.files import read_file

LIMIT = 500_000_000
MIB = 1 << 20


def chunk(kind, payload):
    check = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", check)


def png(*extra, size=(1, 1), rows=None):
    """A gray 8-bit PNG with chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    pixels = zlib.compress(rows if rows is not None else bytes(size[1] * (size[0] + 1)), 9)
    body = header + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(entries, tail=b"", following=0):
    """A little-endian TIFF of one directory, right after the header."""
    entries = sorted(entries)
    block = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directory = struct.pack("<H", len(entries)) + block + struct.pack("<I", following)
    return b"II*\x00\x08\x00\x00\x00" + directory + tail


GRAY_PIXEL = [
    (256, 3, 1, 1),
    (257, 3, 1, 1),
    (258, 3, 1, 8),
    (259, 3, 1, 1),
    (262, 3, 1, 1),
    (273, 4, 1, 8),
    (277, 3, 1, 1),
    (278, 3, 1, 1),
    (279, 4, 1, 1),
]


def bmp(width, height):
    head = struct.pack("<2sIHHI", b"BM", 54 + 100, 0, 0, 54)
    return (
        head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(100)
    )


HOSTILE = {
    "png whose text inflates without end": lambda: png(
        chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(200 * MIB), 1))
    ),
    "png whose profile inflates without end": lambda: png(
        chunk(b"iCCP", b"icc\x00\x00" + zlib.compress(bytes(200 * MIB), 1))
    ),
    "png with a hundred texts of 10 MB": lambda: png(
        chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(10 * MIB), 1)) * 100
    ),
    "png of 16 gigapixels": lambda: png(size=(1 << 17, 1 << 17), rows=b""),
    "png with absurd sides": lambda: png(size=(2**31 - 1, 2**31 - 1), rows=b""),
    "png with a million chunks": lambda: png(chunk(b"tEXt", b"a\x00") * 1_000_000),
    "tiff whose tags all point to the same megabytes": lambda: tiff(
        [*GRAY_PIXEL, *((tag, 7, 8 * MIB, 0) for tag in range(40000, 60000))], bytes(8 * MIB)
    ),
    "tiff with a count of four billion": lambda: tiff([*GRAY_PIXEL, (40000, 4, 0xFFFFFFFF, 8)]),
    "tiff with two million strips": lambda: tiff(
        [entry for entry in GRAY_PIXEL if entry[0] not in (273, 279)]
        + [(273, 4, 2_000_000, 200), (279, 4, 2_000_000, 200)],
        bytes(9 * MIB),
    ),
    "bmp of 400 megapixels in 154 bytes": lambda: bmp(20000, 20000),
    "jpeg of 4 gigapixels": lambda: (
        b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\x00"
        b"\x02\x11\x01\x03\x11\x01\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00\xff\xd9"
    ),
}


def ring_of_directories(count):
    """A TIFF of `count` linked directories, each the image again."""
    size = 2 + 12 * len(GRAY_PIXEL) + 4
    block = b"".join(struct.pack("<HHII", *entry) for entry in GRAY_PIXEL)
    links = (8 + size * (number + 1) for number in range(count))
    body = b"".join(
        struct.pack("<H", len(GRAY_PIXEL)) + block + struct.pack("<I", link) for link in links
    )
    return b"II*\x00\x08\x00\x00\x00" + body


HOSTILE["tiff of fifty thousand pages"] = lambda: ring_of_directories(50_000)


BOMBS = {
    "zlib": (8, lambda: zlib.compress(bytes(256 * MIB), 1)),
    # Streams one after the other are one to a decoder.
    "lzma": (34925, lambda: lzma.compress(bytes(16 * MIB), preset=0) * 16),
}


def deep_bomb(method):
    """A 16-bit TIFF of 4 x 4 pixels whose only strip inflates to 256 MB."""
    code, made = BOMBS[method]
    strip = made()
    facts = {258: (3, 16), 256: (3, 4), 257: (3, 4), 278: (3, 4), 259: (3, code)}
    entries = [entry for entry in GRAY_PIXEL if entry[0] not in (*facts, 273, 279)]
    entries += [(tag, kind, 1, value) for tag, (kind, value) in facts.items()]
    place = 8 + 2 + 12 * (len(entries) + 2) + 4
    return tiff([*entries, (273, 4, 1, place), (279, 4, 1, len(strip))], strip)


READ = """
import resource, sys, time
from pathlib import Path
from varfix.engine.errors import DecodeError
from varfix.engine.image.bomb_guard import largest_file
from varfix.engine.image.header import probe
from varfix.engine.image.reader import decode_image
from varfix.engine.system.files import read_source
# What an ordinary image needs is loaded before the measuring starts.
import cv2, tifffile
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = Path(sys.argv[1]).read_bytes()
start = time.process_time()
outcomes = []
for work in (lambda: probe(Path(sys.argv[1])), lambda: decode_image(data, max_pixels=500_000_000)):
    try:
        work()
        outcomes.append("read")
    except DecodeError as error:
        outcomes.append(type(error).__name__)
spent = time.process_time() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(*outcomes, spent, (peak - base) / 1024, len(data) / 2**20)
"""


def cost(path):
    """Outcomes of probing and reading, seconds, and MiB beyond the file's own."""
    line = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(line, capture_output=True, check=True, text=True, timeout=60)
    probed, outcome, seconds, peak, own = done.stdout.split()
    return probed, outcome, float(seconds), float(peak) - float(own)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name):
    with pytest.raises((DecodeUnsupportedError, DecodeTruncatedError)):
        decode_image(HOSTILE[name](), max_pixels=LIMIT)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is KiB on Linux alone")
@pytest.mark.parametrize("name", [*HOSTILE, "tiff 16 bit zlib", "tiff 16 bit lzma"])
def test_a_hostile_file_is_refused_in_little_time_and_memory(tmp_path, name):
    kind = name.split()[0]
    path = tmp_path / f"bomb.{kind}"
    path.write_bytes(deep_bomb(name.split()[-1]) if "16 bit" in name else HOSTILE[name]())
    _probed, outcome, seconds, peak = cost(path)
    assert outcome in ("DecodeUnsupportedError", "DecodeTruncatedError")
    assert peak < 150
    assert seconds < 10


@pytest.mark.parametrize("method", BOMBS)
def test_a_strip_that_inflates_without_end_is_refused(method, monkeypatch):
    monkeypatch.setitem(BOMBS, "zlib", (8, lambda: zlib.compress(bytes(MIB))))
    monkeypatch.setitem(BOMBS, "lzma", (34925, lambda: lzma.compress(bytes(1000)) * 9))
    with pytest.raises((DecodeUnsupportedError, DecodeTruncatedError)):
        decode_image(deep_bomb(method), max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>" + b" " * 5000, "text/plain"),
        (b"PK\x03\x04" + bytes(60), "application/zip"),
        (b"GIF89a" + bytes(60), "image/gif"),
        (bytes(4096), "application/octet-stream"),
    ],
    ids=["svg", "archive", "gif", "zeros"],
)
def test_a_file_that_only_has_an_image_name_is_rejected_early(tmp_path, data, what):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with path.open("ab") as file:
        file.truncate(1 << 40)  # a sparse terabyte
    with pytest.raises(DecodeUnknownError, match=what):
        probe(path)


def test_a_profile_of_several_megabytes_is_kept():
    noise = bytes(range(256)) * (8 * MIB // 256)
    data = png(chunk(b"iCCP", b"icc\x00\x00" + zlib.compress(noise, 1)))
    assert decode_image(data, max_pixels=LIMIT).info.icc == noise


def test_a_file_far_larger_than_its_image_is_not_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    with path.open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(DecodeUnsupportedError, match="too large for its image"):
        read_file(path, largest_file(probe(path)))


def test_a_file_of_ordinary_size_is_read_whole(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png() + bytes(MIB))
    assert read_file(path, largest_file(probe(path)))[1] == path.read_bytes()


def heif_without_numbers():
    """A HEIC whose item locations are 30,000 times 65,535 extents of no size."""
    places = b"\x00\x00\x75\x30" + b"\xff\xff" * 150_000
    box = struct.pack(">I4s", len(places) + 12, b"iloc") + bytes(4) + places
    meta = struct.pack(">I4s", len(box) + 12, b"meta") + bytes(4) + box
    return b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + meta


def test_item_locations_without_numbers_cost_no_time():
    """Found by the fuzzer: extents that take no bytes were counted one by one."""
    items = isobmff.read_items(heif_without_numbers()).items
    # No more than one for each entry of six bytes.
    assert 0 < sum(len(item.extents) for item in items.values()) <= 50_000
