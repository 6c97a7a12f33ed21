"""The settings of a run, as typed records; `varfix.engine.settings.resolve` fills them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from varfix.engine.models.card import TASKS

Quality = Annotated[int, Meta(ge=1, le=100)]
Positive = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]

_STREAM: Final = r"(0:)?(\d+|[vasdt](:m:language:\w+)?(:\d+)?|m:language:\w+(:\d+)?)"
Streams = Annotated[
    str,
    Meta(
        pattern=rf"^(copy|none|{_STREAM}(,{_STREAM})*)$",
        extra={
            "allowed": "all (or copy), none, or a list such as 0:a:0,0:s:m:language:eng",
            "hint": "name streams as in 0:2, 0:a, 0:s:0 or 0:a:m:language:eng, with commas between",
            "synonyms": {"all": "copy"},
        },
    ),
]
"""`copy` (all), `none`, or streams with commas between them."""

_ONE_TASK: Final = f"({'|'.join(TASKS)})"
Tasks = Annotated[str, Meta(pattern=f"^{_ONE_TASK}( *, *{_ONE_TASK})*$", extra={"choices": TASKS})]
"""One of `TASKS`, or several with commas between them."""

RENAMED_KEYS: Final = {
    "video.window": "video.deflicker_window",
    "video.keys": "video.prior_interval",
    "video.lock": "video.deflicker_lowpass",
    "video.segment": "video.segment_seconds",
    "tile.whole": "tile.resize_whole",
}
"""Keys until version 0.1, which are still accepted, and their names since then."""


class ModelSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which model runs, for which damage, in which precision.

    Attributes:
        task: The only kind of damage to treat, or several, as in `noise,haze`; `auto` = whatever
            the model finds.
        level: Noise level for models with such an input: the standard deviation of the noise, in
            units of 1/255. None takes the value of the model card.
    """

    name: str = "varformer-s"
    task: Tasks = "auto"
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    level: Annotated[float, Meta(ge=0.0, le=255.0)] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The kinds of damage in `task`."""
        return tuple(part.strip() for part in self.task.split(","))


class TileSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an image is cut into tiles; None takes the value of the model card.

    Attributes:
        size: Side of a tile in pixels.
        overlap: Pixels that neighboring tiles share.
        batch: Tiles per run; None = as many as memory allows.
        window: Shape of the blending weights.
        tone: For models whose prior sees single tiles: `global` takes the tone from the whole
            image, restored once at the tile's size; `tile` takes it from each tile.
        resize_whole: For the same models: resize the image to one tile and back instead of tiling.
        tone_lock: Keep the mean and the low frequencies of the source: `always`, for every task and
            exactly; `never`; or `auto` = where only detail is restored (tasks `noise` and `blur`,
            and `auto` when nothing that the model found changes the tone), except for the light
            that noise added to black and took from white.
    """

    size: Positive | None = None
    overlap: Annotated[int, Meta(ge=0)] | None = None
    batch: Positive | None = None
    window: Literal["cosine"] = "cosine"
    tone: Literal["global", "tile"] = "global"
    resize_whole: bool = False
    tone_lock: Literal["auto", "always", "never"] = "auto"


class OutputSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How results are stored.

    Attributes:
        format: `keep` = the source's own format.
        jpeg_quality: `source` = the source's own tables and chroma subsampling; for pixels that
            were restored, finer tables, up to quality 90, while the image takes at most 2 % more
            bytes, and no coarser ones than those of quality 60; 95 without subsampling if the
            source is no JPEG. A number = this quality without subsampling.
        jxl_quality: 100 is lossless.
        png_level: `small` takes about four times as long as `fast` and saves a tenth or more.
        times: `keep` = results have the times of their sources: of modification, and of creation
            where the system allows it; `now` = the time of writing.
        metadata: `keep` all, `safe` = only what changes how the image looks (ICC, resolution).
        flatten: Color (name or #rrggbb) under transparency when the format cannot hold it.
    """

    format: Literal["keep", "png", "jpg", "webp", "tiff", "avif", "bmp", "heic", "jxl"] = "keep"
    jpeg_quality: Quality | Literal["source"] = "source"
    webp_quality: Quality = 90
    avif_quality: Quality = 85
    heic_quality: Quality = 90
    jxl_quality: Quality = 100
    png_level: Literal["fast", "small"] = "fast"
    times: Literal["keep", "now"] = "keep"
    metadata: Literal["keep", "safe", "none"] = "keep"
    flatten: str | None = None


class IoSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Decoding and encoding.

    Attributes:
        queue_mb: MiB of images in memory; None = a quarter of the available memory,
            between 512 and 4096.
        jobs: Decoder threads, and as many encoder threads; None = by CPU count.
    """

    queue_mb: Positive | None = None
    jobs: Positive | None = None


class VideoSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How videos are read and stored.

    Attributes:
        codec: `auto` = the source's codec or its successor; h264, hevc, av1, ffv1, prores; or an
            encoder by FFmpeg's name, such as hevc_nvenc.
        crf: Quality, lower is better and larger; None = the encoder's own default.
        speed: Preset of the encoder: slower gives smaller files; None = the default of varfix.
        encoder_options: More options for the encoder, as `key=value,key=value`.
        segment_seconds: Length of a segment, such as 4 or 4s: at most this much is redone after an
            interruption. It is also the interval of key frames.
        streams: `copy` (or `all`) audio, subtitles, chapters and attachments, `none` of them, or
            only those that are named, as in FFmpeg's -map: `0:a:0,0:s:m:language:eng`.
        deflicker_window: Temporal window of the deflicker filter, in frames on each side; 0
            disables it.
        denoise_window: Frames on each side with which a frame is averaged before it is restored,
            where they differ by noise only; 0 disables it. For the task `noise`, and for `auto`
            with models that remove noise.
        prior_interval: The prior runs on every N-th frame.
        deflicker_lowpass: Also remove slow changes of tone after restoration, by averaging low
            frequencies over the window.
        fps: Frames per second of numbered images; None = 25.
        interlaced: `refuse`; `frames` or `fields` to deinterlace, with one frame for each frame or
            for each field; `ignore` for videos that are wrongly marked as interlaced.
        alpha: `auto` = keep the transparency of a video that has any in its first frames; `keep` =
            keep it in any case. `output.flatten` puts a color under it instead.
        compare: Show the source on the left of the result, for a preview.
        damaged: `fail`, or `conceal` to accept the decoder's reconstruction of damaged data.
    """

    codec: str = "auto"
    crf: Annotated[int, Meta(ge=0, le=63)] | None = None
    speed: str | None = None
    encoder_options: str = ""
    segment_seconds: Annotated[float, Meta(gt=0.0, le=600.0)] = 4.0
    streams: Streams = "copy"
    deflicker_window: Annotated[int, Meta(ge=0, le=60)] = 4
    denoise_window: Annotated[int, Meta(ge=0, le=8)] = 3
    prior_interval: Positive = 2
    deflicker_lowpass: bool = True
    fps: Annotated[float, Meta(gt=0.0, le=1000.0)] | None = None
    interlaced: Literal["refuse", "ignore", "frames", "fields"] = "refuse"
    alpha: Literal["auto", "keep"] = "auto"
    compare: bool = False
    damaged: Literal["fail", "conceal"] = "fail"


class ClusterSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Resources of each worker of a cluster; None leaves the choice to varfix.

    Attributes:
        workers: Number of workers; None = as many as fit on the cluster when the run starts.
        cpus: CPUs of a worker; None = 4, or fewer on a cluster of smaller machines.
        gpus: GPUs of a worker; a fraction puts several workers on one GPU. None = 1 if the cluster
            has a GPU and `device` allows it, else 0.
    """

    workers: Positive | None = None
    cpus: Annotated[float, Meta(gt=0.0)] | None = None
    gpus: Annotated[float, Meta(ge=0.0)] | None = None


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits on hostile or mistaken input; `max_pixels` is width times height."""

    max_pixels: Positive = 500_000_000


class Strength(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Strengths of the restoration, in [0, 1]: of brightness and of color."""

    luma: Fraction = 1.0
    chroma: Fraction = 1.0

    @property
    def is_zero(self) -> bool:
        """Whether nothing is restored."""
        return self.luma == self.chroma == 0.0

    @property
    def is_uniform(self) -> bool:
        """Whether both strengths are equal."""
        return self.luma == self.chroma

    def __str__(self) -> str:
        """Return both numbers as text."""
        return f"{self.luma} luma, {self.chroma} chroma"


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides how an image is restored and stored.

    Attributes:
        strength: 0 returns the source, 1 the model's result, values between are a blend. One number
            for brightness and color, or one for each.
        device: `auto`, `cpu`, `cuda[:N,…]`, `tensorrt[:N,…]`; a named device is
            used, or the run fails.
    """

    strength: Fraction | Strength = 1.0
    device: str = "auto"
    model: ModelSettings = msgspec.field(default_factory=ModelSettings)
    tile: TileSettings = msgspec.field(default_factory=TileSettings)
    output: OutputSettings = msgspec.field(default_factory=OutputSettings)
    io: IoSettings = msgspec.field(default_factory=IoSettings)
    video: VideoSettings = msgspec.field(default_factory=VideoSettings)
    cluster: ClusterSettings = msgspec.field(default_factory=ClusterSettings)
    limits: LimitSettings = msgspec.field(default_factory=LimitSettings)

    @property
    def strengths(self) -> Strength:
        """Strengths of brightness and color."""
        if isinstance(self.strength, Strength):
            return self.strength
        return Strength(luma=self.strength, chroma=self.strength)
