"""The digit reader: a small convolutional network that classifies a window of a canvas as one of ten digits or none.

It is made for `cap2im.metrics.caption_accuracy`; neither paper has one.

Shapes: B windows, W window side, F feature maps.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cap2im.models.readers import Reader, convolution

NO_DIGIT = 10  # the class after the ten digits: no digit at the middle of the window
CLASSES = 11


class DigitReaderConfig(BaseModel):
    """The sizes of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int = Field(32, ge=24, le=128, multiple_of=8, description="pixels of the square window")
    channels: int = Field(16, ge=1, description="feature maps of the first layer; the later ones have two and four times as many")


class DigitReader(Reader):
    """Four 3 x 3 convolutions with batch normalisation, three of them pooled, and a linear layer.

    The last plane is flattened, not averaged, to distinguish a digit at the middle of the window from a displaced one.
    """

    def __init__(self, config: DigitReaderConfig) -> None:
        super().__init__()
        self.config = config
        f = config.channels
        self.features = nn.Sequential(
            *convolution(1, f, padding=1),
            nn.MaxPool2d(2),  # [B, F, W/2, W/2]
            *convolution(f, 2 * f, padding=1),
            nn.MaxPool2d(2),  # [B, 2F, W/4, W/4]
            *convolution(2 * f, 4 * f, padding=1),
            nn.MaxPool2d(2),  # [B, 4F, W/8, W/8]
            *convolution(4 * f, 4 * f, padding=0),  # [B, 4F, W/8 - 2, W/8 - 2]
        )
        self.classify = nn.Linear(4 * f * (config.window // 8 - 2) ** 2, CLASSES)

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits [B, 11] of windows [B, 1, W, W] in 0..1, 0 being background."""
        return self.classify(self.features(windows).flatten(1))
