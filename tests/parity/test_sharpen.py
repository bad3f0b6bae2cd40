"""The sharpening network against the authors' own program, in float64, number by number."""

from __future__ import annotations

import torch

from cap2im.convert.theano import fill, sharpener_layout
from cap2im.models.lapgan import Sharpener, SharpenerConfig
from tests.parity.golden import FORWARD, Golden, distance, golden


def golden_sharpener(file: Golden) -> Sharpener:
    """Our network in float64 with the golden weights."""
    weights = {name.removeprefix("param/"): file[name] for name in file if name.startswith("param/")}
    model = Sharpener(SharpenerConfig(side=12, sentence_features=16, features=6, kernels=(7, 7, 5))).double()
    views = sharpener_layout(model)
    assert set(weights) == set(views)
    fill(views, weights)
    return model


@torch.no_grad()
def test_sharpening():
    file = golden("G_sharpen")
    model = golden_sharpener(file)
    before_bias = []
    for layer in model.convolutions:
        layer.register_forward_hook(lambda layer, _, output: before_bias.append(output - layer.bias.view(1, -1, 1, 1)))
    images = file["in/x_blurry"].view(-1, 3, 12, 12)
    edges = model(images, file["in/skipthought"])
    for number, output in enumerate(before_bias):
        assert distance(output, file[f"released/out/conv{number}_before_bias"]) <= FORWARD
    assert distance(edges, file["released/out/edges"]) <= FORWARD
    sharp = file["released/out/sharp"]
    assert distance(model.sharpen(images, file["in/skipthought"]), sharp.view(-1, 3, 12, 12)) <= FORWARD
    assert {name for name in file if name.startswith("released/")} <= file.seen


@torch.no_grad()
def test_kernels_are_not_flipped_and_noise_is_a_plane():
    """The controls: what the golden vectors tell apart."""
    file = golden("G_sharpen")
    model = golden_sharpener(file)
    images, sentences = file["in/x_blurry"].view(-1, 3, 12, 12), file["in/skipthought"]
    plain = model(images, sentences)
    assert distance(model(images, sentences, torch.ones(3, 1, 12, 12).double()), plain) > 0.01
    model.convolutions[0].weight.copy_(model.convolutions[0].weight.flip(2, 3))
    assert distance(model(images, sentences), plain) > 0.1
