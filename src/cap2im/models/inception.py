"""Inception-v3: the image features of AttnGAN's matching model, and the feature space of FID and Inception Score.

Source: Szegedy et al. (arXiv:1512.00567). Two published sets of weights fit it, name by name:

- "imagenet": torchvision's `inception_v3`, trained on ImageNet's 1,000 classes. The second classifier (`AuxLogits`), which helped its
  training, is left out.
- "fid": the weights of 2015 in which FID and Inception Scores are told, as pytorch-fid ported them to `pt_inception-2015-12-05`: 1,008
  classes, average pools that do not count the padding, and a max pool in the last block.

It is never trained for its classes here, so it has no dropout before them.

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
    """What the network says of images; None for what lies deeper than it was asked to go."""

    first_pool: Tensor  # [B, 64, 73, 73]
    second_pool: Tensor | None = None  # [B, 192, 35, 35]
    regions: Tensor | None = None  # [B, 768, 17, 17] of the last block of 17 x 17
    pooled: Tensor | None = None  # [B, 2048] the mean over the last 8 x 8
    logits: Tensor | None = None  # [B, classes]


class Layer(NamedTuple):
    """A convolution of a block: its name, its channels, its kernel (rows, columns) and stride. It keeps the size unless it halves it."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


Chain = Sequence[Layer | tuple[Layer, Layer]]


class Convolution(nn.Module):
    """A convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, layer: Layer, padding: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, layer.channels, layer.kernel, layer.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(layer.channels, eps=1e-3)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(inputs)), inplace=True)


def _plain(inputs: int, layer: Layer) -> Convolution:
    return Convolution(inputs, layer, (0, 0))


class Block(nn.Module):
    """Chains of convolutions side by side, and a pool; the channels of all of them one after another.

    Args:
        inputs: channels that come in.
        chains: of layers; where two layers stand in a pair, both read the layer before, and their channels follow each other.
        pool: the last branch; all but the halving one are followed by a convolution.
        pool_channels: of that convolution.
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
        found = []
        for chain in self.chains:
            state = inputs
            for names in chain:
                states = [self.get_submodule(name)(state) for name in names]
                state = states[0] if len(states) == 1 else torch.cat(states, dim=1)
            found.append(state)
        return torch.cat([*found, self._pooled(inputs)], dim=1)

    def _pooled(self, inputs: Tensor) -> Tensor:
        if self.pool == "max, halving":
            return F.max_pool2d(inputs, 3, stride=2)
        if self.pool == "max":
            return self.branch_pool(F.max_pool2d(inputs, 3, stride=1, padding=1))
        counted = self.pool == "average"
        return self.branch_pool(F.avg_pool2d(inputs, 3, stride=1, padding=1, count_include_pad=counted))


def block_35(inputs: int, pool: Pool, pool_channels: int) -> Block:
    """Of 35 x 35 places: kernels of 1, of 5, and of 3 after 3."""
    fives = [Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))]
    threes = [Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3))]
    return Block(inputs, [[Layer("branch1x1", 64)], fives, threes], pool, pool_channels)


def block_to_17(inputs: int) -> Block:
    """From 35 x 35 to 17 x 17 places."""
    threes = [Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3), 2)]
    return Block(inputs, [[Layer("branch3x3", 384, (3, 3), 2)], threes], "max, halving")


def block_17(inputs: int, pool: Pool, inner: int) -> Block:
    """Of 17 x 17 places: kernels of 7 along one axis after the other, `inner` channels between them."""
    across, down = (1, 7), (7, 1)
    once = [Layer("branch7x7_1", inner), Layer("branch7x7_2", inner, across), Layer("branch7x7_3", 192, down)]
    twice = [Layer("branch7x7dbl_1", inner), Layer("branch7x7dbl_2", inner, down), Layer("branch7x7dbl_3", inner, across)]
    twice += [Layer("branch7x7dbl_4", inner, down), Layer("branch7x7dbl_5", 192, across)]
    return Block(inputs, [[Layer("branch1x1", 192)], once, twice], pool, 192)


def block_to_8(inputs: int) -> Block:
    """From 17 x 17 to 8 x 8 places."""
    threes = [Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), 2)]
    sevens = [Layer("branch7x7x3_1", 192), Layer("branch7x7x3_2", 192, (1, 7)), Layer("branch7x7x3_3", 192, (7, 1))]
    return Block(inputs, [threes, [*sevens, Layer("branch7x7x3_4", 192, (3, 3), 2)]], "max, halving")


def block_8(inputs: int, pool: Pool) -> Block:
    """Of 8 x 8 places: kernels of 3 along both axes side by side."""

    def both(name: str) -> tuple[Layer, Layer]:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    twice: Chain = [Layer("branch3x3dbl_1", 448), Layer("branch3x3dbl_2", 384, (3, 3)), both("branch3x3dbl_3")]
    once: Chain = [Layer("branch3x3_1", 384), both("branch3x3_2")]
    return Block(inputs, [[Layer("branch1x1", 320)], once, twice], pool, 192)


class Inception(nn.Module):
    """Inception-v3 up to wherever it is asked to go.

    Args:
        variant: whose weights it will hold; see the module's docstring.
        classifies: whether it has the last layer, which answers the classes.
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
        """Features of images [B, 3, 299, 299] in -1..1, as deep as `until`; what lies deeper is not computed."""
        state = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))  # [B, 64, 147, 147]
        found = Activations(first_pool := F.max_pool2d(state, 3, stride=2))
        if until == "first_pool":
            return found
        state = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(first_pool)), 3, stride=2)
        found = found._replace(second_pool=state)
        if until == "second_pool":
            return found
        state = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(state)))  # [B, 288, 35, 35]
        state = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(state)))))
        found = found._replace(regions=state)
        if until == "regions":
            return found
        state = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(state)))  # [B, 2048, 8, 8]
        found = found._replace(pooled=state.mean(dim=(2, 3)))
        if until == "pooled" or self.fc is None:
            return found
        return found._replace(logits=self.fc(found.pooled))


def resize(images: Tensor, *, corners: bool = False) -> Tensor:
    """Images [B, C, H, W] as [B, C, 299, 299], bilinear; `corners` aligns the middles of corner pixels, as torch did up to 0.3."""
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=corners)
