"""The variational autoencoders that alignDRAW was compared with: fully connected, and convolutional with a deconvolutional decoder.

Source: alignDRAW (arXiv:1511.02793), section 4.1.3 and table 1; VAE (Kingma & Welling, arXiv:1312.6114), equations 7-10 and appendix C.2.

The paper names the least squares cost and no sizes, and the authors released no code. Chosen here: the sentence vector is concatenated to
the image's features in the encoder and to z in the decoder; the prior is N(0, I), so that only the decoder is conditioned when it samples;
least squares is a Gaussian of one fixed deviation around pixel means in 0..1.

Shapes: B batch, D features, Z latent, S sentence vector, M feature maps, A canvas side (H = W), C colours. One glimpse, T = 1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im.models.interface import Bound, DrawnSequence, Gaussian, LikelihoodModel, standard_normal
from cap2im.models.text import BidirectionalLanguageModel, EncodedText


class VAEConfig(BaseModel):
    """The sizes of the network. The paper names none; the defaults are for MNIST with captions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    architecture: Literal["fully-connected", "convolutional"] = Field("convolutional", description="architecture of encoder and decoder")
    conditioning: Literal["sentence", "mean", "none"] = Field(
        "mean",
        description='how captions enter: "sentence" by a given vector, "mean" by the mean state of a language model, "none" not at all',
    )
    sentence_features: int = Field(4800, ge=1, description="width of the sentence vector; 4,800 of combine-skip")
    side: int = Field(60, ge=4, le=1024, description='pixels of the square canvas; "convolutional" needs a multiple of 4')
    colours: Literal[1, 3] = Field(1, description="1 is grey, 3 is RGB")
    hidden: int = Field(512, ge=1, description="D, width of the fully connected layers")
    maps: int = Field(32, ge=1, description="M of the outer convolutions; the inner ones have twice as many")
    latent: int = Field(64, ge=1, description="Z, dimension of the latent")
    deviation: float = Field(0.3, gt=0, description="standard deviation of a pixel around its mean, in 0..1; see `VAE`")
    blank: float = Field(0.0, description="logit at which the canvas starts; -3 is nearly black")
    vocabulary_size: int = Field(22, ge=1, description="number of words; a prepared dataset decides it")
    language_units: int = Field(128, ge=1, description="LSTM units of one direction of the language model")
    language_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the words' features")
    language_forgetting: float = Field(0.0, ge=0, lt=1, description="probability that each direction restarts at a word, in training")

    @model_validator(mode="after")
    def _halves_twice(self) -> VAEConfig:
        if self.architecture == "convolutional" and self.side % 4:
            raise ValueError(f"side {self.side} is not a multiple of 4, which architecture convolutional needs")
        return self

    @property
    def reads_words(self) -> bool:
        """Whether captions enter as words, through the language model."""
        return self.conditioning == "mean"

    @property
    def text_features(self) -> int:
        """S, width of the encoded caption."""
        return {"mean": 2 * self.language_units, "sentence": self.sentence_features, "none": 0}[self.conditioning]

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(1, Z) of one image's noise."""
        return 1, self.latent


def fully_connected(c: VAEConfig) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the layers from images [B, C, A, A] to features [B, D], and from features [B, D] to canvases."""
    pixels = c.colours * c.side**2
    return (
        nn.Sequential(nn.Flatten(), nn.Linear(pixels, c.hidden), nn.ReLU()),
        nn.Sequential(nn.Linear(c.hidden, c.hidden), nn.ReLU(), nn.Linear(c.hidden, pixels), nn.Unflatten(1, (c.colours, c.side, c.side))),
    )


def convolutional(c: VAEConfig) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the layers from images [B, C, A, A] to features [B, 2M A/4 A/4], and from features [B, D] to canvases.

    Each halves or doubles the side twice. A kernel of 4 at a stride of 2 covers every pixel equally often.
    """
    maps, quarter = c.maps, c.side // 4
    return (
        nn.Sequential(
            nn.Conv2d(c.colours, maps, 4, 2, 1),  # [B, M, A/2, A/2]
            nn.ReLU(),
            nn.Conv2d(maps, 2 * maps, 4, 2, 1),  # [B, 2M, A/4, A/4]
            nn.ReLU(),
            nn.Flatten(),
        ),
        nn.Sequential(
            nn.Linear(c.hidden, 2 * maps * quarter**2),
            nn.ReLU(),
            nn.Unflatten(1, (2 * maps, quarter, quarter)),
            nn.ConvTranspose2d(2 * maps, maps, 4, 2, 1),  # [B, M, A/2, A/2]
            nn.ReLU(),
            nn.ConvTranspose2d(maps, c.colours, 4, 2, 1),  # [B, C, A, A]
        ),
    )


class VAE(LikelihoodModel):
    """A variational autoencoder of images given a sentence vector.

    The deviation of a pixel weighs reconstruction against the KL: the cost is the squared error plus 2 deviation^2 KL. If it is large, the
    posterior collapses and every sample is its caption's mean image. If it is small, the latents carry what the caption says, and samples
    from the prior follow the caption less.
    """

    config: VAEConfig

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = c = config
        if c.reads_words:
            self.language = BidirectionalLanguageModel(
                c.vocabulary_size, c.language_units, dropout=c.language_dropout, forgetting=c.language_forgetting
            )
        self.features, self.canvas = (fully_connected if c.architecture == "fully-connected" else convolutional)(c)
        width = c.hidden if c.architecture == "fully-connected" else 2 * c.maps * (c.side // 4) ** 2
        self.inference = nn.Linear(width + c.text_features, c.hidden)
        self.posterior = nn.Linear(c.hidden, 2 * c.latent)  # mean and log sigma^2 side by side
        self.generative = nn.Linear(c.latent + c.text_features, c.hidden)
        self.start_canvas = nn.Parameter(torch.full((1, c.colours, c.side, c.side), c.blank))

    @property
    def observation(self) -> str:
        """Least squares: each pixel is a Gaussian of one deviation around its mean."""
        return f"gaussian, deviation {self.config.deviation:g}"

    def infer(self, images: Tensor, text: EncodedText | None) -> Gaussian:
        """Return the posterior of z, [B, Z]."""
        features = self.inference(with_sentence(self.features(images), text)).relu()  # [B, D]
        mean, log_variance = self.posterior(features).to(images.dtype).chunk(2, dim=1)
        return Gaussian(mean, 0.5 * log_variance)

    def generate(self, latent: Tensor, text: EncodedText | None) -> Tensor:
        """Return the canvas [B, C, A, A] before the sigmoid, of z [B, Z]."""
        return self.start_canvas + self.canvas(self.generative(with_sentence(latent, text)).relu()).to(latent.dtype)

    def bound(self, images: Tensor, text: EncodedText | None, noise: Tensor) -> Bound:
        """Return the lower bound of each image from one posterior sample (VAE, eq. 7)."""
        posterior = self.infer(images, text)
        means = self.generate(posterior.sample(noise.squeeze(1)), text).sigmoid()
        deviation = self.config.deviation
        constant = math.log(deviation) + 0.5 * math.log(2 * math.pi)
        reconstruction = 0.5 * ((images - means) / deviation).square() + constant  # [B, C, A, A]
        prior = standard_normal(posterior.mean, self.config.latent)
        kl = posterior.kl(prior)  # [B]
        log_ratio = None if torch.is_grad_enabled() else posterior.log_ratio(prior, noise.squeeze(1))
        return Bound(reconstruction.flatten(1).sum(dim=1), kl.unsqueeze(1), log_ratio, means.detach())

    def sample(self, text: EncodedText | None, noise: Tensor) -> DrawnSequence:
        """Draw from the prior; noise is [B, 1, Z] standard normal."""
        return DrawnSequence(self.generate(noise.squeeze(1), text).unsqueeze(1))


def with_sentence(features: Tensor, text: EncodedText | None) -> Tensor:
    """Concatenate the sentence vector to features [B, D]: [B, D + S].

    The vector is scaled to a root mean square of 1, as z has. Otherwise z would dominate a mean of word states or a skip-thought vector of
    unit length, and training would ignore captions for long.
    """
    if text is None:
        return features
    sentence = F.normalize(text.sentence.to(features.dtype), dim=1) * text.sentence.shape[1] ** 0.5
    return torch.cat([features, sentence], dim=1)
