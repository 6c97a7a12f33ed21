"""The workers of a cluster and what they hold: images are given, heard of, and given again.

Each worker holds as much as keeps it busy for two seconds and no more, so that nothing piles up
anywhere and little is lost with it. What a lost worker held goes to the others; an image that has
cost two workers is given to a third alone, and fails when that one is lost as well.

Ray Data would be the ready-made scheduler. It gives results, not events: nothing is heard of an
item between its block and the end of the block; it offers no point at which a result is entered in
the manifest before it is published; and what is in its queues cannot be left when a run is stopped.
What is here uses Ray for what no program should do by itself: processes on many machines, their
resources, their failures, and calls between them.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

from varfix.engine.batch.plan import Item
from varfix.engine.batch.processor import Desk, Terms, failure
from varfix.engine.cluster.commit import Handover
from varfix.engine.cluster.post import TRIES, Post
from varfix.engine.cluster.transport import TICK, Answer, Lost
from varfix.engine.cluster.worker import Ended, News, Ready, Written, checked
from varfix.engine.errors import (
    DeviceError,
    DeviceUnavailableError,
    VarfixError,
    WorkerLostError,
)
from varfix.engine.events import Event, ItemDone, ItemFail, RetryCounts, Warn

if TYPE_CHECKING:
    from varfix.engine.cluster.pool import Crew

_POLL: Final = 2.0  # seconds that a worker waits for something to tell
_POLLS: Final = 400.0  # answers a second that the run cares to hear, of all workers together
_PATIENCE: Final = 60.0  # seconds without a worker before that is told


class Office(Desk, Protocol):
    """What a crew meets of its run."""

    def made(self, item: Item) -> bool:
        """Whether the result of an item is in its place and entered."""
        ...


class Roster:
    """Who holds what, for one run of a crew."""

    def __init__(
        self, crew: Crew, items: Iterable[Item], begin: tuple[Terms, str], desk: Office
    ) -> None:
        self._crew, self._link, self._desk = crew, crew.link, desk
        self._waiting = deque(items)
        self._begin_with = begin
        self._tries: Counter[int] = Counter()
        self._warned: set[str] = set()
        self._fatal: Exception | None = None
        self._stopping = False
        self._alone = time.monotonic()  # since when nobody works; 0 once that was told
        self._handover = Handover(desk, lambda *facts: self._link.send(facts[0], "go", *facts[1:]))

    def go(self) -> None:
        """Work until all is done, or the run is stopped or fails."""
        try:
            for post in list(self._crew.posts.values()):
                if post.facts is not None:
                    self._begin(post)
            while not self._over():
                if not self._stopping and (self._desk.stopped() or self._handover.error):
                    self._stop()
                self._assign()
                for answer in self._link.answers(TICK):
                    self._hear(answer)
                self._wonder()
        finally:
            self._handover.close()
        fatal = self._fatal or self._handover.error
        if fatal is not None:
            raise fatal

    def _over(self) -> bool:
        posts = self._crew.posts.values()
        if self._stopping:
            return not any(post.state == "working" for post in posts)
        return not self._waiting and not any(post.held for post in posts)

    def _stop(self) -> None:
        self._stopping = True
        self._waiting.clear()
        for post in self._crew.posts.values():
            if post.state == "working":
                self._link.send(post.worker, "end")

    def _fail(self, error: Exception) -> None:
        self._fatal = self._fatal or error
        self._stop()

    def _assign(self) -> None:
        """Give each worker what it should hold, evenly while little is left."""
        given: dict[int, list[Item]] = {}
        posts = [post for post in self._crew.posts.values() if self._takes(post)]
        while self._waiting and posts:
            posts.sort(key=lambda post: len(post.held))
            item, post = self._waiting[0], posts[0]
            if self._suspect(item) and post.held:
                break  # soon one of them has nothing else
            self._waiting.popleft()
            post.held[item.id] = item
            given.setdefault(post.worker, []).append(item)
            posts = [post for post in posts if self._takes(post)]
        for worker, items in given.items():
            self._link.send(worker, "give", items)

    def _takes(self, post: Post) -> bool:
        alone = any(map(self._suspect, post.held.values()))
        return post.state == "working" and post.room > 0 and not alone

    def _suspect(self, item: Item) -> bool:
        return self._tries[item.id] >= TRIES - 1

    def _hear(self, answer: Answer) -> None:
        post = self._crew.posts.get(answer.worker)
        if post is None:
            return  # it was dismissed
        if isinstance(answer.value, Lost):
            self._lost(post, answer.value.reason)
        elif isinstance(answer.value, VarfixError):
            self._refused(post, answer.value)
        elif answer.method == "open":
            post.facts = answer.value
            self._begin(post)
        elif answer.method == "begin":
            post.state, post.heard = "working", time.monotonic()
            self._listen(post)
        else:
            self._take(post, answer.value)

    def _begin(self, post: Post) -> None:
        assert post.facts is not None
        error = checked(post.facts, self._crew.model)
        if error is not None:
            self._refused(post, error)
        elif not self._stopping:
            post.state = "beginning"
            self._link.ask(post.worker, "begin", *self._begin_with)
            for code, text in post.facts.warnings:
                if text not in self._warned:  # once for all workers that say the same
                    self._warned.add(text)
                    self._warn(code, text)

    def _listen(self, post: Post) -> None:
        if self._stopping:  # it became ready too late
            self._link.send(post.worker, "end")
        self._link.ask(post.worker, "news", _POLL, len(self._crew.posts) / _POLLS)

    def _take(self, post: Post, news: list[News]) -> None:
        done = sum(isinstance(one, ItemDone | ItemFail) for one in news)
        if done:
            post.finished(done)
        for one in news:
            self._note(post, one)
        if post.state == "working":
            self._listen(post)

    def _note(self, post: Post, news: News) -> None:
        if isinstance(news, Ready):
            self._handover.ready(post.worker, post.held[news.id], news.entry)
        elif isinstance(news, Written):
            self._handover.settle(post.worker, news.id, True)
        elif isinstance(news, Ended):
            self._ended(post, news.error)
        else:
            if isinstance(news, ItemDone | ItemFail):
                self._handover.settle(post.worker, news.id, False)
                del post.held[news.id]
            self._desk.tell(news)

    def _ended(self, post: Post, error: VarfixError | None) -> None:
        post.state = "ended"
        if error is None and self._stopping:
            return
        if error is None or isinstance(error, DeviceError):
            self._lost(post, error.message if error else "ended by itself")
        else:
            self._fail(error)

    def _lost(self, post: Post, reason: str) -> None:
        """Give what a worker held to others, and have another worker in its place."""
        self._handover.lost(post.worker)
        self._crew.dismiss(post)
        if self._stopping:
            return
        rest = f"; {len(post.held)} images go to others" if post.held else ""
        self._warn("worker_lost", f"worker {post.name} was lost ({reason}){rest}")
        for item in reversed(post.held.values()):
            self._again(item, reason)
        if post.failures + 1 < TRIES:
            self._crew.hire(post.failures + 1)
        else:
            self._warn("worker_given_up", f"no worker holds out in the place of {post.name}")
            self._check_left(DeviceUnavailableError(f"no worker is left ({reason})"))

    def _again(self, item: Item, reason: str) -> None:
        self._tries[item.id] += 1
        if self._desk.made(item):
            # It was published, and the worker lost before it could say so.
            self._tell_made(item)
        elif self._tries[item.id] < TRIES:
            self._waiting.appendleft(item)
        else:
            text = f"{TRIES} workers were lost while it was restored, the last one: {reason}"
            error = WorkerLostError(text, hint="it may need more memory")
            self._desk.tell(failure(self._begin_with[0].label(item), item, error))

    def _tell_made(self, item: Item) -> None:
        again = RetryCounts()
        self._desk.tell(ItemDone(id=item.id, seconds=0.0, stage={}, bytes=0, retries=again))

    def _refused(self, post: Post, error: VarfixError) -> None:
        self._crew.dismiss(post)
        self._warn("worker_refused", f"worker {post.name} takes no part: {error.message}")
        self._check_left(error)

    def _check_left(self, error: VarfixError) -> None:
        if not self._crew.posts:
            self._fail(error)

    def _wonder(self) -> None:
        """Say so when nobody has worked for long: the cluster may never have room."""
        if self._stopping or any(post.state == "working" for post in self._crew.posts.values()):
            self._alone = time.monotonic()
        elif self._alone and time.monotonic() - self._alone > _PATIENCE:
            self._alone = 0.0
            self._warn("worker_awaited", "no worker is there; waiting for the cluster to start one")

    def _warn(self, code: str, text: str) -> None:
        event: Event = Warn(code=code, message=text)
        self._desk.tell(event)
