"""Batches made ahead of the step that needs them.

On a CPU another process makes them. On a GPU they are made there, by operations on whole batches,
in a thread with a stream of its own: what the thread has to wait for does not hold up training.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from queue import Empty, Full, Queue
from typing import Any

import torch
from torch.multiprocessing.reductions import shared_cache
from torch.utils.data import DataLoader, Dataset

AHEAD = 2
"""Batches that wait, ready made. (A pool of 64 images in patches of 8 bits is 50 MB.)"""

PATIENCE = 0.1
"""Seconds between looks at whether the other side is still there."""


def feed(batches: Dataset[Any], steps: Sequence[int], device: torch.device) -> Generator[Any]:
    """The batches of those steps, in order, on that device; close it to stop early."""
    return from_process(batches, steps) if device.type == "cpu" else from_thread(batches, steps)


def from_process(batches: Dataset[Any], steps: Sequence[int]) -> Generator[Any]:
    """Batches made by one other process."""
    loader = DataLoader(
        batches, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=AHEAD
    )
    try:
        yield from loader
    finally:
        # Its weak references would outlive the module that frees them, and say so at exit.
        shared_cache.clear()


def from_thread(batches: Dataset[Any], steps: Sequence[int]) -> Generator[Any]:
    """Batches made by a thread of this process, on a CUDA stream of its own where there is one."""
    ready: Queue[Any] = Queue(AHEAD)
    left = threading.Event()
    maker = threading.Thread(target=_make, args=(batches, steps, ready, left), daemon=True)
    maker.start()
    try:
        for _ in steps:
            batch, made = ready.get()
            if isinstance(batch, BaseException):
                raise batch
            if made is not None:
                _hand_over(batch, made)
            yield batch
    finally:
        left.set()
        _drain(ready)
        maker.join()


def _hand_over(batch: Any, made: torch.cuda.Event) -> None:
    """Let this thread's stream wait for a batch, and keep its memory until it is read here.

    The stream that made it would otherwise give the memory to its next batch.
    """
    here = torch.cuda.current_stream()
    here.wait_event(made)
    for value in vars(batch).values():
        value.record_stream(here)


def _make(
    batches: Dataset[Any], steps: Sequence[int], ready: Queue[Any], left: threading.Event
) -> None:
    stream = torch.cuda.Stream() if torch.cuda.is_available() else None
    try:
        for step in steps:
            with torch.cuda.stream(stream) if stream is not None else nullcontext():
                batch = batches[step]
                made = stream.record_event() if stream is not None else None
            if not _put((batch, made), ready, left):
                return
    except BaseException as error:  # the training thread raises it
        _put((error, None), ready, left)


def _put(item: Any, ready: Queue[Any], left: threading.Event) -> bool:
    """Hand an item over; False if nobody wants it any more."""
    while not left.is_set():
        try:
            ready.put(item, timeout=PATIENCE)
            return True
        except Full:
            continue
    return False


def _drain(ready: Queue[Any]) -> None:
    try:
        while True:
            ready.get_nowait()
    except Empty:
        return
