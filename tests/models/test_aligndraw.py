"""DRAW and alignDRAW: meaning, independence, equal numbers by every way of computing them."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from cap2im.extras import missing_compiler
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.filterbank import filter_bank
from cap2im.models.interface import Gaussian

CONDITIONINGS = ("align", "mean", "sentence", "none")
TINY = {"side": 12, "glimpses": 4, "inference_units": 7, "generative_units": 6, "latent": 3, "language_units": 5, "align_features": 8}
TINY |= {"sentence_features": 9}


def make(**changes) -> DRAW:
    torch.manual_seed(0)
    return DRAW(DRAWConfig(**{**TINY, "read_patch": 3, "write_patch": 4, "initialisation": "scaled", **changes})).double()


def inputs(model: DRAW, batch: int = 5):
    c = model.config
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, c.colours, c.side, c.side, generator=generator).double()
    tokens = torch.randint(c.vocabulary_size, (batch, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (batch, 1), generator=generator)
    noise = torch.randn(batch, c.glimpses, c.latent, generator=generator).double()
    return images, tokens, mask, noise


def sentence_vectors(model: DRAW, batch: int = 5):
    if model.config.conditioning != "sentence":
        return None
    return torch.randn(batch, model.config.sentence_features, generator=torch.Generator().manual_seed(2)).double()


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("patch", [4, 5])
def test_batch_neither_changes_bound_nor_drawing(conditioning, colours, patch):
    model = make(conditioning=conditioning, colours=colours, read_patch=patch, write_patch=patch + 1)
    images, tokens, mask, noise = inputs(model)
    vectors = sentence_vectors(model)
    bound = model(images, tokens, mask, noise, vectors)
    drawing = model.sample(model.encode(tokens, mask, vectors), noise)
    assert drawing.canvases.shape == (5, 4, colours, 12, 12)
    for row in range(5):
        one = slice(row, row + 1)
        length = int(mask[row].sum())  # alone, without the padding
        vector = None if vectors is None else vectors[one]
        alone = model(images[one], tokens[one, :length], mask[one, :length], noise[one], vector)
        torch.testing.assert_close(alone.value, bound.value[one])
        text = model.encode(tokens[one, :length], mask[one, :length], vector)
        torch.testing.assert_close(model.sample(text, noise[one]).canvases, drawing.canvases[one])


@pytest.mark.parametrize("conditioning", ["mean", "sentence"])
def test_without_attention_glimpses_share_one_sentence(conditioning):
    """The same network as alignDRAW's whose attention is spread evenly, or rests on a single vector, with equal weights."""
    model, aligned = make(conditioning=conditioning), make(language_units=5)
    images, tokens, mask, noise = inputs(model)
    vectors = sentence_vectors(model)
    c = model.config
    if conditioning == "sentence":
        aligned = make(language_units=9, sentence_features=18)
        vectors = torch.randn(5, 18, dtype=torch.float64)
        model = make(conditioning="sentence", sentence_features=18)
    ours, theirs = model.state_dict(), aligned.state_dict()
    theirs |= {name: value for name, value in ours.items() if name in theirs and name != "generative.weight"}
    latent, hidden = ours["generative.weight"].split([c.latent, c.generative_units], dim=1)
    theirs["generative.weight"] = torch.cat([latent, ours["sentence.weight"], hidden], dim=1)
    theirs["alignment.score"] = torch.zeros_like(theirs["alignment.score"])  # every word weighs the same
    aligned.load_state_dict(theirs)
    text = model.encode(tokens, mask, vectors)
    torch.testing.assert_close(model.bound(images, text, noise).value, aligned.bound(images, text, noise).value)
    one, other = model.sample(text, noise), aligned.sample(text, noise)
    torch.testing.assert_close(one.canvases, other.canvases)
    assert one.words is None
    assert other.words is not None
    louder = text.__class__(text.words, text.sentence + 1, text.mask)
    assert not torch.allclose(model.sample(louder, noise).canvases, one.canvases)


def test_kl_is_that_of_torch():
    torch.manual_seed(0)
    p, q = (Gaussian(torch.randn(4, 3), torch.randn(4, 3)) for _ in range(2))
    theirs = [torch.distributions.Normal(g.mean, g.log_sigma.exp()) for g in (p, q)]
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(*theirs).sum(-1))


def test_bound_is_tight_for_a_model_without_latents():
    """Where z moves nothing, P(x|y) is the Bernoulli likelihood of the start canvas, and a posterior equal to the prior attains it."""
    model = make()
    images, tokens, mask, noise = inputs(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.start_canvas.fill_(0.7)
    bound = model(images, tokens, mask, noise)
    exact = torch.distributions.Bernoulli(logits=torch.full_like(images, 0.7), validate_args=False).log_prob(images).sum((1, 2, 3))
    torch.testing.assert_close(bound.value, exact)
    with torch.no_grad():
        model.posterior.bias.fill_(0.5)
    assert (model(images, tokens, mask, noise).value < exact).all()


def test_filters_of_a_neutral_window_are_symmetric():
    bank = filter_bank(torch.zeros(1, 5).double(), 4, 9)
    torch.testing.assert_close(bank.rows, bank.rows.flip(1, 2))
    torch.testing.assert_close(bank.rows.sum(2), torch.ones(1, 4).double(), atol=1e-3, rtol=0)


def test_writing_stays_inside_the_box():
    model = make(side=40)
    windows = torch.tensor([[0.0, 0.0, -1.5, -1.0, 0.0], [0.5, -0.4, -2.0, -1.0, 0.3]]).double()
    for window, box in zip(windows, model.write_boxes(windows), strict=True):
        bank = filter_bank(window[None], model.config.write_patch, 40)
        ink = bank.write(torch.ones(1, 1, 4, 4).double())[0, 0]
        left, top, right, bottom = box.tolist()
        position = torch.arange(40) + 0.5
        for axis, low, high in ((0, left, right), (1, top, bottom)):
            mass = ink.sum(axis)
            assert (mass * position).sum() / mass.sum() == pytest.approx((low + high) / 2, abs=0.1)
            assert mass[(position > low) & (position < high)].sum() / mass.sum() > 0.95


@pytest.mark.parametrize(("field", "value"), [("side", 2), ("colours", 2), ("glimpses", 0), ("read_patch", 1), ("variant", "theano")])
def test_config_refuses(field, value):
    with pytest.raises(ValueError, match=field):
        DRAWConfig(**{field: value})


def test_paper_initialisation():
    model = DRAW(DRAWConfig(blank=-10.0))
    weights = torch.cat([p.flatten() for name, p in model.named_parameters() if name != "start_canvas"])
    assert weights.std().item() == pytest.approx(0.01, rel=0.01)
    assert model.start_canvas.mean().item() == pytest.approx(-10.0, abs=1e-3)
    released = DRAW(DRAWConfig(variant="released"))
    assert not released.generative.bias.any()


def test_initial_windows_vary_with_the_state_as_configured():
    whole, varied = make(window_variation=0.0), make(window_variation=1.0)
    states = torch.rand(20, 6).double()
    for layer in ("read_window", "write_window"):
        assert not getattr(whole, layer)(states)[:, :3].any(), "centre and stride of the whole canvas"
        torch.testing.assert_close(getattr(varied, layer).weight, 10 * getattr(make(), layer).weight, rtol=1e-5, atol=0)
        assert (getattr(varied, layer)(states).std(dim=0) > 0.05).all()


def test_recurrent_gain_scales_the_recurrence_of_generation():
    plain, scaled = make(), make(recurrent_gain=2.0)
    units = plain.config.generative_units
    for name, weight in plain.named_parameters():
        other = scaled.get_parameter(name)
        if name == "generative.weight":
            torch.testing.assert_close(other[:, -units:], 2 * weight[:, -units:])
            weight, other = weight[:, :-units], other[:, :-units]
        assert torch.equal(weight, other), name


INDUCTOR = [pytest.mark.slow, pytest.mark.skipif(bool(missing_compiler("cpu")), reason="torch.compile needs a C++ compiler")]


@pytest.mark.parametrize(("backend", "glimpses"), [("aot_eager", 2), pytest.param("inductor", 1, marks=INDUCTOR)])
def test_compiled_steps_have_the_numbers_of_plain_ones(backend, glimpses, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr("cap2im.models.aligndraw.COMPILED_GLIMPSES", glimpses)  # inductor takes its time for each
    model, compiled = make().float(), make().float()
    compiled.compile_steps()
    images, tokens, mask, noise = inputs(model)
    results = []
    for each in (model, compiled):
        bound = each(images.float(), tokens, mask, noise.float()).value
        bound.mean().backward()
        results.append((bound, *[parameter.grad for parameter in each.parameters()]))
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_sampling_is_compiled_once_for_one_and_for_several(conditioning, monkeypatch):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model, compiled = (make(conditioning=conditioning, glimpses=2) for _ in range(2))
    compiled.compile_sampling()
    with torch.inference_mode():
        _, tokens, mask, noise = inputs(model)
        vectors = sentence_vectors(model)
        mask[:, :2] = True
        for batch, words in ((1, 2), (5, 2), (3, 6), (1, 4), (2, 3), (4, 6), (1, 6)):
            vector = None if vectors is None else vectors[:batch]
            text = model.encode(tokens[:batch, :words], mask[:batch, :words].contiguous(), vector)
            wanted, drawn = (each.sample(text, noise[:batch]) for each in (model, compiled))
            torch.testing.assert_close(drawn.canvases, wanted.canvases)
            torch.testing.assert_close(drawn.boxes, wanted.boxes)
    assert len(graphs) == 2
