"""Small clips, made with PyAV: bars that stand, and a square that moves."""

from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

from varfix.engine.formats import CONTAINERS


def scene(number, size=(64, 48), depth=8):
    """RGB of a frame: bars that stand, and a square that moves."""
    width, height = size
    rgb = np.zeros((height, width, 3), np.float64)
    for place, color in enumerate([(1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 0), (0, 0, 1)]):
        rgb[:, width * place // 5 :] = np.array(color) * 0.75
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
    white: tuple[int, ...] = ()  # frames that are nothing but white
    tags: tuple[int, int, int, int] = (1, 1, 1, 1)  # primaries, transfer, matrix, range
    aspect: Fraction | None = None
    rotation: int = 0
    options: dict = field(default_factory=lambda: {"crf": "10", "preset": "ultrafast"})
    audio: tuple[str, ...] = ()
    seconds: float = 0.0  # of sound; 0 = as long as the images
    subtitles: str = ""
    metadata: dict = field(default_factory=dict)
    chapters: bool = False
    attachment: bytes = b""
    interlaced: bool = False
    container: dict = field(default_factory=dict)

    def write(self, path):
        muxer = CONTAINERS.get(path.suffix, path.suffix[1:])
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
        if number in self.white:
            rgb[:] = np.iinfo(rgb.dtype).max
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
