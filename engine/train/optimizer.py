"""Adam that skips bad steps without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.99)
"""The papers use 0.999 for the second moment; short runs need a faster one."""

BALANCE_RATE = 20.0
"""Learning rate of the balance's scales, relative to that of the weights."""


class Optimizer:
    """Clips gradients, takes steps, and counts consecutive skipped steps.

    Networks without normalization can diverge after one bad batch, so its step is skipped: a tensor
    informs the fused kernel, as for overflows in mixed precision.
    """

    def __init__(
        self, trained: list[nn.Parameter], scales: list[nn.Parameter], clip: float, skip: float
    ) -> None:
        """Begin with empty moments.

        Args:
            trained: Weights, whose gradients are clipped.
            scales: Scales of the balance.
            clip: Largest gradient norm.
            skip: Steps with a larger gradient norm, or NaN, are skipped.
        """
        groups = [{"params": trained, "pace": 1.0}, {"params": scales, "pace": BALANCE_RATE}]
        self._adam = torch.optim.Adam(groups, betas=BETAS, fused=True)
        self._trained, self._clip, self._skip = trained, clip, skip
        self.taken = 0
        self.left_out = torch.zeros((), device=trained[0].device)

    def clear(self) -> None:
        """Remove the gradients of the last step."""
        self._adam.zero_grad(set_to_none=True)

    def step(self, rate: float) -> dict[str, Tensor]:
        """Take a step with a learning rate, or skip it.

        Returns:
            Scalars by name: `norm` of the gradients, and `left out`, 1 if the step was skipped.
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
        """Reset all moments; the warm-up begins again."""
        self._adam.state.clear()
        self.taken = 0
        self.left_out.zero_()

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return {"adam": self._adam.state_dict(), "taken": self.taken, "left_out": self.left_out}

    def resume(self, state: dict[str, Any]) -> None:
        """Load the result of `state`."""
        self._adam.load_state_dict(state["adam"])
        self.taken, self.left_out = state["taken"], state["left_out"]


def update_averages(
    averages: Sequence[Tensor], weights: Sequence[Tensor], share: float, frozen: Tensor
) -> None:
    """Move averaged weights toward the current ones.

    Args:
        averages: Averaged weights, changed in place.
        weights: Current weights.
        share: Share of the distance, in [0, 1].
        frozen: Scalar; 1 to change nothing, because the weights may have diverged.
    """
    with torch.no_grad():
        difference = torch._foreach_sub(list(weights), list(averages))
        torch._foreach_mul_(difference, share * (1.0 - frozen))
        torch._foreach_add_(list(averages), difference)


def copy_weights(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    """Overwrite weights with others of the same shapes."""
    with torch.no_grad():
        torch._foreach_copy_(list(target), list(source))
