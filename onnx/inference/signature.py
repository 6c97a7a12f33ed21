"""Inputs and outputs of a graph, checked against its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from varfix.engine.errors import ConfigError, ModelContractError
from varfix.engine.models.card import ModelCard
from varfix.onnx.inference.runtime import Session

TILE: Final = "tile"
PRIOR: Final = "prior"
THUMBNAIL: Final = "thumbnail"
TASK: Final = "task"
CROPS: Final = "crops"
PROBABILITIES: Final = "probabilities"
RESTORED: Final = "restored"
LEVEL: Final = "level"
FOUND: Final = "found"

_EXPORT: Final = "export it with varfix export-onnx"
_DTYPES: Final = {"float": "float32", "double": "float64"}  # ONNX Runtime's name -> NumPy's name
# For graphs without a card: most fully convolutional networks accept these.
_FOREIGN_TILE: Final = 512
_FOREIGN_MULTIPLE: Final = 16
_FOREIGN_OVERLAP: Final = 32


@dataclass(frozen=True)
class Signature:
    """Names and limits of the inputs and outputs of a restore graph.

    Attributes:
        tile: Its image input.
        output: Its image output.
        dims: Its symbolic height and width, to be pinned to the tile's edge.
        batch: The batch it is limited to, or None for any.
    """

    tile: str
    output: str
    dims: tuple[str, ...]
    batch: int | None


def read_signature(session: Session, path: Path, others: Sequence[str] = ()) -> Signature:
    """Return the signature of the restore graph `session`.

    Args:
        session: The graph.
        path: Its file, for messages.
        others: Names of its inputs besides the image; see `other_inputs`.

    Raises:
        ModelContractError: Its inputs are not one float32 image [N,3,H,W] and the others, or its
            output is not such an image.
    """
    inputs, outputs = list(session.get_inputs()), list(session.get_outputs())
    images = [node for node in inputs if node.name not in others]
    if len(inputs) != 1 + len(others) or len(images) != 1 or not _is_image(images[0]):
        also = "".join(f' and "{name}"' for name in others)
        raise _unexpected(path, f"one image input [N,3,H,W]{also}", inputs)
    # Outputs for --explain have other names.
    restored = [node for node in outputs if node.name == RESTORED] or outputs
    if len(restored) != 1 or not _is_image(restored[0]):
        raise _unexpected(path, "one image output [N,3,H,W]", outputs)
    (image,) = images
    batch = image.shape[0]
    if isinstance(batch, int) and batch != 1:
        raise _unexpected(path, "a free batch, or a batch of 1", inputs)
    return Signature(
        tile=image.name,
        output=restored[0].name,
        dims=tuple(dim for dim in image.shape[2:] if isinstance(dim, str)),
        batch=batch if isinstance(batch, int) else None,
    )


def other_inputs(card: ModelCard) -> tuple[str, ...]:
    """Return the names of the inputs that a restore graph with this card has besides the image."""
    guided = (PRIOR,) if card.guidance == "image" else ()
    return (*guided, LEVEL) if card.level else guided


def check_prior(session: Session, path: Path, card: ModelCard) -> None:
    """Reject a prior graph whose inputs are not thumbnail and task, or whose maps differ.

    It may also take `crops` and `probabilities`, and give `found`.

    Raises:
        ModelContractError: Names, types or sizes differ.
    """
    inputs = {node.name: node for node in session.get_inputs()}
    if set(inputs) - {CROPS, PROBABILITIES} != {THUMBNAIL, TASK} or not _is_image(
        inputs[THUMBNAIL]
    ):
        wanted = f'"thumbnail" [1,3,{card.thumbnail},{card.thumbnail}] and "task" [1]'
        raise _unexpected(path, wanted, list(inputs.values()))
    outputs = [node for node in session.get_outputs() if node.name != FOUND]
    channels = outputs[0].shape[1:2] if len(outputs) == 1 else []
    if channels != [card.prior_channels] and not any(isinstance(dim, str) for dim in channels):
        raise _unexpected(path, f"one output [1,{card.prior_channels},h,w]", outputs)


def foreign_card(session: Session, path: Path) -> ModelCard:
    """Return a card for a graph without a card.

    Raises:
        ModelContractError: The graph does not map one image to one image of the same size.
    """
    signature = read_signature(session, path)
    image = next(node for node in session.get_inputs() if node.name == signature.tile)
    fixed = [dim for dim in image.shape[2:] if isinstance(dim, int)]
    if fixed and fixed != [fixed[0]] * 2:
        raise _unexpected(path, "one image input [N,3,H,W] with square or free H and W", [image])
    tile = fixed[0] if fixed else _FOREIGN_TILE
    return ModelCard(
        name=path.stem,
        licence="unknown",
        tile=tile,
        multiple=tile if fixed else _FOREIGN_MULTIPLE,
        overlap=min(_FOREIGN_OVERLAP, tile // 4),
        about="a graph without a varfix card",
    )


def tile_size(requested: int | None, card: ModelCard) -> int:
    """Return the edge of the tiles: the requested one, else that of the card.

    Raises:
        ConfigError: The model does not support tiles of the requested size.
    """
    size = requested or card.tile
    if size % card.multiple:
        lower = size - size % card.multiple
        near = [str(edge) for edge in (lower, lower + card.multiple) if edge]
        raise ConfigError(
            f"tile.size: {size} is not a multiple of {card.multiple}, which {card.name} requires",
            hint=f"use {' or '.join(near)}",
        )
    return size


def check_overlap(overlap: int | None, size: int) -> None:
    """Reject an overlap above a third of the tile, at which more than two tiles overlap.

    Raises:
        ConfigError: The overlap is too large.
    """
    if overlap is not None and overlap > size // 3:
        raise ConfigError(
            f"tile.overlap: {overlap} is more than a third of tile.size, {size}",
            hint=f"use {size // 3} or less, or a larger tile.size",
        )


def check_level(level: float | None, card: ModelCard) -> None:
    """Reject `model.level` for a model without such an input.

    Raises:
        ConfigError: The model has no input for a level.
    """
    if level is not None and not card.level:
        raise ConfigError(
            f"model.level: {card.name} has no input for a noise level",
            hint="omit model.level; varfix models show NAME prints whether a model has a level",
        )


def check_resize_whole(whole: bool, card: ModelCard) -> None:
    """Reject `tile.resize_whole` for a model of free size.

    Raises:
        ConfigError: The model supports images of any size.
    """
    if whole and card.guidance != "tile":
        raise ConfigError(
            f"tile.resize_whole: {card.name} supports images of any size",
            hint="use --whole with models of a fixed size only, such as varformer-d16",
        )


def check_tile(session: Session, signature: Signature, card: ModelCard, size: int) -> None:
    """Reject tiles of `size` for a graph of another fixed size.

    Raises:
        ConfigError: The graph has another fixed size.
        ModelContractError: Its output has another size than its input.
    """
    (image,) = (node for node in session.get_inputs() if node.name == signature.tile)
    (output,) = (node for node in session.get_outputs() if node.name == signature.output)
    fixed = [dim for dim in image.shape[2:] if isinstance(dim, int)]
    if any(dim != size for dim in fixed):
        raise ConfigError(
            f"tile.size: {card.name} supports tiles of {fixed[0]} only, got {size}",
            hint=f"omit tile.size, or set it to {fixed[0]}",
        )
    given = [dim for dim in output.shape[2:] if isinstance(dim, int)]
    if any(dim != size for dim in given):
        raise resized(card, size, given[0])


def resized(card: ModelCard, size: int, given: int) -> ModelContractError:
    """Return the error for a network that changes the size of images."""
    return ModelContractError(
        f"{card.name}: returns {given} px for a tile of {size} px; varfix requires equal sizes"
    )


def _is_image(node: Any) -> bool:
    shape = list(node.shape)
    rgb = len(shape) == 4 and (shape[1] == 3 or not isinstance(shape[1], int))
    return rgb and node.type == "tensor(float)"


def _unexpected(path: Path, wanted: str, nodes: Sequence[Any]) -> ModelContractError:
    found = ", ".join(_describe(node) for node in nodes) or "none"
    return ModelContractError(f"{path.name}: expected {wanted}, found {found}", hint=_EXPORT)


def _describe(node: Any) -> str:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    shape = ",".join("?" if dim is None else str(dim) for dim in node.shape)
    return f'"{node.name}" {_DTYPES.get(kind, kind)} [{shape}]'
