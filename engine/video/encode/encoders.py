"""Chooses the encoder of a video and its options; encodes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from varfix.engine.errors import PlanError
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.clip import Clip, HdrMetadata, Layout


@dataclass(frozen=True)
class Encoder:
    """An encoder and its default options.

    Attributes:
        name: FFmpeg's name.
        crf: Default quality; None for a lossless encoder, and for one whose profile sets it.
        options: Options that are always set. The number of threads is fixed where it changes the
            result.
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
    # Without a profile it takes HQ, and 4444 for 4:4:4. Final Cut rejects other vendors.
    "prores": Encoder("prores_ks", None, {"vendor": "apl0"}),
}
CODECS: Final = ("auto", *ENCODERS)
CRF: Final = "crf"

# The quality options of other encoders, by the end of their names.
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
# Other encoders whose profile sets the quality.
_PROFILED: Final = frozenset({"prores_ks", "prores_aw"})
# Where encoders take HDR metadata: the option, its keys for the mastering display and for the light
# levels, and whether it counts in the units of HEVC.
_HDR_OPTIONS: Final = {
    "libx264": ("x264-params", "mastering-display", "cll", True),
    "libx265": ("x265-params", "master-display", "max-cll", True),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", False),
}
_CHROMATICITY: Final = 50_000
_LUMINANCE: Final = 10_000
NO_HDR: Final = HdrMetadata()
# OpenCV's numbers of CPU features.
_AVX2: Final = 11
_AVX_512F: Final = 13
_MIN_SLICED_SIDE: Final = 16  # pixels; FFV1 does not slice smaller frames
# Other names of known codecs.
_ALIASES: Final = {"h265": "hevc", "x265": "hevc", "avc": "h264", "x264": "h264"}
# The encoder that `auto` chooses for each source codec.
_SUCCESSORS: Final = {"vp8": "av1", "vp9": "av1", "av1": "av1", "hevc": "hevc", "ffv1": "ffv1"}


def encoder_for(clip: Clip, video: VideoSettings) -> Encoder:
    """Choose an encoder: the requested one, or that of the source's codec or its successor.

    Raises:
        PlanError: No encoder has this name.
    """
    wanted = video.codec
    if wanted == "auto" and clip.layout.alpha:
        is_edited = clip.codec == "prores" or clip.container.startswith("mov")
        wanted = "prores" if is_edited else "ffv1"
    elif wanted == "auto":
        wanted = _SUCCESSORS.get(clip.codec, "h264")
        if wanted == "h264" and clip.layout.depth > 8:
            wanted = "hevc"  # players support 10 bits in HEVC, not in H.264
    own = {encoder.name: encoder for encoder in ENCODERS.values()}
    known = ENCODERS.get(wanted) or own.get(wanted)
    if known is None and not formats_of(wanted):
        raise PlanError(
            f"--codec {wanted}: unknown encoder (known: {', '.join(CODECS)}, and FFmpeg's names,"
            " such as hevc_nvenc)",
            hint=f"use --codec {_ALIASES[wanted]}" if wanted in _ALIASES else "",
        )
    return known or Encoder(wanted, None if wanted in _PROFILED else _OTHER_CRF, {})


def options_for(
    encoder: Encoder, layout: Layout, video: VideoSettings, hdr: HdrMetadata = NO_HDR
) -> dict[str, str]:
    """Return the options of an encoder: defaults and quality first, then the requested ones.

    Args:
        encoder: The encoder.
        layout: Layout of the frames that it gets.
        video: Quality, speed and options.
        hdr: How an HDR video was mastered.

    Raises:
        PlanError: A quality is set for an encoder without one.
    """
    options = dict(encoder.options)
    if encoder.crf is None:
        if video.crf is not None:
            raise _without_crf(encoder.name)
    else:
        quality = str(encoder.crf if video.crf is None else video.crf)
        kinds = (kind for end, kind in _QUALITY.items() if encoder.name.endswith(end))
        kind = next(kinds, {CRF: "{}"})
        options |= {key: text.format(quality) for key, text in kind.items()}
    if encoder.name == "ffv1" and min(layout.width, layout.height) < _MIN_SLICED_SIDE:
        options["slices"] = "1"
    if layout.centered and layout.across == 2:
        options["chroma_sample_location"] = "center"
    if encoder.name == "libx264" and _has_avx512():
        options["x264-params"] = "asm=avx2"
    for key, value in (*_hdr_options(encoder.name, hdr), *requested_options(video).items()):
        # A nested option list: append to varfix's part.
        joined = key.endswith("-params") and key in options
        options[key] = f"{options[key]}:{value}" if joined else value
    return options


def keeps_hdr(name: str) -> bool:
    """Return whether an encoder writes static HDR metadata."""
    return name in _HDR_OPTIONS


def _hdr_options(name: str, hdr: HdrMetadata) -> Iterator[tuple[str, str]]:
    """Yield option lists with the metadata, for encoders that write it."""
    if name not in _HDR_OPTIONS:
        return
    option, mastering, light, in_codes = _HDR_OPTIONS[name]
    if hdr.mastering:
        values = _codes(hdr.mastering) if in_codes else [f"{float(v):g}" for v in hdr.mastering]
        red, green, blue, white, most = (",".join(values[at : at + 2]) for at in range(0, 10, 2))
        least, greatest = most.split(",")
        display = f"G({green})B({blue})R({red})WP({white})L({greatest},{least})"
        yield option, f"{mastering}={display}"
    if hdr.light is not None:
        yield option, f"{light}={hdr.light[0]},{hdr.light[1]}"


def _codes(values: Sequence[Fraction]) -> list[str]:
    """Return values of a mastering display in the units of HEVC."""
    units = [_CHROMATICITY] * 8 + [_LUMINANCE] * 2
    return [str(round(value * unit)) for value, unit in zip(values, units, strict=True)]


def _without_crf(name: str) -> PlanError:
    if name in _PROFILED:
        return PlanError(
            f"--crf: not available for {name} (its profile sets the quality)",
            hint="omit --crf; for another profile add --set video.encoder_options=profile=NAME"
            f" (`ffmpeg -h encoder={name}` lists them)",
        )
    return PlanError(f"--crf: not available for {name} (lossless)", hint="omit --crf")


def requested_options(video: VideoSettings) -> dict[str, str]:
    """Return the encoder options from the settings."""
    pairs = (pair.partition("=") for pair in video.encoder_options.split(",") if pair)
    requested = {key.strip(): value.strip() for key, _, value in pairs}
    return requested if video.speed is None else {"preset": video.speed, **requested}


def check_accepted(encoder: Encoder, video: VideoSettings, left: Mapping[str, str]) -> None:
    """Reject options that an encoder would silently ignore.

    Args:
        encoder: The encoder.
        video: The settings.
        left: Options that it did not accept when it was opened.

    Raises:
        PlanError: The encoder has no such option, or its quality would be undefined.
    """
    requested = requested_options(video)
    for key in left:
        if key in requested:
            setting = f"video.encoder_options: {key}"
            if key == "preset" and video.speed is not None:
                setting = f"video.speed: {video.speed}"
            raise PlanError(f"{setting}: the encoder {encoder.name} has no option {key}")
    if CRF in left and (video.crf is not None or not (requested or _is_lossless(encoder.name))):
        raise PlanError(
            f"the encoder {encoder.name} has no --crf",
            hint="omit --crf and set an option of the encoder, such as"
            f" --set video.encoder_options=b=20M; `ffmpeg -h encoder={encoder.name}` lists them",
        )


def formats_of(name: str) -> frozenset[str]:
    """Return the pixel formats that an encoder supports; empty if it is no video encoder."""
    import av
    from av.codec.codec import UnknownCodecError

    try:
        codec = av.Codec(name, "w")
    except UnknownCodecError:
        return frozenset()
    if codec.type != "video":
        return frozenset()
    return frozenset(pixel_format.name for pixel_format in codec.video_formats or ()) or frozenset(
        {"yuv420p"}
    )


def hardware_encoders() -> list[str]:
    """Return the GPU encoders in this build of FFmpeg, whether or not they work here."""
    import av

    known = (name for name in av.codecs_available if name.endswith(HARDWARE) and formats_of(name))
    return sorted(name for name in known if av.Codec(name, "w").canonical_name in ENCODERS)


def _is_lossless(name: str) -> bool:
    import av

    codec = av.Codec(name, "w")
    return codec.lossless and not codec.lossy


def _has_avx512() -> bool:
    """Return whether x264 would use AVX-512 here.

    Measured: with AVX-512, equal frames gave files that differed from run to run and with the
    previous contents of memory (widths that are no multiple of 256, rate control by `mbtree`);
    without it, never.
    """
    import cv2

    return all(cv2.checkHardwareSupport(feature) for feature in (_AVX2, _AVX_512F))
