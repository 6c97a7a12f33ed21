"""Creates batches in advance.

On a CPU, another process creates them. On a GPU, a thread creates them there with operations on
whole batches, on a CUDA stream of its own, so that its waits do not delay training.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from typing import Any

import torch
from torch.multiprocessing.reductions import shared_cache
from torch.utils.data import DataLoader, Dataset

from varfix.engine.system.background import Prefetcher

AHEAD = 2
"""Number of finished batches that wait. (A pool of 64 images in 8-bit patches takes 50 MB.)"""


def feed(batches: Dataset[Any], steps: Sequence[int], device: torch.device) -> Generator[Any]:
    """Yield the batches of some steps, in order, on a device; close the generator to stop early."""
    return from_process(batches, steps) if device.type == "cpu" else from_thread(batches, steps)


def from_process(batches: Dataset[Any], steps: Sequence[int]) -> Generator[Any]:
    """Yield batches created by another process."""
    loader = DataLoader(
        batches, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=AHEAD
    )
    try:
        yield from loader
    finally:
        # Its weak references would outlive the module that frees them, which prints errors at exit.
        shared_cache.clear()


def from_thread(batches: Dataset[Any], steps: Sequence[int]) -> Generator[Any]:
    """Yield batches created by a thread of this process, with a CUDA stream of its own on a GPU."""
    with closing(Prefetcher(_created(batches, steps), AHEAD)) as prefetcher:
        for batch, made in prefetcher:
            if made is not None:
                _synchronize(batch, made)
            yield batch


def _synchronize(batch: Any, made: torch.cuda.Event) -> None:
    """Make this thread's stream wait for a batch, and keep the memory of the batch until then.

    Otherwise the stream that created it would reuse the memory for its next batch.
    """
    here = torch.cuda.current_stream()
    here.wait_event(made)
    for value in vars(batch).values():
        value.record_stream(here)


def _created(batches: Dataset[Any], steps: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """Yield batches, each with the CUDA event that follows its creation; None on a CPU."""
    stream = torch.cuda.Stream() if torch.cuda.is_available() else None
    for step in steps:
        with torch.cuda.stream(stream) if stream is not None else nullcontext():
            batch = batches[step]
            made = stream.record_event() if stream is not None else None
        yield batch, made
