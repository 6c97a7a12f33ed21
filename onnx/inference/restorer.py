"""Runs the graphs of a model with ONNX Runtime, as a `Restorer`.

`varfix.onnx.inference.open_model` opens the graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

from varfix.engine.errors import DeviceError, ModelContractError, NonFiniteError
from varfix.engine.models.card import ModelCard, split_tasks
from varfix.engine.restoration.findings import Findings
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restorer import DeviceUsed, Floats, RestoredTiles, Restorer, Retries
from varfix.engine.restoration.several_tasks import merge_findings, merge_maps, strongest_tone
from varfix.onnx.inference.devices import Warn
from varfix.onnx.inference.map_findings import findings_in, named_findings
from varfix.onnx.inference.memory_guard import bad_tiles, is_out_of_memory, memory_error
from varfix.onnx.inference.prior_graph import PriorSession, prior_session
from varfix.onnx.inference.runtime import CPU, Device, Session
from varfix.onnx.inference.signature import LEVEL, PRIOR, Signature, resized
from varfix.onnx.inference.specialists import Specialists

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Graphs:
    """The started sessions of one model.

    Attributes:
        restore: The restore graph in fp32, or in 8-bit integers.
        signature: Names of the inputs and outputs of the restore graph.
        fp16: The restore graph in fp16, if it is used.
        prior: The prior graph, for models with guidance `image`.
        precision: Precision of `restore`.
        specialists: Graphs that take the place of `restore` for some kinds of degradation.
    """

    restore: Session
    signature: Signature
    fp16: Session | None = None
    prior: Session | None = None
    precision: Precision = "fp32"
    specialists: Specialists = field(default_factory=lambda: Specialists({}))

    @property
    def fastest(self) -> tuple[Session, Precision]:
        """The restore graph to start with, and its precision."""
        return (self.restore, self.precision) if self.fp16 is None else (self.fp16, "fp16")


@dataclass(frozen=True)
class Placement:
    """Where and how the graphs run.

    Attributes:
        requested: The device as requested.
        device: The device in use.
        tile: A square tile's edge.
        step: Edges of other tiles are multiples of this; equal to `tile` if there are none.
        batch: Tiles per run.
        level: Value of the graph's input `level`; None if it has no such input.
    """

    requested: str
    device: Device
    tile: int
    step: int
    batch: int
    level: float | None = None


class ModelRestorer(Restorer, Protocol):
    """A `Restorer` that also returns named outputs of its graph."""

    def results(self, names: Sequence[str], tile: Floats) -> dict[str, Floats]:
        """Return named outputs for a tile; see `OnnxRestorer.results`."""
        ...


class OnnxRestorer:
    """Restores tiles with a model's ONNX graphs; for one thread at a time."""

    def __init__(self, card: ModelCard, graphs: Graphs, placement: Placement, warn: Warn) -> None:
        self._card = card
        self._graphs = graphs
        self._placement = placement
        level = placement.level
        self._level = {} if level is None else {LEVEL: np.array([level], np.float32)}
        self._warn = warn
        self._session, self._precision = graphs.fastest
        self._batch = placement.batch
        self._findings: Findings | None = None
        self._prior = None if graphs.prior is None else prior_session(graphs.prior)

    @property
    def card(self) -> ModelCard:
        """Card of the model."""
        return self._card

    @property
    def batch(self) -> int:
        """Tiles per run; smaller after the device ran out of memory."""
        return self._batch

    def set_batch(self, batch: int) -> None:
        """Set the number of tiles per run."""
        self._batch = batch

    @property
    def tile(self) -> int:
        """Edge in pixels of the square tiles that `restore` takes."""
        return self._placement.tile

    @property
    def tile_step(self) -> int:
        """Edges of other tiles are multiples of this; equal to `tile` if there are none."""
        return self._placement.step

    @property
    def used(self) -> DeviceUsed:
        """Device and precision in use; the precision changes after an overflow in fp16."""
        device = self._placement.device
        return DeviceUsed(
            requested=self._placement.requested,
            device=device.name,
            provider=device.provider,
            precision=self._precision,
        )

    @property
    def findings(self) -> Findings | None:
        """Findings in the image that `prior` saw last; None for models that judge nothing."""
        return self._findings

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Return the prior maps of one image.

        Args:
            prior_input: What the prior sees of it; for several tasks the graph runs for each.

        Returns:
            (C, h, w) float32; None unless the guidance is `image`.

        Raises:
            NonFiniteError: The maps hold NaN or infinity.
            DeviceMemoryError: The device is out of memory.
        """
        if self._prior is None:
            return None
        runs = [
            self._judge(self._prior, replace(prior_input, task=task))
            for task in split_tasks(prior_input.task)
        ]
        maps = [run[0] for run in runs]
        judged = [findings for _, findings in runs if findings is not None]
        self._findings = merge_findings(judged, strongest_tone(maps)) if judged else None
        return merge_maps(maps)

    def _judge(
        self, prior: PriorSession, prior_input: PriorInput
    ) -> tuple[Floats, Findings | None]:
        """Return the prior maps (C, h, w) for one task, and what was found."""
        try:
            maps, *found = self._compute(prior.session, prior.outputs, prior.feeds(prior_input))
        except MemoryError as error:
            raise memory_error(self._card, self._placement.device, self.tile) from error
        if bad_tiles(maps).size:
            raise NonFiniteError("the prior produced invalid values for the image")
        if found:
            return np.asarray(maps[0]), named_findings(found[0][0])
        return np.asarray(maps[0]), findings_in(maps[0], self._card, prior_input.task)

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Restore tiles.

        Args:
            tiles: (N, H, W, 3) float32 in [0, 1], H and W being `tile`, or multiples of
                `tile_step`.
            prior: (N, C, H / stride, W / stride) float32, or None as `prior` returned None.

        Returns:
            (N, H, W, 3) float32 in [0, 1], and the repetitions that they needed.

        Raises:
            NonFiniteError: The result of a tile has NaN or infinity in fp32.
            DeviceMemoryError: The device is out of memory with a single tile.
            DeviceError: The device failed for another reason.
            ModelContractError: The graph does not run on such tiles.
        """
        first = self._run(tiles, prior)
        pixels, retries = first.pixels, first.retries
        bad = bad_tiles(pixels)
        if bad.size and self._precision == "fp16":
            self._switch_to_fp32()
            again = self._run(tiles[bad], None if prior is None else prior[bad])
            pixels[bad] = again.pixels
            retries += again.retries + Retries(fp32=bad.size)
            bad = bad_tiles(pixels)
        if bad.size:
            raise NonFiniteError(
                f"the model produced invalid values in tile {bad[0]} even in fp32",
                tile=int(bad[0]),
            )
        return RestoredTiles(np.clip(pixels, 0.0, 1.0, out=pixels), retries)

    def results(self, names: Sequence[str], tile: Floats) -> dict[str, Floats]:
        """Return named outputs of the restore graph, in fp32, for a tile (T, T, 3).

        Raises:
            ModelContractError: The graph has no such outputs; else as `restore`.
        """
        pixels = np.ascontiguousarray(tile.transpose(2, 0, 1)[None], np.float32)
        try:
            feeds = {self._graphs.signature.tile: pixels, **self._level}
            found = self._compute(self._graphs.restore, names, feeds)
        except MemoryError as error:
            raise memory_error(self._card, self._placement.device, self.tile) from error
        return dict(zip(names, found, strict=True))

    def _switch_to_fp32(self) -> None:
        """Continue in fp32: overflows repeat, and each overflow costs two runs."""
        self._session, self._precision = self._graphs.restore, "fp32"
        self._warn(
            "fp16_overflow",
            f"{self._card.name} produced invalid values in fp16; continuing in fp32, more slowly",
        )

    def _run(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Run all tiles, each on the graph for what is wrong with it."""
        restored = np.array(tiles, dtype=np.float32)
        retries = Retries()
        for given in self._graphs.specialists.split(prior, len(tiles)):
            if given.unchanged:
                continue
            maps = None if given.specialist or prior is None else prior[given.rows]
            part = self._run_on(given.specialist or self._session, tiles[given.rows], maps)
            restored[given.rows] = part.pixels
            retries += part.retries
        return RestoredTiles(restored, retries)

    def _run_on(self, session: Session, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Run tiles on a graph; reduce the batch after out-of-memory errors."""
        restored = np.empty_like(tiles, dtype=np.float32)
        at = oom = 0
        while at < len(tiles):
            part = slice(at, min(at + self._batch, len(tiles)))
            try:
                restored[part] = self._run_batch(
                    session, tiles[part], None if prior is None else prior[part]
                )
                at = part.stop
            except MemoryError as error:
                self._shrink(part.stop - at, error)
                oom += 1
        return RestoredTiles(restored, Retries(oom=oom))

    def _run_batch(self, session: Session, tiles: Floats, prior: Floats | None) -> Floats:
        signature = self._graphs.signature
        feeds = {signature.tile: np.ascontiguousarray(tiles.transpose(0, 3, 1, 2), np.float32)}
        feeds |= self._level
        if prior is not None:
            feeds[PRIOR] = np.ascontiguousarray(prior, np.float32)
        (restored,) = self._compute(session, [signature.output], feeds)
        restored = restored.transpose(0, 2, 3, 1)
        if restored.shape != tiles.shape:
            raise resized(self._card, tiles.shape[1], restored.shape[1])
        return restored

    def _compute(
        self, session: Session, outputs: Sequence[str], feeds: dict[str, np.ndarray]
    ) -> list[Floats]:
        """Run a graph once; out of memory becomes MemoryError, other errors a VarfixError."""
        try:
            return [np.asarray(value) for value in session.run(list(outputs), feeds)]
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            text = (str(error).splitlines() or [type(error).__name__])[0]
            if self._placement.device == CPU:
                raise ModelContractError(f"{self._card.name}: the graph failed: {text}") from error
            raise DeviceError(f"{self._placement.device.name} failed: {text}") from error

    def _shrink(self, count: int, error: MemoryError) -> None:
        if count == 1:
            raise memory_error(self._card, self._placement.device, self.tile) from error
        self._batch = max(1, count // 2)
        self._warn(
            "batch_halved",
            f"{self._placement.device.name} is out of memory at batch {count}; "
            f"continuing with batch {self._batch}",
        )
