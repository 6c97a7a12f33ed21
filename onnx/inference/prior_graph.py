"""What a prior graph takes and gives.

Some look at crops beside the thumbnail, and say what is wrong with the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from varfix.engine.models.card import TASKS
from varfix.engine.restoration.prior_maps import native_crops
from varfix.engine.restoration.restorer import Floats
from varfix.onnx.inference.runtime import Session
from varfix.onnx.inference.signature import CROPS, FOUND, PRIOR, TASK, THUMBNAIL


@dataclass(frozen=True)
class PriorGraph:
    """A started prior graph and its names.

    Attributes:
        session: the graph.
        takes_crops: whether it looks at crops.
        says_found: whether it says what is wrong.
    """

    session: Session
    takes_crops: bool
    says_found: bool

    @property
    def outputs(self) -> list[str]:
        """Names of what to compute: the maps, then what is found."""
        return [PRIOR, FOUND] if self.says_found else [PRIOR]

    def feeds(self, thumbnail: Floats, task: str, crops: Floats | None) -> dict[str, np.ndarray]:
        """Inputs by name; arguments as of `Restorer.prior`.

        Without crops the thumbnail's own are taken: then it is all that is known of the image.
        """
        feeds: dict[str, np.ndarray] = {
            THUMBNAIL: np.ascontiguousarray(thumbnail.transpose(2, 0, 1)[None], np.float32),
            TASK: np.array([TASKS.index(task)], np.int64),
        }
        if self.takes_crops:
            seen = native_crops(thumbnail) if crops is None else crops
            feeds[CROPS] = np.ascontiguousarray(seen.transpose(0, 3, 1, 2)[None], np.float32)
        return feeds


def prior_graph(session: Session) -> PriorGraph:
    """Read what a started prior graph takes and gives."""
    return PriorGraph(
        session,
        takes_crops=CROPS in {node.name for node in session.get_inputs()},
        says_found=FOUND in {node.name for node in session.get_outputs()},
    )
