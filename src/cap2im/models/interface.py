"""The interfaces of models that draw: text in, canvases out.

- Text is one interface: `encode` returns words [B, L, D], a sentence vector [B, D] and a mask [B, L].
- A model that draws implements `sample(text, noise)`.
- A likelihood model also implements `bound(images, text, noise)`.
- A recurrent model is an initial state and a step; `sample`, `bound` and `sample_streaming` unroll it.

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
    """The properties that every drawing model's configuration has."""

    @property
    def side(self) -> int:
        """A, pixels of the square canvas."""

    @property
    def colours(self) -> int:
        """C, 1 or 3."""

    @property
    def conditioning(self) -> str:
        """How captions enter: "sentence" as a given vector, "none" not at all, any other value as words."""

    @property
    def sentence_features(self) -> int:
        """S, width of the given sentence vector."""

    @property
    def vocabulary_size(self) -> int:
        """Number of words."""

    @property
    def reads_words(self) -> bool:
        """Whether captions enter as words, through the language model."""

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(T, Z) of one image's noise."""


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian: mean and log standard deviation, [..., Z] each."""

    mean: Tensor
    log_sigma: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return mean + sigma * noise."""
        return self.mean + self.log_sigma.exp() * noise

    def kl(self, prior: Gaussian) -> Tensor:
        """Return KL(self || prior) in nats, summed over the last axis."""
        gap = (self.mean - prior.mean).square() + (2 * self.log_sigma).exp()
        return 0.5 * (gap * (-2 * prior.log_sigma).exp() - 1 - 2 * (self.log_sigma - prior.log_sigma)).sum(dim=-1)

    def log_ratio(self, prior: Gaussian, noise: Tensor) -> Tensor:
        """Return log self(z) - log prior(z) in nats at z = `sample(noise)`, summed over the last axis; its mean over noise is `kl`."""
        distance = (self.sample(noise) - prior.mean) * (-prior.log_sigma).exp()
        return 0.5 * (distance.square() - noise.square() - 2 * (self.log_sigma - prior.log_sigma)).sum(dim=-1)


def standard_normal(like: Tensor, latent: int) -> Gaussian:
    """Return N(0, I) with the leading axes of `like`."""
    zeros = like.new_zeros(*like.shape[:-1], latent)
    return Gaussian(zeros, zeros)


@dataclass(frozen=True)
class Bound:
    """The terms of the variational lower bound of each image, in nats (alignDRAW, eq. 14).

    Attributes:
        reconstruction: [B] -log P(x | y, z).
        kl: [B, T] KL of posterior and prior at each glimpse.
        log_ratio: [B] log Q(z | x, y) - log P(z | y) of the sample, of which `kl` is the expectation; None while gradients are enabled.
        pictures: [B, C, A, A] pixel means in 0..1 of P(x | y, z); without gradient.
    """

    reconstruction: Tensor
    kl: Tensor
    log_ratio: Tensor | None
    pictures: Tensor

    @property
    def value(self) -> Tensor:
        """[B] the lower bound on log P(x | y): higher is better."""
        return -(self.reconstruction + self.kl.sum(dim=1))


@dataclass(frozen=True)
class DrawnSequence:
    """The result of `sample`: all canvases of a drawing. A model without glimpses has one.

    Attributes:
        canvases: [B, T, C, A, A] after each glimpse, before the sigmoid if `logits`.
        words: [B, T, L] word weights; None without attention.
        boxes: [B, T, 4] left, top, right, bottom of the write window, in pixels from the canvas' corner; None without a window.
        logits: whether canvases are logits; otherwise they are pixel means in 0..1.
        stages: images [B, C, a, a] in 0..1 of each size of a multi-scale model (AttnGAN), small to large. `canvases` holds the same images
            enlarged to the last side. Empty for other models.
        maps: word attention [B, L, h, w] of each stage that attends, in order.
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
        """[B, C, A, A] the last pixel means in 0..1, which the paper shows instead of samples of the pixels."""
        last = self.canvases[:, -1]
        return last.sigmoid() if self.logits else last

    def in_fp32(self) -> DrawnSequence:
        """Return the same sequence in single precision."""
        words, boxes = (None if each is None else each.float() for each in (self.words, self.boxes))
        stages, maps = (tuple(each.float() for each in some) for some in (self.stages, self.maps))
        return replace(self, canvases=self.canvases.float(), words=words, boxes=boxes, stages=stages, maps=maps)


@dataclass(frozen=True)
class Frame:
    """The state of a drawing after one glimpse: one entry of each sequence of `DrawnSequence`.

    Attributes:
        pictures: [B, C, A, A] pixel means in 0..1.
        words: [B, L] word weights; None without attention.
        boxes: [B, 4] the write window; None without one.
    """

    pictures: Tensor
    words: Tensor | None
    boxes: Tensor | None


class DrawingModel(nn.Module, ABC):
    """A network that draws captions. One that reads words has its language model as `language`."""

    config: DrawingConfig
    language: BidirectionalLanguageModel

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(T, Z) of one image's noise."""
        return self.config.noise_shape

    @property
    def glimpses(self) -> int:
        """T, number of canvases of a drawing."""
        return 1

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def encode(self, tokens: Tensor, mask: Tensor, vectors: Tensor | None = None, *, independent: bool = False) -> EncodedText | None:
        """Encode captions; None for conditioning "none".

        Args:
            tokens: [B, L] word numbers.
            mask: [B, L] true for words.
            vectors: [B, S] sentence vectors, which conditioning "sentence" takes in place of words.
            independent: see `BidirectionalLanguageModel.forward`.
        """
        if self.config.conditioning == "none":
            return None
        if self.config.conditioning == "sentence":
            assert vectors is not None
            return sentences_as_text(vectors)
        return self.language(tokens, mask, independent=independent)

    @abstractmethod
    def sample(self, text: EncodedText | None, noise: Tensor) -> DrawnSequence:
        """Draw encoded captions from standard normal noise [B, *noise_shape] and keep every canvas."""

    def sample_streaming(self, text: EncodedText | None, noise: Tensor, on_frame: Callable[[Frame], None]) -> DrawnSequence:
        """Do as `sample`, and call `on_frame` after every glimpse; a recurrent model calls it as soon as the glimpse is drawn."""
        sequence = self.sample(text, noise)
        words, boxes = (() if each is None else each.unbind(1) for each in (sequence.words, sequence.boxes))
        for t, pictures in enumerate(sequence.pictures.unbind(1)):
            on_frame(Frame(pictures, words[t] if words else None, boxes[t] if boxes else None))
        return sequence

    def sample_images(self, text: EncodedText | None, noise: Tensor) -> Tensor:
        """Return `sample(text, noise).images` [B, C, A, A] in 0..1; a recurrent model does not keep the other canvases."""
        return self.sample(text, noise).images


class LikelihoodModel(DrawingModel):
    """A drawing model with a variational lower bound."""

    @property
    @abstractmethod
    def observation(self) -> str:
        """The distribution P(x | y, z) of a pixel, by name. Bounds under different ones are not comparable."""

    @abstractmethod
    def bound(self, images: Tensor, text: EncodedText | None, noise: Tensor) -> Bound:
        """Return the lower bound of each image from one posterior sample.

        Args:
            images: [B, C, A, A] in 0..1.
            text: encoded captions.
            noise: [B, T, Z] standard normal.
        """

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor, noise: Tensor, vectors: Tensor | None = None) -> Bound:
        """Return the bound of captioned images: `encode`, then `bound`."""
        return self.bound(images, self.encode(tokens, mask, vectors), noise)
