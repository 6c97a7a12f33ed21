"""Means of the values of several steps, summed on the device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class StepMeans:
    """Sums values of steps and losses by kind; the CPU reads them once per line of metrics."""

    def __init__(self, kinds: Sequence[str], device: torch.device) -> None:
        """Begin with empty sums.

        Args:
            kinds: Names of the kinds of losses.
            device: Device of the losses.
        """
        self._kinds, self._device = kinds, device
        self._clear()

    def _clear(self) -> None:
        self._since, self._waited = time.perf_counter(), 0.0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._by_kind = torch.zeros(2, len(self._kinds), device=self._device)

    @property
    def age(self) -> float:
        """Seconds since the last reading."""
        return time.perf_counter() - self._since

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the duration of the block as waiting for batches."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add values of a step, scalars by name."""
        for name, value in values.items():
            number = value.detach().float()
            known = self._counts.get(name, 0)
            self._sums[name] = self._sums[name] + number if known else number
            self._counts[name] = known + 1

    def add_kinds(self, losses: Tensor, kinds: Tensor) -> None:
        """Add losses (N,) of kinds (N,) int64."""
        found = losses.detach().float()
        self._by_kind.index_add_(1, kinds, torch.stack([found, torch.ones_like(found)]))

    def read(self) -> dict[str, float]:
        """Return means since the last reading: values and seconds per step, losses per image."""
        took, waited, steps = self.age, self._waited, max(self._counts.values(), default=1)
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).tolist() if names else []
        means = {name: total / self._counts[name] for name, total in zip(names, sums, strict=True)}
        for kind, total, number in zip(self._kinds, *self._by_kind.tolist(), strict=True):
            if number:
                means[f"loss {kind}"] = total / number
        self._clear()
        return means | {"wait": waited / steps, "took": took / steps}
