"""What is minimized: a stage's losses as a module, balanced, in the arithmetic of the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from varfix.engine.train.balance import Balance
from varfix.engine.train.devices import fast_half
from varfix.engine.train.logs.tally import Tally
from varfix.engine.train.stages.stage import Stage


class Objective(nn.Module):
    """A stage's loss: what several devices share is a call of a module."""

    def __init__(self, model: nn.Module, stage: Stage, balance: Balance) -> None:
        super().__init__()
        self.model, self.stage, self.balance = model, stage, balance

    def forward(self, batch: Any, tally: Tally) -> Tensor:
        """The loss of a batch, a scalar; what it consists of is tallied."""
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_half(device)):
            losses = self.stage.losses(self.model, batch)
        total = torch.zeros((), device=device)
        for name, value in losses.items():
            loss = value.float()
            tally.add({name: loss.mean()})
            if loss.ndim == 1:
                tally.add_kinds(loss, batch.kinds)
                loss = self.balance(loss, batch.kinds)
            total = total + loss
        return total


def compile_trained(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the parts of a network that are trained; what cannot be compiled runs as it is."""
    torch._dynamo.config.suppress_errors = True
    for part in model.children():
        if any(parameter.requires_grad for parameter in part.parameters()):
            part.compile(backend=backend)
