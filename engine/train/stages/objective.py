"""The loss of a stage as a module: balanced, in mixed precision where that is fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from varfix.engine.train.balance import Balance
from varfix.engine.train.devices import has_fast_bf16
from varfix.engine.train.logs.step_means import StepMeans
from varfix.engine.train.stages.stage import Stage


class Objective(nn.Module):
    """The loss of a stage; a module, because Fabric averages the gradients of module calls."""

    def __init__(self, model: nn.Module, stage: Stage, balance: Balance) -> None:
        super().__init__()
        self.model, self.stage, self.balance = model, stage, balance

    def forward(self, batch: Any, means: StepMeans) -> Tensor:
        """Return the loss of a batch, a scalar; add its terms to `means`."""
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device)):
            losses = self.stage.losses(self.model, batch)
        total = torch.zeros((), device=device)
        for name, value in losses.items():
            loss = value.float()
            means.add({name: loss.mean()})
            if loss.ndim == 1:
                means.add_kinds(loss, batch.kinds)
                loss = self.balance(loss, batch.kinds)
            total = total + loss
        return total


def compile_trained(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the trained parts of a network; parts that cannot be compiled run uncompiled."""
    torch._dynamo.config.suppress_errors = True
    for part in model.children():
        if any(parameter.requires_grad for parameter in part.parameters()):
            part.compile(backend=backend)
