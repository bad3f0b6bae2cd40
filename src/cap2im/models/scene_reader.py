"""The scene reader: a small convolutional network that predicts which visual words the captions of a photograph hold.

It is made for `cap2im.metrics.scene_accuracy`; neither paper has one.

Shapes: B images, C colours, A side, W words, F feature maps.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 32
MEAN, DEVIATION = 0.45, 0.27  # of the pixels of photographs
WORDS = (  # chosen on Flickr8k's validation images, see docs/explanation/photographs.md
    ("grass", "grassy", "lawn"),
    ("field",),
    ("snow", "snowy", "snowboard", "snowboarder", "snowboarding", "skier"),
    ("beach", "sand", "sandy", "shore", "shoreline"),
    ("water", "ocean", "sea", "lake", "pool", "river", "pond", "wave", "waves", "surf", "stream"),
    ("mountain", "mountains", "mountainous"),
    ("forest", "woods", "wooded"),
    ("tree", "trees"),
    ("rock", "rocks", "rocky", "cliff"),
    ("dirt", "mud", "muddy"),
    ("street", "road", "sidewalk", "city"),
    ("indoors", "indoor", "inside", "room", "floor", "couch", "bed", "kitchen", "table"),
    ("night", "nighttime", "dark"),
    ("dog", "dogs", "puppy", "puppies"),
    ("people", "crowd"),
    ("bicycle", "bicycles", "bike", "bikes", "biker"),
    ("skateboard", "skateboarder", "skateboarding"),
    ("football", "soccer", "basketball", "baseball"),
    ("red",),
    ("blue",),
    ("green",),
    ("pink",),
    ("brown",),
    ("tan", "beige"),
)


class SceneReaderConfig(BaseModel):
    """The words and the sizes of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[tuple[str, ...], ...] = Field(
        WORDS, description="visual words; each is listed with other forms and near synonyms, which count as the first"
    )
    channels: int = Field(32, ge=1, le=256, description="feature maps of the first stage; the later ones have two and four times as many")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the linear layer")

    @model_validator(mode="after")
    def _check_words(self) -> Self:
        if wrong := [form for forms in self.words for form in forms or ("",) if not (form.isalnum() and form == form.lower())]:
            raise ValueError(f"words: {wrong[0]!r} is not a word of lower-case letters")
        listed = [form for forms in self.words for form in forms]
        if twice := [form for form in dict.fromkeys(listed) if listed.count(form) > 1]:
            raise ValueError(f"words: {twice[0]!r} is listed twice")
        if len(self.words) < 2:
            raise ValueError("words: at least 2 are needed")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The W words."""
        return tuple(forms[0] for forms in self.words)


class SceneReader(nn.Module):
    """Six 3 x 3 convolutions with batch normalisation in three stages, pooled, and a linear layer.

    The last planes are averaged in each quarter of the image, and their highest value is taken: scenery fills quarters, things do not.
    """

    log_odds: Tensor

    def __init__(self, config: SceneReaderConfig) -> None:
        super().__init__()
        self.config = config
        f = config.channels
        self.features = nn.Sequential(
            *_stage(3, f),
            nn.MaxPool2d(2),  # [B, F, A/2, A/2]
            *_stage(f, 2 * f),
            nn.MaxPool2d(2),  # [B, 2F, A/4, A/4]
            *_stage(2 * f, 4 * f),
        )
        self.classify = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(5 * 4 * f, len(config.words)))
        self.register_buffer("log_odds", torch.zeros(len(config.words)))  # [W] of the words among the training images

    def forward(self, images: Tensor) -> Tensor:
        """Return the log odds [B, W] that captions hold each word, of images [B, 1 or 3, A, A] in 0..1 of any side."""
        images = images.expand(-1, 3, -1, -1)
        if images.shape[-1] != SIDE:
            images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        planes = self.features(((images - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last))  # [B, 4F, 8, 8]
        quarters, highest = F.adaptive_avg_pool2d(planes, 2).flatten(1), planes.amax(dim=(2, 3))  # [B, 16F], [B, 4F]
        return self.classify(torch.cat([quarters, highest], dim=1))

    def evidence(self, images: Tensor) -> Tensor:
        """Return by how much each image raises the log odds of each word above those among all training images: [B, W].

        Frequent words have no advantage: without information all evidence is 0. The log odds are means over an image and its mirror image.
        """
        return (self(images) + self(images.flip(3))) / 2 - self.log_odds


def _stage(inputs: int, outputs: int) -> list[nn.Module]:
    """Return two convolutions."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return layers
