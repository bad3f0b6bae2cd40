"""AttnGAN: images of rising sizes, each refined by attention over the caption's words. AttnDCGAN generates only the last size.

Source: AttnGAN (Xu et al., arXiv:1711.10485), section 3.1, equations 1-3, and its supplement for AttnDCGAN; the conditioning
augmentation is StackGAN's (Zhang et al., arXiv:1612.03242, section 3.2). The paper does not give the layers; they follow the released
program: gated linear units, a residual block without an activation after its sum, no attention to padding.

What the released program does differently: if captions of a batch differ in length, it masks words with the padding of another caption.
Place q of caption b, as row b N + q of N places, takes the mask of caption (b N + q) mod B. `variant="released"` does the same.

Not in the release: first sides other than 64, and a `margin` that is cut off, for canvases of other sides.

Shapes: B batch, L words, E text features, D width (the paper's D^), N places of a map (H W), A side, C colours, Z noise, K condition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cap2im.models.attngan_text import TextEncoder, WordConditioningConfig
from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.models.text import EncodedText

SEED_SIDE = 4  # of the first map
LARGE_SIDE = 32  # of the smallest map for which an upsampling block sums its kernel
PLACES_AT_ONCE = 256**2  # of the last maps that a CPU refines together; it is slower with larger tensors


class AttnGANConfig(WordConditioningConfig):
    """The sizes of a generator and its text encoder (`text`). The defaults are the release's for COCO."""

    architecture: Literal["attngan", "attndcgan"] = Field("attngan", description='"attndcgan" generates only the last size')
    variant: Literal["paper", "released"] = Field("paper", description='"released" masks words and averages weights as the release does')
    condition: int = Field(100, ge=1, description="K, width of the conditioning augmentation")
    noise: int = Field(100, ge=1, description="Z, width of the noise")
    width: int = Field(48, ge=1, description="D, feature maps of the generator")
    residuals: int = Field(3, ge=0, description="residual blocks of an attention stage; AttnDCGAN has none")
    branches: int = Field(3, ge=1, le=4, description="number of sizes; each has twice the side of the one before")
    first_side: int = Field(64, ge=16, le=512, description="pixels a side of the first size; a power of two")
    colours: Literal[1, 3] = Field(3, description="1 is grey, 3 is RGB")
    margin: int = Field(0, ge=0, description="pixels around the canvas that are cut off, for sides that are not a power of two")

    @model_validator(mode="after")
    def _fits(self) -> AttnGANConfig:
        if self.first_side & (self.first_side - 1):
            raise ValueError(f"first_side {self.first_side} is not a power of two")
        if self.margin % 2 ** (self.branches - 1):
            raise ValueError(f"margin {self.margin} does not shrink to whole pixels of the first of {self.branches} sizes")
        if 2 * self.margin >= self.stage_sides[-1]:
            raise ValueError(f"margin {self.margin} leaves nothing of {self.stage_sides[-1]} pixels")
        return self

    @property
    def stage_sides(self) -> tuple[int, ...]:
        """A of every stage, small to large, margins included."""
        return tuple(self.first_side * 2**stage for stage in range(self.branches))

    @property
    def shown_stages(self) -> tuple[int, ...]:
        """The stages that generate images."""
        return tuple(range(self.branches)) if self.architecture == "attngan" else (self.branches - 1,)

    @property
    def side(self) -> int:
        """A, pixels of the square canvas."""
        return self.stage_sides[-1] - 2 * self.margin

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(1, Z + K) of one image's noise: Z numbers for the first stage, then K for the conditioning augmentation."""
        return 1, self.noise + self.condition


@dataclass(frozen=True)
class GeneratorOutput:
    """The output of a generator.

    Attributes:
        images: [B, C, A, A] in -1..1 of each shown stage, small to large, margins included.
        maps: [B, L, H, W] word attention of each attention stage.
        mean: [B, K] of the conditioning augmentation's Gaussian.
        log_variance: [B, K] of the same Gaussian.
    """

    images: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    mean: Tensor
    log_variance: Tensor


def glu(units: Tensor) -> Tensor:
    """Gated linear unit: the first half of the channels, axis 1, times the sigmoid of the second.

    The backward pass of `F.glu` is slow with channels last.
    """
    if not torch.is_grad_enabled():
        return F.glu(units, dim=1)
    values, gates = units.chunk(2, dim=1)
    return values * gates.sigmoid()


def fold_batch_norm(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of a convolution followed by batch normalisation in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


class ConditioningAugmentation(nn.Module):
    """F_ca: samples a condition from a Gaussian around the sentence vector (StackGAN, section 3.2)."""

    def __init__(self, features: int, condition: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 4 * condition)

    def forward(self, sentences: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return condition, mean and log variance [B, K] each, of sentence vectors [B, E] and standard normal noise [B, K]."""
        mean, log_variance = glu(self.linear(sentences)).chunk(2, dim=1)
        return mean + (log_variance / 2).exp() * noise, mean, log_variance


class UpBlock(nn.Module):
    """Nearest-neighbour upsampling to twice the side, 3x3 convolution, batch normalisation, gated linear unit.

    For large maps the first two are one transposed convolution: each output pixel depends on 2 x 2 inputs, by sums of the kernel's entries,
    with 16 multiplications in place of 36. For small maps, summing the kernel would take longer than it saves.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, 2 * outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, D', 2H, 2W] of maps [B, D, H, W]."""
        kernel, bias = (self.convolution.weight, None) if self.training else fold_batch_norm(self.convolution, self.norm)
        if maps.shape[-1] < LARGE_SIDE:
            outputs = F.conv2d(F.interpolate(maps, scale_factor=2.0, mode="nearest"), kernel, bias, padding=1)
        else:
            kernel = F.pad(kernel, (1, 1, 1, 1))  # [2D', D, 5, 5]
            kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
            kernel = kernel[..., 1:] + kernel[..., :-1]  # [2D', D, 4, 4]
            kernel = kernel.flip(2, 3).transpose(0, 1)  # [D, 2D', 4, 4]
            outputs = F.conv_transpose2d(maps, kernel, bias, stride=2, padding=1)  # [B, 2D', 2H, 2W]
        return glu(self.norm(outputs) if self.training else outputs)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, a gated linear unit between them, and their input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, D, H, W] of maps of the same shape."""
        if self.training:
            inside = glu(self.first_norm(self.first(maps)))
            return maps + self.second_norm(self.second(inside))
        inside = glu(F.conv2d(maps, *fold_batch_norm(self.first, self.first_norm), padding=1))
        return maps + F.conv2d(inside, *fold_batch_norm(self.second, self.second_norm), padding=1)


class WordAttention(nn.Module):
    """F_attn, equation 2: attention of every place of a map over the words."""

    def __init__(self, features: int, width: int, variant: Literal["paper", "released"]) -> None:
        super().__init__()
        self.variant = variant
        self.words = nn.Linear(features, width, bias=False)  # U

    def forward(self, maps: Tensor, text: EncodedText) -> tuple[Tensor, Tensor]:
        """Return the word context [B, D, H, W] and the word weights [B, L, H, W] at each place of maps [B, D, H, W]."""
        batch, _, height, width = maps.shape
        places = maps.permute(0, 2, 3, 1).flatten(1, 2)  # [B, N, D]
        words = self.words(text.words)  # [B, L, D]
        scores = places @ words.transpose(1, 2)  # [B, N, L]
        weights = scores.masked_fill(~self._mask(text.mask, height * width), float("-inf")).softmax(dim=2)
        context = (weights.to(words.dtype) @ words).view(batch, height, width, -1)
        return context.permute(0, 3, 1, 2), weights.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _mask(self, mask: Tensor, places: int) -> Tensor:
        """Return [B, 1 or N, L] true for the words that a place may attend to, of mask [B, L]."""
        mask = mask | ~mask.any(dim=1, keepdim=True)  # without words, attend to padding, which is zero: a softmax over nothing is NaN
        if self.variant == "paper":
            return mask.unsqueeze(1)
        rows = torch.arange(len(mask) * places, device=mask.device).view(len(mask), places) % len(mask)  # [B, N]
        return mask[rows]


class FirstStage(nn.Module):
    """F_0: from noise and condition to the first map."""

    def __init__(self, config: AttnGANConfig) -> None:
        super().__init__()
        doublings = int(math.log2(config.first_side // SEED_SIDE))
        self.channels = config.width * 2**doublings
        units = 2 * self.channels * SEED_SIDE**2
        self.linear = nn.Linear(config.condition + config.noise, units, bias=False)
        self.norm = nn.BatchNorm1d(units)
        self.ups = nn.Sequential(*(UpBlock(self.channels // 2**k, self.channels // 2 ** (k + 1)) for k in range(doublings)))

    def forward(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Return maps [B, D, A, A] of condition [B, K] and noise [B, Z]."""
        seed = glu(self.norm(self.linear(torch.cat([condition, noise], dim=1)))).view(-1, self.channels, SEED_SIDE, SEED_SIDE)
        return self.ups(seed.contiguous(memory_format=torch.channels_last))  # all later maps keep it; convolutions are much faster


class AttentionStage(nn.Module):
    """F_i, i > 0: from the map before and the words to a map of twice the side."""

    def __init__(self, config: AttnGANConfig) -> None:
        super().__init__()
        self.attention = WordAttention(config.text.features, config.width, config.variant)
        self.residuals = nn.Sequential(*(ResidualBlock(2 * config.width) for _ in range(config.residuals)))
        self.up = UpBlock(2 * config.width, config.width)

    def forward(self, maps: Tensor, text: EncodedText) -> tuple[Tensor, Tensor]:
        """Return maps [B, D, 2H, 2W] and the word weights [B, L, H, W], of maps [B, D, H, W]."""
        context, weights = self.attention(maps, text)
        return self.up(self.residuals(torch.cat([maps, context], dim=1))), weights


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisation as they are."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    counters = {name: value for name, value in network.named_buffers() if name.endswith("num_batches_tracked")}
    before = {name: value.clone() for name, value in counters.items()}
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for name, value in counters.items():
            value.copy_(before[name])


def _first_and_again(network: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), frozen_statistics(network)


class Generator(nn.Module):
    """G: all stages, conditioned on encoded captions."""

    recompute = False  # whether training recomputes activations of the attention stages in the backward pass

    def __init__(self, config: AttnGANConfig) -> None:
        super().__init__()
        self.config = config
        self.augmentation = ConditioningAugmentation(config.text.features, config.condition)
        self.first = FirstStage(config)
        self.stages = nn.ModuleList(AttentionStage(config) for _ in range(config.branches - 1))
        self.pictures = nn.ModuleList(nn.Conv2d(config.width, config.colours, 3, padding=1, bias=False) for _ in config.shown_stages)

    def forward(self, text: EncodedText, noise: Tensor) -> GeneratorOutput:
        """Generate images of encoded captions from standard normal noise [B, 1, Z + K]."""
        c = self.config
        latent, of_condition = noise[:, 0].split([c.noise, c.condition], dim=1)
        condition, mean, log_variance = self.augmentation(text.sentence, of_condition)
        first = self.first(condition, latent)
        parts = [self._refined(first[rows], text[rows]) for rows in self._shares(first)]
        images, weights = (tuple(torch.cat(shares) for shares in zip(*sizes, strict=True)) for sizes in zip(*parts, strict=True))
        return GeneratorOutput(images, weights, mean, log_variance)

    def _refined(self, maps: Tensor, text: EncodedText) -> tuple[list[Tensor], list[Tensor]]:
        """Return images and word weights of all stages, of the first one's maps [B, D, A, A]."""
        hidden, weights = [maps], []
        for stage in self.stages:
            if self.recompute and torch.is_grad_enabled():
                maps, read = checkpoint(
                    stage, hidden[-1], text, use_reentrant=False, preserve_rng_state=False, context_fn=partial(_first_and_again, stage)
                )
            else:
                maps, read = stage(hidden[-1], text)
            hidden.append(maps)
            weights.append(read)
        images = [picture(hidden[stage]).tanh() for stage, picture in zip(self.config.shown_stages, self.pictures, strict=True)]
        return images, weights

    def _shares(self, maps: Tensor) -> list[slice]:
        """Return the rows that are refined together: all, or a few at a time where that is faster and the rows are independent."""
        exporting = torch.compiler.is_exporting()  # the number of rows is then not known
        if self.training or self.config.variant == "released" or maps.device.type != "cpu" or exporting:
            return [slice(None)]
        share = max(1, PLACES_AT_ONCE // self.config.stage_sides[-1] ** 2)
        return [slice(start, start + share) for start in range(0, len(maps), share)]


class AttnGAN(DrawingModel):
    """A generator and the text encoder that it was trained with."""

    config: AttnGANConfig

    def __init__(self, config: AttnGANConfig) -> None:
        super().__init__()
        self.config = config
        self.text = TextEncoder(config.text)
        self.generator = Generator(config)

    @property
    def glimpses(self) -> int:
        """Number of shown stages."""
        return len(self.config.shown_stages)

    def encode(self, tokens: Tensor, mask: Tensor, vectors: Tensor | None = None, *, independent: bool = False) -> EncodedText:
        """Encode captions, independently of each other."""
        return self.text(tokens, mask)

    def generate(self, text: EncodedText, noise: Tensor) -> GeneratorOutput:
        """Return the generator's whole output."""
        return self.generator(text, noise)

    def sample(self, text: EncodedText | None, noise: Tensor) -> DrawnSequence:
        """Generate images of every size; `canvases` holds all of them enlarged to the last side.

        `words` holds for each canvas the mean word weights over all places. The first stage does not attend, and has equal weights.
        """
        assert text is not None
        output, c = self.generate(text, noise), self.config
        stages = tuple(
            crop_margin((images + 1) / 2, c.stage_sides[stage], c) for stage, images in zip(c.shown_stages, output.images, strict=True)
        )
        maps = tuple(crop_margin(weights, weights.shape[-1], c) for weights in output.maps)
        canvases = torch.stack([F.interpolate(images, size=(c.side, c.side), mode="nearest") for images in stages], dim=1)
        equal = text.mask.to(text.words.dtype) / text.mask.sum(dim=1, keepdim=True).clamp_min(1)  # [B, L]
        words = torch.stack([equal, *(weights.mean(dim=(2, 3)) for weights in maps)], dim=1)  # [B, stages, L]
        return DrawnSequence(canvases, words[:, list(c.shown_stages)], logits=False, stages=stages, maps=maps)

    def sample_images(self, text: EncodedText | None, noise: Tensor) -> Tensor:
        """Return the last canvas of `sample`."""
        assert text is not None
        return crop_margin((self.generate(text, noise).images[-1] + 1) / 2, self.config.stage_sides[-1], self.config)


def crop_margin(planes: Tensor, side: int, config: AttnGANConfig) -> Tensor:
    """Return planes [B, ., A, A] of a stage of side A without their margin."""
    margin = config.margin * side // config.stage_sides[-1]
    return planes[..., margin : side - margin, margin : side - margin]


def conditioning_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the KL of the conditioning augmentation's Gaussian to a standard normal, in nats.

    It is the mean over batch and K, as in the release; StackGAN's equation 2 sums over K.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
