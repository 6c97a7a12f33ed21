"""Which encoder stores a clip's frames, and what it is told: a table, and nothing that encodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from varfix.engine.errors import PlanError
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.clip import Clip


@dataclass(frozen=True)
class Encoder:
    """What FFmpeg calls an encoder, and what it is told.

    Attributes:
        name: FFmpeg's.
        crf: quality when nobody asks for another; None for an encoder without loss.
        options: always given. Threads are fixed where their number changes the result.
    """

    name: str
    crf: int | None
    options: Mapping[str, str]


ENCODERS: Final = {
    "h264": Encoder("libx264", 17, {"preset": "medium", "threads": "8"}),
    "hevc": Encoder(
        "libx265",
        18,
        {"preset": "medium", "x265-params": "log-level=error:open-gop=0:frame-threads=2"},
    ),
    "av1": Encoder("libsvtav1", 22, {"preset": "6"}),
    "ffv1": Encoder("ffv1", None, {"level": "3", "slices": "4", "slicecrc": "1"}),
}
CODECS: Final = ("auto", *ENCODERS)
CRF: Final = "crf"

# The option for quality of other encoders, by the end or the whole of their name.
_QUALITY: Final = {
    "_nvenc": {"rc": "vbr", "cq": "{}", "b": "0"},
    "_qsv": {"global_quality": "{}"},
    "_vaapi": {"qp": "{}"},
    "_amf": {"rc": "cqp", "qp_i": "{}", "qp_p": "{}"},
    "_videotoolbox": {"q": "{}"},
    "libvpx-vp9": {"crf": "{}", "b": "0"},
    "libaom-av1": {"crf": "{}", "b": "0"},
}
HARDWARE: Final = ("_nvenc", "_qsv", "_vaapi", "_amf", "_videotoolbox", "_v4l2m2m", "_mf")
_OTHER_CRF: Final = 19
# OpenCV's numbers of abilities of processors.
_AVX2: Final = 11
_AVX_512F: Final = 13
_SLICED: Final = 16  # pixels: FFV1 cuts no smaller frames
# Other names of the same.
_ALSO: Final = {"h265": "hevc", "x265": "hevc", "avc": "h264", "x264": "h264"}
# What an old codec's successor is, where `auto` must choose.
_SUCCESSORS: Final = {"vp8": "av1", "vp9": "av1", "av1": "av1", "hevc": "hevc", "ffv1": "ffv1"}


def encoder_for(clip: Clip, video: VideoSettings) -> Encoder:
    """Choose an encoder: the one asked for, else that of the clip's own codec or its successor.

    Raises:
        PlanError: There is none of this name.
    """
    wanted = video.codec
    if wanted == "auto":
        wanted = _SUCCESSORS.get(clip.codec, "h264")
        if wanted == "h264" and clip.layout.depth > 8:
            wanted = "hevc"  # players know ten bits of it
    own = {encoder.name: encoder for encoder in ENCODERS.values()}
    known = ENCODERS.get(wanted) or own.get(wanted)
    if known is None and not formats_of(wanted):
        raise PlanError(
            f"--codec {wanted}: there is no such encoder here. Known: {', '.join(CODECS)}, and"
            " FFmpeg's own names, such as hevc_nvenc",
            hint=f'Did you mean "{_ALSO[wanted]}"?' if wanted in _ALSO else "",
        )
    return known or Encoder(wanted, _OTHER_CRF, {})


def options_for(encoder: Encoder, size: tuple[int, int], video: VideoSettings) -> dict[str, str]:
    """Return what an encoder is told: quality first, then what was asked for by name.

    Args:
        encoder: the encoder.
        size: width and height of the frames.
        video: quality, speed and options.

    Raises:
        PlanError: A quality was asked for where nothing is lost.
    """
    options = dict(encoder.options)
    if encoder.crf is None:
        if video.crf is not None:
            raise PlanError(f"--crf: {encoder.name} loses nothing, so that there is no quality")
    else:
        quality = str(encoder.crf if video.crf is None else video.crf)
        kinds = (kind for end, kind in _QUALITY.items() if encoder.name.endswith(end))
        kind = next(kinds, {CRF: "{}"})
        options |= {key: text.format(quality) for key, text in kind.items()}
    if encoder.name == "ffv1" and min(size) < _SLICED:
        options["slices"] = "1"
    if encoder.name == "libx264" and _has_avx512():
        options["x264-params"] = "asm=avx2"
    for key, value in asked_of(video).items():
        # A list of the encoder's own, which goes on after varfix's part of it.
        joined = key.endswith("-params") and key in options
        options[key] = f"{options[key]}:{value}" if joined else value
    return options


def asked_of(video: VideoSettings) -> dict[str, str]:
    """Options of the encoder that were asked for by name."""
    pairs = (pair.partition("=") for pair in video.encoder_options.split(",") if pair)
    asked = {key.strip(): value.strip() for key, _, value in pairs}
    return asked if video.speed is None else {"preset": video.speed, **asked}


def check_taken(encoder: Encoder, video: VideoSettings, left: Mapping[str, str]) -> None:
    """Refuse what an encoder does not understand, which it would ignore without a word.

    Args:
        encoder: the encoder.
        video: what was asked for.
        left: options that it did not take when it was opened.

    Raises:
        PlanError: It knows no such option, or its quality would be left to chance.
    """
    asked = asked_of(video)
    for key in left:
        if key in asked:
            setting = f"video.encoder_options: {key}"
            if key == "preset" and video.speed is not None:
                setting = f"video.speed: {video.speed}"
            raise PlanError(f"{setting}: the encoder {encoder.name} has no option {key}")
    if CRF in left and (video.crf is not None or not (asked or _is_lossless(encoder.name))):
        raise PlanError(
            f"the encoder {encoder.name} knows no --crf",
            hint="leave it out and give what it does know, for example"
            " --set video.encoder_options=b=20M; `ffmpeg -h encoder=NAME` lists it",
        )


def formats_of(name: str) -> frozenset[str]:
    """Pixel formats that an encoder takes; empty when there is no such video encoder."""
    import av
    from av.codec.codec import UnknownCodecError

    try:
        codec = av.Codec(name, "w")
    except UnknownCodecError:
        return frozenset()
    if codec.type != "video":
        return frozenset()
    return frozenset(one.name for one in codec.video_formats or ()) or frozenset({"yuv420p"})


def hardware_encoders() -> list[str]:
    """Encoders of graphics processors that this build of FFmpeg knows, whether they work or not."""
    import av

    known = (name for name in av.codecs_available if name.endswith(HARDWARE) and formats_of(name))
    return sorted(name for name in known if av.Codec(name, "w").canonical_name in ENCODERS)


def _is_lossless(name: str) -> bool:
    import av

    codec = av.Codec(name, "w")
    return codec.lossless and not codec.lossy


def _has_avx512() -> bool:
    """Whether x264 would use AVX-512 here.

    Measured: with it, the same frames gave files that differed from run to run and with what lay in
    memory before (widths that are no multiples of 256, rate control by `mbtree`); without, never.
    """
    import cv2

    return all(cv2.checkHardwareSupport(one) for one in (_AVX2, _AVX_512F))
