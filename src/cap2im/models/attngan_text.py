"""AttnGAN's text encoder: a bidirectional recurrent network whose states encode the words and whose last states encode the sentence.

Source: AttnGAN (arXiv:1711.10485), sections 3.1 and 3.2. It is trained with DAMSM and frozen while the generators are trained.

From the released program: word embeddings of width 300 with a dropout of 0.5. Not in the release: captions in any order and number, and a
sentence vector that is the mean of its words' states, which generalises better from few captions.

Shapes: B batch, L words, E features, W embedding width.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cap2im.models.text import EncodedText


class TextEncoderConfig(BaseModel):
    """The sizes of the text encoder. The defaults are the released ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary_size: int = Field(22, ge=1, description="number of words; a prepared dataset decides it")
    word_features: int = Field(300, ge=1, description="W, width of a word embedding")
    features: int = Field(256, ge=2, description="E, width of the encoded words and sentence; half of each direction")
    cell: Literal["lstm", "gru"] = Field("lstm", description="recurrent cell of the encoder")
    sentence: Literal["last", "mean"] = Field(
        "last", description="the sentence vector: the last state of each direction, or the mean over the words' states"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout of the word embeddings")

    @field_validator("features")
    @classmethod
    def _two_directions(cls, features: int) -> int:
        if features % 2:
            raise ValueError(f"features {features} is odd; two directions share them")
        return features


class WordConditioningConfig(BaseModel):
    """The base of the configurations of models with this text encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text: TextEncoderConfig = TextEncoderConfig()

    @property
    def conditioning(self) -> Literal["words"]:
        """Captions enter as words."""
        return "words"

    @property
    def reads_words(self) -> bool:
        """Whether captions enter as words."""
        return True

    @property
    def sentence_features(self) -> int:
        """E, width of the sentence vector and of the words."""
        return self.text.features

    @property
    def vocabulary_size(self) -> int:
        """Number of words."""
        return self.text.vocabulary_size


class TextEncoder(nn.Module):
    """A bidirectional recurrent encoder of captions; captions of a batch do not influence each other."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary_size, config.word_features)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)  # as released
        self.dropout = nn.Dropout(config.dropout)
        network = {"lstm": nn.LSTM, "gru": nn.GRU}[config.cell]
        self.rnn = network(config.word_features, config.features // 2, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor, mask: Tensor) -> EncodedText:
        """Encode captions.

        Args:
            tokens: [B, L] word numbers; ignored where mask is false.
            mask: [B, L] true for words; a caption's words come first. A caption without words is encoded as zeros.

        Returns:
            words [B, L, E], zero at padding, and sentence [B, E]: the last states of both directions, or the mean of the words.
        """
        inputs = self.dropout(self.words(tokens.masked_fill(~mask, 0)))  # [B, L, W]
        lengths = mask.sum(dim=1).clamp_min(1).cpu()  # an empty sequence cannot be packed
        states, last = self.rnn(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
        words, _ = pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])  # [B, L, E]
        words = words * mask.unsqueeze(2)
        if self.config.sentence == "mean":
            sentence = words.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)  # [B, E]
        else:
            hidden = last[0] if self.config.cell == "lstm" else last  # [2, B, E/2]
            sentence = torch.cat([hidden[0], hidden[1]], dim=1) * mask.any(dim=1, keepdim=True)
        return EncodedText(words, sentence, mask)
