"""Imports ONNX files from elsewhere: checks what they compute, and gives them a card.

The same files run with `--model FILE.onnx`; imported, they have a name, a license, a checksum, and
tiles that fit the reach of the network. Needs no PyTorch.
"""

from __future__ import annotations

import mmap
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from varfix.engine.errors import ConfigError, ModelContractError
from varfix.engine.models.card import PREFIX, ModelCard
from varfix.onnx.export.natural_images import Floats, noisy_pixels
from varfix.onnx.export.receptive_field import Tiling, measured_tiling
from varfix.onnx.files.card import (
    decoder_path,
    file_digest,
    fp16_path,
    int8_path,
    prior_path,
    read_card,
    read_metadata,
    verify_model,
    weights_path,
    write_card,
)
from varfix.onnx.inference.runtime import CPU, Session, SessionPlan, start
from varfix.onnx.inference.signature import foreign_card, read_signature

_LOCATION: Final = b"\x0a\x08location\x12"
"""Bytes of the name of an external file, as protobuf writes the entry."""

_EMBEDDED: Final = 1_500_000_000  # bytes of weights that fit into a protobuf message of 2 GB


@dataclass(frozen=True)
class StatedCard:
    """Fields that an ONNX file does not contain; see `ModelCard`."""

    licence: str
    training: str = ""
    tile: int | None = None


def import_onnx(source: Path, target: Path, stated: StatedCard) -> ModelCard:
    """Copy an ONNX file, check it, and write its card.

    A file that already has a card, such as those of `varfix export-onnx`, keeps it under the new
    name, and so do the other files of its model.

    Args:
        source: The file.
        target: The restore graph, `NAME.onnx`.
        stated: License, training, and tile size of a graph with free height and width.

    Returns:
        The card as written.

    Raises:
        ConfigError: The file has external weights, and the package to read them is missing.
        ModelError: The file is missing or damaged, or does not restore RGB images of one size.
    """
    if f"{PREFIX}schema" in read_metadata(source):
        return _renamed(source, target)
    _copy_graph(source, target)
    session = start(target, SessionPlan(CPU))
    found = foreign_card(session, source)
    tile = found.tile if found.multiple == found.tile else stated.tile or found.tile
    graph = _CheckedGraph(session, source)
    tiling = measured_tiling(graph.restore, 1, (tile,))
    graph.check_contents(tile)
    return write_card(target, _card(target, found, stated, tiling))


def _card(target: Path, found: ModelCard, stated: StatedCard, tiling: Tiling) -> ModelCard:
    weights = weights_path(target)
    return msgspec.structs.replace(
        found,
        name=target.stem,
        licence=stated.licence,
        training=stated.training,
        tile=tiling.tile,
        multiple=tiling.tile,
        overlap=tiling.overlap,
        align=tiling.align,
        reach=tiling.reach,
        tiling="supported" if tiling.local else "discouraged",
        weights=file_digest(weights) if weights.is_file() else "",
        about="an ONNX file of another program",
    )


class _CheckedGraph:
    """A graph whose results are checked."""

    def __init__(self, session: Session, path: Path) -> None:
        self._session, self._name = session, path.name
        self._signature = read_signature(session, path)

    def restore(self, pixels: Floats) -> Floats:
        """Restore tiles (N, 3, H, W) (ModelContractError)."""
        feeds = {self._signature.tile: pixels}
        try:
            restored = np.asarray(self._session.run([self._signature.output], feeds)[0])
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            text = str(error).splitlines()[0]
            raise ModelContractError(f"{self._name}: the graph failed ({text})") from error
        if restored.shape != pixels.shape:
            sizes = " and ".join("x".join(map(str, a.shape)) for a in (pixels, restored))
            raise ModelContractError(f"{self._name}: does not keep the size of images ({sizes})")
        if not np.isfinite(restored).all():
            raise ModelContractError(f"{self._name}: returns NaN or infinity for an image")
        return restored

    def check_contents(self, tile: int) -> None:
        """Check dark, flat and noisy tiles, alone and in a batch (ModelContractError)."""
        contents = np.concatenate(
            [
                noisy_pixels(tile, 5, 50.0),
                0.05 * noisy_pixels(tile, 6),
                np.full((1, 3, tile, tile), 0.5),
            ]
        ).astype(np.float32)
        alone = np.concatenate([self.restore(each[None]) for each in contents])
        if self._signature.batch is None:
            difference = float(np.abs(self.restore(contents) - alone).max())
            if difference > 1e-3:
                raise ModelContractError(
                    f"{self._name}: restores a batch of tiles differently than each tile alone"
                    f" (by {difference:.2g})",
                    hint="export it with a batch of 1",
                )


def _copy_graph(source: Path, target: Path) -> None:
    """Copy a graph with its external weights, if it has any."""
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        external = data.find(_LOCATION) >= 0
    if not external:
        shutil.copyfile(source, target)
        return
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{source.name}: the weights are in another file, which requires onnx to be read",
            hint="run: pip install onnx",
        ) from error
    try:
        model = onnx.load(source)
    except Exception as error:  # damaged files and missing weights raise various exceptions
        raise ModelContractError(
            f"{source.name}: its external weights cannot be read ({error})",
            hint="copy all files of the model to one folder",
        ) from error
    apart = model.ByteSize() > _EMBEDDED
    onnx.save(model, target, save_as_external_data=apart, location=weights_path(target).name)


def _renamed(source: Path, target: Path) -> ModelCard:
    """Copy a model of varfix under another name."""
    card = verify_model(source)
    for path_of in (fp16_path, int8_path, decoder_path, prior_path, Path):
        part, copy = path_of(source), path_of(target)
        if not part.is_file():
            continue
        shutil.copyfile(part, copy)
        if weights_path(part).is_file():
            raise ModelContractError(
                f"{source.name}: has weights in another file, whose name is part of the graph",
                hint="use it by its path: --model PATH",
            )
        card = write_card(copy, msgspec.structs.replace(read_card(part), name=target.stem))
    return card
