"""All workers that a cluster lends to a run: hired before the plan, dismissed after the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from varfix.engine.batch.plan import Item
from varfix.engine.batch.processor import Terms
from varfix.engine.cluster.post import TRIES, Post
from varfix.engine.cluster.scheduler import Office, Roster
from varfix.engine.cluster.transport import TICK, Link, Lost
from varfix.engine.cluster.worker import Facts
from varfix.engine.errors import DeviceUnavailableError, VarfixError
from varfix.engine.storage.store import Store
from varfix.engine.system.atomic import translate_os_errors
from varfix.engine.system.state_folder import STATE_FOLDER


class Crew:
    """All workers, from before the plan to the end of the run.

    Attributes:
        model: facts of the first worker that was ready; the others must have the same model.
    """

    model: Facts

    def __init__(self, link: Link) -> None:
        self.link = link
        self.posts: dict[int, Post] = {}

    @property
    def size(self) -> int:
        """How many workers there are or should be."""
        return max(1, len(self.posts))

    def hire(self, failures: int = 0) -> None:
        """Start a worker."""
        worker = self.link.hire()
        self.posts[worker] = Post(worker, failures)
        self.link.ask(worker, "open")

    def dismiss(self, post: Post) -> None:
        """Do without a worker."""
        del self.posts[post.worker]
        self.link.dismiss(post.worker)

    def open(self, seconds: float) -> Facts:
        """Start all workers and return the facts of the first that is ready.

        Raises:
            DeviceUnavailableError: None is ready in time.
            VarfixError: None can be; for the reason that the last one gave.
        """
        for _ in range(self.link.wanted):
            self.hire()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for answer in self.link.answers(TICK):
                error = self._opened(self.posts[answer.worker], answer.value)
                if error is not None and not self.posts:
                    raise error
            for post in self.posts.values():
                if post.facts is not None:
                    self.model = post.facts
                    return post.facts
        raise DeviceUnavailableError(
            f"no worker was ready within {seconds:.0f} s",
            hint="'ray status' shows what the cluster has left; see cluster.cpus and cluster.gpus",
        )

    def _opened(self, post: Post, value: Any) -> VarfixError | None:
        if isinstance(value, Facts):
            post.facts = value
            return None
        self.dismiss(post)
        if isinstance(value, Lost):
            if post.failures + 1 < TRIES:
                self.hire(post.failures + 1)
            return DeviceUnavailableError(f"no worker starts ({value.reason})")
        assert isinstance(value, VarfixError)
        return value

    def run(self, items: Sequence[Item], terms: Terms, desk: Office) -> None:
        """Make the results of all items; see `Maker.run` for what it raises.

        Args:
            items: what is to be made.
            terms: what all results have in common.
            desk: of the run.
        """
        with _marked(terms.target) as mark:
            Roster(self, items, (terms, mark), desk).go()


@contextmanager
def _marked(target: Store) -> Iterator[str]:
    """Leave a file in a folder by which workers know it for the same; its name, empty for none."""
    if target.folder is None:
        yield ""
        return
    inner = target.folder / STATE_FOLDER
    mark = (inner if inner.is_dir() else target.folder) / f".varfix-mark-{os.urandom(8).hex()}"
    with translate_os_errors(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    try:
        yield os.fspath(mark)
    finally:
        mark.unlink(missing_ok=True)
