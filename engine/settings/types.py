"""Settings: their types, and how layers of them become one.

Flags and `--set` win over `VARFIX_*` variables, these over the chosen preset, over `./varfix.yaml`,
over the user's own file, over what is built in. Each resolved value keeps the place it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Meta, Struct

from varfix.engine.errors import ConfigError
from varfix.engine.settings.layers import (
    Layer,
    load_preset,
    nearest,
    preset_about,
    preset_names,
)
from varfix.engine.system.app_folders import config_folder

__all__ = [
    "ClusterSettings",
    "IoSettings",
    "Layer",
    "LimitSettings",
    "ModelSettings",
    "OutputSettings",
    "Resolved",
    "Settings",
    "TileSettings",
    "VideoSettings",
    "env_layer",
    "flag_layer",
    "known_keys",
    "load_preset",
    "preset_about",
    "preset_names",
    "resolve",
    "set_layer",
    "standard_layers",
]

Quality = Annotated[int, Meta(ge=1, le=100)]
Positive = Annotated[int, Meta(ge=1)]


class ModelSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which network runs, for which damage, in which arithmetic."""

    name: str = "varformer-s"
    task: Literal["auto", "noise", "rain", "haze", "lowlight", "blur", "snow"] = "auto"
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"


class TileSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an image is cut for the network; None leaves the choice to the model card.

    Attributes:
        size: Side of a tile in pixels.
        overlap: Pixels shared by neighboring tiles.
        batch: Tiles per run; None = as many as memory allows.
        window: Shape of the blending weights.
        tone: For models that see tiles only: whether tone coarser than a tile comes from the
            image as a whole, restored once at the tile's size, or from each tile.
        whole: For the same models: no tiles; the image is squashed to one and stretched back.
    """

    size: Positive | None = None
    overlap: Annotated[int, Meta(ge=0)] | None = None
    batch: Positive | None = None
    window: Literal["cosine"] = "cosine"
    tone: Literal["global", "tile"] = "global"
    whole: bool = False


class OutputSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How results are stored.

    Attributes:
        format: `keep` = the source's own format.
        jxl_quality: 100 is without loss.
        png_level: `small` takes about four times as long as `fast` and saves a tenth or more.
        metadata: `keep` all, `safe` = only what changes how the image looks (ICC, resolution).
        flatten: Color (name or #rrggbb) under transparency when the format cannot hold it.
    """

    format: Literal["keep", "png", "jpg", "webp", "tiff", "avif", "bmp", "heic", "jxl"] = "keep"
    jpeg_quality: Quality = 95
    webp_quality: Quality = 90
    avif_quality: Quality = 85
    heic_quality: Quality = 90
    jxl_quality: Quality = 100
    png_level: Literal["fast", "small"] = "fast"
    metadata: Literal["keep", "safe", "none"] = "keep"
    flatten: str | None = None


class IoSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Reading and writing.

    Attributes:
        queue_mb: MiB of images in flight; None = a quarter of the memory that is available,
            between 512 and 4096.
        jobs: Threads that read, and as many that write; None = by CPU count.
    """

    queue_mb: Positive | None = None
    jobs: Positive | None = None


class VideoSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How clips are read and stored.

    Attributes:
        codec: `auto` = the clip's own or its successor; h264, hevc, av1, ffv1; or an encoder by
            FFmpeg's name, such as hevc_nvenc.
        crf: Quality, lower is better and larger; None = the encoder's own default.
        speed: Preset of the encoder: slower gives smaller files; None = varfix's choice.
        encoder_options: More options for the encoder, as `key=value,key=value`.
        segment: Seconds of a clip that are finished at once: at most so much is done again after a
            kill, and so often a key frame is set.
        streams: `copy` sound, subtitles, chapters and the like, or `none` of them.
        window: Frames on either side that a frame is steadied with; 0 restores each by itself.
        keys: The whole image is looked at anew every so many frames.
        lock: Average slow changes of tone away after restoration, too.
        interlaced: `refuse`, or `ignore` for clips that are only marked so.
        damaged: `fail`, or `conceal` to take what the decoder makes of damaged data.
    """

    codec: str = "auto"
    crf: Annotated[int, Meta(ge=0, le=63)] | None = None
    speed: str | None = None
    encoder_options: str = ""
    segment: Annotated[float, Meta(gt=0.0, le=600.0)] = 4.0
    streams: Literal["copy", "none"] = "copy"
    window: Annotated[int, Meta(ge=0, le=60)] = 4
    keys: Positive = 2
    lock: bool = True
    interlaced: Literal["refuse", "ignore"] = "refuse"
    damaged: Literal["fail", "conceal"] = "fail"


class ClusterSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What each worker of a cluster gets; None leaves the choice to varfix.

    Attributes:
        workers: How many; None = as many as the cluster has room for when the run starts.
        cpus: CPUs of a worker; None = 4, or what the smallest machine has for each.
        gpus: GPUs of a worker, a share of one to put several on it; None = 1 where the cluster has
            any and `device` allows, else 0.
    """

    workers: Positive | None = None
    cpus: Annotated[float, Meta(gt=0.0)] | None = None
    gpus: Annotated[float, Meta(ge=0.0)] | None = None


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Guards against hostile or mistaken input; `max_pixels` is width times height."""

    max_pixels: Positive = 500_000_000


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides how an image is restored and stored.

    Attributes:
        strength: 0 returns the source, 1 the model's result, between them a blend.
        device: `auto`, `cpu`, `cuda[:N,…]`, `tensorrt[:N]`; a named device is strict.
    """

    strength: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    device: str = "auto"
    model: ModelSettings = msgspec.field(default_factory=ModelSettings)
    tile: TileSettings = msgspec.field(default_factory=TileSettings)
    output: OutputSettings = msgspec.field(default_factory=OutputSettings)
    io: IoSettings = msgspec.field(default_factory=IoSettings)
    video: VideoSettings = msgspec.field(default_factory=VideoSettings)
    cluster: ClusterSettings = msgspec.field(default_factory=ClusterSettings)
    limits: LimitSettings = msgspec.field(default_factory=LimitSettings)


@dataclass(frozen=True)
class Resolved:
    """Settings, and for each dotted key the place its value came from."""

    settings: Settings
    origins: dict[str, str]


def known_keys() -> dict[str, Any]:
    """Map every dotted settings key to its type, in the order of the declarations."""
    return dict(_typed_keys("", Settings))


def resolve(layers: Sequence[Layer]) -> Resolved:
    """Merge layers, later ones winning, into checked settings.

    Raises:
        ConfigError: A key is unknown or a value does not fit; the text names file and line.
    """
    kinds = known_keys()
    origins = dict.fromkeys(kinds, "built in")
    chosen: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.leaves():
            if value is None and key in _sections():
                continue  # `tile:` with nothing under it
            chosen[key] = _checked(key, value, layer, kinds)
            origins[key] = layer.place(key)
    return Resolved(msgspec.convert(_nested(chosen), Settings), origins)


def set_layer(assignments: Iterable[str]) -> Layer:
    """Read `KEY=VALUE` texts of `--set`; the value is YAML, or plain text where text is expected.

    Raises:
        ConfigError: A text has no `=`, or its value is not YAML.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f'--set "{assignment}": expected KEY=VALUE')
        values[key.strip()] = _from_text(key.strip(), text.strip(), "--set")
    return Layer("--set", values)


# Variables of varfix that are no settings; each is read where its name says.
OTHER_VARIABLES: Final = frozenset(
    f"VARFIX_{name}"
    for name in (
        *("PRESET", "DEBUG", "MODELS", "MIRROR", "OFFLINE", "THREADS", "CUDA_GRAPHS"),
        *("FUZZ", "TEST_PICTURES", "TEST_KILLS"),
    )
)


def env_layer(environ: Mapping[str, str]) -> Layer:
    """Read `VARFIX_TILE_OVERLAP` and the like; other `VARFIX_*` variables are not settings.

    Raises:
        ConfigError: A value is not YAML.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for key in known_keys():
        variable = f"VARFIX_{key.replace('.', '_').upper()}"
        text = environ.get(variable, "").strip()
        if text:
            values[key] = _from_text(key, text, variable)
            places[key] = variable
    return Layer("environment", values, places)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence on each `VARFIX_*` variable that means nothing, with the nearest known one.

    Args:
        environ: Environment variables, normally `os.environ`.
    """
    known = {f"VARFIX_{key.replace('.', '_').upper()}" for key in known_keys()} | OTHER_VARIABLES
    found = []
    for name in sorted(environ):
        if name.startswith("VARFIX_") and name not in known:
            found.append(f"the variable {name} is not known.{nearest(name, sorted(known))}")
    return found


def flag_layer(flags: Mapping[str, Any]) -> Layer:
    """Turn command-line options, by dotted key, into a layer; None means not given."""
    given = {key: value for key, value in flags.items() if value is not None}
    return Layer("command line", given, {key: _option(key) for key in given})


def standard_layers(
    preset: str | None,
    project_dir: Path,
    *,
    flags: Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    user_dir: Path | None = None,
) -> list[Layer]:
    """Collect every layer of a run, weakest first.

    Args:
        preset: What `--preset` was given; None when it was not. Only then is `auto` the floor
            below the project's and the user's files instead of a choice above them.
        project_dir: Folder whose `varfix.yaml` counts, if there is one.
        flags: Dotted key to value; None values are options that were not given.
        assignments: The `--set` texts.
        environ: Environment variables, normally `os.environ`.
        user_dir: Folder of the user's `varfix.yaml`; None = the platform's own place.

    Raises:
        ConfigError: A preset or file is unknown or unreadable.
    """
    environ = environ if environ is not None else {}
    preset = preset or environ.get("VARFIX_PRESET") or None
    user_dir = user_dir or config_folder()
    layers = [] if preset else load_preset("auto")
    for folder in (user_dir, project_dir):
        path = folder / "varfix.yaml"
        layers += load_preset(str(path)) if path.is_file() else []
    layers += load_preset(preset) if preset else []
    return [*layers, env_layer(environ), set_layer(assignments), flag_layer(flags or {})]


def _typed_keys(prefix: str, struct: type[Struct]) -> Iterable[tuple[str, Any]]:
    for name, kind in get_type_hints(struct, include_extras=True).items():
        if isinstance(kind, type) and issubclass(kind, Struct):
            yield from _typed_keys(f"{prefix}{name}.", kind)
        else:
            yield f"{prefix}{name}", kind


def _sections() -> set[str]:
    return {key.partition(".")[0] for key in known_keys() if "." in key}


def _checked(key: str, value: Any, layer: Layer, kinds: Mapping[str, Any]) -> Any:
    place = layer.place(key)
    if key in _sections():
        raise ConfigError(f"{place}: {key}: expected keys and values, got {_kind_name(value)}")
    if key not in kinds:
        raise ConfigError(f'{place}: unknown key "{key}".{nearest(key, kinds)}')
    try:
        return msgspec.convert(value, kinds[key])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {key}: {_reason(kinds[key], value, error)}") from error


def _reason(kind: Any, value: Any, error: msgspec.ValidationError) -> str:
    if get_origin(kind) is Literal:
        got = f'"{value}"' if isinstance(value, str) else _kind_name(value)
        words = [str(choice) for choice in get_args(kind)]
        hint = nearest(value, words) if isinstance(value, str) else ""
        return f"expected one of {', '.join(words)}; got {got}.{hint}".removesuffix(".")
    text = str(error).replace("`", "").replace(" | null", "")
    text = text[:1].lower() + text[1:]
    return text if ", got " in text else f"{text}, got {value}"


def _kind_name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _from_text(key: str, text: str, place: str) -> Any:
    """Keep text where text is expected: YAML would take `#fff` for a comment."""
    kind = known_keys().get(key)
    if get_origin(kind) is Literal or kind is str or str in get_args(kind):
        return None if text in ("null", "~") else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f'{place}: {key}: cannot read the value "{text}"') from error


def _option(key: str) -> str:
    return "--model" if key == "model.name" else f"--{key.rpartition('.')[2].replace('_', '-')}"


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in leaves.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return tree
