"""LAPGAN: the pyramid, both levels, independence of the batch, and the losses' closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from cap2im.models.lapgan import (
    LAPGAN,
    CoarseDiscriminator,
    FineDiscriminator,
    LAPGANConfig,
    Sharpener,
    SharpenerConfig,
    blur,
    discriminator_loss,
    downsample,
    generator_loss,
    gradient_penalty,
    level_target,
    upsample,
)
from cap2im.models.text import sentences_as_text

TINY = {"side": 12, "noise": 5, "generator_units": 7, "features": 4, "kernels": (5, 3, 3), "language_units": 3, "sentence_features": 9}


def make(**changes) -> LAPGAN:
    torch.manual_seed(0)
    return LAPGAN(LAPGANConfig(**{**TINY, **changes})).double().eval()


def test_one_width_stands_for_both_hidden_layers():
    old, new = (SharpenerConfig(features=widths) for widths in (6, (6, 6)))
    assert old == new
    assert SharpenerConfig.model_validate_json(new.model_dump_json()) == new
    assert [layer.out_channels for layer in Sharpener(SharpenerConfig(side=4, features=(2, 5))).convolutions] == [2, 5, 3]
    for wrong in (0, (3,), (3, 0), (2, 2, 2)):
        with pytest.raises(ValueError, match="features"):
            SharpenerConfig(features=wrong)


def captions(batch: int = 5):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(22, (batch, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (batch, 1), generator=generator)
    return tokens, mask, torch.randn(batch, 9, generator=generator).double()


def noise_of(model: LAPGAN, batch: int = 5):
    return torch.randn(batch, *model.noise_shape, generator=torch.Generator().manual_seed(2)).double()


@pytest.mark.parametrize("side", [6, 7, 32, 56, 60])
@pytest.mark.parametrize("colours", [1, 3])
def test_the_pyramid_reconstructs_images(side, colours):
    images = torch.rand(3, colours, side, side, generator=torch.Generator().manual_seed(0)).double()
    assert downsample(images).shape == (3, colours, side // 2, side // 2)
    residual = images - blur(images)
    torch.testing.assert_close(upsample(downsample(images), side) + residual, images, rtol=0, atol=1e-15)
    assert level_target(images, "fine") is images
    assert torch.equal(level_target(images, "coarse"), downsample(images))


def test_residual_holds_only_edges():
    flat = torch.full((1, 1, 16, 16), 0.3)
    torch.testing.assert_close(blur(flat), flat)
    stripes = torch.arange(16).remainder(2).float().expand(1, 1, 16, 16)
    slope = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    lost = [float((images - blur(images)).abs().mean()) for images in (stripes, slope)]
    assert lost[0] > 0.4
    assert lost[1] < 0.02
    assert blur(slope)[0, 0, 0].argmax() == 15, "nothing is mirrored or shifted"


@pytest.mark.parametrize("conditioning", ["mean", "sentence"])
@pytest.mark.parametrize("colours", [1, 3])
def test_pictures_do_not_depend_on_the_batch(conditioning, colours):
    model = make(conditioning=conditioning, colours=colours)
    tokens, mask, vectors = captions()
    noise = noise_of(model)
    drawn = model.sample(model.encode(tokens, mask, vectors), noise)
    assert drawn.pictures.shape == (5, 2, colours, 12, 12)
    assert 0 <= drawn.pictures.min() < drawn.pictures.max() <= 1
    torch.testing.assert_close(model.sample_images(model.encode(tokens, mask, vectors), noise), drawn.pictures[:, 1])
    for row in range(5):
        one, length = slice(row, row + 1), int(mask[row].sum())  # alone, without the padding
        text = model.encode(tokens[one, :length], mask[one, :length], vectors[one])
        torch.testing.assert_close(model.sample(text, noise[one]).pictures, drawn.pictures[one])


@pytest.mark.parametrize("conditioning", ["mean", "sentence"])
def test_each_stage_depends_on_caption_and_noise(conditioning):
    model = make(conditioning=conditioning)
    text, noise = model.encode(*captions()), noise_of(model)
    coarse_noise, plane = model.split_noise(noise)
    assert torch.equal(coarse_noise, noise[:, 0, :5])
    assert torch.equal(plane.flatten(1), noise[:, 0, 5:])
    rough, finished = model.sample(text, noise).pictures.unbind(1)
    coarse_sentence, fine_sentence = text.sentence.chunk(2, dim=1)
    torch.testing.assert_close(rough, upsample(model.coarse(coarse_sentence, coarse_noise), 12))
    torch.testing.assert_close(finished, (rough + model.fine(rough, fine_sentence, plane)).clamp(0, 1))
    for stage in (0, 1):  # another caption for one stage alone
        heard = [coarse_sentence, fine_sentence]
        heard[stage] = heard[stage] + 1
        again = model.sample(sentences_as_text(torch.cat(heard, dim=1)), noise).pictures
        assert torch.equal(again[:, 0], rough) == (stage == 1)
        assert not torch.equal(again[:, 1], finished)
    if conditioning == "mean":
        assert not torch.allclose(coarse_sentence, fine_sentence), "each stage has its own reader"


def test_sharpening_uses_mean_noise_and_supports_grey():
    torch.manual_seed(0)
    model = Sharpener(SharpenerConfig(side=8, colours=1, sentence_features=9, features=(4, 3))).double()
    images, sentences = torch.rand(5, 1, 8, 8).double(), captions()[2]
    sharp = model.sharpen(images, sentences)
    assert sharp.shape == images.shape
    assert torch.equal(sharp, model.sharpen(images, sentences))
    torch.testing.assert_close(sharp, (images + model(images, sentences, torch.zeros(5, 1, 8, 8).double())).clamp(0, 1))
    assert not torch.allclose(model(images, sentences, torch.ones(5, 1, 8, 8).double()), model(images, sentences))


@pytest.mark.parametrize("conditioning", ["mean", "sentence"])
@pytest.mark.parametrize("side", [12, 14])
def test_discriminators_do_not_depend_on_the_batch(conditioning, side):
    torch.manual_seed(0)
    config = LAPGANConfig(**{**TINY, "side": side, "conditioning": conditioning})
    tokens, mask, vectors = captions()
    for network, width in ((CoarseDiscriminator(config, 6, 0.5), side // 2), (FineDiscriminator(config, 4, 0.5), side)):
        network = network.double().eval()
        images = torch.rand(5, 3, width, width).double()
        sentences = network.encode(tokens, mask, vectors)
        logits = network(images, sentences)
        assert logits.shape == (5,)
        torch.testing.assert_close(network(images[2:3], sentences[2:3]), logits[2:3])
        assert not torch.allclose(network(images, sentences.roll(1, 0)), logits), "the caption counts"


def test_losses_in_closed_form():
    undecided, sure = torch.zeros(4), torch.full((4,), 30.0)
    assert float(discriminator_loss(undecided, undecided)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss(undecided)) == pytest.approx(math.log(2))
    assert float(discriminator_loss(sure, -sure)) < 1e-12
    assert float(discriminator_loss(-sure, sure)) == pytest.approx(60)
    assert float(discriminator_loss(sure, -sure, sure, mismatch_weight=0.5)) == pytest.approx(15), (
        "right pictures of wrong captions are refused"
    )
    fooled = torch.zeros(4, requires_grad=True)
    generator_loss(fooled - 30).backward()
    assert float(fooled.grad.sum()) == pytest.approx(-1), "the gradient does not vanish where the discriminator is sure"


def test_gradient_penalty_of_a_linear_discriminator():
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5], requires_grad=True)
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    penalty = gradient_penalty(images.flatten(1) @ weights, images)
    assert penalty.item() == pytest.approx(14.25)
    penalty.backward()
    torch.testing.assert_close(weights.grad, 2 * weights.detach())  # it teaches


def test_normalised_sentences_stand_out_as_much_as_the_noise():
    tokens, mask, _ = captions()
    plain, normalised = (make(conditioning="mean", normalised=whether).coarse for whether in (False, True))
    sentences, same = normalised.encode(tokens, mask), plain.encode(tokens, mask)
    torch.testing.assert_close(sentences.mean(1), torch.zeros(5).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(sentences.std(1, correction=0), torch.ones(5).double(), rtol=0, atol=0.01)
    for one, other in zip(sentences, same, strict=True):
        assert torch.corrcoef(torch.stack([one, other]).detach())[0, 1].item() == pytest.approx(1)
