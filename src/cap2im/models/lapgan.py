"""LAPGAN on a pyramid of two levels, conditioned on captions; and the sharpener, its fine level applied to blurry images.

Source: LAPGAN (Denton et al., arXiv:1506.05751), sections 2.2-3 and its configuration for CIFAR; alignDRAW (arXiv:1511.02793), sections 3.4
and 4.1.3, appendix C and figure 7; the sharpening network's sizes are those of mansimov/text2image, coco/sharpen.py.

Not in the papers: noise is normal as for every model here, not uniform (sharpening fixes it to its mean, zero in both); the coarse
generator ends in a sigmoid; and a network may encode words by its own language model ("mean") instead of taking sentence vectors.

Shapes: B batch, L words, S sentence vector, Z noise, A image side (H = W), C colours, F feature maps.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im.models.interface import DrawingModel, DrawnSequence
from cap2im.models.text import BidirectionalLanguageModel, EncodedText, sentences_as_text

# The pyramid (LAPGAN, section 2.2)


def downsample(images: Tensor) -> Tensor:
    """d: blur images [B, C, A, A] and halve their side: [B, C, A // 2, A // 2]."""
    half = images.shape[-1] // 2
    return F.interpolate(images, size=(half, half), mode="bilinear", antialias=True, align_corners=False)


def upsample(images: Tensor, side: int) -> Tensor:
    """u: enlarge images smoothly to [B, C, A, A], A being `side`."""
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def blur(images: Tensor) -> Tensor:
    """u(d(I)): remove the residual from images [B, C, A, A], and keep what the coarse level represents."""
    return upsample(downsample(images), images.shape[-1])


def level_target(images: Tensor, level: str) -> Tensor:
    """Return the target of a level for images [B, C, A, A]: d(I) for "coarse"; I, blurred image plus residual, for "fine"."""
    return downsample(images) if level == "coarse" else images


# The networks


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("kernel sides must be odd, to keep the side of the image")
    return kernel


Kernel = Annotated[int, Field(ge=1), AfterValidator(_odd)]
Width = Annotated[int, Field(ge=1)]


def _pair(widths: object) -> object:
    """Return one number twice, and a list, which strict validation refuses here, as a tuple."""
    if isinstance(widths, int):
        return widths, widths
    return tuple(widths) if isinstance(widths, list) else widths


Widths = Annotated[tuple[Width, Width], BeforeValidator(_pair)]


class SentenceConditioningConfig(BaseModel):
    """How captions condition a network. The defaults are the paper's, with combine-skip's skip-thought vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    conditioning: Literal["sentence", "mean"] = Field(
        "sentence",
        description='how captions enter: "sentence" by a given vector, "mean" by the mean state of a language model',
    )
    sentence_features: int = Field(4800, ge=1, description="width of the sentence vector; 4,800 of combine-skip")
    vocabulary_size: int = Field(22, ge=1, description="number of words; a prepared dataset decides it")
    language_units: int = Field(128, ge=1, description="LSTM units of one direction of the language model")
    normalised: bool = Field(
        False,
        description='scale each caption\'s "mean" to mean 0 and deviation 1; otherwise captions differ far less than the noise does',
    )

    @property
    def reads_words(self) -> bool:
        """Whether captions enter as words, through the language model."""
        return self.conditioning == "mean"

    @property
    def text_features(self) -> int:
        """S, width of the encoded caption."""
        return 2 * self.language_units if self.reads_words else self.sentence_features


class TextConditioned(nn.Module):
    """A network conditioned on captions. It has its own language model if they enter as words."""

    def __init__(self, config: SentenceConditioningConfig) -> None:
        super().__init__()
        self.normalised = config.normalised
        if config.reads_words:
            self.language = BidirectionalLanguageModel(config.vocabulary_size, config.language_units)

    def encode(self, tokens: Tensor, mask: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Encode captions as sentence vectors [B, S].

        Args:
            tokens: [B, L] word numbers.
            mask: [B, L] true for words.
            vectors: [B, S] for conditioning "sentence", which are returned as they are.
        """
        if not hasattr(self, "language"):
            assert vectors is not None
            return vectors
        sentence: Tensor = self.language(tokens, mask).sentence
        return F.layer_norm(sentence, sentence.shape[1:]) if self.normalised else sentence


class SharpenerConfig(SentenceConditioningConfig):
    """The sizes of the fine generator. The defaults are the release's for COCO."""

    side: int = Field(32, ge=4, le=1024, description="pixels of the square image")
    colours: Literal[1, 3] = Field(3, description="1 is grey, 3 is RGB")
    features: Widths = Field((128, 128), description="F, maps of each hidden convolution; one number stands for both")
    kernels: tuple[Kernel, Kernel, Kernel] = Field((7, 7, 5), description="sides of the three convolutions; odd")

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(A, A) of one image's plane of noise."""
        return self.side, self.side


class Sharpener(TextConditioned):
    """The fine generator: three convolutions from a blurry image to its residual.

    Their input planes are noise, the rectified linear map of the sentence vector, and the image's colours.
    """

    def __init__(self, config: SharpenerConfig) -> None:
        super().__init__(config)
        self.config = c = config
        self.sentence = nn.Linear(c.text_features, c.side**2)
        channels = (2 + c.colours, *c.features, c.colours)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            for inputs, outputs, kernel in zip(channels, channels[1:], c.kernels, strict=False)
        )

    def forward(self, images: Tensor, sentences: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the residual [B, C, A, A], to be added to the blurry images.

        Args:
            images: [B, C, A, A] in 0..1.
            sentences: [B, S], as `encode` returns them.
            noise: [B, 1, A, A]; None for its mean, zero.
        """
        side = self.config.side
        plane = self.sentence(sentences).relu().view(-1, 1, side, side)
        planes = torch.cat([torch.zeros_like(plane) if noise is None else noise, plane, images], dim=1)  # [B, 2 + C, A, A]
        first, second, last = self.convolutions
        return last(F.relu(second(F.relu(first(planes)))))  # [B, F, A, A] twice, then [B, C, A, A]

    def sharpen(self, images: Tensor, sentences: Tensor) -> Tensor:
        """Return sharpened images [B, C, A, A] in 0..1, without noise."""
        return (images + self(images, sentences)).clamp(0, 1)


class LAPGANConfig(SentenceConditioningConfig):
    """The sizes of the two generators. The defaults are LAPGAN's for CIFAR and the release's for COCO."""

    side: int = Field(32, ge=4, le=1024, multiple_of=2, description="pixels of the square image; the coarse image has half")
    colours: Literal[1, 3] = Field(3, description="1 is grey, 3 is RGB")
    noise: int = Field(100, ge=1, description="Z of the coarse generator; the fine one has a plane of noise")
    generator_units: int = Field(1200, ge=1, description="units of the coarse generator's two hidden layers")
    features: Widths = Field((128, 128), description="F, maps of the fine generator's hidden convolutions; one number stands for both")
    kernels: tuple[Kernel, Kernel, Kernel] = Field((7, 7, 5), description="sides of the fine generator's three convolutions; odd")

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(1, Z + A*A) of one image's noise: Z numbers for the coarse generator, then the plane of the fine one."""
        return 1, self.noise + self.side**2

    @property
    def fine(self) -> SharpenerConfig:
        """The sizes of the fine generator."""
        return SharpenerConfig(**{name: getattr(self, name) for name in SharpenerConfig.model_fields})


class CoarseGenerator(TextConditioned):
    """A fully connected network from noise and sentence vector to the small image."""

    def __init__(self, config: LAPGANConfig) -> None:
        super().__init__(config)
        self.config = c = config
        self.layers = nn.Sequential(
            nn.Linear(c.noise + c.text_features, c.generator_units),
            nn.ReLU(),
            nn.Linear(c.generator_units, c.generator_units),
            nn.ReLU(),
            nn.Linear(c.generator_units, c.colours * (c.side // 2) ** 2),
            nn.Sigmoid(),
        )

    def forward(self, sentences: Tensor, noise: Tensor) -> Tensor:
        """Return small images [B, C, A/2, A/2] in 0..1 of sentences [B, S] and noise [B, Z]."""
        half = self.config.side // 2
        return self.layers(torch.cat([noise, sentences], dim=1)).view(-1, self.config.colours, half, half)


class CoarseDiscriminator(TextConditioned):
    """A fully connected network from small image and sentence vector to a logit."""

    def __init__(self, config: LAPGANConfig, units: int, dropout: float) -> None:
        super().__init__(config)
        self.layers = nn.Sequential(
            nn.Linear(config.colours * (config.side // 2) ** 2 + config.text_features, units),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(units, 1),
        )

    def forward(self, images: Tensor, sentences: Tensor) -> Tensor:
        """Return logits [B] that small images [B, C, A/2, A/2] are real."""
        return self.layers(torch.cat([images.flatten(1), sentences], dim=1)).squeeze(1)


class FineDiscriminator(TextConditioned):
    """Two convolutions over the image (blurred image + residual) and a plane made of the sentence vector, and a linear layer to a logit."""

    def __init__(self, config: LAPGANConfig | SharpenerConfig, features: int, dropout: float) -> None:
        super().__init__(config)
        self.side = config.side
        self.sentence = nn.Linear(config.text_features, config.side**2)
        self.layers = nn.Sequential(
            nn.Conv2d(config.colours + 1, features, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(features, features, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(features * ((config.side + 1) // 2) ** 2, 1),
        )

    def forward(self, images: Tensor, sentences: Tensor) -> Tensor:
        """Return logits [B] that images [B, C, A, A] are real."""
        plane = self.sentence(sentences).relu().view(-1, 1, self.side, self.side)
        return self.layers(torch.cat([images, plane], dim=1)).squeeze(1)


class LAPGAN(DrawingModel):
    """The coarse and the fine generator. The fine one is trained on blurred real images."""

    config: LAPGANConfig

    def __init__(self, config: LAPGANConfig) -> None:
        super().__init__()
        self.config = config
        self.coarse = CoarseGenerator(config)
        self.fine = Sharpener(config.fine)

    @property
    def glimpses(self) -> int:
        """2: the coarse image and the finished one."""
        return 2

    def encode(self, tokens: Tensor, mask: Tensor, vectors: Tensor | None = None, *, independent: bool = False) -> EncodedText:
        """Encode captions for both generators, side by side in `sentence` [B, 2S]."""
        return sentences_as_text(torch.cat([stage.encode(tokens, mask, vectors) for stage in (self.coarse, self.fine)], dim=1))

    def split_noise(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Split noise [B, 1, Z + A*A] into that of the coarse generator [B, Z] and the plane of the fine one [B, 1, A, A]."""
        c = self.config
        coarse, plane = noise[:, 0].split([c.noise, c.side**2], dim=1)
        return coarse, plane.reshape(-1, 1, c.side, c.side)

    def sample(self, text: EncodedText | None, noise: Tensor) -> DrawnSequence:
        """Draw the coarse image, enlarged, and then the finished one."""
        assert text is not None
        sentences = text.sentence.chunk(2, dim=1)
        coarse_noise, plane = self.split_noise(noise)
        rough = upsample(self.coarse(sentences[0], coarse_noise), self.config.side)
        finished = (rough + self.fine(rough, sentences[1], plane)).clamp(0, 1)
        return DrawnSequence(canvases=torch.stack([rough, finished], dim=1), logits=False)


# The losses (Goodfellow et al., arXiv:1406.2661), of logits [B] of any discriminator, in nats


def discriminator_loss(real: Tensor, fake: Tensor, mismatched: Tensor | None = None, *, mismatch_weight: float = 0.0) -> Tensor:
    """Return -log D(real) - log(1 - D(fake)), the mean over a batch.

    Logits of real images with mismatched captions (Reed et al., arXiv:1605.05396) add -log(1 - D(mismatched)) times `mismatch_weight`.
    """
    loss = F.softplus(-real).mean() + F.softplus(fake).mean()
    return loss if mismatched is None else loss + mismatch_weight * F.softplus(mismatched).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Return -log D(fake), the mean over a batch, which does not saturate as log(1 - D(fake)) does."""
    return F.softplus(-fake).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return R1 (Mescheder et al., arXiv:1801.04406, equation 9) without its factor.

    It is the squared norm of the gradient of logits [B] with respect to real images [B, C, A, A], the mean over a batch.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(dim=1).mean()
