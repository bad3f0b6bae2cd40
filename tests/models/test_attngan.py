"""AttnGAN: independence of the batch, branches and sides, what is read where, margins, and the KL's closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cap2im.models.attngan import (
    LARGE_SIDE,
    AttnGAN,
    AttnGANConfig,
    Generator,
    ResidualBlock,
    UpBlock,
    WordAttention,
    conditioning_kl,
    crop_margin,
)
from cap2im.models.interface import Gaussian, standard_normal
from cap2im.models.text import EncodedText

TEXT = {"vocabulary_size": 30, "word_features": 5, "features": 8}
TINY = {"text": TEXT, "condition": 4, "noise": 6, "width": 3, "residuals": 1, "first_side": 16, "branches": 3}


def make(**changes) -> AttnGAN:
    """In float64, with batch statistics that are not the neutral ones."""
    torch.manual_seed(0)
    model = AttnGAN(AttnGANConfig(**{**TINY, **changes})).double()
    model.text.words.weight.data.normal_()  # words that differ
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.eval().requires_grad_(False)


def captions(batch: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 4, 2, 6, 5])[:batch, None]
    return torch.randint(1, 30, (batch, 6), generator=generator), mask


def noise_of(model: AttnGAN, batch: int = 5) -> Tensor:
    return torch.randn(batch, *model.noise_shape, generator=torch.Generator().manual_seed(2)).double()


def alone(model: AttnGAN, tokens: Tensor, mask: Tensor, noise: Tensor, row: int) -> Tensor:
    length = int(mask[row].sum())
    text = model.encode(tokens[row : row + 1, :length], mask[row : row + 1, :length])
    return model.sample_images(text, noise[row : row + 1])[0]


@pytest.mark.parametrize("architecture", ["attngan", "attndcgan"])
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_pictures_do_not_depend_on_the_batch(architecture, branches):
    model = make(architecture=architecture, branches=branches)
    tokens, mask = captions()
    noise = noise_of(model)
    drawn = model.sample_images(model.encode(tokens, mask), noise)
    for row in range(5):
        torch.testing.assert_close(alone(model, tokens, mask, noise, row), drawn[row], rtol=0, atol=1e-12)
    longer = torch.nn.functional.pad(mask, (0, 3)), torch.nn.functional.pad(tokens, (0, 3), value=7)
    torch.testing.assert_close(model.sample_images(model.encode(longer[1], longer[0]), noise), drawn, rtol=0, atol=1e-12)


def test_released_masks_mix_captions_of_different_length():
    model = make(variant="released")
    tokens, mask = captions()
    noise = noise_of(model)
    drawn = model.sample_images(model.encode(tokens, mask), noise)
    apart = [float((alone(model, tokens, mask, noise, row) - drawn[row]).abs().max()) for row in range(5)]
    assert min(apart) > 1e-3
    whole = torch.ones_like(mask)
    drawn = model.sample_images(model.encode(tokens, whole), noise)
    for row in range(5):
        torch.testing.assert_close(alone(model, tokens, whole, noise, row), drawn[row], rtol=0, atol=1e-12)


def test_released_masks_are_those_of_other_captions():
    attention = WordAttention(8, 3, "released").double()
    mask = captions(3)[1]
    words = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(3)).double()
    _, weights = attention(torch.zeros(3, 3, 2, 2, dtype=torch.float64), EncodedText(words, words[:, 0], mask))
    for caption in range(3):
        for place in range(4):
            read = weights[caption, :, place // 2, place % 2] > 0
            assert torch.equal(read, mask[(4 * caption + place) % 3])


@pytest.mark.parametrize("architecture", ["attngan", "attndcgan"])
@pytest.mark.parametrize("branches", [1, 2, 3, 4])
@pytest.mark.parametrize(("first_side", "colours", "margin"), [(16, 3, 0), (32, 1, 8)])
def test_fields_of_a_drawing(architecture, branches, first_side, colours, margin):
    model = make(architecture=architecture, branches=branches, first_side=first_side, colours=colours, margin=margin)
    tokens, mask = captions()
    drawing = model.sample(model.encode(tokens, mask), noise_of(model))
    c = model.config
    sides = [first_side * 2**k - 2 * margin // 2 ** (branches - 1 - k) for k in range(branches)]
    assert c.side == sides[-1] == first_side * 2 ** (branches - 1) - 2 * margin
    shown = sides if architecture == "attngan" else sides[-1:]
    assert [tuple(stage.shape) for stage in drawing.stages] == [(5, colours, side, side) for side in shown]
    assert [tuple(weights.shape) for weights in drawing.maps] == [(5, 6, side, side) for side in sides[:-1]]
    assert drawing.canvases.shape == (5, len(shown), colours, c.side, c.side)
    assert drawing.words.shape == (5, len(shown), 6)
    torch.testing.assert_close(drawing.words.sum(dim=2), torch.ones(5, len(shown), dtype=torch.float64))
    assert (drawing.words * ~mask[:, None]).abs().max() == 0, "padding is not read"
    assert all(stage.min() >= 0 and stage.max() <= 1 for stage in drawing.stages)
    torch.testing.assert_close(drawing.images, drawing.stages[-1])
    torch.testing.assert_close(model.sample_images(model.encode(tokens, mask), noise_of(model)), drawing.images)
    factor = c.side // drawing.stages[0].shape[-1]
    if c.side == factor * drawing.stages[0].shape[-1]:
        torch.testing.assert_close(drawing.canvases[:, 0, :, ::factor, ::factor], drawing.stages[0])
    for weights in drawing.maps:
        torch.testing.assert_close(weights.sum(dim=1), torch.ones_like(weights[:, 0]))


def test_caption_and_noise_count():
    model = make()
    tokens, mask = captions(2)
    noise = noise_of(model, 2)
    same = noise[:1].expand(2, -1, -1)
    one, other = model.sample_images(model.encode(tokens, mask), same)
    assert (one - other).abs().max() > 1e-3, "the caption counts"
    words = model.encode(tokens[:1], mask[:1])
    for part in (slice(0, 6), slice(6, 10)):  # z, and the noise of the conditioning augmentation
        changed = noise[:1].clone()
        changed[..., part] += 1
        assert (model.sample_images(words, changed) - model.sample_images(words, noise[:1])).abs().max() > 1e-5


def test_a_caption_without_words_is_drawn():
    model = make()
    tokens, mask = captions(2)
    mask[1] = False
    drawing = model.sample(model.encode(tokens, mask), noise_of(model, 2))
    assert drawing.images.isfinite().all()


def test_every_place_reads_the_word_that_is_like_it():
    attention = WordAttention(2, 2, "paper").double()
    attention.words.weight.data.copy_(torch.eye(2))
    words = 20 * torch.eye(2).double().unsqueeze(0)  # two words, [1, 2, 2]
    maps = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double().view(1, 2, 1, 2)  # places that are like the first and like the second
    context, weights = attention(maps, EncodedText(words, words[:, 0], torch.ones(1, 2, dtype=torch.bool)))
    torch.testing.assert_close(weights[0, :, 0], torch.eye(2).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(context, 20 * maps, rtol=0, atol=1e-6)


def with_statistics(block: nn.Module) -> nn.Module:
    """In float64, with batch normalisation that is not the neutral one."""
    for name, value in block.double().state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return block


@pytest.mark.parametrize("training", [True, False])
def test_residual_blocks_equal_their_definition(training):
    torch.manual_seed(0)
    block = with_statistics(ResidualBlock(3)).train(training)
    maps = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    inside = torch.nn.functional.glu(block.first_norm(block.first(maps)), dim=1)
    torch.testing.assert_close(block(maps), maps + block.second_norm(block.second(inside)), rtol=0, atol=1e-12)


def test_independent_images_are_refined_a_few_at_a_time(monkeypatch):
    refined = []
    refine = Generator._refined

    def watched(self, maps, text):
        refined.append(len(maps))
        return refine(self, maps, text)

    monkeypatch.setattr(Generator, "_refined", watched)
    monkeypatch.setattr("cap2im.models.attngan.PLACES_AT_ONCE", 2 * 64**2 + 1)
    model, tokens_and_mask = make(), captions()
    text, noise = model.encode(*tokens_and_mask), noise_of(model)
    few = model.generate(text, noise)
    assert refined == [2, 2, 1]
    monkeypatch.undo()
    for ours, whole in zip((*few.images, *few.maps), (lambda g: (*g.images, *g.maps))(model.generate(text, noise)), strict=True):
        torch.testing.assert_close(ours, whole, rtol=0, atol=1e-12)
    monkeypatch.setattr(Generator, "_refined", watched)
    monkeypatch.setattr("cap2im.models.attngan.PLACES_AT_ONCE", 1)
    refined.clear()
    make(variant="released").generate(text, noise)
    model.train().generate(text, noise)
    assert refined == [5, 5]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("side", [LARGE_SIDE - 1, LARGE_SIDE])
def test_up_blocks_equal_their_definition(side, training):
    torch.manual_seed(0)
    block = with_statistics(UpBlock(5, 3)).train(training)
    maps = torch.randn(2, 5, 7, side, dtype=torch.float64, requires_grad=True)
    enlarged = maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    plain = torch.nn.functional.glu(block.norm(block.convolution(enlarged)), dim=1)
    ours = block(maps)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    wanted = torch.randn_like(plain)
    for a, b in zip(*(torch.autograd.grad((y * wanted).sum(), [maps, *block.parameters()]) for y in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_a_cut_picture_is_the_middle():
    config = AttnGANConfig(**{**TINY, "branches": 2, "margin": 2})
    planes = torch.arange(32.0).expand(1, 1, 32, 32)
    assert crop_margin(planes, 32, config)[0, 0, 0].tolist() == list(range(2, 30))
    assert crop_margin(planes[..., :16, :16], 16, config)[0, 0, 0].tolist() == list(range(1, 15))


def test_conditioning_kl_is_a_gaussians():
    random = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 4, 7, generator=random).double()
    assert conditioning_kl(torch.zeros(3, 5), torch.zeros(3, 5)) == 0
    kl = Gaussian(mean, log_variance / 2).kl(standard_normal(mean, 7))  # sums over the last axis
    torch.testing.assert_close(conditioning_kl(mean, log_variance), kl.mean() / 7)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"first_side": 48}, "first_side 48 is not a power of two"),
        ({"margin": 2}, "margin 2 does not shrink to whole pixels of the first of 3 sizes"),
        ({"margin": 32}, "margin 32 leaves nothing of 64 pixels"),
        ({"branches": 5}, "less than or equal to 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        AttnGANConfig(**{**TINY, **wrong})
