"""The neural distance of pictures and their captions, after a fork of AttnGAN (shaivaldalal/AttnGAN, after HDGAN, arXiv:1802.09178).

Two linear layers project the features of a picture and of its caption into one space; the distance is their cosine, higher is better. The
fork never published its layers. Here the features are those of FID and of a DAMSM, and the layers are trained on pairs of the training
split. The fork's own FID (another network, 768 features, another scaling of pixels) compares with no published number and is left out.

Shapes: N pairs, F features, E width of the common space.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im.metrics.intervals import NORMAL_95
from cap2im.metrics.measurement import Measurement
from cap2im.randomness import generator


class HeadsTraining(NamedTuple):
    """Hyperparameters of the two layers."""

    width: int = 512  # E
    margin: float = 0.2  # of cosines
    rate: float = 1e-3  # learning rate of Adam
    batch: int = 100
    steps: int = 1_000


HEADS = HeadsTraining()


class NeuralDistance(nn.Module):
    """Two layers that project features of pictures and of captions into one space; parameters have the fork's names.

    Args:
        image_features: the fork has 1,536, of an Inception-ResNet-v2.
        sentence_features: the fork has 1,024, of a char-CNN-RNN.
        width: E.
    """

    def __init__(self, image_features: int = 1536, sentence_features: int = 1024, width: int = 512) -> None:
        super().__init__()
        self.linear_img = nn.Linear(image_features, width)
        self.linear_sent = nn.Linear(sentence_features, width)

    def forward(self, images: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors [N, E] of pictures and of captions, of length 1."""
        return F.normalize(self.linear_img(images), dim=1), F.normalize(self.linear_sent(sentences), dim=1)


def ranking_loss(images: Tensor, sentences: Tensor, margin: float) -> Tensor:
    """Return the hinge loss of all wrong pairs: each should score `margin` less than the right pairs of its row and column.

    Args:
        images: [N, E] of length 1.
        sentences: [N, E] of length 1; row i belongs to image i.
        margin: of cosines.
    """
    scores = images @ sentences.T
    right = scores.diagonal()
    wrong = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return sum(((margin - right[:, None] + each).relu() * wrong).sum() for each in (scores, scores.T))  # type: ignore[return-value]


def fit_heads(images: Tensor, sentences: Tensor, *, seed: int) -> NeuralDistance:
    """Train the two layers on pairs, with the hyperparameters `HEADS`.

    Args:
        images: [N, F] features of real pictures.
        sentences: [N, F'] features of their captions.
        seed: of the initial weights and of the batches.
    """
    heads, random = NeuralDistance(images.shape[1], sentences.shape[1], HEADS.width), generator("neural distance", seed)
    with torch.no_grad():
        for layer in (heads.linear_img, heads.linear_sent):
            layer.weight.normal_(0, layer.in_features**-0.5, generator=random)
            layer.bias.zero_()
    optimizer = torch.optim.Adam(heads.parameters(), lr=HEADS.rate)
    for _ in range(HEADS.steps):
        rows = torch.randperm(len(images), generator=random)[: HEADS.batch]
        optimizer.zero_grad()
        image_vectors, sentence_vectors = heads(images[rows], sentences[rows])
        (ranking_loss(image_vectors, sentence_vectors, HEADS.margin) / len(rows)).backward()
        optimizer.step()
    return heads.eval().requires_grad_(False)


def neural_distance(heads: NeuralDistance, features: Tensor, sentences: Tensor) -> list[Measurement]:
    """Return the mean cosine of pictures with their captions and with the next picture's captions; ± is the deviation over pairs.

    Args:
        heads: the trained layers.
        features: [N, F] of the pictures.
        sentences: [N, F'] of their captions.
    """
    own = _cosine("neural distance", heads, features, sentences)
    others = _cosine("neural distance", heads, features, sentences.roll(1, 0))
    return [own, others.model_copy(update={"group": "other captions", "detail": True})]


def _cosine(name: str, heads: NeuralDistance, features: Tensor, sentences: Tensor) -> Measurement:
    """Return the mean cosine with the population's deviation, as the fork computes it."""
    images, captions = heads(features, sentences)
    cosines = (images * captions).sum(dim=1).double()
    mean, deviation = cosines.mean().item(), cosines.std(correction=0).item()
    error = NORMAL_95 * deviation / len(cosines) ** 0.5
    protocol = {"layers": HEADS._asdict()}
    return Measurement(
        name=name,
        value=mean,
        n=len(cosines),
        interval=(mean - error, mean + error),
        deviation=deviation,
        deviation_of="standard deviation over drawings",
        protocol=protocol,
    )
