"""The generator that sharpens blurry images: the fine level of a Laplacian pyramid (LAPGAN), conditioned on a sentence vector.

Source: alignDRAW (arXiv:1511.02793), section 3.4 and figure 7; LAPGAN (Denton et al., arXiv:1506.05751); sizes as in mansimov/text2image,
coco/sharpen.py. The noise of its first plane is fixed to its mean, zero, when it sharpens.

Shapes: B batch, S sentence vector, A image side (H = W), F feature maps.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

COLOURS = 3


class SharpenerConfig(BaseModel):
    """Sizes of the network. The defaults are the release's for COCO."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: int = Field(32, ge=4, le=1024)  # pixels of the square image
    sentence_features: int = Field(4800, ge=1)  # S; combine-skip's skip-thought vectors
    features: int = Field(128, ge=1)  # F of the first two convolutions
    kernels: tuple[int, int, int] = (7, 7, 5)  # sides of the three convolutions; odd


class Sharpener(nn.Module):
    """Three convolutions that answer what an image lacks.

    Their input has five planes: noise, the rectified linear map of the sentence vector, and the image's red, green and blue.
    """

    def __init__(self, config: SharpenerConfig) -> None:
        super().__init__()
        self.config = c = config
        self.sentence = nn.Linear(c.sentence_features, c.side**2)
        channels = (2 + COLOURS, c.features, c.features, COLOURS)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            for inputs, outputs, kernel in zip(channels, channels[1:], c.kernels, strict=False)
        )

    def forward(self, images: Tensor, sentences: Tensor, noise: Tensor | None = None) -> Tensor:
        """The residual [B, 3, A, A]: what to add to the blurry images.

        Args:
            images: [B, 3, A, A] in 0..1.
            sentences: [B, S].
            noise: [B, 1, A, A]; None is its mean, zero.
        """
        side = self.config.side
        plane = self.sentence(sentences).relu().view(-1, 1, side, side)
        planes = torch.cat([torch.zeros_like(plane) if noise is None else noise, plane, images], dim=1)  # [B, 5, A, A]
        first, second, last = self.convolutions
        return last(F.relu(second(F.relu(first(planes)))))  # [B, F, A, A] twice, then [B, 3, A, A]

    def sharpen(self, images: Tensor, sentences: Tensor) -> Tensor:
        """Sharper images [B, 3, A, A] in 0..1."""
        return (images + self(images, sentences)).clamp(0, 1)
