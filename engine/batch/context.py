"""How a run is to go, and how it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from varfix.engine.batch.stop import StopRequest
from varfix.engine.errors import ExitCode
from varfix.engine.events import ItemFail
from varfix.engine.image.picture import Floats

if TYPE_CHECKING:
    from varfix.engine.cluster.pool import Crew

# Takes the id of an image, its pixels and the restored ones: (H, W, 3) float32 in [0, 1].
Watcher = Callable[[int, Floats, Floats], None]


@dataclass(frozen=True)
class Options:
    """How a run goes, besides what it makes.

    Attributes:
        command: for the first event.
        model_sha256: digest of all of the model's graphs.
        fail_fast: stop after the first failure.
        stop: once asked, nothing new is started; its code is how the run then ends.
        crew: the workers of a cluster that make the results; None = this process does.
        watch: shown each restored image, before and after, on the caller's thread.
    """

    command: str
    model_sha256: str
    fail_fast: bool = False
    stop: StopRequest = field(default_factory=StopRequest)
    crew: Crew | None = None
    watch: Watcher | None = None


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    ok: int
    skipped: int
    failed: int
    seconds: float
    failures: tuple[ItemFail, ...]
    exit_code: ExitCode
