"""The text encoder: a caption is read the same in any company, padding is silent, and wrong sizes are told."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from cap2im.models.attngan_text import TextEncoder, TextEncoderConfig

LENGTHS = torch.tensor([2, 7, 4, 7, 1])
MASK = torch.arange(7) < LENGTHS[:, None]


def made(cell: str = "lstm", **more) -> tuple[TextEncoder, torch.Tensor]:
    torch.manual_seed(0)
    encoder = TextEncoder(TextEncoderConfig(vocabulary_size=11, word_features=6, features=8, cell=cell, **more)).double().eval()
    return encoder, torch.randint(11, (5, 7))


@pytest.mark.parametrize(("cell", "sentence"), [("lstm", "last"), ("gru", "last"), ("gru", "mean")])
def test_encoding_does_not_depend_on_the_batch(cell, sentence):
    encoder, tokens = made(cell, sentence=sentence)
    together = encoder(tokens, MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = encoder(tokens[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
        assert torch.allclose(alone.words[0], together.words[row, :length], rtol=0, atol=1e-14)
        assert torch.allclose(alone.sentence[0], together.sentence[row], rtol=0, atol=1e-14)


def test_padding_is_silent():
    encoder, tokens = made()
    text = encoder(tokens, MASK)
    assert text.words.shape == (5, 7, 8)
    assert not text.words[~MASK].any()
    other = encoder(tokens.masked_fill(~MASK, 1000), MASK)  # no such word
    assert torch.equal(text.words, other.words)
    assert torch.equal(text.sentence, other.sentence)


def test_the_sentence_is_the_last_state_of_each_direction():
    encoder, tokens = made()
    text = encoder(tokens, MASK)
    assert torch.equal(text.sentence[:, :4], text.words[torch.arange(5), LENGTHS - 1, :4])
    assert torch.equal(text.sentence[:, 4:], text.words[:, 0, 4:])


def test_the_sentence_may_be_the_mean_of_the_words():
    last, tokens = made()
    text, other = made(sentence="mean")[0](tokens, MASK), last(tokens, MASK)
    assert torch.equal(text.words, other.words)
    for row, length in enumerate(LENGTHS.tolist()):
        assert torch.allclose(text.sentence[row], text.words[row, :length].mean(dim=0), rtol=0, atol=1e-15)


@pytest.mark.parametrize("sentence", ["last", "mean"])
def test_a_caption_without_words_is_zero(sentence):
    encoder, tokens = made(sentence=sentence)
    mask = MASK.clone()
    mask[2] = False
    text = encoder(tokens, mask)
    assert not text.words[2].any()
    assert not text.sentence[2].any()
    assert torch.allclose(text.sentence[[0, 1, 3, 4]], encoder(tokens, MASK).sentence[[0, 1, 3, 4]], rtol=0, atol=1e-14)


def test_dropout_applies_only_in_training():
    encoder, tokens = made()
    assert torch.equal(encoder(tokens, MASK).words, encoder(tokens, MASK).words)
    encoder.train()
    assert not torch.allclose(encoder(tokens, MASK).words, encoder(tokens, MASK).words)


def test_odd_features_are_refused():
    with pytest.raises(ValidationError, match="features 7 is odd"):
        TextEncoderConfig(vocabulary_size=3, features=7)
