"""Small clips, made with PyAV for each test, and ways to look into what became of them."""

import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import av
import msgspec
import numpy as np
import pytest
from support.clips import Film
from support.identity import IdentityRestorer

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.item import VideoPart
from varfix.engine.batch.plan import plan_single
from varfix.engine.batch.plan_clip import choose_target, clip_item
from varfix.engine.batch.run import run_batch
from varfix.engine.settings.types import Settings
from varfix.engine.video.clip import WHOLE
from varfix.engine.video.probe import probe_for

CLIPS = Path(__file__).parents[3] / "shared/data/clips"


@pytest.fixture
def shared(tmp_path):
    """A copy of a shared file."""

    def copy(name):
        if not CLIPS.is_dir():
            pytest.skip("../shared is not here")
        target = tmp_path / name
        target.write_bytes((CLIPS / name).read_bytes())
        return target

    return copy


@pytest.fixture
def ffmpeg():
    """Run FFmpeg's program as an independent maker of files."""
    if which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed")

    def run(*arguments):
        words = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
        subprocess.run(words, check=True, capture_output=True)

    return run


@pytest.fixture
def ffprobe():
    """Return a field of the first video stream, as FFmpeg's program reads it."""
    if which("ffprobe") is None:
        pytest.skip("the program ffprobe is not installed")

    def run(path, field, stream="v:0"):
        words = ["ffprobe", "-v", "error", "-select_streams", stream, "-of", "csv=p=0"]
        words += ["-show_entries", f"stream={field}", str(path)]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    return run


@pytest.fixture
def run_hint(tmp_path):
    """Run the command in a hint; return the file that it writes."""

    def run(hint, name="out.mkv"):
        if which("ffmpeg") is None:
            pytest.skip("the program ffmpeg is not installed")
        command = hint.split("`")[1].replace("ffmpeg ", "ffmpeg -v error -y ", 1)
        subprocess.run(command, shell=True, check=True, capture_output=True, cwd=tmp_path)
        return tmp_path / name

    return run


@pytest.fixture
def film(tmp_path):
    """Write a clip: `film("a.mp4", count=5, ...)`."""

    def make(name="clip.mp4", **facts):
        return Film(**facts).write(tmp_path / name)

    return make


@dataclass
class Made:
    """What a run gave."""

    path: Path
    summary: object
    events: list
    note: str

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def settings_for(*, flatten=None, **video):
    """Settings for clips; each frame by itself, unless `window` says otherwise."""
    chosen = msgspec.convert(
        {"deflicker_window": 0, "codec": "ffv1", **video}, type(Settings().video)
    )
    output = msgspec.structs.replace(Settings().output, flatten=flatten)
    return msgspec.structs.replace(Settings(), video=chosen, output=output)


@pytest.fixture
def restore():
    """Restore a clip in this process with a model that changes nothing, without loss."""

    def run(source, target=None, *, cut=WHOLE, restorer=None, overwrite=False, **video):
        settings = settings_for(**video)
        clip = probe_for(source, settings)
        chosen = choose_target(source, target, clip, settings)
        item = clip_item(source, chosen.path, VideoPart(clip, cut), overwrite)
        plan = plan_single(item, "fingerprint")
        events = []
        model = restorer or IdentityRestorer()
        summary = run_batch(plan, model, settings, events.append, RunOptions("video", "sha"))
        return Made(chosen.path, summary, events, chosen.note)

    return run


def images(path):
    """Of every frame: when it is shown in seconds, and a checksum of its samples."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            found.append((frame.pts * stream.time_base, _checksum(frame)))
    return found


def _checksum(frame):
    """Of the samples, without the padding of lines."""
    crc = 0
    deep = 2 if frame.format.components[0].bits > 8 else 1
    for number, plane in enumerate(frame.planes):
        kind = frame.format
        width = kind.chroma_width(frame.width) if number else frame.width
        height = kind.chroma_height(frame.height) if number else frame.height
        lines = np.frombuffer(plane, np.uint8)[: height * plane.line_size]
        lines = lines.reshape(height, plane.line_size)[:, : width * deep]
        crc = zlib.crc32(np.ascontiguousarray(lines).data, crc)
    return crc


def offset(path, index=1):
    """Seconds from the first frame to the first packet of another stream."""
    return contents(path, index)[1][0] - times(path)[0]


def times(path):
    return [at for at, _ in images(path)]


def contents(path, index):
    """The bytes of a stream, joined, and its packets' times in seconds, without silent text."""
    with av.open(str(path)) as container:
        stream = container.streams[index]
        packets = [
            packet for packet in container.demux(stream) if packet.size and bytes(packet) != b"\0\0"
        ]
        at = [packet.pts * packet.time_base for packet in packets if packet.pts is not None]
        return b"".join(map(bytes, packets)), at


def facts(path):
    """What the header says of the images."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        return {
            "size": (frame.width, frame.height),
            "format": frame.format.name,
            "tags": (
                frame.color_primaries,
                frame.color_trc,
                frame.colorspace,
                frame.color_range,
            ),
            "aspect": stream.sample_aspect_ratio,
            "rotation": frame.rotation,
        }
