"""Keeps what a model finds in one item."""

from __future__ import annotations

from varfix.engine.restoration.findings import Findings, Judgement, summarize
from varfix.engine.restoration.restorer import Floats, Restorer
from varfix.engine.restoration.restorer_proxy import RestorerProxy


class FindingsRecorder(RestorerProxy):
    """Keeps the findings of each image that `prior` sees; each item has a recorder of its own."""

    def __init__(self, restorer: Restorer) -> None:
        """Wrap a restorer; nothing is recorded yet."""
        super().__init__(restorer)
        self._recorded: list[Findings] = []

    @property
    def judgement(self) -> Judgement | None:
        """What was found and treated; None if the model judges nothing, or has seen nothing."""
        return summarize(self._recorded)

    def prior(self, thumbnail: Floats, task: str) -> Floats | None:
        """Compute the prior of a whole image and record the findings; see `Restorer.prior`."""
        maps = super().prior(thumbnail, task)
        found = self._restorer.findings
        if found is not None:
            self._recorded.append(found)
        return maps
