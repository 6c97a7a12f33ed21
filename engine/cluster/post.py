"""A worker's post, as the run knows it: what is held there, and how fast it goes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final, Literal

from varfix.engine.batch.plan import Item
from varfix.engine.cluster.worker import Facts

TRIES: Final = 3  # lives of workers that an image may cost, and failures in a row of a post
_AHEAD: Final = 2.0  # seconds of work that a worker holds
_FEWEST, _MOST = 3, 64  # images that it holds


@dataclass
class Post:
    """A worker as the run knows it.

    Attributes:
        failures: of the workers at this post, since the last image was done.
        facts: None until it has opened the model.
        held: what it is to make, by number.
        pace: seconds for an image, 0 until known.
        heard: when it last had finished something.
    """

    worker: int
    failures: int = 0
    facts: Facts | None = None
    state: Literal["opening", "beginning", "working", "ended"] = "opening"
    held: dict[int, Item] = field(default_factory=dict)
    pace: float = 0.0
    heard: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """For messages."""
        return self.facts.name if self.facts else "that was starting"

    @property
    def room(self) -> int:
        """How many more images it should hold."""
        wanted = math.ceil(_AHEAD / self.pace) if self.pace else _FEWEST
        return max(_FEWEST, min(wanted, _MOST)) - len(self.held)

    def finished(self, count: int) -> None:
        """Take note of so many images that were finished since the last time."""
        now = time.monotonic()
        pace = (now - self.heard) / count
        self.pace = (self.pace + pace) / 2 if self.pace else pace
        self.heard, self.failures = now, 0
