"""A sharpener with what it is conditioned on: the top level of LAPGAN's pyramid applied to finished pictures.

Source: alignDRAW (arXiv:1511.02793), section 3.4. The noise is fixed to its mean, so that sharpening is deterministic.

Shapes: N images, S sentence features, C colours, A side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cap2im.data.batch import pad
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.data.vocabulary import Tokens, Unknown, Vocabulary
from cap2im.loading import load_model
from cap2im.models.interface import pictures_at_once
from cap2im.models.lapgan import Sharpener
from cap2im.sentence_encoders import load_own_encoder


@dataclass(frozen=True, repr=False)
class Sharpening:
    """A sharpener, ready for pictures.

    Attributes:
        name: display name.
        model: the network, in evaluation mode.
        sha256: SHA-256 of its weights.
        vocabulary: the words that it knows; None if it is conditioned on sentence vectors.
        encoder: encodes the sentence vectors; None if it reads words.
    """

    name: str
    model: Sharpener
    sha256: str
    vocabulary: Vocabulary | None = None
    encoder: SentenceEncoder | None = None

    @classmethod
    def load(cls, name: str, *, device: str = "cpu") -> Sharpening:
        """Find and load a sharpener; `cap2im.loading.load_model` describes names and errors.

        Raises:
            ValueError: its sentence encoder is missing.
        """
        loaded = load_model(name, Sharpener, device=device)
        config = loaded.network.config
        if config.reads_words:
            return cls(loaded.name, loaded.network, loaded.sha256, vocabulary=loaded.vocabulary)
        return cls(loaded.name, loaded.network, loaded.sha256, encoder=load_own_encoder(loaded, config.sentence_features))

    def __repr__(self) -> str:
        """Return name, size and device."""
        c = self.model.config
        return f"Sharpening({self.name!r}, {c.side} x {c.side} pixels in {c.colours} colour{'s' * (c.colours > 1)}, on {self.device})"

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    @property
    def training_unknown(self) -> Unknown:
        """How its training treated unknown words; measurements treat them alike."""
        return "skip" if self.vocabulary is None else self.vocabulary.training_unknown

    def tokens(self, captions: Sequence[str], unknown: Unknown = "error") -> list[Tokens] | None:
        """Return the tokens of captions; None if the sharpener reads no words.

        Raises:
            ValueError: an empty or over-long caption, or unknown words; see `Vocabulary.encode`.
        """
        try:
            return None if self.vocabulary is None else self.vocabulary.encode(captions, unknown)
        except ValueError as error:
            raise ValueError(f"sharpener {self.name}: {error}") from None

    def encode(self, captions: Sequence[str], tokens: Sequence[Tokens] | None) -> Tensor:
        """Return the sentence vectors [N, S] of captions and their `tokens`."""
        if self.encoder is not None:
            return self.encoder.encode(captions).to(self.device)
        assert tokens is not None
        numbers, mask = pad([t.numbers for t in tokens])
        return self.model.encode(numbers.to(self.device), mask.to(self.device))

    @torch.inference_mode()
    def conditioned_on(self, captions: Sequence[str], unknown: Unknown = "error") -> Callable[[Tensor, slice | Tensor], Tensor]:
        """Encode captions once and return the function `(images [n, C, A, A] in 0..1, rows of their captions) -> sharper images`.

        Raises:
            ValueError: see `tokens`.
        """
        sentences = self.encode(captions, self.tokens(captions, unknown))
        return torch.inference_mode()(lambda images, rows: self.model.sharpen(images, sentences[rows]))

    @torch.inference_mode()
    def apply(self, images: Tensor, sentences: Tensor) -> Tensor:
        """Sharpen images [N, C, A, A] in 0..1, in batches, each conditioned on a sentence vector [N, S].

        Raises:
            ValueError: another size or number of images.
        """
        c = self.model.config
        if list(images.shape) != (needed := [len(sentences), c.colours, c.side, c.side]):
            raise ValueError(f"{self.name} sharpens {needed}, an image for each caption; got {list(images.shape)}")
        size = pictures_at_once(c.side)
        parts = zip(images.split(size), sentences.split(size), strict=True)
        return torch.cat([self.model.sharpen(part.to(self.device), vectors) for part, vectors in parts])

    @torch.inference_mode()
    def sharpen(self, images: Tensor, captions: Sequence[str], unknown: Unknown = "error") -> Tensor:
        """Sharpen images [N, C, A, A] in 0..1, each with its caption.

        Raises:
            ValueError: see `apply` and `tokens`.
        """
        return self.apply(images, self.encode(captions, self.tokens(captions, unknown)))
