"""The composition reader: a small convolutional network that classifies the thing in a window of a scene, and the scene's background.

It is made for `cap2im.metrics.compositional_accuracy`, which cuts the windows; neither paper has one.

Shapes: B windows, W window side, V things, G backgrounds, F feature maps.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from cap2im.models.readers import Reader, convolution


class CompositionReaderConfig(BaseModel):
    """The names of the classes and the sizes of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    things: tuple[str, ...] = Field((), description="names of the things; in a recipe, those of the data")
    backgrounds: tuple[str, ...] = Field((), description="names of the backgrounds; in a recipe, those of scenes")
    window: int = Field(20, ge=12, le=128, multiple_of=4, description="pixels of the square window")
    channels: int = Field(32, ge=1, le=256, description="feature maps of the first layer; the later ones have up to four times as many")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the linear layer that classifies things")

    @model_validator(mode="after")
    def _check_names(self) -> CompositionReaderConfig:
        for key, names in (("things", self.things), ("backgrounds", self.backgrounds)):
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise ValueError(f"{key}: {twice[0]!r} is listed twice")
        return self

    @property
    def nothing(self) -> int:
        """The class after the V things: no whole thing at the place of the window."""
        return len(self.things)


class CompositionReader(Reader):
    """Five 3 x 3 convolutions with batch normalisation, the last without padding, and a linear layer for things and for backgrounds.

    The last plane is flattened, not averaged, to distinguish a thing in the middle of the window from a part of a larger one.
    """

    def __init__(self, config: CompositionReaderConfig) -> None:
        super().__init__()
        self.config = config
        f = config.channels
        self.features = nn.Sequential(
            *convolution(3, f, padding=1),
            *convolution(f, f, padding=1),
            nn.MaxPool2d(2),  # [B, F, W/2, W/2]
            *convolution(f, 2 * f, padding=1),
            nn.MaxPool2d(2),  # [B, 2F, W/4, W/4]
            *convolution(2 * f, 4 * f, padding=1),
            *convolution(4 * f, 4 * f, padding=0),  # [B, 4F, W/4 - 2, W/4 - 2]
        )
        values = 4 * f * (config.window // 4 - 2) ** 2
        self.classify = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(values, len(config.things) + 1))
        self.classify_background = nn.Linear(values, len(config.backgrounds))

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of windows [B, 3, W, W] in 0..1: of the things and "nothing" [B, V + 1], and of the backgrounds [B, G]."""
        features = self.features(windows - 0.5).flatten(1)  # [B, 4F (W/4 - 2)^2]
        return self.classify(features), self.classify_background(features)
