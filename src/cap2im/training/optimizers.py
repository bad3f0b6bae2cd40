"""Optimizer and gradient clipping of the released alignDRAW program.

Source: mansimov/text2image, and Tieleman & Hinton's RMSprop. `torch.optim.RMSprop` adds its epsilon outside of the root, which makes
another update where gradients are small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor


class RMSprop(torch.optim.Optimizer):
    """RMSprop: average = 0.9 average + 0.1 g^2; parameter -= lr g / sqrt(average + 1e-6)."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float = 1e-3, decay: float = 0.9, eps: float = 1e-6) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "eps": eps})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters, and return the loss of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["square_average"] = torch.zeros_like(p)
            averages = [self.state[p]["square_average"] for p in parameters]
            torch._foreach_mul_(averages, group["decay"])
            torch._foreach_addcmul_(averages, gradients, gradients, value=1 - group["decay"])
            roots = torch._foreach_add(averages, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_addcdiv_(parameters, gradients, roots, value=-group["lr"])
        return loss


@torch.no_grad()
def clip_tensors(gradients: Iterable[Tensor], limit: float) -> Tensor:
    """Clip the norm of each gradient by itself to `limit`, as the release does, and return the sum of the norms before clipping."""
    total = torch.zeros(())
    for gradient in gradients:
        norm = gradient.norm()
        total = total.to(norm) + norm
        gradient.mul_(torch.where(norm >= limit, limit / norm, torch.ones_like(norm)))
    return total
