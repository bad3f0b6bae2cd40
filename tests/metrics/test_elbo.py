"""The bound as a metric: exact in closed forms, below the log likelihood elsewhere, and tighter with a better posterior."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from cap2im.metrics.elbo import EPSILON, elbo, estimate_log_likelihoods
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.interface import Bound, Gaussian, LikelihoodModel, standard_normal
from cap2im.randomness import item_noise

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


def lower_bound(*inputs: object, **how: object) -> SimpleNamespace:
    estimates = estimate_log_likelihoods(*inputs, **how)
    bound, reconstruction, kl, weighted = elbo(estimates)
    assert all(each.unit == "nats" and each.protocol["samples"] == how["samples"] for each in (bound, reconstruction, kl, weighted))
    return SimpleNamespace(
        bound=bound.value,
        standard_error=bound.deviation,
        reconstruction=reconstruction.value,
        kl=kl.value,
        importance_weighted=weighted.value,
        importance_weighted_error=weighted.deviation,
        images=bound.n,
    )


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
def test_a_fitted_posterior_brings_the_bound_near_the_likelihood(model):
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
    assert (result.images, sum(done)) == (150, 450)
    assert result.standard_error < lower_bound(model, images[:20], tokens[:20], mask[:20], samples=3, seed=0).standard_error
    assert result == lower_bound(model, images, tokens, mask, samples=3, seed=0)
    assert result.bound != lower_bound(model, images, tokens, mask, samples=3, seed=1).bound


class LinearGaussian(LikelihoodModel):
    """x = W z + noise with z ~ N(0, I): log p(x) and the posterior have closed forms; `spread` multiplies the posterior's deviation."""

    noise_shape = (1, 2)
    observation = "gaussian"

    def __init__(self, spread: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[1.0, 0.5], [0.5, -1.0], [1.0, 0.0], [0.0, 1.0]]).double())  # orthogonal columns
        self.deviation, self.spread = 0.7, spread

    def encode(self, tokens, mask, vectors=None, *, independent=False):
        return None

    def sample(self, text, noise):
        raise AssertionError("only its bound is sharpened_rows for")

    def bound(self, images, text, noise):
        x = images.flatten(1)
        precision = 1 + self.weight.square().sum(dim=0) / self.deviation**2
        mean = x @ self.weight / self.deviation**2 / precision
        posterior = Gaussian(mean, (self.spread * precision**-0.5).log().expand_as(mean))
        prior, eps = standard_normal(mean, 2), noise[:, 0].double()
        z = posterior.sample(eps)
        p = torch.distributions.Normal(z @ self.weight.T, self.deviation).log_prob(x).sum(dim=1)
        return Bound(-p, posterior.kl(prior)[:, None], posterior.log_ratio(prior, eps), images)

    def log_likelihood(self, images) -> torch.Tensor:
        covariance = self.weight @ self.weight.T + self.deviation**2 * torch.eye(4).double()
        return torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(images.flatten(1))


def gaussian_images(count: int):
    torch.manual_seed(2)
    return torch.randn(count, 1, 2, 2).double(), torch.zeros(count, 1, dtype=torch.long), torch.ones(count, 1, dtype=torch.bool)


@torch.no_grad()
def test_importance_weights_are_exact_with_the_exact_posterior():
    images, tokens, mask = gaussian_images(5)
    exact = LinearGaussian()
    truth = exact.log_likelihood(images).mean().item()
    for samples in (1, 7):
        assert lower_bound(exact, images, tokens, mask, samples=samples, seed=0).importance_weighted == pytest.approx(truth, abs=1e-10)


@torch.no_grad()
def test_importance_weights_rise_with_more_samples():
    images, tokens, mask = gaussian_images(400)
    loose = LinearGaussian(spread=1.5)
    truth = loose.log_likelihood(images).mean().item()
    one, few, many = (lower_bound(loose, images, tokens, mask, samples=samples, seed=0) for samples in (1, 5, 100))
    assert many.bound < one.importance_weighted + 0.1 < few.importance_weighted + 0.1 < many.importance_weighted + 0.1 < truth + 0.11
    assert truth - many.importance_weighted < 0.1 * (truth - many.bound)


@torch.no_grad()
def test_importance_weights_do_not_count_without_latents(model):
    images, tokens, mask = data(4)
    for parameter in model.posterior.parameters():
        parameter.zero_()  # N(0, I), as the prior of the first glimpse
    model.generative.weight[:, : model.config.latent] = 0
    measured = lower_bound(model, images, tokens, mask, samples=5, seed=0)
    assert measured.kl == 0
    assert measured.importance_weighted == pytest.approx(measured.bound, abs=1e-10)
    assert measured.importance_weighted_error == pytest.approx(measured.standard_error)


@torch.no_grad()
def test_the_sampled_ratio_has_the_kl_as_its_mean(model):
    images, tokens, mask = data(1)
    noise = torch.randn(20_000, 1, 1).double()
    text = model.encode(tokens.expand(len(noise), -1), mask.expand(len(noise), -1))
    bound = model.bound(images.expand(len(noise), -1, -1, -1), text, noise)
    assert bound.log_ratio.mean().item() == pytest.approx(bound.kl[0].item(), abs=4 * bound.log_ratio.std().item() / len(noise) ** 0.5)


@torch.no_grad()
def test_sharpened_bound_is_that_of_the_sharpened_picture(model):
    images, tokens, mask = data(3)
    sharpened_rows: list[int] = []

    def sharpen(pictures, rows):
        sharpened_rows.extend(rows.tolist())
        return (2 * pictures - 0.5).clamp(0, 1) * (rows != 1).view(-1, 1, 1, 1)  # black for the second caption

    measured = lower_bound(model, images, tokens, mask, samples=1, seed=0, sharpen=sharpen)
    plain = lower_bound(model, images, tokens, mask, samples=1, seed=0)
    assert sharpened_rows == [0, 1, 2]
    assert measured.kl == plain.kl
    bound = model.bound(images, model.encode(tokens, mask), item_noise("bound", 0, range(3), 0, (1, 1)))
    means = (2 * bound.pictures - 0.5).clamp(EPSILON, 1 - EPSILON)
    means[1] = EPSILON
    by_hand = (images * means.log() + (1 - images) * (1 - means).log()).sum((1, 2, 3)) - bound.kl.sum(1)
    assert measured.bound == pytest.approx(by_hand.mean().item())
    assert sharpen_nothing(model, images, tokens, mask) == pytest.approx(plain.bound)


def sharpen_nothing(model, images, tokens, mask) -> float:
    return lower_bound(model, images, tokens, mask, samples=1, seed=0, sharpen=lambda pictures, _: pictures).bound


def test_only_bernoulli_pixels_are_sharpened():
    images, tokens, mask = gaussian_images(2)
    with pytest.raises(ValueError, match="this model's pixels are gaussian"):
        lower_bound(LinearGaussian(), images, tokens, mask, samples=1, seed=0, sharpen=lambda pictures, _: pictures)


@torch.no_grad()
def test_an_image_has_its_own_noise_in_any_batch(model, monkeypatch):
    images, tokens, mask = data(7)
    whole = lower_bound(model, images, tokens, mask, samples=2, seed=0)
    monkeypatch.setattr("cap2im.metrics.elbo.IMAGES_AT_ONCE", 2)
    parts = lower_bound(model, images, tokens, mask, samples=2, seed=0)
    assert parts.bound == pytest.approx(whole.bound, abs=1e-10)
    assert parts.importance_weighted == pytest.approx(whole.importance_weighted, abs=1e-10)
