"""Writes a published network as an ONNX file that was compared with the network.

Exporters may write a graph that runs and computes something else: sizes of the example are written
into it as constants. So each route is tried in turn, and a file counts only if its results are
those of the network, for several contents and shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common

from varfix.engine.errors import ModelContractError, VarfixError
from varfix.engine.evaluation.metrics import psnr
from varfix.engine.models.card import ModelCard
from varfix.onnx.export.fp16 import convert_to_fp16
from varfix.onnx.export.natural_images import Floats, noisy_pixels
from varfix.onnx.export.published_networks import FP16_BREAKS, LEVEL_DEFAULT, PublishedNetwork
from varfix.onnx.export.receptive_field import TILES, Tiling, measured_tiling
from varfix.onnx.export.trace import TILE, silent_exporter
from varfix.onnx.files.card import fp16_path, write_card
from varfix.onnx.inference.runtime import CPU, Session, SessionPlan, start
from varfix.onnx.inference.signature import LEVEL, RESTORED

AGREEMENT: Final = 1e-4
"""Largest difference from the network that is accepted, in units of the range of the pixels."""

FP16_PSNR: Final = 45.0
"""Least agreement of the fp16 variant with the fp32 graph, in dB, as for the shipped models."""

LEVELS: Final = (LEVEL_DEFAULT, 40.0)
_OPSETS: Final = {"TorchScript": 17, "dynamo": 20}
_NOTHING: Final = re.compile(r"(?!)")  # no weight is kept in fp32
_LARGEST_BATCH: Final = 64
_STEP: Final = 8  # edges of free tiles are multiples of this


@dataclass(frozen=True)
class Route:
    """A way to export.

    Attributes:
        exporter: PyTorch's exporter.
        batch: Whether the number of tiles is free.
        size: Whether height and width are free.
    """

    exporter: str
    batch: bool
    size: bool = False

    def __str__(self) -> str:
        free = [name for name, is_free in (("batch", self.batch), ("size", self.size)) if is_free]
        return f"{self.exporter}, {' and '.join(free) or 'nothing'} free"


STATIC_ROUTES: Final = (
    Route("TorchScript", batch=True),
    Route("dynamo", batch=True),
    Route("TorchScript", batch=False),
    Route("dynamo", batch=False),
)
FREE_ROUTES: Final = (Route("TorchScript", batch=True, size=True),)


@dataclass(frozen=True)
class Proof:
    """How a file was proven.

    Attributes:
        route: How it was exported.
        shapes: Shapes (N, H, W) that were compared.
        largest: Largest difference.
    """

    route: Route
    shapes: tuple[tuple[int, int, int], ...]
    largest: float

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"differs by {self.largest:.1g} at most from PyTorch ({shapes}; {self.route})"


@dataclass(frozen=True)
class ExportPreferences:
    """Options of the export.

    Attributes:
        tile: Edge of the tiles in pixels; None = the smallest that needs no seam.
        free_size: Whether to try a graph with free height and width.
        fp16: Whether to write an fp16 variant.
    """

    tile: int | None = None
    free_size: bool = False
    fp16: bool = False


def export_published(
    network: PublishedNetwork, target: Path, card: ModelCard, preferences: ExportPreferences
) -> ModelCard:
    """Write the files of a network.

    Args:
        network: The network.
        target: The restore graph, `NAME.onnx`.
        card: Name, license, training and description; the other fields are filled in.
        preferences: Tile size and variants.

    Returns:
        The card as written.

    Raises:
        ModelContractError: No exported file computes the network's results; none is left then.
        OSError: A file cannot be written.
    """
    wanted = TILES if preferences.tile is None else (preferences.tile,)
    sizes = [max(size, network.smallest) for size in wanted]
    tiling = measured_tiling(lambda pixels: _reference(network, pixels), network.multiple, sizes)
    try:
        proof = _proven(network, target, tiling.tile, preferences.free_size)
        card = _completed(card, network, tiling, proof)
        if preferences.fp16:
            card = _with_fp16(network, target, card)
    except BaseException:
        for path in (target, fp16_path(target)):
            path.unlink(missing_ok=True)
        raise
    return write_card(target, card)


def _completed(
    card: ModelCard, network: PublishedNetwork, tiling: Tiling, proof: Proof
) -> ModelCard:
    step = math.lcm(network.multiple, _STEP)
    return msgspec.structs.replace(
        card,
        tile=tiling.tile,
        multiple=-(-network.smallest // step) * step if proof.route.size else tiling.tile,
        overlap=tiling.overlap,
        align=tiling.align,
        smallest=network.smallest,
        reach=tiling.reach,
        tiling="supported" if tiling.local else "discouraged",
        color="gray" if network.gray else "srgb",
        agreement=str(proof),
        fp16="unsafe" if network.name in FP16_BREAKS else "untested",
        network=network.name,
        network_license=network.license,
        noncommercial=network.noncommercial,
        level="noise" if network.leveled else "",
        level_default=LEVEL_DEFAULT if network.leveled else 0.0,
    )


def _proven(network: PublishedNetwork, target: Path, tile: int, free_size: bool) -> Proof:
    """Write the first file that computes the network's results."""
    failures = []
    for route in (*(FREE_ROUTES if free_size else ()), *STATIC_ROUTES):
        shapes = _shapes(tile, network.multiple, route)
        try:
            _write(network, target, tile, route)
            largest = largest_difference(network, target, shapes)
        except VarfixError as error:
            failures.append(f"{route}: {error.message}")
        except OSError as error:
            if error.errno is not None:  # of the disk; those without a number are of exporters
                raise
            failures.append(f"{route}: {type(error).__name__}")
        except Exception as error:  # exporters raise anything, also for networks they cannot trace
            failures.append(f"{route}: {type(error).__name__}")
        else:
            if largest <= AGREEMENT:
                return Proof(route, shapes, largest)
            failures.append(f"{route}: differs by {largest:.2g}")
    raise ModelContractError(
        f"{target.stem}: no exported file agrees with {network.name} ({'; '.join(failures)})",
        hint="try another size with --tile, or import an ONNX file of the network",
    )


def _shapes(tile: int, multiple: int, route: Route) -> tuple[tuple[int, int, int], ...]:
    """Return the shapes (N, H, W) to compare: three batches, or three sizes."""
    if not route.size:
        return tuple((n, tile, tile) for n in ((1, 2, 3) if route.batch else (1, 1, 1)))
    half, wide = (-(-edge // multiple) * multiple for edge in (tile // 2, tile + tile // 4))
    return ((1, tile, tile), (2, half, tile), (1, wide, half))


def _write(network: PublishedNetwork, target: Path, tile: int, route: Route) -> None:
    names = [TILE, *((LEVEL,) if network.leveled else ())]
    tiles = torch.from_numpy(noisy_pixels(tile).repeat(2 if route.batch else 1, 0))
    example = (tiles, *((torch.tensor([LEVEL_DEFAULT]),) if network.leveled else ()))
    with silent_exporter(), torch.no_grad():
        torch.onnx.export(
            network.graph,
            example,
            str(target),
            input_names=names,
            output_names=[RESTORED],
            opset_version=_OPSETS[route.exporter],
            **_dynamic(route, network.leveled),
        )
    model = ir.load(target)
    common.ClearMetadataAndDocStringPass()(model)  # paths of this machine
    ir.save(model, target)


def _dynamic(route: Route, leveled: bool) -> dict[str, Any]:
    """Return the exporter's options for free dimensions."""
    names = {0: "batch"} if route.batch else {}
    names |= {2: "height", 3: "width"} if route.size else {}
    if route.exporter == "TorchScript":
        axes = {TILE: names, RESTORED: names} if names else None
        return {"dynamo": False, "dynamic_axes": axes}
    free = {0: torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)} if route.batch else {}
    shapes = {TILE: free, **({LEVEL: {}} if leveled else {})} if free else None
    return {
        "dynamo": True,
        "dynamic_shapes": shapes,
        "external_data": False,
        "verbose": False,
    }


def largest_difference(
    network: PublishedNetwork, path: Path, shapes: Sequence[tuple[int, int, int]]
) -> float:
    """Return the largest difference of a file's results from those of the network.

    The network restores one image at a time, as spandrel's descriptor does.
    """
    session = start(path, SessionPlan(CPU))
    differences = [0.0]
    for number, shape in enumerate(shapes):
        tiles = _contents(shape, 100 * number)
        for level in LEVELS if network.leveled else (None,):
            found = _run(session, tiles, level)
            wanted = np.concatenate([_reference(network, tile[None], level) for tile in tiles])
            if found.shape != wanted.shape or not np.isfinite(found).all():
                return float("inf")
            differences.append(float(np.abs(found - wanted).max()))
    return max(differences)


def _contents(shape: tuple[int, int, int], seed: int) -> Floats:
    """Return tiles (N, 3, H, W) of different contents: noise levels, and light."""
    count, height, width = shape
    side = max(height, width)
    light = (1.0, 0.3, 0.7)
    tiles = [noisy_pixels(side, seed + i, 15.0 * i) * np.float32(light[i]) for i in range(count)]
    return np.ascontiguousarray(np.concatenate(tiles)[..., :height, :width])


@torch.no_grad()
def _reference(network: PublishedNetwork, tile: Floats, level: float | None = None) -> Floats:
    """Return the network's result for a tile (1, 3, H, W), not clipped."""
    given = () if level is None else (torch.tensor([level]),)
    restored: Floats = network.graph(torch.from_numpy(tile), *given).numpy()
    return restored


def _run(session: Session, tiles: Floats, level: float | None) -> Floats:
    feeds: dict[str, np.ndarray] = {TILE: tiles}
    if level is not None:
        feeds[LEVEL] = np.array([level], np.float32)
    return np.asarray(session.run([RESTORED], feeds)[0])


def _with_fp16(network: PublishedNetwork, target: Path, card: ModelCard) -> ModelCard:
    """Write the fp16 variant if it agrees with the fp32 graph; return the card."""
    if card.fp16 == "unsafe":
        return card
    half = fp16_path(target)
    model = ir.load(target)
    if not convert_to_fp16(model, _NOTHING):
        return card  # only small layers, which stay in fp32
    ir.save(model, half)
    worst = min(_agreements(network, target, half, card.tile))
    if worst < FP16_PSNR:
        half.unlink()
        return msgspec.structs.replace(card, fp16="unsafe")
    text = f"{card.agreement}; fp16: {worst:.1f} dB"
    card = msgspec.structs.replace(card, fp16="ok", agreement=text)
    write_card(half, card)
    return card


def _agreements(network: PublishedNetwork, target: Path, half: Path, tile: int) -> Iterator[float]:
    """Yield the PSNR of the fp16 variant against the fp32 graph, in dB, for three contents."""
    sessions = [start(path, SessionPlan(CPU)) for path in (target, half)]
    level = LEVEL_DEFAULT if network.leveled else None
    for pixels in _contents((3, tile, tile), 7):
        exact, found = (_run(session, pixels[None], level).clip(0.0, 1.0) for session in sessions)
        yield min(99.0, psnr(found, exact)) if np.isfinite(found).all() else 0.0
