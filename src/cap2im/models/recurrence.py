"""Linear layers that a recurrent network applies at every step of a pass.

Autograd multiplies for the weight's gradient at every step and adds the products up: T thin products, and T passes over a matrix of the
weight's size. Here one product over the rows of all steps makes the gradient. The sum is the same, in another order.

Shapes: B batch, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass
class _Rows:
    """The inputs [B, in] of a layer at one step, once it was called."""

    inputs: Tensor | None = None


class _StepBiases(torch.autograd.Function):
    """The bias of a layer for each step, [T, B, out]. Its gradient is that of the outputs, from which backward makes the weight's."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, shape: tuple[int, int], dtype: torch.dtype, steps: list[_Rows]) -> Tensor:
        ctx.steps, ctx.dtype, ctx.has_bias = steps, weight.dtype, bias is not None
        row = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        return row.to(dtype).expand(*shape, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, outputs = torch.cat([rows.inputs for rows in ctx.steps]), gradient.flatten(0, 1)  # [T*B, in], [T*B, out]
        bias = (outputs.new_ones(1, len(outputs)) @ outputs).squeeze(0).to(ctx.dtype) if ctx.has_bias else None
        return (outputs.t() @ inputs).to(ctx.dtype), bias, None, None, None


class StepLinear:
    """A linear layer at one step; make new ones for each pass. Outputs have the type of the inputs."""

    def __init__(self, weight: Tensor, bias: Tensor, rows: _Rows) -> None:
        self.weight, self.bias, self.rows = weight, bias, rows

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return outputs [B, out] of inputs [B, in]."""
        rows = inputs.to(self.weight.dtype)
        self.rows.inputs = rows.detach()
        return torch.addmm(self.bias, rows, self.weight.t()).to(inputs.dtype)


def unroll(layer: nn.Linear, steps: int, batch: int) -> list[StepLinear]:
    """Return a layer for each step of a pass, to be called exactly once; products are in autocast's type.

    Inputs of the steps are kept outside of autograd: hooks for saved tensors do not see them.
    """
    device = layer.weight.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype
    weight, rows = layer.weight.detach().to(dtype), [_Rows() for _ in range(steps)]
    biases = _StepBiases.apply(layer.weight, layer.bias, (steps, batch), dtype, rows)
    return [StepLinear(weight, bias, one) for bias, one in zip(biases.unbind(), rows, strict=True)]
