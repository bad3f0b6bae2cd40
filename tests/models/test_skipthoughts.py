"""Skip-thoughts: the cell, padding, direction, and what the objective is."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from cap2im.data.batch import pad
from cap2im.models.skipthoughts import END, GRU, SkipThoughts, SkipThoughtsConfig, SkipThoughtsObjective, gru_cell

SENTENCES = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [7]]
CONFIG = SkipThoughtsConfig(uni=5, bi=3, embedding=4)
WORDS = 10


@pytest.fixture
def model() -> SkipThoughts:
    torch.manual_seed(0)
    model = SkipThoughts(CONFIG, WORDS).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def objective() -> SkipThoughtsObjective:
    torch.manual_seed(0)
    return SkipThoughtsObjective(CONFIG, WORDS).double()


def test_gru_cell_is_torch_gru_cell():
    torch.manual_seed(0)
    theirs = torch.nn.GRUCell(3, 4).double()
    theirs.bias_hh.data.zero_()  # the released GRU has one bias
    inputs, hidden = torch.randn(2, 3).double(), torch.randn(2, 4).double()
    ours = gru_cell(inputs @ theirs.weight_ih.T + theirs.bias_ih, hidden @ theirs.weight_hh.T, hidden)
    torch.testing.assert_close(ours, theirs(inputs, hidden))


def test_a_context_acts_on_every_gate():
    torch.manual_seed(0)
    gru = GRU(3, 4, context=5).double()
    words, mask, sentence = torch.randn(2, 1, 3).double(), torch.ones(2, 1, dtype=torch.bool), torch.randn(2, 5).double()
    linear = gru.inputs(words[:, 0]) + sentence @ gru.context.weight.T
    zeros = torch.zeros(2, 4).double()
    torch.testing.assert_close(gru(words, mask, sentence)[:, 0], gru_cell(linear, zeros.repeat(1, 3), zeros))


def test_padding_and_batch_change_nothing(model):
    tokens, mask = pad(SENTENCES)
    tokens, mask = torch.nn.functional.pad(tokens, (0, 3), value=8), torch.nn.functional.pad(mask, (0, 3))
    together = model(tokens.masked_fill(~mask, 8), mask, normalise=False)
    assert together.shape == (3, 5 + 2 * 3)
    for row, sentence in enumerate(SENTENCES):
        alone = model(*pad([sentence]), normalise=False)[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-12, atol=1e-12)
        assert not torch.isclose(alone, together[row - 1]).any()


def test_encodings_are_normalised_by_default(model):
    vectors = model(*pad(SENTENCES))
    for part in vectors.split([5, 6], dim=1):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(3).double())
    raw = model(*pad(SENTENCES), normalise=False)
    torch.testing.assert_close(raw[:, :5] / raw[:, :5].norm(dim=1, keepdim=True), vectors[:, :5])


def test_bi_skip_reads_both_ways(model):
    sentence = [3, 1, 4, 1, 5]
    ahead, back = (model(*pad([words]), normalise=False)[0] for words in (sentence, sentence[::-1]))
    bi = model.encoders_by_name()["bi"]
    bi.backwards.load_state_dict(bi.forwards.state_dict())
    ahead, back = (model(*pad([words]), normalise=False)[0] for words in (sentence, sentence[::-1]))
    torch.testing.assert_close(ahead[5:8], back[8:])
    torch.testing.assert_close(ahead[8:], back[5:8])
    assert not torch.isclose(ahead[:5], back[:5]).any()


def test_an_encoder_can_be_left_out():
    assert SkipThoughts(SkipThoughtsConfig(uni=0, bi=3, embedding=4), WORDS)(*pad(SENTENCES)).shape == (3, 6)
    assert SkipThoughtsConfig().features == 4800
    with pytest.raises(ValidationError, match="uni and bi are both 0"):
        SkipThoughtsConfig(uni=0, bi=0)


def triples() -> tuple[torch.Tensor, torch.Tensor]:
    before, sentences, after = [[3, 4], [2]], [[1, 5, 9], [7, 7]], [[6], [2, 6, 5, 3]]
    tokens, mask = pad([*before, *sentences, *after])
    return tokens.view(3, 2, -1), mask.view(3, 2, -1)


def test_objective_is_the_sum_over_words_of_both_neighbours(objective):
    tokens, mask = triples()
    nats = objective(tokens, mask)
    assert nats.shape == (2, 2)
    encoder, decoders = objective.skipthoughts.encoders_by_name()["uni"], objective.decoders["uni"]
    for row in range(2):
        expected = torch.zeros(()).double()
        length = int(mask[1, row].sum())
        vector = encoder(encoder.words(tokens[1, row : row + 1, :length]), mask[1, row : row + 1, :length])
        for place, gru in ((0, decoders.before), (2, decoders.after)):
            words = [*tokens[place, row, : int(mask[place, row].sum())].tolist(), END]
            hidden, heard = torch.zeros(1, 5).double(), torch.zeros(1, 4).double()
            for word in words:  # one word after another, as one would write the equations
                linear = gru.inputs(heard) + gru.context(vector)
                hidden = gru_cell(linear, gru.recurrent(hidden), hidden)
                expected = expected - (hidden @ decoders.output.weight.T).log_softmax(dim=1)[0, word]
                heard = encoder.table(torch.tensor([word]))
        torch.testing.assert_close(nats[row, 0], expected)


def test_padding_changes_neither_loss_nor_gradient(objective):
    tokens, mask = triples()
    nats = objective(tokens, mask)
    nats.sum().backward()
    gradients = [p.grad.clone() for p in objective.parameters()]
    assert all(gradient.abs().sum() > 0 for gradient in gradients), "every parameter learns"
    objective.zero_grad()
    wide = torch.nn.functional.pad(tokens, (0, 5), value=9).masked_fill(~torch.nn.functional.pad(mask, (0, 5)), 9)
    padded = objective(wide, torch.nn.functional.pad(mask, (0, 5)))
    padded.sum().backward()
    torch.testing.assert_close(padded, nats)
    for before, parameter in zip(gradients, objective.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, before)


def test_encoders_learn_apart(objective):
    ours, theirs = objective.parameter_groups()
    assert {id(p) for p in ours} & {id(p) for p in theirs} == set()
    assert len(ours) + len(theirs) == len(list(objective.parameters()))
    objective(*triples())[:, 0].sum().backward()
    assert all(p.grad is not None for p in ours)
    assert all(p.grad is None or not p.grad.any() for p in theirs)


def test_initialisation_is_the_papers(objective):
    for name, parameter in objective.named_parameters():
        if name.endswith("recurrent.weight"):
            for block in parameter.detach().chunk(3):
                torch.testing.assert_close(block @ block.T, torch.eye(len(block)).double(), atol=1e-6, rtol=0)
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            assert 0.05 < parameter.abs().max() <= 0.1
