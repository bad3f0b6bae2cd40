"""Drawings against photographs as a whole: the Fréchet Inception Distance, the Inception Score, and the neural distance.

FID (Heusel et al., arXiv:1706.08500, eq. 6) is |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the means and covariances of two sets of
pictures in the 2,048 features of an Inception network's last average pool; lower is better. The Inception Score (Salimans et al.,
arXiv:1606.03498) is exp of the mean KL of a picture's classes from those of all pictures, over `SPLITS` parts; higher is better. Both
are of the network that the first publications used, in the weights that pytorch-fid ported from TensorFlow; a drawing is rounded to 8
bits, as if it had been stored, and resized to 299 x 299, bilinearly, with pixels' centres aligned and no antialiasing, as pytorch-fid does.
Classes of the score are those of the features alone, without the last layer's bias, as in the program that defined it.

FID falls as pictures are added, the more so below a few thousand; numbers of different counts are of different protocols.

The neural distance of a fork of AttnGAN (shaivaldalal/AttnGAN, after HDGAN, arXiv:1802.09178) projects features of a picture and of its
caption by two layers into one space, and reports the cosine; higher is better. Its layers were never published. Here the features are
those of FID and of a matching model, and the layers are trained on pairs of the training split. The fork's FID has another network, 768
features and another scaling of pixels, and compares with nothing published: it is not here.

Shapes: N pictures, F features, K classes, C colours, E width of the common space.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im.files import LARGEST_DOCUMENT, atomic_path, check_regular_file, sha256
from cap2im.metrics.distributed import ProcessGroup
from cap2im.models.inception import Inception, resize
from cap2im.randomness import generator

logger = logging.getLogger(__name__)

METRIC_VERSION = 1  # goes up whenever the same pictures would get another number
SPLITS = 10  # of the Inception Score, as published
RESIZE = "bilinear to 299, not antialiased, of 8 bits"
PICTURES_AT_ONCE = 25  # of 299 x 299; enough for fat matrix products


class HeadsTraining(NamedTuple):
    """How the layers of the neural distance are trained."""

    width: int = 512  # E
    margin: float = 0.2  # of cosines
    rate: float = 1e-3  # of Adam
    batch: int = 100
    steps: int = 1_000


HEADS = HeadsTraining()


# The network


class Seen(NamedTuple):
    """What the network says of pictures: its features [N, 2048], of which FID is, and logits [N, 1008], of which the Inception Score is."""

    features: Tensor
    logits: Tensor


@torch.inference_mode()
def look(network: Inception, pictures: Tensor) -> Seen:
    """What the network says of pictures [N, C, A, A] uint8, of 1 or 3 colours and any side; see the module's docstring.

    Args:
        network: of the variant "fid", in evaluation mode.
        pictures: on any device; what is seen comes back to the CPU.
    """
    assert network.fc is not None
    parts = []
    for part in pictures.split(PICTURES_AT_ONCE):
        images = resize(part.to(network.fc.weight.device).float().div(127.5).sub(1).expand(-1, 3, -1, -1))
        features = network(images.contiguous(memory_format=torch.channels_last), until="pooled").pooled
        assert features is not None
        parts.append((features.cpu(), (features @ network.fc.weight.T).cpu()))
    return Seen(*map(torch.cat, zip(*parts, strict=True)))


def eight_bits(pictures: Tensor) -> Tensor:
    """Pictures in 0..1 as they are stored: uint8, rounded."""
    return pictures.mul(255).round().to(torch.uint8)


# FID


@dataclass(frozen=True)
class Statistics:
    """Mean and spread of features, which add up: those of two sets together are `first + second`, float64.

    Attributes:
        count: N.
        mean: [F].
        scatter: [F, F] sum over the pictures of (x - mean)(x - mean)^T.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Of features [N, F]; of none, where N is 0."""
        features = features.double()
        mean = features.mean(dim=0) if len(features) else features.new_zeros(features.shape[1])
        away = features - mean
        return cls(len(features), mean, away.T @ away)

    def __add__(self, other: Statistics) -> Statistics:
        count = self.count + other.count
        if count == 0:
            return self
        gap, share = other.mean - self.mean, other.count / count
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.count * share)
        return Statistics(count, self.mean + gap * share, scatter)

    def all_gather(self, processes: ProcessGroup) -> Statistics:
        """Of all processes' pictures (a collective call)."""
        counts = processes.all_gather(torch.tensor([self.count])).tolist()
        parts = zip(counts, processes.all_gather(self.mean[None]), processes.all_gather(self.scatter[None]), strict=True)
        first, *others = (Statistics(*part) for part in parts)
        return sum(others, first)

    @property
    def covariance(self) -> Tensor:
        """[F, F], unbiased."""
        return self.scatter / (self.count - 1)


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """The squared Fréchet distance of two Gaussians with these means and covariances.

    The trace of (S1 S2)^(1/2) is the sum of the singular values of S1^(1/2) S2^(1/2). Nothing is added to the diagonals: covariances
    need not have full rank.

    Raises:
        ValueError: fewer than two pictures, another number of features, or features that are not finite.
    """
    if min(first.count, second.count) < 2:
        raise ValueError(f"FID of {first.count} and {second.count} pictures: both need two at least")
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"FID of {len(first.mean)} and of {len(second.mean)} features: both need the same ones")
    if not all(tensor.isfinite().all() for each in (first, second) for tensor in (each.mean, each.scatter)):
        raise ValueError("FID of features that are not finite")
    shared = torch.linalg.svdvals(_root(first.covariance) @ _root(second.covariance)).sum()
    traces = first.covariance.trace() + second.covariance.trace()
    return float((first.mean - second.mean).square().sum() + traces - 2 * shared)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric root; what is rounding beside the largest eigenvalue counts as zero, for its root would not be small."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    return (vectors * values.where(values > noise, 0).sqrt()) @ vectors.T


def kept_statistics(folder: Path, about: Mapping[str, Any], measure: Callable[[], Statistics], processes: ProcessGroup) -> Statistics:
    """Statistics that are measured once for what they are about, and kept in a file of pytorch-fid's layout (a collective call).

    Args:
        folder: of such files.
        about: all that decides the numbers, JSON-ready; the file has its checksum for a name.
        measure: answers the statistics of all processes' pictures.
        processes: among processes.
    """
    path = folder / f"{sha256(json.dumps(about, sort_keys=True).encode())[:16]}.npz"
    there = _read_statistics(path)
    if bool(processes.all_gather(torch.tensor([there is not None])).all()) and there is not None:
        return there
    found = measure()
    if processes.is_main_process:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as draft, draft.open("wb") as file:
                np.savez(file, mu=found.mean.numpy(), sigma=found.covariance.numpy(), count=found.count, about=json.dumps(about))
        except OSError as error:  # what was measured counts all the same
            logger.warning("%s: %s; will be measured again the next time", error.filename or path, error.strerror or error)
    return found


def _read_statistics(path: Path) -> Statistics | None:
    """Return what a file holds; None if it is missing or damaged, for then it is measured again."""
    try:
        check_regular_file(path)
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_DOCUMENT:
                return None
        with np.load(path, allow_pickle=False) as file:
            count, mean, covariance = int(file["count"]), torch.from_numpy(file["mu"]), torch.from_numpy(file["sigma"])
    except Exception:  # zipfile, zlib and NumPy each have their own
        return None
    if count < 2 or mean.dtype != torch.float64 or covariance.dtype != torch.float64 or covariance.shape != mean.shape * 2:
        return None
    return Statistics(count, mean, covariance * (count - 1))


# Inception Score


def inception_score(logits: Tensor, *, splits: int = SPLITS, order: Tensor | None = None) -> tuple[float, float]:
    """The Inception Score of pictures: its mean over parts, and its deviation over them (population's, as published).

    Args:
        logits: [N, K].
        splits: parts, each with a score of its own; a score of fewer pictures is lower.
        order: [N] of the pictures, where theirs tells something of them.

    Raises:
        ValueError: there are fewer pictures than parts.
    """
    if len(logits) < splits:
        raise ValueError(f"an Inception Score in {splits} parts needs as many pictures; there are {len(logits)}")
    scores = []
    for part in (logits if order is None else logits[order]).double().log_softmax(dim=1).tensor_split(splits):
        marginal = part.logsumexp(dim=0) - np.log(len(part))  # [K] log of the mean probability
        scores.append((part.exp() * (part - marginal)).sum(dim=1).mean().exp())
    return torch.stack(scores).mean().item(), torch.stack(scores).std(correction=0).item()


# Neural distance


class NeuralDistance(nn.Module):
    """Two layers that project features of pictures and of captions into one space; parameters have the fork's names.

    Args:
        image_features: the fork's are 1,536, of an Inception-ResNet-v2.
        sentence_features: the fork's are 1,024, of a char-CNN-RNN.
        width: E.
    """

    def __init__(self, image_features: int = 1536, sentence_features: int = 1024, width: int = 512) -> None:
        super().__init__()
        self.linear_img = nn.Linear(image_features, width)
        self.linear_sent = nn.Linear(sentence_features, width)

    def forward(self, images: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures' and captions' vectors [N, E] each, of length 1."""
        return F.normalize(self.linear_img(images), dim=1), F.normalize(self.linear_sent(sentences), dim=1)


def ranking_loss(images: Tensor, sentences: Tensor, margin: float) -> Tensor:
    """What the layers are trained by: each wrong pair has to score `margin` less than the right ones beside it, else costs the rest.

    Args:
        images: [N, E] of length 1, and sentences [N, E], row by row of one pair.
        margin: of cosines.
    """
    scores = images @ sentences.T
    own = scores.diagonal()
    wrong = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return sum(((margin - own[:, None] + each).relu() * wrong).sum() for each in (scores, scores.T))  # type: ignore[return-value]


def fit_heads(images: Tensor, sentences: Tensor, *, seed: int) -> NeuralDistance:
    """The two layers, trained on pairs as `HEADS` says: the fork has none to give.

    Args:
        images: [N, F] features of real pictures, and sentences [N, F'] of their captions, row by row of one pair.
        seed: of the first weights and of the batches.
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
        ours, theirs = heads(images[rows], sentences[rows])
        (ranking_loss(ours, theirs, HEADS.margin) / len(rows)).backward()
        optimizer.step()
    return heads.eval().requires_grad_(False)


def neural_distance(heads: NeuralDistance, images: Tensor, sentences: Tensor) -> dict[str, float]:
    """The cosine of pictures with their captions: mean and deviation (population's, as the fork has it)."""
    ours, theirs = heads(images, sentences)
    cosines = (ours * theirs).sum(dim=1).double()
    return {"mean": cosines.mean().item(), "deviation": cosines.std(correction=0).item()}
