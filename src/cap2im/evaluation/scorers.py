"""The networks that encode drawings for FID, Inception Score, R-precision and neural distance.

The Inception network and its weights are those of pytorch-fid, ported from TensorFlow. Pictures are rounded to 8 bits, as if stored, and
resized to 299 x 299, bilinearly, with aligned pixel centres and without antialiasing, as pytorch-fid does.

Shapes: N pictures, C colours, A side, F features, K classes, E features of a DAMSM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cap2im.convert.inception import load_inception
from cap2im.data.batch import pad
from cap2im.data.vocabulary import Vocabulary
from cap2im.loading import load_model
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.r_precision import require_pictures
from cap2im.models.damsm import DAMSM
from cap2im.models.inception import CLASSES, FEATURES, Inception, resize
from cap2im.pipeline import Pipeline

RESIZE = "bilinear to 299, not antialiased, of 8 bits"  # entry of protocols
PICTURES_AT_ONCE = 25  # of 299 x 299; enough for wide matrix products
CAPTIONS_AT_ONCE = 500


def to_uint8(pictures: Tensor) -> Tensor:
    """Return pictures in 0..1 as uint8, rounded."""
    return pictures.mul(255).round().to(torch.uint8)


@dataclass(frozen=True)
class InceptionExtractor:
    """The Inception network of FID and Inception Score, and the SHA-256 of the file of its weights."""

    network: Inception
    sha256: str

    @classmethod
    def load(cls, path: str | None, device: torch.device) -> InceptionExtractor:
        """Load the network from a file of weights; None loads the published ones. Errors are those of `load_inception`."""
        network, digest = load_inception("fid", "" if path is None else path)
        return cls(network.to(device).to(memory_format=torch.channels_last), digest)  # type: ignore[call-overload]

    @property
    def features(self) -> int:
        """F."""
        return FEATURES

    @property
    def classes(self) -> int:
        """K."""
        return CLASSES["fid"]

    @torch.inference_mode()
    def extract(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N, F] and logits [N, K] without the last layer's bias, on the CPU.

        Args:
            pictures: [N, C, A, A] uint8 of 1 or 3 colours and any side, on any device.
        """
        assert self.network.fc is not None
        weight = self.network.fc.weight
        features, logits = [], []
        for part in pictures.split(PICTURES_AT_ONCE):
            images = resize(part.to(weight.device).float().div(127.5).sub(1).expand(-1, 3, -1, -1))
            pooled = self.network(images.contiguous(memory_format=torch.channels_last), until="pooled").pooled
            assert pooled is not None
            features.append(pooled.cpu())
            logits.append((pooled @ weight.T).cpu())
        return torch.cat(features), torch.cat(logits)


@dataclass(frozen=True)
class DAMSMScorer:
    """A DAMSM with its vocabulary, and the SHA-256 of its weights."""

    model: DAMSM
    vocabulary: Vocabulary
    sha256: str

    @classmethod
    def load(cls, name: str, pipeline: Pipeline) -> DAMSMScorer:
        """Load a DAMSM for the drawings of a model; errors are those of `load_model` and `require_pictures`."""
        loaded, c = load_model(name, DAMSM), pipeline.model.config
        require_pictures(name, loaded.network.config, pipeline.name, c.side, c.colours)
        assert loaded.vocabulary is not None  # a DAMSM reads words
        return cls(loaded.network.to(pipeline.device), loaded.vocabulary, loaded.sha256)

    @property
    def features(self) -> int:
        """E."""
        return self.model.config.text.features

    @torch.inference_mode()
    def codes(self, pictures: Tensor) -> Tensor:
        """Return global image features [N, E] of pictures [N, C, A, A] uint8, on the CPU."""
        device = next(self.model.parameters()).device
        codes: Tensor = self.model.image(pictures.to(device).float().div(127.5).sub(1)).code
        return codes.cpu()

    @torch.inference_mode()
    def sentences(self, captions: Sequence[str]) -> Tensor:
        """Return sentence features [N, E] of captions, on the CPU; unknown words are skipped, and each caption has a known one."""
        device, parts = next(self.model.parameters()).device, []
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            tokens, mask = pad([self.vocabulary.numbered(caption) for caption in captions[start : start + CAPTIONS_AT_ONCE]])
            parts.append(self.model.text(tokens.to(device), mask.to(device)).sentence.cpu())
        return torch.cat(parts)


@dataclass(frozen=True)
class Scorers:
    """The networks that the chosen metrics need; None for the others."""

    inception: InceptionExtractor | None = None
    damsm: DAMSMScorer | None = None


@dataclass(frozen=True)
class Features:
    """What `Scorers` return for pictures: features [N, F], logits [N, K] and codes [N, E]; None without the network."""

    features: Tensor | None
    logits: Tensor | None
    codes: Tensor | None


def batches(rows: range, size: int) -> Iterator[range]:
    """Split rows into ranges of at most `size`."""
    for start in rows[::size]:
        yield range(start, min(start + size, rows.stop))


def extract_features(
    scorers: Scorers,
    pictures: Callable[[range], Tensor],
    count: int,
    batch_size: int,
    processes: ProcessGroup,
    advance: Callable[[int], None],
) -> Features:
    """Encode pictures in batches, sharded among processes.

    Args:
        scorers: the networks.
        pictures: returns the pictures [n, C, A, A] uint8 of some rows.
        count: N.
        batch_size: rows at a time.
        processes: share the rows.
        advance: called after each batch with its number of pictures.

    Returns:
        the features of all pictures, in every process.
    """
    inception, damsm = scorers.inception, scorers.damsm
    # the first part of each list is empty: a process may have no row
    features = [torch.empty(0, inception.features)] if inception is not None else []
    logits = [torch.empty(0, inception.classes)] if inception is not None else []
    codes = [torch.empty(0, damsm.features)] if damsm is not None else []
    for rows in batches(processes.shard(count), batch_size):
        batch = pictures(rows)
        if inception is not None:
            part = inception.extract(batch)
            features.append(part[0])
            logits.append(part[1])
        if damsm is not None:
            codes.append(damsm.codes(batch))
        advance(len(rows))
    return Features(*(processes.all_gather(torch.cat(parts)) if parts else None for parts in (features, logits, codes)))
