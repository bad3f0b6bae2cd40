"""Linear layers that a recurrent network applies at every step, with one matrix product for the weight gradient of all steps.

Plain autograd makes one weight gradient a step and adds them up: T thin matrix products, and T passes over a matrix the size of the
weights. Here each step's backward only notes its input and output gradient; when the last of them (the first step) is done, a
single product over all T x B rows gives the gradient. The sum is the same, in another order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _Rows:
    """What one unrolled layer has seen: its weight in the type of the products, and the rows of inputs and output gradients."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.nothing = torch.zeros((), device=weight.device)
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []


class _Weight(torch.autograd.Function):
    """Stands for the weight in the graph: its backward runs after that of every step."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, rows: _Rows) -> Tensor:
        ctx.rows, ctx.dtype = rows, weight.dtype
        return rows.nothing.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        inputs, gradients = torch.cat(ctx.rows.inputs), torch.cat(ctx.rows.gradients)  # [T*B, in], [T*B, out]
        ctx.rows.inputs, ctx.rows.gradients = [], []
        bias = gradients.sum(dim=0, dtype=ctx.dtype) if ctx.rows.bias is not None else None
        return (gradients.mT @ inputs).to(ctx.dtype), bias, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, anchor: Tensor, rows: _Rows) -> Tensor:
        ctx.rows, ctx.dtype = rows, inputs.dtype
        inputs = inputs.to(rows.weight.dtype)
        ctx.save_for_backward(inputs)
        return F.linear(inputs, rows.weight, rows.bias).to(ctx.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (inputs,) = ctx.saved_tensors
        gradient = gradient.to(ctx.rows.weight.dtype)
        ctx.rows.inputs.append(inputs)
        ctx.rows.gradients.append(gradient)
        return (gradient @ ctx.rows.weight).to(ctx.dtype), ctx.rows.nothing, None


def product_type(layer: nn.Linear) -> torch.dtype:
    """The type in which a layer multiplies here: autocast's inside of autocast, else the weight's."""
    kind = layer.weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else layer.weight.dtype


class Plain:
    """A linear layer as autograd unrolls it, for torch.compile, which cannot see through `Unrolled`; the same types."""

    def __init__(self, layer: nn.Linear) -> None:
        dtype = product_type(layer)
        self.weight, self.bias = layer.weight.to(dtype), layer.bias.to(dtype) if layer.bias is not None else None

    def __call__(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs.to(self.weight.dtype), self.weight, self.bias).to(inputs.dtype)


class Unrolled:
    """A linear layer for the steps of one unrolled pass; make a new one for each pass.

    Outputs are of the inputs' type; inside of autocast the products are in autocast's.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.deferred = torch.is_grad_enabled() and layer.weight.requires_grad
        if not self.deferred:
            return
        dtype = product_type(layer)
        bias = layer.bias.detach().to(dtype) if layer.bias is not None else None
        self.rows = _Rows(layer.weight.detach().to(dtype), bias)
        self.anchor = _Weight.apply(layer.weight, layer.bias, self.rows)

    def __call__(self, inputs: Tensor) -> Tensor:
        return _Step.apply(inputs, self.anchor, self.rows) if self.deferred else self.layer(inputs)
