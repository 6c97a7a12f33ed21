"""Adam that leaves bad steps out by itself, without the host being asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.99)
"""The papers' second one is 0.999; short runs need a second moment that follows sooner."""

BALANCE_PACE = 20.0
"""The balance's few scales learn at this times the rate of the weights."""


class Optimizer:
    """Clips gradients, takes steps, and counts those left out in a row.

    Networks without normalization can run away from one bad batch. Its step is left out: the fused
    kernel is told so by a tensor, as mixed precision tells it of gradients that overflowed.
    """

    def __init__(
        self, trained: list[nn.Parameter], scales: list[nn.Parameter], clip: float, skip: float
    ) -> None:
        """Begin with empty moments.

        Args:
            trained: weights, whose gradients are clipped.
            scales: of the balance.
            clip: largest gradient norm.
            skip: gradient norm from which on a step is left out; NaN always is.
        """
        groups = [{"params": trained, "pace": 1.0}, {"params": scales, "pace": BALANCE_PACE}]
        self._adam = torch.optim.Adam(groups, betas=BETAS, fused=True)
        self._trained, self._clip, self._skip = trained, clip, skip
        self.taken = 0
        self.left_out = torch.zeros((), device=trained[0].device)

    def clear(self) -> None:
        """Forget the last step's gradients."""
        self._adam.zero_grad(set_to_none=True)

    def step(self, rate: float) -> dict[str, Tensor]:
        """Take a step at a learning rate, or leave it out.

        Returns:
            Facts of the step, scalars: `norm` of the gradients and whether it was `left out`.
        """
        for group in self._adam.param_groups:
            group["lr"] = rate * group["pace"]
        norm = nn.utils.clip_grad_norm_(self._trained, self._clip, foreach=True)
        bad = (~(norm < self._skip)).float().reshape(())
        self._adam.grad_scale, self._adam.found_inf = None, bad  # type: ignore[attr-defined]
        self._adam.step()
        self.taken += 1
        self.left_out = (self.left_out + 1.0) * bad
        return {"norm": norm.nan_to_num(0.0, 0.0, 0.0), "left out": bad}

    def restart(self) -> None:
        """Forget all moments; the warm-up begins anew."""
        self._adam.state.clear()
        self.taken = 0
        self.left_out.zero_()

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {"adam": self._adam.state_dict(), "taken": self.taken, "left_out": self.left_out}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._adam.load_state_dict(state["adam"])
        self.taken, self.left_out = state["taken"], state["left_out"]


def follow(
    followers: Sequence[Tensor], leaders: Sequence[Tensor], share: float, still: Tensor
) -> None:
    """Move averaged weights toward others by a share of the way.

    Args:
        followers: averaged weights, changed in place.
        leaders: the weights.
        share: in [0, 1].
        still: scalar; 1 where they must not move, because the weights may have run away.
    """
    with torch.no_grad():
        way = torch._foreach_sub(list(leaders), list(followers))
        torch._foreach_mul_(way, share * (1.0 - still))
        torch._foreach_add_(list(followers), way)


def copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    """Overwrite weights with others of the same shapes, whatever they hold."""
    with torch.no_grad():
        torch._foreach_copy_(list(target), list(source))
