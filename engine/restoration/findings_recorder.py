"""Keeps what a model finds in one item."""

from __future__ import annotations

from varfix.engine.restoration.findings import Findings, Judgement, summarize
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restorer import Floats, Restorer
from varfix.engine.restoration.restorer_proxy import RestorerProxy


class FindingsRecorder(RestorerProxy):
    """Keeps the findings of each image that `prior` sees; each item has a recorder of its own."""

    def __init__(self, restorer: Restorer) -> None:
        """Wrap a restorer; nothing is recorded yet."""
        super().__init__(restorer)
        self._looked: list[Findings] = []
        self._held: list[Findings] = []

    @property
    def judgement(self) -> Judgement | None:
        """What was found and treated; None if the model judges nothing, or has seen nothing.

        Where scenes were judged first, only what was then decided for their frames counts.
        """
        return summarize(self._held or self._looked)

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Compute the prior of a whole image and record the findings; see `Restorer.prior`."""
        maps = super().prior(prior_input)
        found = self._restorer.findings
        if found is not None:
            (self._looked if prior_input.probabilities is None else self._held).append(found)
        return maps
