"""What varfix must know of a model before it runs it, as data.

A model is one or two ONNX graphs and a card. The card travels inside the graph file, as text in
its metadata, so that a copied or renamed file still says what it is; `ModelCard` is the same facts,
typed. Reading the file is `varfix.onnx.files.card`'s work; nothing here touches a disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from varfix.engine.errors import ModelContractError

SCHEMA: Final = 1
PREFIX: Final = "varfix."

# The index of a task here is the number a prior graph receives: only ever append.
TASKS: Final = ("auto", "noise", "rain", "haze", "lowlight", "blur", "snow")


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about one model, the same in each of its graph files but for `sha256`.

    Attributes:
        schema: Version of this list of facts.
        name: Registry name, or the file's stem for a graph from elsewhere.
        tasks: Members of `TASKS` the model was trained for.
        licence: SPDX expression of the weights.
        tile: Edge of the square tile the model is best at, in pixels; a multiple of `multiple`.
        multiple: Every tile edge must be divisible by it.
        overlap: Pixels that neighboring tiles share.
        tiling: `internal` and `discouraged` models see more than a tile can show them.
        guidance: Where the prior comes from: nowhere, the tile itself, or the whole image.
        thumbnail: Edge of the square thumbnail of the prior graph; 0 unless guidance is `image`.
        prior_channels: Channels of the prior maps; 0 unless guidance is `image`.
        prior_stride: One prior sample per so many tile pixels.
        color: Color space of the pixels.
        range: Range of the pixels.
        layout: Axes of the graph's image input.
        fp16: Whether half precision was validated against fp32.
        vram_mb: Device memory in MB by batch size, at `tile`.
        unrolled: Whether the graph repeats layers, all on the same weights: a runtime that lays
            out a copy of the weights for every repetition would need many times their memory.
        squash: How the network's own programs shrink an image to one tile, for `--whole`:
            bilinear without averaging, or Lanczos of the image in 8 bits.
        levels: Names of the places at which the prior enters, where the graph tells what happens
            there (`varfix image --explain`).
        agreement: How the half-precision graph's results compare with the single-precision one's.
        sha256: Digest of the graph without its card, in hex.
        weights: Digest of the file of weights beside the graph; empty if they are inside.
        about: One line for people.
        training: What it was trained on, for how long.
    """

    name: str
    licence: str
    tile: int
    multiple: int
    overlap: int
    schema: int = SCHEMA
    tasks: tuple[str, ...] = ("auto",)
    tiling: Literal["supported", "discouraged", "internal"] = "supported"
    guidance: Literal["none", "image", "tile"] = "none"
    thumbnail: int = 0
    prior_channels: int = 0
    prior_stride: int = 16
    color: Literal["srgb"] = "srgb"
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

    def __post_init__(self) -> None:
        """Refuse sizes that contradict each other (ValueError), however the card was made."""
        if self.multiple < 1 or self.prior_stride < 1:
            raise ValueError("multiple and prior_stride must be at least 1")
        if self.tile < 1 or self.tile % self.multiple:
            raise ValueError(f"tile {self.tile} is not a multiple of {self.multiple}")
        if not 0 <= self.overlap < self.tile:
            raise ValueError(f"overlap {self.overlap} does not fit a tile of {self.tile}")
        if self.guidance == "image":
            self._check_prior()

    def _check_prior(self) -> None:
        if self.thumbnail < 1 or self.prior_channels < 1:
            raise ValueError("guidance image needs a thumbnail and prior_channels")
        if self.multiple % self.prior_stride:
            raise ValueError(f"multiple {self.multiple} is no multiple of prior_stride")


def to_metadata(card: ModelCard) -> dict[str, str]:
    """Return the card as the text pairs that a graph file carries; inverse of `from_metadata`."""
    facts = msgspec.structs.asdict(card)
    facts["tasks"] = ",".join(card.tasks)
    facts["levels"] = ",".join(card.levels)
    facts["vram_mb"] = msgspec.json.encode(card.vram_mb, order="sorted").decode()
    return {PREFIX + key: str(value) for key, value in facts.items()}


def from_metadata(metadata: Mapping[str, str]) -> ModelCard:
    """Return the card in a graph's metadata; other programs' keys and unknown facts are ignored.

    Raises:
        ModelContractError: There is no card, it is newer than this varfix, or it is not consistent.
            The message does not name the file.
    """
    if PREFIX + "schema" not in metadata:
        raise ModelContractError(
            "no varfix model card inside.", hint="Export with varfix export-onnx."
        )
    facts: dict[str, Any] = {
        key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)
    }
    _check_schema(facts["schema"])
    try:
        facts["tasks"] = [task for task in facts.get("tasks", "auto").split(",") if task]
        facts["levels"] = [level for level in facts.get("levels", "").split(",") if level]
        facts["vram_mb"] = msgspec.json.decode(facts.get("vram_mb", "{}"))
        return msgspec.convert(facts, ModelCard, strict=False)
    except msgspec.MsgspecError as error:
        raise ModelContractError(f"its model card is not valid: {error}.") from error


def _check_schema(schema: str) -> None:
    if not schema.isdigit() or int(schema) != SCHEMA:
        raise ModelContractError(
            f"its model card has schema {schema}, this varfix reads schema {SCHEMA}.",
            hint="Update varfix.",
        )


@dataclass(frozen=True)
class Release:
    """Where others published the checkpoint from which a model is made.

    Attributes:
        architecture: Which network it is, for the exporter.
        urls: Its files, in the exporter's order.
        licence: SPDX expression for the card.
        terms: Name of the text, in the package data, that says what is known of the terms of use.
        depth: Blocks of the transformer, where a checkpoint of another depth is another model.
    """

    architecture: str
    urls: tuple[str, ...]
    licence: str
    terms: str
    depth: int | None = None


@dataclass(frozen=True)
class ModelEntry:
    """A model that varfix knows by name.

    Attributes:
        name: What `--model` takes.
        files: Names of its graph files, the restore graph first: in the package data, or, of a
            model that others released, in the user's model folder.
        summary: One line for `varfix models`.
        release: Where it comes from, if it does not ship with varfix.
    """

    name: str
    files: tuple[str, ...]
    summary: str
    release: Release | None = None


MODELS: Final[dict[str, ModelEntry]] = {
    "varformer-s": ModelEntry(
        name="varformer-s",
        files=("varformer-s.onnx", "varformer-s.prior.onnx"),
        summary="noise, rain, haze, low light, blur, snow; small, runs on a CPU; ships with varfix",
    ),
    "varformer-d16": ModelEntry(
        name="varformer-d16",
        files=("varformer-d16.onnx",),
        summary="VarFormer as published (908 M parameters): tiles of 256; varfix models pull",
        release=Release(
            architecture="varformer",
            urls=("https://huggingface.co/wsy541/VarFormer/resolve/main/net_g_last.pth",),
            licence="LicenseRef-unstated",
            terms="varformer-d16.licence.md",
            depth=16,
        ),
    ),
}
