"""Small clips, made with PyAV for each test, and ways to look into what became of them."""

import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest

from varfix.engine.batch import run_batch
from varfix.engine.clip import WHOLE
from varfix.engine.clip_plan import choose_target, plan_clip
from varfix.engine.options import Options
from varfix.engine.restorer import IdentityRestorer
from varfix.engine.settings import Settings
from varfix.engine.video_probe import probe_for
from varfix.engine.video_streams import MUXERS


def scene(number, size=(64, 48), depth=8):
    """RGB of a frame: bars that stand, and a square that moves."""
    width, height = size
    rgb = np.zeros((height, width, 3), np.float64)
    for place, colour in enumerate([(1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 0), (0, 0, 1)]):
        rgb[:, width * place // 5 :] = np.array(colour) * 0.75
    at = number * 3 % max(1, width - 8)
    rgb[4:12, at : at + 8] = 0.3
    return np.round(rgb * ((1 << depth) - 1)).astype(np.uint8 if depth == 8 else np.uint16)


# Scale and type of samples of sound, by FFmpeg's names.
SAMPLES = {"u8": (100, "u1"), "flt": (1.0, "<f4"), "s16": (3e4, "<i2"), "s32": (2e9, "<i4")}


@dataclass
class Film:
    """What a clip is made of; the defaults are a plain one."""

    count: int = 10
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (64, 48)
    rate: Fraction = Fraction(25)
    times: tuple[int, ...] | None = None  # in ticks of 1/1000
    tags: tuple[int, int, int, int] = (1, 1, 1, 1)  # primaries, transfer, matrix, range
    aspect: Fraction | None = None
    rotation: int = 0
    options: dict = field(default_factory=lambda: {"crf": "10", "preset": "ultrafast"})
    audio: tuple[str, ...] = ()
    seconds: float = 0.0  # of sound; 0 = as long as the pictures
    subtitles: str = ""
    metadata: dict = field(default_factory=dict)
    chapters: bool = False
    attachment: bytes = b""
    interlaced: bool = False
    container: dict = field(default_factory=dict)

    def write(self, path):
        muxer = MUXERS.get(path.suffix, path.suffix[1:])
        with av.open(str(path), "w", format=muxer, container_options=self.container) as out:
            out.metadata.update(self.metadata)
            if self.chapters:
                out.set_chapters(
                    [
                        {
                            "id": n,
                            "start": 100 * n,
                            "end": 100 * n + 100,
                            "time_base": Fraction(1, 1000),
                            "metadata": {"title": f"Part {n}"},
                        }
                        for n in range(2)
                    ]
                )
            video = self._video(out)
            sounds = [out.add_stream(name, rate=48000, layout="mono") for name in self.audio]
            for sound, language in zip(sounds, ("eng", "deu", "fra"), strict=False):
                sound.metadata["language"] = language
            text = out.add_mux_stream(self.subtitles) if self.subtitles else None
            if text is not None:
                text.time_base = Fraction(1, 1000)
                text.metadata["language"] = "eng"
            if self.attachment:
                out.add_attachment("font.ttf", "font/ttf", self.attachment)
            self._fill(out, video, sounds, text)
        return path

    def _video(self, out):
        stream = out.add_stream(self.codec, rate=self.rate, options=dict(self.options))
        context = stream.codec_context
        context.width, context.height = self.size
        context.pix_fmt = self.pix_fmt
        if self.times is not None:
            context.time_base = Fraction(1, 1000)
        context.color_primaries, context.color_trc = self.tags[:2]
        context.colorspace, context.color_range = self.tags[2:]
        if self.aspect is not None:
            context.sample_aspect_ratio = self.aspect
        if self.rotation:
            stream.set_display_rotation(self.rotation)
        if self.interlaced:
            context.options = {**self.options, "x264-params": "tff=1"}
            context.flags |= 0x20000000 | 0x40000  # interlaced motion estimation and transform
        return stream

    def frame(self, number):
        """The frame as the encoder gets it."""
        deep = "10" in self.pix_fmt or "12" in self.pix_fmt
        rgb = scene(number, self.size, 16 if deep else 8)
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb48le" if deep else "rgb24")
        matrix, spread = self.tags[2], self.tags[3] or 1
        frame = frame.reformat(
            format=self.pix_fmt,
            dst_colorspace=matrix if matrix in (1, 5, 6, 9) else 1,
            src_color_range=2,
            dst_color_range=spread,
        )
        frame.pts = number if self.times is None else self.times[number]
        frame.time_base = 1 / self.rate if self.times is None else Fraction(1, 1000)
        frame.color_primaries, frame.color_trc = self.tags[:2]
        frame.colorspace, frame.color_range = self.tags[2:]
        return frame

    def _fill(self, out, video, sounds, text):
        out.start_encoding()
        for number in range(self.count):
            out.mux(video.encode(self.frame(number)))
        lasts = self.seconds or float(self.count / self.rate)
        for place, sound in enumerate(sounds):
            wave = np.sin(np.arange(round(lasts * 48000)) * (0.05 + 0.02 * place))
            size = sound.codec_context.frame_size or 1024
            for at in range(0, len(wave), size):
                kind = sound.codec_context.format.name
                scale, number = SAMPLES[kind.rstrip("p")]
                data = (wave[at : at + size][np.newaxis] * scale).astype(number)
                frame = av.AudioFrame.from_ndarray(data, format=kind, layout="mono")
                frame.sample_rate, frame.pts = 48000, at
                frame.time_base = Fraction(1, 48000)
                out.mux(sound.encode(frame))
        if text is not None:
            for number in range(2):
                words = f"Line {number}".encode()
                if self.subtitles == "mov_text":
                    words = len(words).to_bytes(2, "big") + words
                packet = av.Packet(words)
                packet.stream, packet.time_base = text, Fraction(1, 1000)
                packet.pts = packet.dts = 100 * number
                packet.duration = 100
                out.mux(packet)
        for stream in (video, *sounds):
            out.mux(stream.encode(None))


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


def settings_for(**video):
    """Settings for clips; each frame by itself, unless `window` says otherwise."""
    chosen = msgspec.convert({"window": 0, "codec": "ffv1", **video}, type(Settings().video))
    return msgspec.structs.replace(Settings(), video=chosen)


@pytest.fixture
def restore():
    """Restore a clip in this process with a model that changes nothing, without loss."""

    def run(source, target=None, *, cut=WHOLE, restorer=None, overwrite=False, **video):
        settings = settings_for(**video)
        clip = probe_for(source, settings)
        chosen = choose_target(source, target, clip, settings)
        plan = plan_clip(source, chosen.path, clip, cut, overwrite)
        plan.recipe = "recipe"
        events = []
        model = restorer or IdentityRestorer()
        summary = run_batch(plan, model, settings, events.append, Options("video", "sha"))
        return Made(chosen.path, summary, events, chosen.note)

    return run


def pictures(path):
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


def times(path):
    return [at for at, _ in pictures(path)]


def contents(path, index):
    """The bytes of a stream, joined, and its packets' times in seconds, without silent text."""
    with av.open(str(path)) as container:
        stream = container.streams[index]
        packets = [one for one in container.demux(stream) if one.size and bytes(one) != b"\0\0"]
        at = [one.pts * one.time_base for one in packets if one.pts is not None]
        return b"".join(map(bytes, packets)), at


def facts(path):
    """What the header says of the pictures."""
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
