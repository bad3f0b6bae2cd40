"""What the models that draw have in common: how they are asked, and what they answer. Nothing that uses them knows one by name.

Shapes: B batch, L words, T glimpses, D features, Z latent, S sentence vector, A canvas side (H = W), C colours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from cap2im.models.text import BidirectionalLanguageModel, EncodedText, sentences_as_text

PICTURES_AT_ONCE = 100
PIXELS_AT_ONCE = 8 * 256 * 256  # of large pictures, of which a network may hold a hundred maps


def pictures_at_once(side: int) -> int:
    """Return the batch size for pictures of A x A pixels without gradients; it bounds memory."""
    return max(1, min(PICTURES_AT_ONCE, PIXELS_AT_ONCE // side**2))


class DrawingConfig(Protocol):
    """What every configuration of a model that draws says."""

    @property
    def side(self) -> int:
        """A, pixels of the square canvas."""

    @property
    def colours(self) -> int:
        """C, 1 or 3."""

    @property
    def conditioning(self) -> str:
        """How captions enter: "sentence" is a vector made elsewhere, "none" not at all; the others read words."""

    @property
    def sentence_features(self) -> int:
        """S, width of that sentence vector."""

    @property
    def vocabulary_size(self) -> int:
        """Number of words."""

    @property
    def reads_words(self) -> bool:
        """Whether captions enter as words, through the language model."""

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(T, Z) of one picture's noise."""


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian: mean and log standard deviation, [..., Z] each."""

    mean: Tensor
    log_sigma: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_sigma.exp() * noise

    def kl(self, prior: Gaussian) -> Tensor:
        """KL(self || prior) in nats, summed over the last axis."""
        gap = (self.mean - prior.mean).square() + (2 * self.log_sigma).exp()
        return 0.5 * (gap * (-2 * prior.log_sigma).exp() - 1 - 2 * (self.log_sigma - prior.log_sigma)).sum(dim=-1)

    def log_ratio(self, prior: Gaussian, noise: Tensor) -> Tensor:
        """Log self(z) - log prior(z) in nats at z = `sample(noise)`, summed over the last axis; its mean over noise is `kl`."""
        away = (self.sample(noise) - prior.mean) * (-prior.log_sigma).exp()
        return 0.5 * (away.square() - noise.square() - 2 * (self.log_sigma - prior.log_sigma)).sum(dim=-1)


def standard_normal(like: Tensor, latent: int) -> Gaussian:
    """N(0, I) with the leading axes of `like`."""
    zeros = like.new_zeros(*like.shape[:-1], latent)
    return Gaussian(zeros, zeros)


@dataclass(frozen=True)
class Bound:
    """Terms of the variational lower bound, in nats, for each picture (alignDRAW, eq. 14).

    Attributes:
        reconstruction: [B] -log P(x | y, z).
        kl: [B, T] KL of posterior and prior at each glimpse.
        log_ratio: [B] log Q(z | x, y) - log P(z | y) of the very sample, of which `kl` is the expectation; None while gradients are
            wanted, for training has no use of it and would be 2 % slower.
        pictures: [B, C, A, A] pixel means in 0..1 of P(x | y, z); without gradient.
    """

    reconstruction: Tensor
    kl: Tensor
    log_ratio: Tensor | None
    pictures: Tensor

    @property
    def value(self) -> Tensor:
        """[B] the lower bound on log P(x | y) itself: higher is better."""
        return -(self.reconstruction + self.kl.sum(dim=1))


@dataclass(frozen=True)
class DrawnSequence:
    """A whole drawing, time second: what `sample` answers. A model that draws at once has one glimpse.

    Attributes:
        canvases: [B, T, C, A, A] after each glimpse, before the sigmoid.
        words: [B, T, L] word weights, None without attention.
        boxes: [B, T, 4] left, top, right, bottom of the write window, in pixels from the canvas' corner, None without one.
        logits: whether the sigmoid is still to come; else canvases are pictures in 0..1 already.
        stages: of a model that draws in rising sizes (AttnGAN), each size's picture [B, C, a, a] in 0..1, small to large; `canvases` holds
            the same, all enlarged to the last one's side. Empty of other models.
        maps: where each word was read, [B, L, h, w], a map for each stage that attends, one at each place over the words; in order.
    """

    canvases: Tensor
    words: Tensor | None = None
    boxes: Tensor | None = None
    logits: bool = True
    stages: tuple[Tensor, ...] = ()
    maps: tuple[Tensor, ...] = ()

    @property
    def pictures(self) -> Tensor:
        """[B, T, C, A, A] pixel means in 0..1 after each glimpse."""
        return self.canvases.sigmoid() if self.logits else self.canvases

    @property
    def images(self) -> Tensor:
        """[B, C, A, A] the last pixel means in 0..1: the paper shows these instead of samples of the pixels."""
        last = self.canvases[:, -1]
        return last.sigmoid() if self.logits else last

    def in_fp32(self) -> DrawnSequence:
        """The same in single precision, of whatever precision it was drawn in."""
        words, boxes = (None if each is None else each.float() for each in (self.words, self.boxes))
        stages, maps = (tuple(each.float() for each in some) for some in (self.stages, self.maps))
        return replace(self, canvases=self.canvases.float(), words=words, boxes=boxes, stages=stages, maps=maps)


@dataclass(frozen=True)
class Frame:
    """What there is to see after one glimpse: an entry of each sequence of `DrawnSequence`.

    Attributes:
        pictures: [B, C, A, A] pixel means in 0..1.
        words: [B, L] word weights, None without attention.
        boxes: [B, 4] the write window, None without one.
    """

    pictures: Tensor
    words: Tensor | None
    boxes: Tensor | None


class DrawingModel(nn.Module, ABC):
    """A network that draws captions; one that reads words has its language model as `language`."""

    config: DrawingConfig
    language: BidirectionalLanguageModel

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(T, Z) of one picture's noise."""
        return self.config.noise_shape

    @property
    def glimpses(self) -> int:
        """T, canvases of a drawing, known before anything is drawn; a model that draws at once has 1."""
        return 1

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(self, tokens: Tensor, mask: Tensor, vectors: Tensor | None = None, *, independent: bool = False) -> EncodedText | None:
        """What the network hears of captions; None for conditioning "none".

        Args:
            tokens: [B, L] word numbers, and mask [B, L].
            vectors: [B, S] sentence vectors, for conditioning "sentence", which does not see the words.
            independent: see `BidirectionalLanguageModel`.
        """
        if self.config.conditioning == "none":
            return None
        if self.config.conditioning == "sentence":
            assert vectors is not None
            return sentences_as_text(vectors)
        return self.language(tokens, mask, independent=independent)

    @abstractmethod
    def sample(self, text: EncodedText | None, noise: Tensor) -> DrawnSequence:
        """Draws captions as `encode` answers them from noise [B, *noise_shape], standard normal, and keeps every step."""

    def sample_streaming(self, text: EncodedText | None, noise: Tensor, on_frame: Callable[[Frame], None]) -> DrawnSequence:
        """`sample(text, noise)` that shows every step; a model of many steps shows each as soon as it is drawn."""
        sequence = self.sample(text, noise)
        words, boxes = (() if each is None else each.unbind(1) for each in (sequence.words, sequence.boxes))
        for t, pictures in enumerate(sequence.pictures.unbind(1)):
            on_frame(Frame(pictures, words[t] if words else None, boxes[t] if boxes else None))
        return sequence

    def sample_images(self, text: EncodedText | None, noise: Tensor) -> Tensor:
        """`sample(text, noise).images` [B, C, A, A] in 0..1; a model of many steps answers them without keeping the others."""
        return self.sample(text, noise).images


class LikelihoodModel(DrawingModel):
    """A model that draws and has a variational bound."""

    @property
    @abstractmethod
    def observation(self) -> str:
        """P(x | y, z) of a pixel in words. Nats of two different ones are not comparable: one is a mass, the other a density."""

    @abstractmethod
    def bound(self, images: Tensor, text: EncodedText | None, noise: Tensor) -> Bound:
        """The lower bound of each picture from one posterior sample.

        Args:
            images: [B, C, A, A] in 0..1.
            text: what `encode` answered.
            noise: [B, T, Z] standard normal.
        """

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor, noise: Tensor, vectors: Tensor | None = None) -> Bound:
        """The bound of captioned images: `encode`, then `bound`."""
        return self.bound(images, self.encode(tokens, mask, vectors), noise)
