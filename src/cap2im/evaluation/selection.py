"""Captions of a split of a prepared dataset, with their images, to measure on.

Shapes: N captions, M images, C colours, A side.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cap2im.data.batch import Batch
from cap2im.data.caption_batches import CaptionBatches
from cap2im.data.captioned_images import CaptionedImages, NumberedCaptions
from cap2im.data.dataset import PreparedDataset
from cap2im.data.sentence_vectors import load_sentence_vectors
from cap2im.data.shard_batches import ShardBatches
from cap2im.data.splits import Split
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import sha256
from cap2im.metrics.distributed import ProcessGroup
from cap2im.models.interface import LikelihoodModel
from cap2im.pipeline import Pipeline


def checksum(images: Tensor, captions: list[str]) -> str:
    """Return the SHA-256 of captions and the rows [N] of their images."""
    pairs = zip(images.tolist(), captions, strict=True)
    return sha256("\n".join(f"{image} {caption}" for image, caption in pairs).encode())


@dataclass(frozen=True)
class SplitSample:
    """Captions of a split with their images.

    Attributes:
        split: name of the split.
        batch: images, tokens and sentence vectors.
        captions: N texts.
        rows: [N] rows of the captions in the split.
        image_of: [N] rows of their images in the split.
        whole: the whole split; None if it is streamed.
        left_out: number of captions of the split without a known word.
    """

    split: Split
    batch: Batch
    captions: list[str]
    rows: Tensor
    image_of: Tensor
    whole: CaptionedImages | None
    left_out: int = 0

    @classmethod
    def read(cls, pipeline: Pipeline, dataset: PreparedDataset, split: Split, count: int, processes: ProcessGroup) -> SplitSample:
        """Read at most `count` captions, spread evenly over a split, with their images.

        Images for a bound have the model's size as stored; images that are only compared with drawings are cropped and resized.
        """
        c, noise_shape = pipeline.model.config, pipeline.model.noise_shape
        if dataset.is_local(split):
            stored = isinstance(pipeline.model, LikelihoodModel)
            if stored:
                dataset.require_size(c.side, f"a drawing of {pipeline.name}")
            whole = CaptionedImages(dataset, split)
            with processes.main_process_first():
                vectors = None if pipeline.encoder is None else load_sentence_vectors(dataset, split, whole.captions, pipeline.encoder)
            how: dict[str, Any] = {"colours": c.colours, "vectors": vectors, "side": None if stored else c.side}
            batches = CaptionBatches(whole, pipeline.vocabulary, noise_shape, batch_size=1, **how)
            rows = batches.spread(count)
            captions, image_of = [whole.captions[row] for row in rows.tolist()], torch.from_numpy(whole.image_of)[rows]
            return cls(split, batches.fixed(count), captions, rows, image_of, whole, batches.left_out)
        dataset = dataclasses.replace(dataset, vocabulary=pipeline.vocabulary)
        streamed = ShardBatches(dataset, split, noise_shape, side=c.side, colours=c.colours, batch_size=1, encoder=pipeline.encoder)
        batch = streamed.fixed(count)
        rows = torch.arange(len(batch))
        return cls(split, batch, streamed.fixed_captions(count), rows, rows, None)

    @property
    def protocol(self) -> dict[str, Any]:
        """Entries of protocols: which captions of which images these are."""
        return {"split": self.split, "images": len(self.batch), "captions": checksum(self.image_of, self.captions)}


@dataclass(frozen=True)
class CaptionSelection:
    """Captions of a split to draw once each.

    Attributes:
        whole: the split.
        split: name of the split.
        rows: [N] rows of the captions in the split.
        numbers: word numbers of each caption.
        left_out: number of captions of the split without a known word.
    """

    whole: CaptionedImages
    split: Split
    rows: Tensor
    numbers: list[list[int]]
    left_out: int = 0

    @classmethod
    def spread(cls, dataset: PreparedDataset, split: Split, count: int, *vocabularies: Vocabulary) -> CaptionSelection:
        """Select at most `count` captions, spread evenly over the split.

        Args:
            dataset: the dataset.
            split: name of the split.
            count: largest number of captions.
            *vocabularies: each knows at least one word of every selected caption; the first one numbers the words.

        Raises:
            ValueError: the split is not on this machine, or no caption has known words.
        """
        if not dataset.is_local(split):
            raise ValueError(f"{dataset.folder}: is not on this machine, and FID and R-precision need all of its {split} images")
        whole = CaptionedImages(dataset, split)
        words, *others = (NumberedCaptions(whole.captions, vocabulary) for vocabulary in vocabularies)
        known = torch.from_numpy(np.flatnonzero(np.all([each.lengths > 0 for each in (words, *others)], axis=0)))
        if not len(known):
            raise ValueError(f"{whole.name}: no caption has a known word")
        rows = known[torch.linspace(0, len(known) - 1, min(count, len(known))).long()]
        return cls(whole, split, rows, [words[row] for row in rows.tolist()], len(whole.captions) - len(known))

    def __len__(self) -> int:
        """Return N."""
        return len(self.rows)

    @cached_property
    def texts(self) -> list[str]:
        """N captions."""
        return [self.whole.captions[row] for row in self.rows.tolist()]

    @cached_property
    def images(self) -> Tensor:
        """[N] rows of the captions' images."""
        return torch.from_numpy(self.whole.image_of)[self.rows]

    @cached_property
    def classes(self) -> Tensor:
        """[N] equal for captions that are no wrong match for each other's images."""
        return self.whole.matches[self.images]

    @property
    def protocol(self) -> dict[str, Any]:
        """Entries of protocols: which captions of which images these are."""
        return {"split": self.split, "captions": checksum(self.images, self.texts)}
