"""Layers of recurrent passes: the gradients of plain autograd, from one product."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cap2im.models.precision import cast_linear
from cap2im.models.recurrence import unroll


def last_state(calls, start):
    hidden = start
    for call in calls:
        hidden = (call(hidden) + start).tanh()
    return hidden


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_plain_autograd(bias):
    torch.manual_seed(0)
    layer, start = nn.Linear(4, 4, bias=bias).double(), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    inputs = [start, *layer.parameters()]
    plain = torch.autograd.grad(last_state([layer] * 5, start).square().sum(), inputs)
    unrolled = last_state(unroll(layer, 5, 3), start).square().sum()
    for _ in range(2):  # a graph that is kept gives them again
        for ours, theirs in zip(torch.autograd.grad(unrolled, inputs, retain_graph=True), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_steps_that_the_loss_ignores_add_nothing():
    torch.manual_seed(0)
    layer, inputs = nn.Linear(4, 2).double(), torch.randn(3, 5, 4, dtype=torch.float64)
    outputs = [step(rows) for step, rows in zip(unroll(layer, 3, 5), inputs, strict=True)]
    ours = torch.autograd.grad(outputs[1].square().sum(), list(layer.parameters()))
    theirs = torch.autograd.grad(layer(inputs[1]).square().sum(), list(layer.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_layers_multiply_in_autocasts_type():
    layer, inputs = nn.Linear(300, 300), torch.randn(8, 300, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        (step,) = unroll(layer, 1, 8)
    outputs = step(inputs)  # outside of autocast, as the steps are
    outputs.square().sum().backward()
    assert outputs.dtype == inputs.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32
    error = (outputs - layer(inputs)).norm() / outputs.norm()
    assert 1e-4 < error < 2e-2, "bfloat16 products differ, but not by much"


@torch.inference_mode()
def test_cast_layers_have_autocasts_numbers():
    layer, inputs = nn.Linear(30, 20), torch.randn(4, 30)
    assert cast_linear(layer) is layer
    with torch.autocast("cpu", torch.bfloat16):
        cast = cast_linear(layer)
        outputs = cast(inputs)
        assert outputs.dtype == torch.bfloat16
        assert torch.equal(outputs, layer(inputs))
        layer.weight.zero_()
        assert torch.equal(cast(inputs), outputs), "the weights were cast before"
