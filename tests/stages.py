"""A model that draws in rising sizes, without weights to learn: what is drawn and read can be said beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cap2im.data.vocabulary import Vocabulary
from cap2im.loading import ModelConfig
from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.models.text import EncodedText
from cap2im.pipeline import Pipeline

WORDS = Vocabulary(words=("<end>", "a", "red", "blue", "bird", "with", "wings"), tokens="attngan")


@dataclass(frozen=True)
class StagesConfig:
    """Two sizes, of which the last reads words."""

    side: int = 8
    colours: int = 3
    conditioning: str = "align"
    sentence_features: int = 0
    vocabulary_size: int = len(WORDS)
    reads_words: bool = True
    noise_shape: tuple[int, int] = (1, 4)


class Stages(DrawingModel):
    """Its picture has the mean of the words' numbers as its grey and the noise as a pattern; a word is read by its number."""

    def __init__(self, config: StagesConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = nn.Parameter(torch.tensor(0.1))

    @property
    def glimpses(self) -> int:
        return 2

    def encode(self, tokens: Tensor, mask: Tensor, vectors: Tensor | None = None, *, independent: bool = False) -> EncodedText:
        words = (tokens * mask).float()[..., None]
        return EncodedText(words, words.sum(dim=1) / mask.sum(dim=1, keepdim=True), mask)

    def sample(self, text: EncodedText | None, noise: Tensor) -> DrawnSequence:
        assert text is not None
        half = self.config.side // 2
        pattern = noise.view(-1, 1, 2, 2).sigmoid().repeat(1, self.config.colours, half // 2, half // 2)  # [B, C, a, a]
        small = (self.scale * text.sentence[:, :, None, None] + 0.3 * pattern).clamp(0, 1)
        large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        shares = text.words[..., 0] / text.words[..., 0].sum(dim=1, keepdim=True)  # [B, L]
        even = text.mask / text.mask.sum(dim=1, keepdim=True)
        maps = shares[:, :, None, None].expand(-1, -1, half, half)
        return DrawnSequence(
            torch.stack([large, large], dim=1), torch.stack([even, shares], dim=1), logits=False, stages=(small, large), maps=(maps,)
        )


def staged_pipeline(**sizes: int) -> Pipeline:
    """The model, ready to draw."""
    return Pipeline("stages", Stages(StagesConfig(**sizes)).eval().requires_grad_(False), WORDS, ModelConfig(kind="stages"))
