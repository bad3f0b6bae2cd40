"""DAMSM, the deep attentional multimodal similarity model: it says how well an image and a caption match, as wholes and word by word.

Source: AttnGAN (arXiv:1711.10485), section 3.2, equations 7-13, and the released program.

What the released program does differently from the paper:

- equation 10 without the power 1 / gamma_2;
- losses are means over the batch, and pairs of one class (birds), which are no wrong matches, are left out of the denominators;
- while it trains the matching model, the frozen Inception keeps moving its batch statistics: `variant="released"` does so too, where the
  default leaves alone what is frozen.

It was written for a torch whose bilinear resizing aligned the corners; a later torch runs it otherwise. `corners` chooses.

What is ours: a small convolutional image encoder, trained whole, for canvases and small photographs ("small").

Shapes: B batch, K images, N captions, L words, E features, R regions (R' R' places of a map), C colours, A side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cap2im.models import inception
from cap2im.models.attngan_text import TextEncoder, WordConditioningConfig
from cap2im.models.inception import Inception
from cap2im.models.text import EncodedText

SMALLEST_NORM = 1e-8  # of two vectors' norms multiplied, below which their cosine is not divided by it
SCORES_AT_ONCE = 2**18  # of words and regions on a processor: what its caches hold
CODE_PLACES = 4  # the small encoder's code sees a map of 4 x 4 places


class DAMSMConfig(WordConditioningConfig):
    """Sizes of the matching model and its text encoder (`text`). The defaults are the released ones."""

    image_encoder: Literal["inception", "small"] = Field(
        "inception", description='"inception" with its published weights, or "small", trained from scratch'
    )
    variant: Literal["paper", "released"] = Field(
        "paper", description='"released": training moves the batch statistics of the frozen Inception'
    )
    corners: bool = Field(False, description="resize Inception's images with aligned corners, as torch did up to 0.3")
    side: int = Field(inception.SIDE, ge=16, le=1024, description="A, pixels of the images to train on")
    colours: Literal[1, 3] = Field(3, description="1 is grey, 3 is RGB")
    width: int = Field(32, ge=1, description="feature maps of the small encoder's first layer; the last has four times as many")

    @model_validator(mode="after")
    def _sees_colours(self) -> DAMSMConfig:
        if self.image_encoder == "inception" and self.colours != 3:
            raise ValueError(f"image_encoder inception sees 3 colours, not {self.colours}; image_encoder small sees either")
        return self

    @property
    def noise_shape(self) -> tuple[int, int]:
        """None is needed."""
        return 1, 0


class EncodedImage(NamedTuple):
    """An image in the space of the words and sentences."""

    regions: Tensor  # [B, E, R', R'] one vector a region
    code: Tensor  # [B, E] of the whole image


class InceptionEncoder(nn.Module):
    """Inception-v3, which stays as it was trained on photographs, and two linear layers, which learn."""

    def __init__(self, config: DAMSMConfig) -> None:
        super().__init__()
        self.corners, self.moves_statistics = config.corners, config.variant == "released"
        self.network = Inception("imagenet", classifies=False).requires_grad_(False)
        self.regions = nn.Conv2d(inception.REGION_FEATURES, config.text.features, 1, bias=False)
        self.code = nn.Linear(inception.FEATURES, config.text.features)
        for layer in (self.regions, self.code):
            nn.init.uniform_(layer.weight, -0.1, 0.1)  # as released

    def train(self, mode: bool = True) -> InceptionEncoder:
        """As any module, but the frozen part stays in evaluation mode unless the variant is the released one."""
        super().train(mode)
        self.network.train(mode and self.moves_statistics)
        return self

    def forward(self, images: Tensor) -> EncodedImage:
        if images.shape[-2:] != (inception.SIDE, inception.SIDE):
            images = inception.resize(images, corners=self.corners)
        found = self.network(images, until="pooled")
        assert found.regions is not None
        assert found.pooled is not None
        return EncodedImage(self.regions(found.regions), self.code(found.pooled))


class SmallEncoder(nn.Module):
    """Convolutions that see where they are, so that a word such as "left" has regions to match."""

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
        down, across = (torch.linspace(-1, 1, side, dtype=images.dtype, device=images.device) for side in images.shape[-2:])
        places = torch.stack(torch.meshgrid(down, across, indexing="ij")).expand(len(images), -1, -1, -1)
        trunk = self.trunk(torch.cat([images, places], dim=1).contiguous(memory_format=torch.channels_last))
        return EncodedImage(self.regions(trunk), self.code(F.adaptive_avg_pool2d(trunk, CODE_PLACES).flatten(1)))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]


class DAMSM(nn.Module):
    """A text encoder and an image encoder, which share their space."""

    def __init__(self, config: DAMSMConfig) -> None:
        super().__init__()
        self.config = config
        self.text = TextEncoder(config.text)
        self.image: InceptionEncoder | SmallEncoder = (InceptionEncoder if config.image_encoder == "inception" else SmallEncoder)(config)

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[EncodedImage, EncodedText]:
        """Images [B, C, A, A] in -1..1 and captions [B, L], encoded."""
        return self.image(images), self.text(tokens, mask)


# Matching


class Gammas(NamedTuple):
    """The factors of section 3.2, as in all shipped configurations. The paper has 5 for the first."""

    gamma1: float = 4.0  # how much a word's attention prefers regions where it is the likeliest word
    gamma2: float = 5.0  # how much the best matching words count in a caption
    gamma3: float = 10.0  # how much a wrong match has to be worse


def region_attention(regions: Tensor, words: Tensor, mask: Tensor, gamma1: float) -> tuple[Tensor, Tensor]:
    """Which regions of its own image a word stands for (equations 7-9).

    Args:
        regions: [B, E, R', R'] of images.
        words: [B, L, E] of their captions.
        mask: [B, L] true for words; of each caption, at least one.
        gamma1: see `Gammas`.

    Returns:
        contexts [B, L, E], a mean of the regions for each word, and its weights [B, L, R', R'].
    """
    values = regions.flatten(2)  # [B, E, R]
    scores = torch.bmm(words, values).masked_fill(~mask.unsqueeze(2), -torch.inf)  # [B, L, R]
    weights = (gamma1 * scores.softmax(dim=1)).softmax(dim=2)
    return torch.bmm(weights, values.transpose(1, 2)), weights.unflatten(2, regions.shape[2:])


def word_scores(regions: Tensor, words: Tensor, mask: Tensor, gammas: Gammas) -> Tensor:
    """How well each image matches each caption by its words: equation 10, as released, times gamma_3.

    Args:
        regions: [K, E, R', R'] of images.
        words: [N, L, E] of captions.
        mask: [N, L] true for words; of each caption, at least one.
        gammas: see there.

    Returns:
        [K, N].
    """
    if regions.dtype in (torch.float16, torch.bfloat16):
        regions = regions.float()
    cosines = _WordCosines.apply(regions.flatten(2), words.to(regions.dtype), mask, gammas.gamma1)  # [K, N, L]
    return gammas.gamma3 * (gammas.gamma2 * cosines).masked_fill(~mask, -torch.inf).logsumexp(dim=2)


class _WordCosines(torch.autograd.Function):
    """The cosine [K, N, L] of each word with its context in each image: `region_attention` of all pairs of images and captions.

    Some images at a time, with all words of all captions: on a processor, what one image has with them fills the caches, and the products
    are still large; an accelerator takes all at once. Between forward and backward, both softmaxes and the contexts are kept.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, words: Tensor, mask: Tensor, gamma1: float) -> Tensor:
        (images, _, regions), (captions, longest, _) = values.shape, words.shape  # [K, E, R], [N, L, E]
        flat = words.flatten(0, 1)  # [N L, E]
        padding = None if mask.all() else ~mask[:, :, None]
        ctx.at_once = images if values.device.type != "cpu" else max(1, SCORES_AT_ONCE // (len(flat) * regions))
        kept = []
        for some in values.split(ctx.at_once):
            scores = torch.bmm(flat.expand(len(some), -1, -1), some).unflatten(1, (captions, longest))  # [k, N, L, R]
            if padding is not None:
                scores.masked_fill_(padding, -torch.inf)
            by_word = scores.softmax(dim=2)
            weights = torch.mul(by_word, gamma1, out=scores).softmax(dim=3).flatten(1, 2)  # [k, N L, R]
            contexts = torch.bmm(weights, some.transpose(1, 2))  # [k, N L, E]
            kept.append((by_word, weights, contexts, (contexts * flat).sum(dim=2), contexts.norm(dim=2)))
        ctx.kept = [part[:3] for part in kept]
        products, norms = (torch.cat(parts) for parts in list(zip(*kept, strict=True))[3:])  # [K, N L]
        ctx.gamma1 = gamma1
        ctx.save_for_backward(values, words, products, norms)
        return (products / (norms * flat.norm(dim=1)).clamp_min(SMALLEST_NORM)).view(images, captions, longest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, words, products, norms = ctx.saved_tensors
        flat = words.flatten(0, 1)
        lengths = flat.norm(dim=1)
        divisors = norms * lengths
        of_products = gradient.flatten(1) / divisors.clamp_min(SMALLEST_NORM)  # [K, N L]
        of_logs = torch.where(divisors > SMALLEST_NORM, -of_products * products, 0)  # of the logarithm of either norm
        of_contexts = torch.where(of_logs == 0, 0, of_logs / norms.square())  # times the contexts themselves
        of_words = flat * torch.where(lengths > 0, of_logs.sum(dim=0) / lengths.square(), 0)[:, None]
        of_values = torch.empty_like(values)
        starts = range(0, len(values), ctx.at_once)
        for start, (by_word, weights, contexts) in zip(starts, ctx.kept, strict=True):
            here = slice(start, start + ctx.at_once)
            some, share = values[here], of_products[here, :, None]
            into_contexts = (contexts * of_contexts[here, :, None]).addcmul_(flat, share)  # [k, N L, E]
            into_weights = _through_softmax(torch.bmm(into_contexts, some), weights, 2)  # [k, N L, R]
            into_scores = _through_softmax(into_weights.view_as(by_word), by_word, 2).flatten(1, 2).mul_(ctx.gamma1)
            torch.bmm(into_contexts.transpose(1, 2), weights, out=of_values[here])
            of_values[here].baddbmm_(flat.T.expand(len(some), -1, -1), into_scores)
            of_words.addbmm_(into_scores, some.transpose(1, 2))
            for one, its_share in zip(contexts, share, strict=True):
                of_words.addcmul_(one, its_share)
        return of_values, of_words.view_as(words), None, None


def _through_softmax(gradient: Tensor, softmax: Tensor, axis: int) -> Tensor:
    """The gradient of what went into a softmax."""
    return torch.ops.aten._softmax_backward_data(gradient, softmax, axis, softmax.dtype)


def sentence_scores(codes: Tensor, sentences: Tensor, gammas: Gammas) -> Tensor:
    """How well each image matches each caption as a whole: gamma_3 times the cosine [K, N] of codes [K, E] and sentences [N, E]."""
    norms = codes.norm(dim=1)[:, None] * sentences.norm(dim=1)
    return gammas.gamma3 * (codes @ sentences.T) / norms.clamp_min(SMALLEST_NORM)


def matching_losses(scores: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Minus the mean log probability that an image picks its own caption, and a caption its image (equations 11-13).

    Args:
        scores: [B, B] of images and captions, pairs on the diagonal.
        classes: [B] equal for pairs that are no wrong match for each other; None where all are.
    """
    pairs = torch.arange(len(scores), device=scores.device)
    if classes is not None:
        alike = (classes[:, None] == classes) & (pairs[:, None] != pairs)
        scores = scores.masked_fill(alike, -torch.inf)
    return F.cross_entropy(scores, pairs), F.cross_entropy(scores.T, pairs)


def damsm_losses(
    image: EncodedImage, text: EncodedText, classes: Tensor | None, gammas: Gammas, joined: Callable[[Tensor], Tensor] = lambda part: part
) -> dict[str, Tensor]:
    """The four terms of equation 13 by name, of images and their captions; what autocast left in half precision is compared in single.

    Args:
        image: B images.
        text: their captions.
        classes: as for `matching_losses`.
        gammas: see there.
        joined: of processes that share a batch, [B, ...] of all of them for [b, ...] of this one: each then scores its own images with all
            captions, and the losses are those of the whole batch.
    """
    precision = torch.promote_types(text.words.dtype, torch.float32)
    regions, code, words, sentence = (features.to(precision) for features in (*image, text.words, text.sentence))
    words, sentence, mask = joined(words), joined(sentence), joined(text.mask)
    classes = None if classes is None else joined(classes)
    of_words = matching_losses(joined(word_scores(regions, words, mask, gammas)), classes)
    of_sentences = matching_losses(joined(sentence_scores(code, sentence, gammas)), classes)
    names = ("words_of_image", "image_of_words", "sentence_of_image", "image_of_sentence")
    return dict(zip(names, (*of_words, *of_sentences), strict=True))
