"""The sharpening network against the authors' own program, in float64, number by number."""

from __future__ import annotations

import torch

from cap2im.convert.theano import released_sharpener
from cap2im.models.lapgan import Sharpener
from tests.parity.golden import FORWARD, Golden, distance, golden


def golden_sharpener(file: Golden) -> Sharpener:
    """Our network in float64 with the golden weights."""
    model = released_sharpener(file.under("param/")).double()
    meta, config = file.meta, model.config
    assert (config.side, config.sentence_features, list(config.kernels)) == (meta["K"], meta["dimSkip"], meta["kernel_sizes"])
    assert [*config.features, config.colours] == meta["num_filts"]
    return model


def inputs(file: Golden, model: Sharpener):
    c = model.config
    return file["in/x_blurry"].view(-1, c.colours, c.side, c.side), file["in/skipthought"]


@torch.no_grad()
def test_sharpening():
    file = golden("G_sharpen")
    model = golden_sharpener(file)
    before_bias = []
    for layer in model.convolutions:
        layer.register_forward_hook(lambda layer, _, output: before_bias.append(output - layer.bias.view(1, -1, 1, 1)))
    images, sentences = inputs(file, model)
    edges = model(images, sentences)
    for number, output in enumerate(before_bias):
        assert distance(output, file[f"released/out/conv{number}_before_bias"]) <= FORWARD
    assert distance(edges, file["released/out/edges"]) <= FORWARD
    assert distance(model.sharpen(images, sentences), file["released/out/sharp"].view_as(images)) <= FORWARD
    assert {name for name in file if name.startswith("released/")} <= file.seen


@torch.no_grad()
def test_kernels_are_not_flipped_and_noise_is_a_plane():
    """The controls: what the golden vectors tell apart."""
    file = golden("G_sharpen")
    model = golden_sharpener(file)
    images, sentences = inputs(file, model)
    plain = model(images, sentences)
    assert distance(model(images, sentences, torch.ones_like(images[:, :1])), plain) > 0.01
    model.convolutions[0].weight.copy_(model.convolutions[0].weight.flip(2, 3))
    assert distance(model(images, sentences), plain) > 0.1
