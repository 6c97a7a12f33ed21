"""What a prior graph takes and gives.

Some look at crops beside the thumbnail, say what is wrong with the image, and act on what is known
of it from elsewhere, such as from other frames of its scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from varfix.engine.models.card import TASKS
from varfix.engine.restoration.prior_input import PriorInput, native_crops
from varfix.onnx.inference.runtime import Session
from varfix.onnx.inference.signature import CROPS, FOUND, PRIOR, PROBABILITIES, TASK, THUMBNAIL

UNKNOWN = -1.0
"""In place of a probability: decide from the image."""


@dataclass(frozen=True)
class PriorSession:
    """A started prior graph and its names.

    Attributes:
        session: The graph.
        inputs: Names of its inputs.
        has_findings: Whether it says what is wrong.
    """

    session: Session
    inputs: frozenset[str]
    has_findings: bool

    @property
    def outputs(self) -> list[str]:
        """Names of what to compute: the maps, then what is found."""
        return [PRIOR, FOUND] if self.has_findings else [PRIOR]

    def feeds(self, prior_input: PriorInput) -> dict[str, np.ndarray]:
        """Return the inputs by name.

        Without crops the thumbnail's own are taken: then it is all that is known of the image.
        """
        thumbnail, crops = prior_input.thumbnail, prior_input.crops
        feeds: dict[str, np.ndarray] = {
            THUMBNAIL: np.ascontiguousarray(thumbnail.transpose(2, 0, 1)[None], np.float32),
            TASK: np.array([TASKS.index(prior_input.task)], np.int64),
        }
        if CROPS in self.inputs:
            seen = native_crops(thumbnail) if crops is None else crops
            feeds[CROPS] = np.ascontiguousarray(seen.transpose(0, 3, 1, 2)[None], np.float32)
        if PROBABILITIES in self.inputs:
            unknown = np.full((2, len(TASKS) - 1), UNKNOWN)
            known = unknown if prior_input.probabilities is None else prior_input.probabilities
            feeds[PROBABILITIES] = np.asarray(known, np.float32)[None]
        return feeds


def prior_session(session: Session) -> PriorSession:
    """Read what a started prior graph takes and gives."""
    return PriorSession(
        session,
        inputs=frozenset(node.name for node in session.get_inputs()),
        has_findings=FOUND in {node.name for node in session.get_outputs()},
    )
