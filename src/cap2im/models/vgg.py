"""The VGG-like network that classifies CIFAR-10; its last fully connected features select the shortlists of table 1.

Source: alignDRAW (arXiv:1511.02793), section 4.1.3; the architecture of http://torch.ch/blog/2015/07/30/cifar.html, after Simonyan &
Zisserman (arXiv:1409.1556). The paper's own trained weights were never published.

That page's network takes YUV, whitened in small neighbourhoods; this one takes RGB, each colour normalised to mean 0 and deviation 1.

Shapes: B batch, C colours, A side, F features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 32
STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # widths of the convolutions, times `width`; each stage ends with pooling
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images
Probability = Annotated[float, Field(ge=0, lt=1)]


class VGGConfig(BaseModel):
    """The sizes of the network. The defaults are the published ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(64, ge=1, description="feature maps of the first stage; the last two have eight times as many")
    classes: int = Field(10, ge=2, description="number of classes")
    dropouts: tuple[Probability, Probability, Probability] = Field(
        (0.3, 0.4, 0.5), description="dropout of the first stage, of the later ones, and around the fully connected layer"
    )


class VGG(nn.Module):
    """Thirteen 3 x 3 convolutions with batch normalisation in five stages, and two linear layers."""

    def __init__(self, config: VGGConfig) -> None:
        super().__init__()
        self.config = config
        first, later, last = config.dropouts
        layers: list[nn.Module] = []
        channels = len(MEAN)
        for stage, widths in enumerate(STAGES):
            for index, width in enumerate(widths):
                layers += _convolution(channels, channels := width * config.width)
                if (probability := later if stage else first) and index < len(widths) - 1:
                    layers.append(nn.Dropout(probability))
            layers.append(nn.MaxPool2d(2))
        self.convolutions = nn.Sequential(*layers)  # [B, F, 1, 1]
        self.connected = nn.Sequential(nn.Dropout(last), nn.Linear(channels, channels), nn.BatchNorm1d(channels, eps=1e-3), nn.ReLU())
        self.classify = nn.Sequential(nn.Dropout(last), nn.Linear(channels, config.classes))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Return the last fully connected features [B, F] of images [B, 1 or 3, A, A] in 0..1 of any side."""
        images = images.expand(-1, len(MEAN), -1, -1)
        if images.shape[-1] != SIDE:
            images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        mean, deviation = (torch.tensor(values, device=images.device, dtype=images.dtype).view(1, -1, 1, 1) for values in (MEAN, DEVIATION))
        planes = ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)
        return self.connected(self.convolutions(planes).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] of images [B, 1 or 3, A, A] in 0..1."""
        return self.classify(self.features(images))


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU()]
