"""The fast convolutions: torch's own numbers, gradients, and where they are used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cap2im.models import convolutions
from cap2im.models.attngan import ResidualBlock, UpBlock
from cap2im.models.convolutions import convolve, enlarge, fits


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def off(ours: Tensor, exact: Tensor) -> float:
    """Relative to the whole."""
    return float((ours.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("features", "side"), [(192, 64), (96, 64), (192, 128), (96, 128)])  # of attngan-coco's residual blocks
def test_half_of_the_multiplications_round_twice_as_coarsely_at_most(features, side):
    maps, kernel, bias = some(1, 96, side, side), some(features, 96, 3, 3, seed=1) / 30, some(features, seed=2)
    exact = F.conv2d(maps, kernel, bias, padding=1)
    ours = convolve(maps.float(), kernel.float(), bias.float())
    assert off(ours, exact) < 1e-6  # torch's own in float32: 4e-7
    assert float((ours - exact).abs().max() / exact.std()) < 3e-5


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("function", "kernel"), [(convolve, (4, 3, 3, 3)), (enlarge, (3, 4, 4, 4))])
def test_numbers_and_gradients_are_those_of_torch(function, kernel, biased):
    maps, weights, bias = some(2, 3, 8, 5), some(*kernel, seed=1), some(4, seed=2) if biased else None
    arguments = [tensor.requires_grad_() for tensor in (maps, weights, bias) if tensor is not None]
    theirs = F.conv2d(*arguments, padding=1) if function is convolve else F.conv_transpose2d(*arguments, stride=2, padding=1)
    torch.testing.assert_close(function(*arguments), theirs, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(function, arguments)


def test_a_picture_is_the_same_in_any_batch():
    maps, kernel = some(3, 96, 64, 64).float(), some(96, 96, 3, 3, seed=1).float() / 30
    torch.testing.assert_close(convolve(maps, kernel)[1:2], convolve(maps[1:2], kernel), rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "sizes", "name"), [(ResidualBlock, (6,), "convolve"), (UpBlock, (6, 4), "enlarge")])
def test_blocks_use_them_for_large_maps_in_float32(kind, sizes, name, training, monkeypatch):
    torch.manual_seed(0)
    block, used, function = kind(*sizes).train(training), [], getattr(convolutions, name)
    monkeypatch.setattr(convolutions, name, lambda *arguments: used.append(name) or function(*arguments))
    maps = some(2, 6, 32, 32).to(memory_format=torch.channels_last)
    answers = {}
    for precision in (torch.float64, torch.float32):
        given = maps.to(precision).requires_grad_()
        drawn = block.to(precision)(given)
        answers[precision] = [drawn, *torch.autograd.grad((drawn**2).sum(), [given, *block.parameters()])]
        assert bool(used) == (precision == torch.float32)
    for ours, exact in zip(answers[torch.float32], answers[torch.float64], strict=True):
        assert off(ours.detach(), exact.detach()) < 1e-4  # batch normalisation takes differences
    used.clear()
    with torch.autocast("cpu", torch.bfloat16):
        block(maps.float())
    block(maps.float()[:, :, :16, :16])
    assert not used


@pytest.mark.parametrize("shape", [(1, 1, 34, 32), (1, 1, 32, 16), (1, 1, 16, 32)])
def test_other_maps_do_not_fit(shape):
    assert fits(torch.zeros(1, 1, 32, 33))
    assert not fits(torch.zeros(shape))
