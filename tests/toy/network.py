"""Toy: a picture is a linear function of the caption's mean word state and of noise.

Shapes: B batch, L words, Z latent, C colours, A side of the picture.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.models.text import BidirectionalLanguageModel, EncodedText


class ToyConfig(BaseModel):
    """Sizes of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: int = Field(60, ge=1, description="pixels of the square picture")
    colours: Literal[1, 3] = Field(1, description="1 is grey, 3 is RGB")
    latent: int = Field(4, ge=1, description="Z, dimension of the noise")
    vocabulary_size: int = Field(22, ge=1, description="number of words; a prepared dataset decides it")
    language_units: int = Field(16, ge=1, description="LSTM units of one direction of the language model")

    conditioning: ClassVar[str] = "mean"
    reads_words: ClassVar[bool] = True
    sentence_features: ClassVar[int] = 0

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(T, Z) of one picture's noise."""
        return 1, self.latent


class Toy(DrawingModel):
    """The network; `DrawingModel.encode` encodes captions with `language`."""

    config: ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.language = BidirectionalLanguageModel(config.vocabulary_size, config.language_units)
        self.picture = nn.Linear(2 * config.language_units + config.latent, config.colours * config.side**2)

    def sample(self, text: EncodedText | None, noise: Tensor) -> DrawnSequence:
        """Draw captions from noise [B, 1, Z]."""
        assert text is not None
        c = self.config
        logits = self.picture(torch.cat([text.sentence, noise[:, 0]], dim=1))  # [B, C * A * A]
        return DrawnSequence(canvases=logits.view(-1, 1, c.colours, c.side, c.side))

    def forward(self, tokens: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """Return pictures [B, C, A, A] in 0..1 of tokens and mask [B, L] and noise [B, 1, Z]."""
        return self.sample_images(self.encode(tokens, mask), noise)
