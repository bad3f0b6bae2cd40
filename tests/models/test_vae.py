"""The variational autoencoders: closed forms, independence, captions that count."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Normal, kl_divergence

from cap2im.models.vae import VAE, VAEConfig

ARCHITECTURES = ("fully-connected", "convolutional")
CONDITIONINGS = ("mean", "sentence", "none")
TINY = {"side": 8, "hidden": 7, "maps": 3, "latent": 4, "language_units": 5, "sentence_features": 6}


def make(**changes) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(**{**TINY, **changes})).double().eval()


def inputs(model: VAE, batch: int = 5):
    """Images, tokens, mask, noise and sentence vectors."""
    c = model.config
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, c.colours, c.side, c.side, generator=generator).double()
    tokens = torch.randint(c.vocabulary_size, (batch, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (batch, 1), generator=generator)
    noise = torch.randn(batch, *model.noise_shape, generator=generator).double()
    vectors = torch.randn(batch, c.sentence_features, generator=generator).double() if c.conditioning == "sentence" else None
    return images, tokens, mask, noise, vectors


@pytest.mark.parametrize("deviation", [0.1, 1.0])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bound_is_that_of_the_distributions(architecture, deviation):
    model = make(architecture=architecture, colours=3, deviation=deviation)
    images, tokens, mask, noise, _ = inputs(model)
    text = model.encode(tokens, mask)
    bound = model(images, tokens, mask, noise)
    posterior = model.infer(images, text)
    q = Normal(posterior.mean, posterior.log_sigma.exp())
    z = q.mean + q.stddev * noise[:, 0]
    p = Normal(model.generate(z, text).sigmoid(), deviation)
    torch.testing.assert_close(bound.reconstruction, -p.log_prob(images).sum((1, 2, 3)))
    torch.testing.assert_close(bound.kl, kl_divergence(q, Normal(0.0, 1.0)).sum(1, keepdim=True))
    assert bound.kl.shape == (5, 1)
    torch.testing.assert_close(bound.value, -(bound.reconstruction + bound.kl[:, 0]))
    assert model.observation == f"gaussian, deviation {deviation:g}"


def test_bound_of_a_perfect_picture_is_the_constant():
    model = make(deviation=0.25)
    with torch.no_grad():
        for parameter in (*model.posterior.parameters(), *model.canvas[-1].parameters(), model.start_canvas):
            parameter.zero_()
    _, tokens, mask, noise, _ = inputs(model)
    bound = model(torch.full((5, 1, 8, 8), 0.5).double(), tokens, mask, noise)
    torch.testing.assert_close(bound.kl, torch.zeros(5, 1).double())
    torch.testing.assert_close(bound.value, torch.full((5,), -64 * math.log(0.25 * math.sqrt(2 * math.pi))).double())


@pytest.mark.parametrize("side", [32, 56, 60])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pictures_of_every_side(architecture, side, colours):
    model = make(architecture=architecture, side=side, colours=colours)
    images, tokens, mask, noise, _ = inputs(model)
    text = model.encode(tokens, mask)
    drawn = model.sample(text, noise)
    assert drawn.pictures.shape == (5, 1, colours, side, side)
    assert drawn.words is None
    assert drawn.boxes is None
    assert ((drawn.images > 0) & (drawn.images < 1)).all()
    assert torch.equal(drawn.images, drawn.pictures[:, -1])
    assert torch.equal(model.sample_images(text, noise), drawn.images)
    assert model(images, tokens, mask, noise).value.isfinite().all()


def test_sides_not_divisible_by_four_are_refused():
    with pytest.raises(ValidationError, match="side 30 is not a multiple of 4"):
        VAEConfig(architecture="convolutional", side=30)
    assert make(architecture="fully-connected", side=30).config.side == 30


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neither_batch_nor_padding_changes_bound_or_picture(architecture, conditioning):
    model = make(architecture=architecture, conditioning=conditioning)
    images, tokens, mask, noise, vectors = inputs(model)
    bound = model(images, tokens, mask, noise, vectors)
    pictures = model.sample_images(model.encode(tokens, mask, vectors), noise)
    for row in range(5):
        one = slice(row, row + 1)
        length = int(mask[row].sum())
        vector = None if vectors is None else vectors[one]
        alone = model(images[one], tokens[one, :length], mask[one, :length], noise[one], vector)
        torch.testing.assert_close(alone.value, bound.value[one])
        text = model.encode(tokens[one, :length], mask[one, :length], vector)
        torch.testing.assert_close(model.sample_images(text, noise[one]), pictures[one])


@pytest.mark.parametrize("conditioning", ["mean", "sentence"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encoder_and_decoder_depend_on_the_caption(architecture, conditioning):
    model = make(architecture=architecture, conditioning=conditioning)
    images, tokens, mask, noise, vectors = inputs(model)
    text = model.encode(tokens, mask, vectors)
    other = model.encode(tokens.flip(0), mask.flip(0), None if vectors is None else vectors.flip(0))
    assert not torch.allclose(model.infer(images, text).mean, model.infer(images, other).mean)
    assert not torch.allclose(model.sample_images(text, noise), model.sample_images(other, noise))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_learns(architecture, conditioning):
    model = make(architecture=architecture, conditioning=conditioning)
    (-model(*inputs(model)).value.mean()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_learns_which_caption_has_which_picture(architecture):
    model = make(architecture=architecture, hidden=32, maps=8, deviation=0.5).float().train()
    generator = torch.Generator().manual_seed(2)
    images = (torch.rand(4, 1, 8, 8, generator=generator) > 0.5).float()
    tokens, mask = torch.arange(8).view(4, 2), torch.ones(4, 2, dtype=torch.bool)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        bound = model(images, tokens, mask, torch.randn(4, 1, 4, generator=generator))
        optimizer.zero_grad()
        (-bound.value.mean()).backward()
        optimizer.step()
    with torch.no_grad():
        drawn = model.sample_images(model.encode(tokens, mask), torch.randn(4, 1, 4, generator=generator))
    assert (drawn - images).abs().mean() < 0.05, "drawn from the prior: what the caption says"
    assert bound.kl.mean() < 3, "and the latents need not say it"
