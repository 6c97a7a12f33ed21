"""The model of a worker, used from the machine of the run."""

from __future__ import annotations

from varfix.engine.cluster.messages import WorkerInfo
from varfix.engine.cluster.transport import Transport
from varfix.engine.cluster.worker import Worker
from varfix.engine.restoration.findings import Findings
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restorer import Floats, RestoredTiles


class RemoteRestorer:
    """A worker's model behind the `Restorer` port: properties here, computation there."""

    def __init__(self, info: WorkerInfo, transport: Transport, worker: int) -> None:
        """Wrap the model of a worker.

        Args:
            info: Properties of the worker and its model.
            transport: Calls the worker.
            worker: Number of the worker.
        """
        self.card, self.used = info.card, info.used
        self.tile, self.tile_step, self.batch = info.tile, info.tile_step, info.batch
        self._transport, self._worker = transport, worker

    @property
    def findings(self) -> Findings | None:
        """See `Restorer`."""
        return self._transport.call(self._worker, Worker.findings)

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """See `Restorer`."""
        return self._transport.call(self._worker, Worker.prior, prior_input)

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """See `Restorer`."""
        return self._transport.call(self._worker, Worker.restore, tiles, prior)
