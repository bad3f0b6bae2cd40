"""AttnGAN's discriminators: what they listen to, their sides, and the bound that spectral norm puts on them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cap2im.models.discriminators import Discriminator, discriminator_loss


def make(side: int = 32, **how) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(side, 3, 5, 1, **how).double()


def inputs(side: int = 32, batch: int = 4):
    random = torch.Generator().manual_seed(1)
    real, drawn = (2 * torch.rand(2, batch, 1, side, side, generator=random) - 1).double()
    return real, drawn, torch.randn(batch, 5, generator=random).double()


@pytest.mark.parametrize("side", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("normed", [False, True])
def test_trunks_end_in_four_by_four(side, normed):
    network = make(side, spectral_norm=normed)
    maps = network.trunk(inputs(side, 2)[0])
    assert maps.shape == (2, 3 * min(8, side // 8), 4, 4)
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) != normed


def test_captions_affect_only_the_conditional_head():
    network = make().eval()
    real, _, sentences = inputs()
    right, wrong = network.logits(real, sentences), network.logits(real, sentences.roll(1, 0))
    torch.testing.assert_close(right.unconditional, wrong.unconditional, rtol=0, atol=0)
    assert (right.conditional - wrong.conditional).abs().min() > 1e-6
    assert make(unconditional=False).logits(real, sentences).unconditional is None


def test_mismatched_captions_are_those_of_the_next():
    network = make().eval()
    real, drawn, sentences = inputs()
    output = network(real, drawn, sentences)
    torch.testing.assert_close(output.mismatched, network.logits(real[:-1], sentences[1:]).conditional)
    torch.testing.assert_close(output.real.conditional, network.logits(real, sentences).conditional)
    torch.testing.assert_close(output.fake.unconditional, network.logits(drawn, sentences).unconditional)


@pytest.mark.parametrize("normed", [False, True])
def test_damsm_learns_to_match_captions(normed):
    network = make(spectral_norm=normed)
    sentences = torch.eye(5).double()[[0, 1, 0, 1, 0, 1, 0, 1]]
    bright = sentences[:, :1, None, None].expand(-1, 1, 32, 32)  # the first kind of caption is said of white pictures
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        discriminator_loss(network(2 * bright - 1, torch.zeros_like(bright), sentences)).backward()
        optimizer.step()
    output = network(2 * bright - 1, torch.zeros_like(bright), sentences)
    assert output.real.conditional.min() > 0 > output.mismatched.max()
    assert output.real.unconditional.min() > 0 > output.fake.unconditional.max()


def test_spectral_norm_bounds_every_singular_value():
    plain, normed = make(64), make(64, spectral_norm=True)
    optimizer = torch.optim.Adam(normed.parameters(), lr=0.02)
    for _ in range(20):  # weights that grow
        optimizer.zero_grad()
        discriminator_loss(normed(*inputs(64))).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(50):
            normed(*inputs(64))  # each pass takes a step of the power iteration

    def largest(network):
        found = [layer.weight.flatten(1) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        return [torch.linalg.matrix_norm(weight.detach(), 2).item() for weight in found]

    normed.eval()
    assert len(largest(normed)) == 7
    assert largest(normed) == pytest.approx([1] * 7, abs=0.02)
    assert min(abs(value - 1) for value in largest(plain)) > 0.02


def test_of_spectral_norm_no_picture_depends_on_its_batch():
    network = make(spectral_norm=True).eval()
    real, _, sentences = inputs()
    whole = network.logits(real, sentences).conditional
    torch.testing.assert_close(network.logits(real[:1], sentences[:1]).conditional, whole[:1])
