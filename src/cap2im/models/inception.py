"""Inception-v3: the image encoder of AttnGAN's DAMSM, and the feature space of FID and Inception Score.

Source: Szegedy et al. (arXiv:1512.00567). Its parameters have the names of two published sets of weights:

- "imagenet": torchvision's `inception_v3`, trained on ImageNet's 1,000 classes, without the auxiliary classifier (`AuxLogits`).
- "fid": the weights of 2015 by which FID and Inception Score are defined, as pytorch-fid ported them to `pt_inception-2015-12-05`: 1,008
  classes, average pools that do not count the padding, and a max pool in the last block.

The classifier is never trained here and has no dropout.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 299
REGIONS, REGION_FEATURES, FEATURES = 17, 768, 2048
CLASSES = {"imagenet": 1000, "fid": 1008}

InceptionVariant = Literal["imagenet", "fid"]
Depth = Literal["first_pool", "second_pool", "regions", "pooled", "logits"]
Pool = Literal["average", "average of the image", "max", "max, halving"]


class Activations(NamedTuple):
    """The network's activations; None for those deeper than `until`."""

    first_pool: Tensor  # [B, 64, 73, 73]
    second_pool: Tensor | None = None  # [B, 192, 35, 35]
    regions: Tensor | None = None  # [B, 768, 17, 17] of the last 17 x 17 block
    pooled: Tensor | None = None  # [B, 2048] mean over the last 8 x 8 block
    logits: Tensor | None = None  # [B, classes]


class Layer(NamedTuple):
    """A convolution of a block: name, output channels, kernel (rows, columns) and stride. With a stride of 1 it keeps the size."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


Chain = Sequence[Layer | tuple[Layer, Layer]]


class Convolution(nn.Module):
    """A convolution with batch normalisation and ReLU."""

    def __init__(self, inputs: int, layer: Layer, padding: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, layer.channels, layer.kernel, layer.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(layer.channels, eps=1e-3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [B, channels, H', W'] of [B, inputs, H, W]."""
        return F.relu(self.bn(self.conv(inputs)), inplace=True)


def _plain(inputs: int, layer: Layer) -> Convolution:
    return Convolution(inputs, layer, (0, 0))


class Block(nn.Module):
    """Parallel chains of convolutions and a pool, whose channels are concatenated.

    Args:
        inputs: input channels.
        chains: layers of each chain; the layers of a pair have the same input, and their channels are concatenated.
        pool: the last branch; all but the halving one are followed by a convolution.
        pool_channels: output channels of that convolution.
    """

    def __init__(self, inputs: int, chains: Sequence[Chain], pool: Pool, pool_channels: int = 0) -> None:
        super().__init__()
        self.pool = pool
        self.chains: list[list[tuple[str, ...]]] = []
        for chain in chains:
            channels = inputs
            names = []
            for step in chain:
                layers = (step,) if isinstance(step, Layer) else step
                for layer in layers:
                    same = (layer.kernel[0] // 2, layer.kernel[1] // 2) if layer.stride == 1 else (0, 0)
                    self.add_module(layer.name, Convolution(channels, layer, same))
                names.append(tuple(layer.name for layer in layers))
                channels = sum(layer.channels for layer in layers)
            self.chains.append(names)
        if pool_channels:
            self.branch_pool = _plain(inputs, Layer("branch_pool", pool_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [B, channels of all branches, H', W'] of [B, inputs, H, W]."""
        outputs = []
        for chain in self.chains:
            state = inputs
            for names in chain:
                states = [self.get_submodule(name)(state) for name in names]
                state = states[0] if len(states) == 1 else torch.cat(states, dim=1)
            outputs.append(state)
        return torch.cat([*outputs, self._pooled(inputs)], dim=1)

    def _pooled(self, inputs: Tensor) -> Tensor:
        if self.pool == "max, halving":
            return F.max_pool2d(inputs, 3, stride=2)
        if self.pool == "max":
            return self.branch_pool(F.max_pool2d(inputs, 3, stride=1, padding=1))
        return self.branch_pool(F.avg_pool2d(inputs, 3, stride=1, padding=1, count_include_pad=self.pool == "average"))


def block_35(inputs: int, pool: Pool, pool_channels: int) -> Block:
    """Return a 35 x 35 block: kernels of 1, of 5, and of 3 after 3."""
    fives = [Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))]
    threes = [Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3))]
    return Block(inputs, [[Layer("branch1x1", 64)], fives, threes], pool, pool_channels)


def block_to_17(inputs: int) -> Block:
    """Return the block from 35 x 35 to 17 x 17."""
    threes = [Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3), 2)]
    return Block(inputs, [[Layer("branch3x3", 384, (3, 3), 2)], threes], "max, halving")


def block_17(inputs: int, pool: Pool, inner: int) -> Block:
    """Return a 17 x 17 block: kernels of 7 along one axis after the other, with `inner` channels between them."""
    across, down = (1, 7), (7, 1)
    once = [Layer("branch7x7_1", inner), Layer("branch7x7_2", inner, across), Layer("branch7x7_3", 192, down)]
    twice = [Layer("branch7x7dbl_1", inner), Layer("branch7x7dbl_2", inner, down), Layer("branch7x7dbl_3", inner, across)]
    twice += [Layer("branch7x7dbl_4", inner, down), Layer("branch7x7dbl_5", 192, across)]
    return Block(inputs, [[Layer("branch1x1", 192)], once, twice], pool, 192)


def block_to_8(inputs: int) -> Block:
    """Return the block from 17 x 17 to 8 x 8."""
    threes = [Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), 2)]
    sevens = [Layer("branch7x7x3_1", 192), Layer("branch7x7x3_2", 192, (1, 7)), Layer("branch7x7x3_3", 192, (7, 1))]
    return Block(inputs, [threes, [*sevens, Layer("branch7x7x3_4", 192, (3, 3), 2)]], "max, halving")


def block_8(inputs: int, pool: Pool) -> Block:
    """Return an 8 x 8 block: kernels of 3 along both axes side by side."""

    def both(name: str) -> tuple[Layer, Layer]:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    twice: Chain = [Layer("branch3x3dbl_1", 448), Layer("branch3x3dbl_2", 384, (3, 3)), both("branch3x3dbl_3")]
    once: Chain = [Layer("branch3x3_1", 384), both("branch3x3_2")]
    return Block(inputs, [[Layer("branch1x1", 320)], once, twice], pool, 192)


class Inception(nn.Module):
    """Inception-v3, computed up to a given depth.

    Args:
        variant: the set of weights, see the module's docstring.
        classifies: whether it has the last layer, for the classes.
    """

    def __init__(self, variant: InceptionVariant = "imagenet", *, classifies: bool = True) -> None:
        super().__init__()
        average: Pool = "average" if variant == "imagenet" else "average of the image"
        self.Conv2d_1a_3x3 = _plain(3, Layer("", 32, (3, 3), 2))
        self.Conv2d_2a_3x3 = _plain(32, Layer("", 32, (3, 3)))
        self.Conv2d_2b_3x3 = Convolution(32, Layer("", 64, (3, 3)), (1, 1))
        self.Conv2d_3b_1x1 = _plain(64, Layer("", 80))
        self.Conv2d_4a_3x3 = _plain(80, Layer("", 192, (3, 3)))
        self.Mixed_5b = block_35(192, average, 32)
        self.Mixed_5c = block_35(256, average, 64)
        self.Mixed_5d = block_35(288, average, 64)
        self.Mixed_6a = block_to_17(288)
        self.Mixed_6b = block_17(REGION_FEATURES, average, 128)
        self.Mixed_6c = block_17(REGION_FEATURES, average, 160)
        self.Mixed_6d = block_17(REGION_FEATURES, average, 160)
        self.Mixed_6e = block_17(REGION_FEATURES, average, 192)
        self.Mixed_7a = block_to_8(REGION_FEATURES)
        self.Mixed_7b = block_8(1280, average)
        self.Mixed_7c = block_8(FEATURES, average if variant == "imagenet" else "max")
        self.fc = nn.Linear(FEATURES, CLASSES[variant]) if classifies else None

    def forward(self, images: Tensor, until: Depth = "logits") -> Activations:
        """Return the activations of images [B, 3, 299, 299] in -1..1 down to `until`; deeper ones are not computed."""
        state = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))  # [B, 64, 147, 147]
        activations = Activations(first_pool := F.max_pool2d(state, 3, stride=2))
        if until == "first_pool":
            return activations
        state = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(first_pool)), 3, stride=2)
        activations = activations._replace(second_pool=state)
        if until == "second_pool":
            return activations
        state = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(state)))  # [B, 288, 35, 35]
        state = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(state)))))
        activations = activations._replace(regions=state)
        if until == "regions":
            return activations
        state = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(state)))  # [B, 2048, 8, 8]
        activations = activations._replace(pooled=state.mean(dim=(2, 3)))
        if until == "pooled" or self.fc is None:
            return activations
        return activations._replace(logits=self.fc(activations.pooled))


def resize(images: Tensor, *, corners: bool = False) -> Tensor:
    """Resize images [B, C, H, W] bilinearly to [B, C, 299, 299]; `corners` aligns the centres of corner pixels, as torch did up to 0.3."""
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=corners)
