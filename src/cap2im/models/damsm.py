"""DAMSM, the deep attentional multimodal similarity model: scores how well images and captions match, as wholes and word by word.

Source: AttnGAN (arXiv:1711.10485), section 3.2, equations 7-13, and the released program.

What the released program does differently from the paper:

- Equation 10 lacks the power 1 / gamma_2.
- Losses are means over the batch, and pairs of one class (birds) are left out of the denominators.
- The frozen Inception updates its batch statistics while DAMSM is trained. `variant="released"` does so; the default does not.
- Its bilinear resizing aligned the corners, as torch did up to 0.3 (`corners`).

Not in the release: a small convolutional image encoder for canvases and small photographs, trained from scratch ("small").

Shapes: B batch, K images, N captions, L words, E features, R regions (R' R' places of a map), C colours, A side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im.models import inception
from cap2im.models.attngan_text import TextEncoder, WordConditioningConfig
from cap2im.models.inception import Inception
from cap2im.models.text import EncodedText

SMALLEST_NORM = 1e-8  # least product of two norms that a cosine is divided by
SCORES_AT_ONCE = 2**18  # pairs of words and regions on a CPU, by the size of its caches
CODE_PLACES = 4  # side of the map that the small encoder pools for its code


class DAMSMConfig(WordConditioningConfig):
    """The sizes of DAMSM and its text encoder (`text`). The defaults are the released ones."""

    image_encoder: Literal["inception", "small"] = Field(
        "inception", description='"inception" with its published weights, or "small", trained from scratch'
    )
    variant: Literal["paper", "released"] = Field(
        "paper", description='"released" updates the batch statistics of the frozen Inception in training'
    )
    corners: bool = Field(False, description="resize Inception's images with aligned corners, as torch did up to 0.3")
    side: int = Field(inception.SIDE, ge=16, le=1024, description="A, pixels of the images to train on")
    colours: Literal[1, 3] = Field(3, description="1 is grey, 3 is RGB")
    width: int = Field(32, ge=1, description="feature maps of the small encoder's first layer; the last has four times as many")

    @model_validator(mode="after")
    def _sees_colours(self) -> DAMSMConfig:
        if self.image_encoder == "inception" and self.colours != 3:
            raise ValueError(f"image_encoder inception needs 3 colours, got {self.colours}; image_encoder small takes 1 or 3")
        return self

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(1, 0): DAMSM takes no noise."""
        return 1, 0


class EncodedImage(NamedTuple):
    """An image in the space of words and sentences."""

    regions: Tensor  # [B, E, R', R'] one vector a region
    code: Tensor  # [B, E] of the whole image


class InceptionEncoder(nn.Module):
    """A frozen Inception-v3 and two trained linear layers."""

    def __init__(self, config: DAMSMConfig) -> None:
        super().__init__()
        self.corners, self.moves_statistics = config.corners, config.variant == "released"
        self.network = Inception("imagenet", classifies=False).requires_grad_(False)
        self.regions = nn.Conv2d(inception.REGION_FEATURES, config.text.features, 1, bias=False)
        self.code = nn.Linear(inception.FEATURES, config.text.features)
        for layer in (self.regions, self.code):
            nn.init.uniform_(layer.weight, -0.1, 0.1)  # as released

    def train(self, mode: bool = True) -> InceptionEncoder:
        """Set the mode; the frozen Inception stays in evaluation mode unless the variant is "released"."""
        super().train(mode)
        self.network.train(mode and self.moves_statistics)
        return self

    def forward(self, images: Tensor) -> EncodedImage:
        """Encode images [B, 3, A, A] in -1..1."""
        if images.shape[-2:] != (inception.SIDE, inception.SIDE):
            images = inception.resize(images, corners=self.corners)
        activations = self.network(images, until="pooled")
        assert activations.regions is not None
        assert activations.pooled is not None
        return EncodedImage(self.regions(activations.regions), self.code(activations.pooled))


class SmallEncoder(nn.Module):
    """Convolutions over the image and its pixel coordinates, so that words such as "left" can match regions."""

    def __init__(self, config: DAMSMConfig) -> None:
        super().__init__()
        width, features = config.width, config.text.features
        self.trunk = nn.Sequential(
            *_convolution(config.colours + 2, width, 5, 2),  # [B, width, A/2, A/2]
            *_convolution(width, 2 * width, 3, 2),  # [B, 2 width, A/4, A/4]
            *_convolution(2 * width, 4 * width, 3, 2),  # [B, 4 width, A/8, A/8]
            *_convolution(4 * width, 4 * width, 3, 1),
        )
        self.regions = nn.Conv2d(4 * width, features, 1, bias=False)
        self.code = nn.Linear(4 * width * CODE_PLACES**2, features)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> EncodedImage:
        """Encode images [B, C, A, A] in -1..1."""
        down, across = (torch.linspace(-1, 1, side, dtype=images.dtype, device=images.device) for side in images.shape[-2:])
        places = torch.stack(torch.meshgrid(down, across, indexing="ij")).expand(len(images), -1, -1, -1)
        trunk = self.trunk(torch.cat([images, places], dim=1).contiguous(memory_format=torch.channels_last))
        return EncodedImage(self.regions(trunk), self.code(F.adaptive_avg_pool2d(trunk, CODE_PLACES).flatten(1)))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]


class DAMSM(nn.Module):
    """A text encoder and an image encoder with a shared feature space."""

    def __init__(self, config: DAMSMConfig) -> None:
        super().__init__()
        self.config = config
        self.text = TextEncoder(config.text)
        self.image: InceptionEncoder | SmallEncoder = (InceptionEncoder if config.image_encoder == "inception" else SmallEncoder)(config)

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[EncodedImage, EncodedText]:
        """Encode images [B, C, A, A] in -1..1 and captions [B, L]."""
        return self.image(images), self.text(tokens, mask)


# Matching


class Gammas(NamedTuple):
    """The factors of section 3.2, as in all released configurations. The paper's gamma_1 is 5."""

    gamma1: float = 4.0  # sharpness of a word's attention over regions
    gamma2: float = 5.0  # weight of the best matching words of a caption
    gamma3: float = 10.0  # sharpness of the softmax over matches


def region_attention(regions: Tensor, words: Tensor, mask: Tensor, gamma1: float) -> tuple[Tensor, Tensor]:
    """Attend from each word to the regions of its image (equations 7-9).

    Args:
        regions: [B, E, R', R'] of images.
        words: [B, L, E] of their captions.
        mask: [B, L] true for words; at least one of each caption.
        gamma1: see `Gammas`.

    Returns:
        contexts [B, L, E], a mean of the regions for each word, and its weights [B, L, R', R'].
    """
    values = regions.flatten(2)  # [B, E, R]
    scores = torch.bmm(words, values).masked_fill(~mask.unsqueeze(2), -torch.inf)  # [B, L, R]
    weights = (gamma1 * scores.softmax(dim=1)).softmax(dim=2)
    return torch.bmm(weights, values.transpose(1, 2)), weights.unflatten(2, regions.shape[2:])


def word_scores(regions: Tensor, words: Tensor, mask: Tensor, gammas: Gammas) -> Tensor:
    """Score each image against each caption by its words: equation 10, as released, times gamma_3.

    Args:
        regions: [K, E, R', R'] of images.
        words: [N, L, E] of captions.
        mask: [N, L] true for words; at least one of each caption.
        gammas: the factors.

    Returns:
        scores [K, N].
    """
    if regions.dtype in (torch.float16, torch.bfloat16):
        regions = regions.float()
    values, words = regions.flatten(2), words.to(regions.dtype)  # [K, E, R]
    at_once = max(1, SCORES_AT_ONCE // (mask.numel() * values.shape[2])) if values.device.type == "cpu" else len(values)
    cosines = torch.cat([word_cosines(some, words, mask, gammas.gamma1) for some in values.split(at_once)])  # [K, N, L]
    return gammas.gamma3 * (gammas.gamma2 * cosines).masked_fill(~mask, -torch.inf).logsumexp(dim=2)


def word_cosines(regions: Tensor, words: Tensor, mask: Tensor, gamma1: float) -> Tensor:
    """Return the cosine [K, N, L] of each word with its context in each image (equations 7-9), for all pairs of images and captions.

    The contexts themselves are not computed. A context is the sum of regions v_r with weights a_r; its product with the word is the sum
    of the weighted scores, and its squared norm is a . (V^T V) a.

    Args:
        regions: [K, E, R] of images.
        words: [N, L, E] of captions.
        mask: [N, L] true for words; at least one of each caption.
        gamma1: see `Gammas`.
    """
    captions, longest, _ = words.shape
    flat = words.flatten(0, 1)  # [N L, E]
    scores = flat @ regions  # [K, N L, R]
    by_word = scores.unflatten(1, (captions, longest)).masked_fill(~mask[:, :, None], -torch.inf).softmax(dim=2)  # [K, N, L, R]
    weights = (by_word * gamma1).softmax(dim=3).flatten(1, 2)  # [K, N L, R]
    products = (weights * scores).sum(dim=2)  # [K, N L]
    squares = (weights @ (regions.transpose(1, 2) @ regions) * weights).sum(dim=2)
    norms = squares.clamp_min(SMALLEST_NORM**2).sqrt() * flat.norm(dim=1)
    return (products / norms.clamp_min(SMALLEST_NORM)).unflatten(1, (captions, longest))


def sentence_scores(codes: Tensor, sentences: Tensor, gammas: Gammas) -> Tensor:
    """Score each image against each caption as a whole: gamma_3 times the cosine [K, N] of codes [K, E] and sentences [N, E]."""
    norms = codes.norm(dim=1)[:, None] * sentences.norm(dim=1)
    return gammas.gamma3 * (codes @ sentences.T) / norms.clamp_min(SMALLEST_NORM)


def matching_losses(scores: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of choosing each image's caption, and each caption's image (equations 11-13).

    Args:
        scores: [B, B] of images and captions, pairs on the diagonal.
        classes: [B] equal for pairs that are not counted as wrong matches of each other; None if all are.
    """
    pairs = torch.arange(len(scores), device=scores.device)
    if classes is not None:
        alike = (classes[:, None] == classes) & (pairs[:, None] != pairs)
        scores = scores.masked_fill(alike, -torch.inf)
    return F.cross_entropy(scores, pairs), F.cross_entropy(scores.T, pairs)


def damsm_losses(
    image: EncodedImage,
    text: EncodedText,
    classes: Tensor | None,
    gammas: Gammas,
    all_gather: Callable[[Tensor], Tensor] = lambda part: part,
) -> dict[str, Tensor]:
    """Return the four terms of equation 13 by name, computed in fp32 at least.

    Args:
        image: B encoded images.
        text: their captions.
        classes: as for `matching_losses`.
        gammas: the factors.
        all_gather: returns tensors [B, ...] of all processes for [b, ...] of this one. Each process then scores its own images against all
            captions, and the losses are those of the whole batch.
    """
    precision = torch.promote_types(text.words.dtype, torch.float32)
    regions, code, words, sentence = (features.to(precision) for features in (*image, text.words, text.sentence))
    words, sentence, mask = all_gather(words), all_gather(sentence), all_gather(text.mask)
    classes = None if classes is None else all_gather(classes)
    of_words = matching_losses(all_gather(word_scores(regions, words, mask, gammas)), classes)
    of_sentences = matching_losses(all_gather(sentence_scores(code, sentence, gammas)), classes)
    names = ("words_of_image", "image_of_words", "sentence_of_image", "image_of_sentence")
    return dict(zip(names, (*of_words, *of_sentences), strict=True))
