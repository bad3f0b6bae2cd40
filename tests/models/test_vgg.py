"""The VGG-like network: its published size, and features that depend on the image alone."""

from __future__ import annotations

import torch
from torch import nn

from cap2im.models.vgg import VGG, VGGConfig


def test_published_network():
    model = VGG(VGGConfig())
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    shares = [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]
    assert shares == [0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5, 0.5]
    assert [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)] == [(512, 512), (10, 512)]


def test_features_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    model = VGG(VGGConfig(width=4)).eval()
    images = torch.rand(5, 3, 32, 32)
    features = model.features(images)
    assert features.shape == (5, 32)
    torch.testing.assert_close(model(images), model.classify(features))
    torch.testing.assert_close(model.features(images[2:3]), features[2:3], rtol=1e-4, atol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-4


def test_any_side_and_grey():
    torch.manual_seed(0)
    model = VGG(VGGConfig(width=2)).eval()
    flat = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)
    expected = model.features(flat.expand(1, 3, 32, 32))
    for side in (7, 56):
        torch.testing.assert_close(model.features(flat.expand(1, 3, side, side)), expected, rtol=1e-4, atol=1e-5)
    grey = torch.rand(1, 1, 60, 60)
    torch.testing.assert_close(model.features(grey), model.features(grey.expand(1, 3, 60, 60)))
