"""The language model and the alignment: padding, direction, equations."""

from __future__ import annotations

import pytest
import torch

from cap2im.models.text import Alignment, BidirectionalLanguageModel, EncodedText, lstm_cell, reverse_words

CAPTIONS = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [7]]


@pytest.fixture
def language():
    torch.manual_seed(0)
    model = BidirectionalLanguageModel(10, 4).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def batch(captions, longest, filler):
    tokens = torch.full((len(captions), longest), filler)
    mask = torch.zeros(len(captions), longest, dtype=torch.bool)
    for row, caption in enumerate(captions):
        tokens[row, : len(caption)] = torch.tensor(caption)
        mask[row, : len(caption)] = True
    return tokens, mask


def test_padding_and_batch_change_nothing(language):
    together = language(*batch(CAPTIONS, 9, filler=8))
    for row, caption in enumerate(CAPTIONS):
        alone = language(*batch([caption], len(caption), filler=0))
        torch.testing.assert_close(together.words[row, : len(caption)], alone.words[0])
        torch.testing.assert_close(together.sentence[row], alone.sentence[0])


def test_backward_states_have_read_the_words_from_the_end(language):
    tokens, mask = batch([[3, 1, 4, 1]], 4, 0)
    changed = tokens.clone()
    changed[0, 0] = 9
    before, after = language(tokens, mask).words, language(changed, mask).words
    units = before.shape[2] // 2
    assert torch.equal(before[0, 1:, units:], after[0, 1:, units:])  # backward half: only the first word's state read the first word
    assert not torch.equal(before[0, 0, units:], after[0, 0, units:])
    assert not torch.isclose(before[0, :, :units], after[0, :, :units]).all(dim=1).any()  # forward half: all of them did


def test_released_backward_states_come_from_another_caption(language):
    language.variant = "released"
    tokens, mask = batch([[3, 1, 4], [1, 5, 9]], 3, 0)
    neighbours = language(tokens, mask)
    alone = language(tokens, mask, independent=True)
    units = neighbours.words.shape[2] // 2
    torch.testing.assert_close(neighbours.words[:, :, units:], alone.words.flip(0)[:, :, units:])
    torch.testing.assert_close(language(tokens[:1], mask[:1]).words[0], alone.words[0])


def test_reverse_words_leaves_padding():
    sequence = torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7]])
    assert reverse_words(sequence, torch.tensor([3, 4])).tolist() == [[3, 2, 1, 0], [7, 6, 5, 4]]


def test_alignment_is_equation_7():
    torch.manual_seed(0)
    alignment = Alignment(6, 5, 7).double()
    torch.nn.init.normal_(alignment.score)
    words, hidden = torch.randn(2, 4, 6).double(), torch.randn(2, 5).double()
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    text = EncodedText(words, words.mean(1), mask)
    sentence, weights = alignment.begin(text)(alignment.state(hidden))
    scores = torch.tanh(alignment.word(words) + alignment.state(hidden)[:, None]) @ alignment.score
    expected = scores.exp() * mask
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(sentence, (expected[:, :, None] * words).sum(1))


def test_lstm_cell_is_torch_lstm_cell():
    torch.manual_seed(0)
    theirs = torch.nn.LSTMCell(3, 4).double()
    inputs, hidden, cell = torch.randn(2, 3).double(), torch.randn(2, 4).double(), torch.randn(2, 4).double()
    pre = inputs @ theirs.weight_ih.T + hidden @ theirs.weight_hh.T + theirs.bias_ih + theirs.bias_hh
    torch.testing.assert_close(lstm_cell(pre, cell), theirs(inputs, (hidden, cell)))


def test_dropout_applies_only_in_training():
    torch.manual_seed(0)
    model = BidirectionalLanguageModel(10, 50, dropout=0.4)
    tokens, mask = batch(CAPTIONS, 6, 0)
    hidden = (model(tokens, mask).words == 0).float().mean().item()
    assert hidden == pytest.approx(0.4, abs=0.05)
    assert torch.equal(model.eval()(tokens, mask).words, model(tokens, mask).words)


def test_a_window_as_long_as_the_caption_is_the_whole_caption(language):
    tokens, mask = batch(CAPTIONS, 9, filler=8)
    whole = language(tokens, mask).words
    for window in (6, 20):
        language.window = window
        torch.testing.assert_close(language(tokens, mask).words[mask], whole[mask])
    language.window = 5  # the caption of six words is longer
    differs = ~torch.isclose(language(tokens, mask).words, whole).all(dim=2) & mask
    assert differs.nonzero().tolist() == [[1, 0], [1, 5]], "its first word read backwards, its last word read forwards"


@pytest.mark.parametrize(("window", "known"), [(1, [3]), (2, [2, 3, 4])])
def test_windowed_words_have_context_of_the_whole_caption(language, window, known):
    whole = language(*batch(CAPTIONS, 9, filler=8))
    language.window = window
    tokens, mask = batch(CAPTIONS, 9, filler=8)
    before = language(tokens, mask)
    torch.testing.assert_close(before.context, whole.words)
    torch.testing.assert_close(before.sentence, whole.sentence)
    changed = tokens.clone()
    changed[1, 3] = 0
    after = language(changed, mask)
    assert (~torch.isclose(after.words, before.words).all(dim=2)).nonzero().tolist() == [[1, word] for word in known]
    assert (~torch.isclose(after.context, before.context).all(dim=2) & mask).nonzero().tolist() == [[1, word] for word in range(6)]
    torch.testing.assert_close(before.words[0, :3], language(*batch([CAPTIONS[0]], 3, filler=0)).words[0])
    torch.testing.assert_close(before[torch.tensor([1, 1])].context, before.context[[1, 1]])


def test_an_alignment_chooses_by_context_and_reads_words():
    torch.manual_seed(0)
    alignment = Alignment(6, 5, 7).double()
    torch.nn.init.normal_(alignment.score)
    words, context, hidden = torch.randn(2, 4, 6).double(), torch.randn(2, 4, 6).double(), torch.randn(2, 5).double()
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    _, expected = alignment.begin(EncodedText(context, context.mean(1), mask))(alignment.state(hidden))
    read, weights = alignment.begin(EncodedText(words, words.mean(1), mask, context))(alignment.state(hidden))
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(read, (weights.unsqueeze(2) * words).sum(1))


def test_truncation_of_captions_applies_only_in_training():
    """Of the word before, a state knows with the chance that nothing is forgotten; of one three words away, with its third power."""
    torch.manual_seed(0)
    model = BidirectionalLanguageModel(10, 4, forgetting=0.3).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.tensor([[3, 1, 4, 1]]).expand(2000, -1)
    changed = torch.cat([torch.full((2000, 1), 7), tokens[:, 1:]], dim=1)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    states = []
    for words in (tokens, changed):
        torch.manual_seed(1)  # the same forgetting
        states.append(model(words, mask).words[:, :, :4])  # of the forward LSTM
    knows = (states[0] != states[1]).any(dim=2).double().mean(dim=0)
    assert knows.tolist() == pytest.approx([1, 0.7, 0.7**2, 0.7**3], abs=0.04)
    model.eval()
    assert torch.equal(model(tokens, mask).words, model(tokens, mask).words)
    assert (model(tokens, mask).words[0, -1, :4] != model(changed, mask).words[0, -1, :4]).all()


def test_align_noise_applies_only_in_training():
    """Gumbel noise of scale 1: the word of the highest score is each word with the chance that is its weight without noise."""
    torch.manual_seed(0)
    alignment = Alignment(6, 5, 7, noise=1.0).double()
    torch.nn.init.normal_(alignment.score)
    words, hidden = torch.randn(1, 4, 6).double(), torch.randn(1, 5).double()
    mask = torch.tensor([[True, True, True, False]])
    text = EncodedText(words.expand(20_000, -1, -1), words.mean(1).expand(20_000, -1), mask.expand(20_000, -1))
    _, noisy = alignment.begin(text)(alignment.state(hidden).expand(20_000, -1))
    alignment.eval()
    _, weights = alignment.begin(text)(alignment.state(hidden).expand(20_000, -1))
    torch.testing.assert_close(noisy.argmax(dim=1).bincount(minlength=4) / 20_000, weights[0].float(), atol=0.015, rtol=0)
    torch.testing.assert_close(noisy.sum(dim=1), torch.ones(20_000).double())
    assert not noisy[:, 3].any()
    assert torch.equal(weights[0], weights[1])
