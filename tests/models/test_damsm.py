"""The matching model: one computation for all pairs is what each pair gives alone, gradients included; who is compared with whom."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from cap2im.models import damsm
from cap2im.models.attngan_text import TextEncoderConfig
from cap2im.models.damsm import (
    DAMSM,
    DAMSMConfig,
    EncodedImage,
    Gammas,
    damsm_losses,
    matching_losses,
    region_attention,
    sentence_scores,
    word_scores,
)
from cap2im.models.text import EncodedText

LENGTHS = torch.tensor([4, 1, 3])
MASK = torch.arange(4) < LENGTHS[:, None]
TINY = TextEncoderConfig(vocabulary_size=7, word_features=5, features=8)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(regions: torch.Tensor, words: torch.Tensor, mask: torch.Tensor, gammas: Gammas) -> torch.Tensor:
    """Pair by pair, with nothing but what the equations say."""
    scores = torch.empty(len(regions), len(words), dtype=regions.dtype)
    for k, image in enumerate(regions):
        for n, caption in enumerate(words):
            kept = caption[mask[n]]
            contexts, _ = region_attention(image[None], kept[None], torch.ones(1, len(kept), dtype=torch.bool), gammas.gamma1)
            cosines = (kept * contexts[0]).sum(dim=1) / (kept.norm(dim=1) * contexts[0].norm(dim=1)).clamp_min(1e-8)
            scores[k, n] = gammas.gamma3 * (gammas.gamma2 * cosines).exp().sum().log()
    return scores


@pytest.mark.parametrize("at_once", [1, 216, 2**30])
@pytest.mark.parametrize("padded", [True, False])
def test_word_scores_do_not_depend_on_the_batch(monkeypatch, at_once, padded):
    monkeypatch.setattr(damsm, "SCORES_AT_ONCE", at_once)
    regions, words = random(5, 6, 3, 3).requires_grad_(), random(3, 4, 6, seed=1).requires_grad_()
    mask = MASK if padded else torch.ones_like(MASK)
    gammas = Gammas(3, 2, 1.5)
    cotangent = random(5, 3, seed=2)
    ours, theirs = (scores(regions, words, mask, gammas) for scores in (word_scores, by_definition))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for found, expected in zip(*(torch.autograd.grad((s * cotangent).sum(), (regions, words)) for s in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_vectors_too_short_for_a_cosine():
    regions, words = random(2, 6, 3, 3).requires_grad_(), (1e-10 * random(3, 4, 6, seed=1)).requires_grad_()
    ours, theirs = (scores(regions, words, MASK, Gammas()) for scores in (word_scores, by_definition))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for found, expected in zip(*(torch.autograd.grad(scores.sum(), (regions, words)) for scores in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def test_zeros_match_nothing_and_have_finite_gradients():
    regions, words = random(2, 6, 3, 3), random(2, 3, 6, seed=1)
    regions[1], words[1, 2] = 0, 0
    regions.requires_grad_()
    words.requires_grad_()
    mask = torch.ones(2, 3, dtype=torch.bool)
    scores = word_scores(regions, words, mask, Gammas())
    assert scores[1].tolist() == pytest.approx([10 * math.log(3)] * 2)  # cosines of 0
    scores.sum().backward()
    assert regions.grad.isfinite().all()
    assert words.grad.isfinite().all()


def test_half_precision_is_scored_in_single():
    regions, words = random(2, 6, 3, 3), random(3, 4, 6, seed=1)
    scores = word_scores(regions.bfloat16(), words.bfloat16(), MASK, Gammas())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, word_scores(regions.bfloat16().float(), words.bfloat16().float(), MASK, Gammas()))


def test_sentence_scores_are_cosines():
    codes, sentences = random(4, 6), random(3, 6, seed=1)
    expected = 7 * torch.cosine_similarity(codes[:, None], sentences[None], dim=2)
    torch.testing.assert_close(sentence_scores(codes, sentences, Gammas(gamma3=7)), expected)
    assert sentence_scores(torch.zeros(1, 6), torch.zeros(1, 6), Gammas()).item() == 0


def test_losses_pull_pairs_together_and_skip_their_class():
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.5, 3.0, -1.0], [0.0, 0.0, 1.0]], requires_grad=True)
    images, captions = matching_losses(scores, None)
    assert images.item() == pytest.approx(-scores.log_softmax(1).diagonal().mean().item())
    assert captions.item() == pytest.approx(-scores.log_softmax(0).diagonal().mean().item())
    (gradient,) = torch.autograd.grad(sum(matching_losses(scores, torch.tensor([5, 5, 9]))), scores)
    assert (gradient.diagonal() < 0).all()
    assert gradient[0, 1] == gradient[1, 0] == 0
    assert (gradient[2, :2] > 0).all()
    all_alike = matching_losses(scores, torch.zeros(3, dtype=torch.long))
    assert [loss.item() for loss in all_alike] == [0, 0]


@pytest.mark.parametrize(("side", "colours"), [(60, 1), (32, 3), (64, 3), (37, 1)])
def test_small_encoder_of_any_side(side, colours):
    config = DAMSMConfig(text=TINY, image_encoder="small", side=side, colours=colours, width=4)
    model = DAMSM(config).eval()
    images = random(3, colours, side, side).float().clamp(-1, 1)
    image, text = model(images, torch.zeros(3, 4, dtype=torch.long), MASK)
    places = math.ceil(side / 8)
    assert image.regions.shape == (3, 8, places, places)
    assert image.code.shape == text.sentence.shape == (3, 8)
    alone = model.image(images[1:2])
    torch.testing.assert_close(alone.regions[0], image.regions[1])
    torch.testing.assert_close(alone.code[0], image.code[1])


def test_small_encoder_sees_where():
    torch.manual_seed(0)
    model = DAMSM(DAMSMConfig(text=TINY, image_encoder="small", side=60, colours=1, width=4)).eval()
    regions = model.image(torch.zeros(1, 1, 60, 60)).regions[0]
    assert (regions[:, 2, 1] - regions[:, 2, 2]).abs().max() > 1e-3  # of an empty canvas, far from its border


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_training_moves_frozen_statistics_only_as_released(variant):
    torch.manual_seed(0)
    encoder = DAMSM(DAMSMConfig(text=TINY, variant=variant)).train().image
    assert encoder.training
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    found = encoder(random(2, 3, 299, 299).float())
    (found.regions.sum() + found.code.sum()).backward()
    moved = {name.rpartition(".")[2] for name, value in encoder.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == ({"running_mean", "running_var", "num_batches_tracked"} if variant == "released" else set())
    assert {name for name, parameter in encoder.named_parameters() if parameter.grad is not None} == {
        "regions.weight",
        "code.weight",
        "code.bias",
    }


def test_gradients_reach_the_pictures_of_a_generator():
    torch.manual_seed(0)
    for config in (DAMSMConfig(text=TINY), DAMSMConfig(text=TINY, image_encoder="small", side=32, width=4)):
        model = DAMSM(config).eval().requires_grad_(False)
        pictures = random(1, 3, 32, 32).float().requires_grad_()
        model.image(pictures).code.square().sum().backward()
        assert pictures.grad.abs().max() > 0


def test_refusals():
    with pytest.raises(ValidationError, match="image_encoder inception needs 3 colours, got 1"):
        DAMSMConfig(text=TINY, colours=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_losses_of_indistinguishable_pairs(dtype):
    text = EncodedText(torch.zeros(2, 3, 6, dtype=dtype), torch.ones(2, 6, dtype=dtype), torch.ones(2, 3, dtype=torch.bool))
    image = EncodedImage(torch.zeros(2, 6, 2, 2, dtype=dtype), torch.ones(2, 6, dtype=dtype))
    losses = damsm_losses(image, text, None, Gammas())
    assert set(losses) == {"words_of_image", "image_of_words", "sentence_of_image", "image_of_sentence"}
    for loss in losses.values():
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
