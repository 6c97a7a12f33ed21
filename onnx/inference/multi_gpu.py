"""One model on several GPUs: each batch of tiles is dealt out to all of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from varfix.engine.errors import NonFiniteError
from varfix.engine.restoration.restorer import DeviceUsed, Floats, Retries
from varfix.onnx.inference.restorer import OnnxRestorer


class SpreadRestorer(OnnxRestorer):
    """Several restorers of one model as one; what is done once per image, the first one does.

    Every image of more tiles than one GPU takes at once keeps all of them busy, and results come
    in the order in which one GPU would give them.
    """

    def __init__(self, crew: Sequence[OnnxRestorer], requested: str) -> None:
        """Join restorers that were opened with the same settings, on different devices."""
        first = crew[0]
        super().__init__(first._card, first._graphs, first._placement, first._warn)
        self._crew, self._requested = list(crew), requested
        self._pool = ThreadPoolExecutor(len(crew), "gpu")

    @property
    def batch(self) -> int:
        """Tiles per run, over all devices."""
        return sum(one.batch for one in self._crew)

    @property
    def used(self) -> DeviceUsed:
        """All devices; the precision is the first one's."""
        uses = [one.used for one in self._crew]
        kind, _, _ = uses[0].device.partition(":")
        numbers = ",".join(use.device.partition(":")[2] for use in uses)
        return DeviceUsed(
            requested=self._requested,
            device=f"{kind}:{numbers}",
            provider=uses[0].provider,
            precision=uses[0].precision,
        )

    @property
    def retries(self) -> Retries:
        """Of all devices together."""
        counts = [one.retries for one in self._crew]
        return Retries(fp32=sum(one.fp32 for one in counts), oom=sum(one.oom for one in counts))

    def restore(self, tiles: Floats, prior: Floats | None) -> Floats:
        """Return the restored tiles; see `OnnxRestorer.restore`."""
        shares = list(self._shares(len(tiles)))
        futures = [
            self._pool.submit(one.restore, tiles[part], None if prior is None else prior[part])
            for one, part in shares
        ]
        errors = [future.exception() for future in futures]  # all are done before one is raised
        for (_, part), error in zip(shares, errors, strict=True):
            if isinstance(error, NonFiniteError) and error.tile is not None:
                place = part.start + error.tile
                raise NonFiniteError(
                    f"the model produced invalid values in tile {place} even in fp32.", tile=place
                ) from error
            if error is not None:
                raise error
        return np.concatenate([future.result() for future in futures])

    def _shares(self, count: int) -> list[tuple[OnnxRestorer, slice]]:
        """Who takes which tiles: as many each as its batch has in the whole."""
        ends = np.cumsum([one.batch for one in self._crew])
        edges = [0, *np.round(ends * (count / ends[-1])).astype(int).tolist()]
        shares = zip(self._crew, edges, edges[1:], strict=False)
        return [(one, slice(begin, end)) for one, begin, end in shares if end > begin]
