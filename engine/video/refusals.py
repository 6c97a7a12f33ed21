"""Videos that cannot be restored correctly: why, and a command that makes them restorable."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from varfix.engine.errors import DecodeUnsupportedError
from varfix.engine.video.clip import UNSPECIFIED
from varfix.engine.video.color import known_matrix
from varfix.engine.video.containers import main_stream, open_container
from varfix.engine.video.deinterlace import is_telecined
from varfix.engine.video.frame_facts import is_rgb, rate_of
from varfix.engine.video.sources.dolby_vision import needs_dolby_vision

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream

_TELECINE_RATE: Final = (29, 31)  # frames per second
_TELECINE_FRAMES: Final = 60
_TONE_MAP: Final = (
    "format=gbrpf32le,zscale=p=bt709,tonemap=hable,zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
    " -c copy -c:v libx264 -crf 14 out.mkv"
)
# Profile 5 stores ICtCp with PQ in full range; FFmpeg's zscale shows it without its own metadata.
_FROM_DOLBY_VISION: Final = (
    "zscale=min=ictcp:tin=smpte2084:pin=bt2020:rin=full:m=gbr:p=bt2020:t=linear:npl=100"
)


def check_first_frame(path: Path, stream: VideoStream, frame: VideoFrame, interlaced: str) -> None:
    """Reject a video that cannot be restored correctly, by its header and its first frame.

    Args:
        path: The file.
        stream: Its frames.
        frame: The first frame.
        interlaced: As for `check_frame`.

    Raises:
        DecodeUnsupportedError: As `check_frame`; or it needs Dolby Vision, or is telecined.
    """
    if frame.interlaced_frame and interlaced == "refuse" and _is_telecined(path, stream):
        raise _telecined()
    check_frame(frame, interlaced)
    if int(frame.color_trc) == UNSPECIFIED and needs_dolby_vision(path):
        raise _dolby_vision()
    if stream.metadata.get("alpha_mode") == "1":
        raise _apart(stream.codec_context.codec.canonical_name)


def check_frame(frame: VideoFrame, interlaced: str) -> None:
    """Reject a frame that cannot be restored correctly.

    Args:
        frame: The frame.
        interlaced: `refuse`, or `ignore` to accept interlaced frames.

    Raises:
        DecodeUnsupportedError: It is interlaced, or has an unknown matrix.
    """
    if frame.interlaced_frame and interlaced == "refuse":
        raise DecodeUnsupportedError(
            "interlaced video (each frame holds two moments, which the model would blend)",
            hint="add --deinterlace, or `--set video.interlaced=ignore` if only its flag is wrong",
        )
    if not is_rgb(frame) and not known_matrix(int(frame.colorspace)):
        raise DecodeUnsupportedError(
            f"color matrix {int(frame.colorspace)} is not supported",
            hint="convert it with `ffmpeg -i VIDEO -map 0 -vf scale=out_color_matrix=bt709"
            ",format=yuv420p -c copy -c:v ffv1 out.mkv`",
        )


def _telecined() -> DecodeUnsupportedError:
    return DecodeUnsupportedError(
        "telecined film (24 frames per second, spread over 30 interlaced ones)",
        hint="restore the frames of the film with `ffmpeg -i VIDEO -map 0 -vf fieldmatch,decimate"
        " -c copy -c:v ffv1 out.mkv`, or add --deinterlace",
    )


def _is_telecined(path: Path, stream: VideoStream) -> bool:
    """Return whether the first seconds hold telecined film."""
    import av.error

    if not _TELECINE_RATE[0] < rate_of(stream) < _TELECINE_RATE[1]:
        return False
    lumas: list[Any] = []
    with suppress(av.error.FFmpegError), open_container(path) as container:
        for frame in container.decode(main_stream(container)):
            lumas.append(frame.to_ndarray(format="gray"))
            if len(lumas) == _TELECINE_FRAMES:
                break
    return is_telecined(lumas)


def _dolby_vision() -> DecodeUnsupportedError:
    return DecodeUnsupportedError(
        "video in Dolby Vision (its colors can be shown only with Dolby Vision)",
        hint=f"convert it with `ffmpeg -i VIDEO -map 0 -vf {_FROM_DOLBY_VISION},{_TONE_MAP}`",
    )


def transparent(number: int) -> DecodeUnsupportedError:
    """Return the error for a video that is transparent from a later frame on."""
    return DecodeUnsupportedError(
        f"frame {number} is transparent, earlier ones are not",
        hint="add --set video.alpha=keep, or --set output.flatten=black",
    )


def _apart(codec: str) -> DecodeUnsupportedError:
    """Return the error for alpha that is stored as a second video, as VP8 and VP9 do."""
    decoder = "libvpx" if codec == "vp8" else "libvpx-vp9"
    return DecodeUnsupportedError(
        f"transparent video in {codec} (its transparency is stored apart)",
        hint=f"convert it with `ffmpeg -c:v {decoder} -i VIDEO -map 0 -c copy -c:v ffv1"
        " -pix_fmt yuva420p out.mkv`, which keeps the transparency",
    )
