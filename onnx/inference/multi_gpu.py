"""One model on several GPUs: each batch of tiles is split among them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from varfix.engine.errors import NonFiniteError
from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.findings import Findings
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restorer import DeviceUsed, Floats, RestoredTiles, Retries
from varfix.onnx.inference.restorer import OnnxRestorer


class MultiGpuRestorer:
    """Restores tiles on several devices, with one `OnnxRestorer` for each.

    Results come in the order of the tiles. The first restorer computes the prior.
    """

    def __init__(self, restorers: Sequence[OnnxRestorer], requested: str) -> None:
        """Combine restorers that were opened with the same settings on different devices.

        Args:
            restorers: One for each device.
            requested: Value of `--device`.
        """
        self._first, self._restorers = restorers[0], list(restorers)
        self._requested = requested
        self._pool = ThreadPoolExecutor(len(restorers), "gpu")

    @property
    def card(self) -> ModelCard:
        """Card of the model."""
        return self._first.card

    @property
    def tile(self) -> int:
        """Edge in pixels of the square tiles that `restore` takes."""
        return self._first.tile

    @property
    def tile_step(self) -> int:
        """Edges of other tiles are multiples of this; equal to `tile` if there are none."""
        return self._first.tile_step

    @property
    def batch(self) -> int:
        """Tiles per run over all devices."""
        return sum(restorer.batch for restorer in self._restorers)

    @property
    def used(self) -> DeviceUsed:
        """All devices, with the precision of the first one."""
        uses = [restorer.used for restorer in self._restorers]
        kind, _, _ = uses[0].device.partition(":")
        numbers = ",".join(use.device.partition(":")[2] for use in uses)
        return DeviceUsed(
            requested=self._requested,
            device=f"{kind}:{numbers}",
            provider=uses[0].provider,
            precision=uses[0].precision,
        )

    @property
    def findings(self) -> Findings | None:
        """Findings in the image that `prior` saw last; see `OnnxRestorer.findings`."""
        return self._first.findings

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Return the prior maps of one image; see `OnnxRestorer.prior`."""
        return self._first.prior(prior_input)

    def results(self, names: Sequence[str], tile: Floats) -> dict[str, Floats]:
        """Return named outputs for a tile; see `OnnxRestorer.results`."""
        return self._first.results(names, tile)

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Restore tiles; see `OnnxRestorer.restore`."""
        shares = list(self._shares(len(tiles)))
        futures = [
            self._pool.submit(restorer.restore, tiles[part], None if prior is None else prior[part])
            for restorer, part in shares
        ]
        errors = [
            future.exception() for future in futures
        ]  # waits for all before an error is raised
        for (_, part), error in zip(shares, errors, strict=True):
            if isinstance(error, NonFiniteError) and error.tile is not None:
                place = part.start + error.tile
                raise NonFiniteError(
                    f"the model produced invalid values in tile {place} even in fp32", tile=place
                ) from error
            if error is not None:
                raise error
        parts = [future.result() for future in futures]
        retries = sum((part.retries for part in parts), Retries())
        return RestoredTiles(np.concatenate([part.pixels for part in parts]), retries)

    def _shares(self, count: int) -> list[tuple[OnnxRestorer, slice]]:
        """Return the tiles of each restorer, in proportion to its batch."""
        ends = np.cumsum([restorer.batch for restorer in self._restorers])
        edges = [0, *np.round(ends * (count / ends[-1])).astype(int).tolist()]
        shares = zip(self._restorers, edges, edges[1:], strict=False)
        return [(restorer, slice(begin, end)) for restorer, begin, end in shares if end > begin]
