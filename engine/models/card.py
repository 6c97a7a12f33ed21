"""Model cards: properties of a model, stored as text in the metadata of its ONNX files.

So a copied or renamed file keeps its card. `varfix.onnx.files.card` reads and writes the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from varfix.engine.errors import ModelContractError

SCHEMA: Final = 1
PREFIX: Final = "varfix."

# Prior graphs receive the index of a task, so tasks may only be appended.
TASKS: Final = ("auto", "noise", "rain", "haze", "lowlight", "blur", "snow")
"""Kinds of damage to treat; `auto` treats what the model finds."""

SPECIALISTS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "denoise": frozenset({"noise"}),
        "derain": frozenset({"rain", "snow"}),
        "deblur": frozenset({"blur"}),
    }
)
"""Graphs that restore tiles in place of the restore graph, if nothing else is wrong with an image:
their names, and the members of `TASKS` that they restore."""


def split_tasks(task: str) -> tuple[str, ...]:
    """Return the members of `TASKS` in a setting `model.task`, such as `noise,haze`."""
    return tuple(part.strip() for part in task.split(","))


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of a model, equal in all of its graph files except for `sha256`.

    Attributes:
        schema: Version of the card.
        name: Registry name, or the stem of the file for a graph without a card.
        tasks: Members of `TASKS` that the model was trained for.
        licence: SPDX expression of the weights.
        tile: Best edge of the square tile, in pixels; a multiple of `multiple`.
        multiple: Every tile edge must be divisible by it.
        overlap: Pixels that neighboring tiles share.
        align: Tiles start at multiples of this; networks with strides or windows need it.
        smallest: Least edge of a tile, in pixels.
        tiling: `internal` and `discouraged` models use context beyond a tile.
        guidance: Input of the prior: `none`, the `tile`, or the whole `image`.
        thumbnail: Edge of the square thumbnail of the prior graph; 0 unless guidance is `image`.
        prior_channels: Channels of the prior maps; 0 unless guidance is `image`.
        prior_stride: Tile pixels for each prior sample.
        color: Color space of the pixels. A `gray` network restores the brightness and keeps the
            color of the source.
        range: Range of the pixels.
        layout: Axes of the graph's image input.
        fp16: Whether fp16 was validated against fp32.
        vram_mb: Device memory in MB by batch size, at `tile`.
        unrolled: Whether the graph repeats layers with the same weights. A runtime that copies the
            weights for every repetition would need many times their memory.
        squash: Filter that resizes an image to one tile with `--whole`, as in the reference code:
            bilinear without averaging, or Lanczos on the 8-bit image.
        levels: Names of the places where the prior is used, if the graph has outputs for them
            (`varfix image --explain`).
        agreement: Difference of results between fp16 and fp32.
        sha256: Digest of the graph without its card, in hex.
        weights: Digest of the external weights; empty if they are in the graph.
        about: One line of description.
        training: Training data and duration.
        network: Name of the network, for models made from a checkpoint of another project.
        network_license: SPDX expression of the network's code; `licence` is that of the weights.
        noncommercial: Whether the license of the network forbids commercial use.
        level: Meaning of the graph's input `level`; empty if it has none. `noise` is the standard
            deviation of the noise, in units of 1/255.
        level_default: Value of `level` if none is requested.
        reach: Distance in pixels from which the content of an image has no more effect on a pixel,
            measured; 0 = unknown, or farther than a tile.
    """

    name: str
    licence: str
    tile: int
    multiple: int
    overlap: int
    schema: int = SCHEMA
    align: int = 1
    smallest: int = 1
    tasks: tuple[str, ...] = ("auto",)
    tiling: Literal["supported", "discouraged", "internal"] = "supported"
    guidance: Literal["none", "image", "tile"] = "none"
    thumbnail: int = 0
    prior_channels: int = 0
    prior_stride: int = 16
    color: Literal["srgb", "gray"] = "srgb"
    range: Literal["0..1"] = "0..1"
    layout: Literal["NCHW"] = "NCHW"
    fp16: Literal["ok", "unsafe", "untested"] = "untested"
    vram_mb: dict[str, int] = {}
    unrolled: bool = False
    squash: Literal["bilinear", "lanczos"] = "bilinear"
    levels: tuple[str, ...] = ()
    agreement: str = ""
    sha256: str = ""
    weights: str = ""
    about: str = ""
    training: str = ""
    network: str = ""
    network_license: str = ""
    noncommercial: bool = False
    level: Literal["", "noise"] = ""
    level_default: float = 0.0
    reach: int = 0

    def __post_init__(self) -> None:
        """Reject contradicting sizes (ValueError)."""
        if min(self.multiple, self.prior_stride, self.align) < 1:
            raise ValueError("multiple, prior_stride and align must be at least 1")
        if self.tile < 1 or self.tile % self.multiple:
            raise ValueError(f"tile {self.tile} is not a multiple of {self.multiple}")
        if not 0 <= self.overlap < self.tile:
            raise ValueError(f"overlap {self.overlap} does not fit a tile of {self.tile}")
        if self.guidance == "image":
            self._check_prior()

    @property
    def tone_by_tile(self) -> bool:
        """Whether the tone of a restored tile depends on what else is in the tile."""
        return self.guidance == "tile" or self.tiling == "discouraged"

    @property
    def tiling_limit(self) -> str:
        """What a user must know about the tiles of this model, as a clause; empty if nothing."""
        if self.tiling != "discouraged":
            return ""
        if self.reach:
            return f"uses context beyond a tile of {self.tile}; neighboring tiles may differ"
        return "uses global context; neighboring tiles may differ in tone"

    def _check_prior(self) -> None:
        if self.thumbnail < 1 or self.prior_channels < 1:
            raise ValueError("guidance image needs a thumbnail and prior_channels")
        if self.multiple % self.prior_stride:
            raise ValueError(f"multiple {self.multiple} is not a multiple of prior_stride")


def to_metadata(card: ModelCard) -> dict[str, str]:
    """Return the card as metadata of a graph file; inverse of `from_metadata`."""
    values = msgspec.structs.asdict(card)
    values["tasks"] = ",".join(card.tasks)
    values["levels"] = ",".join(card.levels)
    values["vram_mb"] = msgspec.json.encode(card.vram_mb, order="sorted").decode()
    return {PREFIX + key: str(value) for key, value in values.items()}


def from_metadata(metadata: Mapping[str, str]) -> ModelCard:
    """Return the card in the metadata of a graph; unknown keys are ignored.

    Raises:
        ModelContractError: There is no card, it has another schema, or it is not consistent. The
            message does not name the file.
    """
    if PREFIX + "schema" not in metadata:
        raise ModelContractError("no varfix model card", hint="export it with varfix export-onnx")
    values: dict[str, Any] = {
        key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)
    }
    _check_schema(values["schema"])
    try:
        values["tasks"] = [task for task in values.get("tasks", "auto").split(",") if task]
        values["levels"] = [level for level in values.get("levels", "").split(",") if level]
        values["vram_mb"] = msgspec.json.decode(values.get("vram_mb", "{}"))
        return msgspec.convert(values, ModelCard, strict=False)
    except msgspec.MsgspecError as error:
        raise ModelContractError(f"invalid model card: {error}") from error


def _check_schema(schema: str) -> None:
    if not schema.isdigit() or int(schema) != SCHEMA:
        raise ModelContractError(
            f"model card has schema {schema}, expected {SCHEMA}",
            hint="update varfix",
        )
