"""The bound as a metric: exact where it can be known, below the truth elsewhere, and tighter on average with a better posterior."""

from __future__ import annotations

import math

import pytest
import torch

from cap2im.metrics.likelihood import lower_bound
from cap2im.models.aligndraw import DRAW, DRAWConfig

TINY = {
    "side": 6,
    "glimpses": 1,
    "read_patch": 2,
    "write_patch": 2,
    "inference_units": 4,
    "generative_units": 4,
    "latent": 1,
    "language_units": 3,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = DRAW(DRAWConfig(**TINY, align_features=4, initialisation="scaled")).double().eval()
    with torch.no_grad():
        model.patch.weight.mul_(30)
    return model


def data(count: int):
    torch.manual_seed(1)
    return (torch.rand(count, 1, 6, 6) > 0.5).double(), torch.randint(22, (count, 4)), torch.ones(count, 4, dtype=torch.bool)


def log_likelihood(model: DRAW, images, tokens, mask) -> torch.Tensor:
    """log P(x|y) of a model with one glimpse and one latent number: the integral over z, on a fine grid."""
    z = torch.linspace(-9, 9, 4001).double()
    exact = []
    for row in range(len(images)):
        text = model.encode(tokens[row : row + 1].expand(len(z), -1), mask[row : row + 1].expand(len(z), -1))
        logits = model.sample(text, z[:, None, None]).canvases[:, -1]
        log_p = -torch.nn.functional.binary_cross_entropy_with_logits(logits, images[row].expand_as(logits), reduction="none").sum(
            (1, 2, 3)
        )
        log_prior = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
        exact.append(torch.logsumexp(log_p + log_prior, 0) + math.log(z[1] - z[0]))
    return torch.stack(exact)


@torch.no_grad()
def test_bound_is_below_the_exact_likelihood_and_near_it_after_fitting_the_posterior(model):
    images, tokens, mask = data(3)
    exact = log_likelihood(model, images, tokens, mask).mean().item()
    before = lower_bound(model, images, tokens, mask, samples=400, seed=0)
    assert before.bound < exact
    with torch.enable_grad():
        parameters = [*model.posterior.parameters(), *model.inference.parameters(), *model.read_window.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=0.02)  # the inference side alone: the likelihood stays what it is
        for _ in range(300):
            noise = torch.randn(60, 1, 1).double()
            bound = model(images.repeat(20, 1, 1, 1), tokens.repeat(20, 1), mask.repeat(20, 1), noise)
            optimizer.zero_grad()
            (-bound.value.mean()).backward()
            optimizer.step()
    after = lower_bound(model, images, tokens, mask, samples=400, seed=0)
    assert log_likelihood(model, images, tokens, mask).mean().item() == pytest.approx(exact)
    assert before.bound < after.bound < exact + 3 * after.standard_error
    assert exact - after.bound < 0.5 * (exact - before.bound)


def test_terms_add_up_and_errors_shrink(model):
    images, tokens, mask = data(150)  # more than go at once
    done: list[int] = []
    result = lower_bound(model, images, tokens, mask, samples=3, seed=0, advance=done.append)
    assert result.bound == pytest.approx(-(result.reconstruction + result.kl))
    assert (result.images, result.samples, sum(done)) == (150, 3, 450)
    assert result.standard_error < lower_bound(model, images[:20], tokens[:20], mask[:20], samples=3, seed=0).standard_error
    assert result == lower_bound(model, images, tokens, mask, samples=3, seed=0)
    assert result.bound != lower_bound(model, images, tokens, mask, samples=3, seed=1).bound
