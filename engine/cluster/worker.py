"""A worker of a cluster: a model and the maker that uses it, fed and heard from afar.

What it makes it publishes itself, but each result only when the run has entered it in the manifest
and says so: the order that a kill leaves right (see `batch.Run.put`). A worker whose run is gone,
or has given its images to another, publishes nothing more.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from varfix.engine.batch.plan import Item
from varfix.engine.batch.processor import Maker, Terms
from varfix.engine.errors import (
    DeviceError,
    Interrupted,
    ModelError,
    OutputDeniedError,
    OutputError,
    VarfixError,
)
from varfix.engine.events import Event
from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.restorer import DeviceUsed, Floats, Restorer, Retries
from varfix.engine.storage.manifest import Entry

Warner = Callable[[str, str], None]

_SILENCE: Final = 300.0  # seconds without a question of the run after which it counts as gone
_LOOKS: Final = 10  # times within them that who waits looks whether it is


class Opening(Protocol):
    """Opens the model on the worker; travels there."""

    def __call__(self, warn: Warner) -> tuple[Restorer, str]:
        """Return the model, and the digest of all of its graphs.

        Raises:
            ModelError: It is not there, or cannot be run.
            DeviceError: It does not start here.
        """
        ...


@dataclass(frozen=True)
class Facts:
    """What a worker is.

    Attributes:
        version: of varfix.
        host: its machine's name.
        pid: number of its process.
        card: of the model.
        used: where the model runs.
        tile: see `Restorer`.
        tile_step: see `Restorer`.
        batch: see `Restorer`.
        sha256: digest of all of the model's graphs.
        warnings: codes and texts of what the model could not have.
    """

    version: str
    host: str
    pid: int
    card: ModelCard
    used: DeviceUsed
    tile: int
    tile_step: int
    batch: int
    sha256: str
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The worker, for messages."""
        return f"{self.host}:{self.pid}"


@dataclass(frozen=True)
class Ready:
    """A result waits to be entered in the manifest."""

    id: int
    entry: Entry


@dataclass(frozen=True)
class Written:
    """A result is in its place."""

    id: int


@dataclass(frozen=True)
class Ended:
    """Nothing more comes; the error is the one that no other image would survive either."""

    error: VarfixError | None


News = Event | Ready | Written | Ended


class Station:
    """The worker itself; its methods are called from afar, several at once."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._restorer: Restorer | None = None
        self._warnings: list[tuple[str, str]] = []
        self._inbox: SimpleQueue[Item | None] = SimpleQueue()
        self._news: SimpleQueue[News] = SimpleQueue()
        self._leaves: dict[int, SimpleQueue[bool]] = {}
        self._stop = threading.Event()
        self._asked = time.monotonic()

    def open(self) -> Facts | VarfixError:
        """Load the model, and say what became of it."""
        try:
            restorer, sha256 = self._opening(lambda code, text: self._warnings.append((code, text)))
        except VarfixError as error:
            return error
        self._restorer = restorer
        return Facts(
            version=version("varfix"),
            host=platform.node(),
            pid=os.getpid(),
            card=restorer.card,
            used=restorer.used,
            tile=restorer.tile,
            tile_step=restorer.tile_step,
            batch=restorer.batch,
            sha256=sha256,
            warnings=tuple(self._warnings),
        )

    def prior(self, thumbnail: Floats, task: str) -> Floats | None:
        """Ask the model; see `Restorer`."""
        assert self._restorer is not None
        return self._restorer.prior(thumbnail, task)

    def restore(self, tiles: Floats, prior: Floats | None) -> Floats:
        """Ask the model; see `Restorer`."""
        assert self._restorer is not None
        return self._restorer.restore(tiles, prior)

    def begin(self, terms: Terms, mark: str) -> VarfixError | None:
        """Be ready to make results, or say why not.

        Args:
            terms: what all results have in common.
            mark: name of a file that the run has just put beside its manifest; empty for none.
        """
        folders = [store.folder for store in (terms.source, terms.target) if store.folder]
        missing = [os.fspath(folder) for folder in folders if not folder.is_dir()]
        if not missing and mark and not os.path.isfile(mark):  # noqa: PTH113 (a name, not a path)
            missing = [os.fspath(folders[-1])]
        if missing:
            return OutputDeniedError(
                f"{platform.node()} does not see {missing[0]} as this machine does",
                hint="all machines need the same folders under the same names",
            )
        assert self._restorer is not None
        maker = Maker(terms, self._restorer, self)
        threading.Thread(target=self._work, args=(maker,), daemon=True).start()
        return None

    def give(self, items: list[Item]) -> None:
        """Take more to make."""
        for item in items:
            self._leaves[item.id] = SimpleQueue()
            self._inbox.put(item)

    def go(self, number: int, leave: bool) -> None:
        """Take leave to publish a result, or the order not to."""
        self._leaves[number].put(leave)

    def end(self) -> None:
        """Start nothing new; finish what is being written."""
        self._stop.set()
        self._inbox.put(None)

    def news(self, wait: float, linger: float) -> list[News]:
        """What happened since the last time.

        Args:
            wait: seconds for something to happen.
            linger: seconds for more to happen, once something has.
        """
        self._asked = time.monotonic()
        try:
            news = [self._news.get(timeout=wait)]
        except Empty:
            return []
        time.sleep(linger)
        while not self._news.empty():
            news.append(self._news.get())
        return news

    def _work(self, maker: Maker) -> None:
        error: VarfixError | None = None
        try:
            maker.run(iter(self._inbox.get, None), lambda: not self._inbox.empty())
        except VarfixError as fatal:
            error = fatal
        except Exception as broken:
            error = DeviceError(f"broke ({type(broken).__name__}: {broken})")
        self._news.put(Ended(error))

    def tell(self, event: Event) -> None:
        """Keep an event until it is asked for."""
        self._news.put(event)

    def stopped(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stop.is_set()

    def put(self, item: Item, entry: Callable[[], Entry], write: Callable[[], None]) -> None:
        """Publish once the run gives leave."""
        self._news.put(Ready(item.id, entry()))
        if not self._leave(item.id):
            raise Interrupted("the run is over")
        try:
            write()
        except OutputError:
            self._inbox.put(None)  # no other result could be written either
            raise
        self._news.put(Written(item.id))

    def _leave(self, number: int) -> bool:
        """Wait for leave to publish, or the order not to.

        Raises:
            DeviceError: The run is gone; a thread that waits would keep this process from ending.
        """
        while True:
            try:
                return self._leaves[number].get(timeout=_SILENCE / _LOOKS)
            except Empty:
                if time.monotonic() - self._asked > _SILENCE:
                    self._inbox.put(None)  # nobody waits for the others either
                    raise DeviceError("received no request of its run for too long") from None


class DistantModel:
    """A worker's model as the run sees it: its facts here, its work there."""

    def __init__(self, facts: Facts, ask: Callable[..., object]) -> None:
        """Stand for the model of `facts`; `ask` calls a method of its worker and waits."""
        self.card, self.used = facts.card, facts.used
        self.tile, self.tile_step, self.batch = facts.tile, facts.tile_step, facts.batch
        self.retries = Retries()
        self._ask = ask

    def prior(self, thumbnail: Floats, task: str) -> Floats | None:
        """See `Restorer`."""
        return self._ask("prior", thumbnail, task)  # type: ignore[return-value]

    def restore(self, tiles: Floats, prior: Floats | None) -> Floats:
        """See `Restorer`."""
        return self._ask("restore", tiles, prior)  # type: ignore[return-value]


def checked(facts: Facts, model: Facts) -> ModelError | DeviceError | None:
    """Why a worker cannot take part beside the one whose facts are `model`; None if it can."""
    mine = version("varfix")
    if facts.version != mine:
        return DeviceError(f"{facts.name} has varfix {facts.version}, this machine {mine}")
    if (facts.sha256, facts.tile) != (model.sha256, model.tile):
        return ModelError(f"{facts.name} has another {facts.card.name} than {model.name}")
    return None
