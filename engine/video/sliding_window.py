"""Slides a window over a stream of frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import TypeVar

Item = TypeVar("Item")


def windows(
    items: Iterable[Item], before: int, after: int, bare: Callable[[Item], Item] = lambda item: item
) -> Iterator[tuple[tuple[Item, ...], Item, tuple[Item, ...]]]:
    """Slide a window over a stream.

    Args:
        items: The stream; no item is None.
        before: Items before the current one; there are fewer at the beginning.
        after: Items after the current one; there are fewer at the end.
        bare: Strips a past item of what is no longer needed.

    Yields:
        The items before, the item, and the items after it.
    """
    past: deque[Item] = deque(maxlen=before)
    ahead: deque[Item | None] = deque()
    for item in chain(items, repeat(None, after)):
        ahead.append(item)
        if len(ahead) <= after:
            continue
        now = ahead.popleft()
        assert now is not None
        yield tuple(past), now, tuple(future for future in ahead if future is not None)
        past.append(bare(now))
        del now, item  # no reference while the next item is computed
