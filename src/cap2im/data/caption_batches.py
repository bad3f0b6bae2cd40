"""Captioned images that `cap2im prepare` made: read lazily, in batches of captions of nearly one length, by step number.

Source: alignDRAW (arXiv:1511.02793), section 4.1 and mansimov/text2image, coco/homogeneous-data.py.

What the released program does differently: a batch holds captions of one length alone, of 7 to 29 words, and the last batch of a length
may be smaller. `equal_lengths` does the former; captions that do not fill a batch wait for an epoch whose order takes them in.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from cap2im.data.batch import ALL, Batch, fixed_noise, step_noise
from cap2im.data.dataset import PreparedDataset
from cap2im.data.mnist import Split
from cap2im.data.pictures import Fit, ImageBytes, fitted, read_image
from cap2im.data.vocabulary import Vocabulary, pad
from cap2im.files import atomic_path, explain
from cap2im.randomness import generator

CAPTIONS_AT_ONCE = 1_000
IMAGES_AT_ONCE = 1_000
WORTH_A_BAR = 20_000  # captions


class SentenceEncoder(Protocol):
    """Anything that turns captions into vectors.

    Attributes:
        name: what people call it.
        features: numbers in a vector.
    """

    name: str
    features: int

    @property
    def sha256(self) -> str:
        """Of the weights, wherever they lie: a copy has that of the original."""
        ...

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Vectors [N, features], float32 on the CPU; a caption's vector does not depend on the others, but for rounding.

        Raises:
            ValueError: a caption is empty.
        """
        ...


class CaptionedImages:
    """One split of a prepared dataset; pixels stay on disk until they are asked for.

    Attributes:
        ids: [N] what the images are called.
        captions: all captions of all images.
        image_of: [M] the row of the image that each caption is of.
        classes: [N] the class of each image, -1 where it has none.
        matches: [N] int64, equal for images whose captions are no wrong match for each other: of one class; without classes, none.

    Raises:
        ValueError: there is no such split, or its files are missing, damaged or not those of the manifest.
        OSError: the cache of `datasets`, into which the files are unpacked, cannot be written.
    """

    def __init__(self, dataset: PreparedDataset, split: Split) -> None:
        import datasets  # an extra, and slow to import

        self.name = f"{dataset.folder}, {split}"
        files = [glob.escape(str(file.absolute())) for file in dataset.files(split)]  # `datasets` takes them as patterns
        if named := next((file for file in files if "::" in file), None):
            raise ValueError(f"{named}: `datasets` cannot open a path with '::'; rename the folder, or read it with --stream")
        try:
            rows = datasets.load_dataset("parquet", data_files=files, split="train")
        except (datasets.exceptions.DatasetsError, OSError) as error:
            cause = error.__cause__ or error
            full = str(error).startswith("Not enough disk space")  # has no number
            number = errno.ENOSPC if full else getattr(cause, "errno", None)
            if number is None:
                raise ValueError(f"{self.name}: cannot be read: {explain(cause)}") from None
            told = f"the cache of `datasets` cannot be written ({os.strerror(number).lower()}); HF_DATASETS_CACHE names another folder"
            raise OSError(number, told, str(datasets.config.HF_DATASETS_CACHE)) from None
        if len(rows) != (listed := sum(shard.rows for shard in dataset.shards(split))):
            raise ValueError(f"{self.name}: holds {len(rows)} images; the manifest says {listed}")
        self._rows = rows.cast_column("image", datasets.Image(decode=False))
        self.ids: list[str] = self._rows.data.column("id").to_pylist()
        column = self._rows.data.column("captions").combine_chunks()
        self.captions: list[str] = column.flatten().to_pylist()
        self.image_of = np.repeat(np.arange(len(column)), column.value_lengths().to_numpy())
        self.classes = self._rows.data.column("class_id").to_numpy()
        self.matches = torch.from_numpy(np.where(self.classes < 0, self.classes.max() + 1 + np.arange(len(self)), self.classes))

    def __len__(self) -> int:
        """The number of images."""
        return len(self._rows)

    def pixels(self, rows: Sequence[int], colours: int) -> Tensor:
        """Images [N, C, A, A] uint8 of rows; colours is 1 or 3."""
        return torch.stack([pixels_of(stored, name, colours) for name, stored in self._stored(rows)])

    def pictures(self, rows: Sequence[int], colours: int, side: int) -> list[Tensor]:
        """Images [C, H, W] uint8 of rows, resized so that their shorter side is `side`."""
        return [pixels_of(stored, name, colours, side, "shorter") for name, stored in self._stored(rows)]

    def squares(self, rows: Sequence[int], colours: int, side: int) -> Tensor:
        """The middle squares [N, C, A, A] uint8 of rows, resized to `side`."""
        return torch.stack([pixels_of(stored, name, colours, side, "crop") for name, stored in self._stored(rows)])

    def _stored(self, rows: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        found = self._rows[list(rows)]
        for name, image in zip(found["id"], found["image"], strict=True):
            yield f"{self.name}: image {name}", image["bytes"]

    def examples(self, count: int, vocabulary: Vocabulary, colours: int, side: int | None = None) -> tuple[list[str], Tensor]:
        """Return at most `count` different captions with a known word, from all over the split, and their images.

        Args:
            count: most captions.
            vocabulary: that knows the words.
            colours: 1 or 3.
            side: of the middle squares; None takes images as they are stored.

        Returns:
            N captions, and their images [N, C, A, A] in 0..1.
        """
        rows = {caption: row for caption, row in zip(self.captions, self.image_of.tolist(), strict=True) if vocabulary.numbered(caption)}
        different, places = list(rows), torch.linspace(0, len(rows) - 1, min(count, len(rows))).long().tolist()
        chosen = [different[place] for place in places]
        images = [rows[caption] for caption in chosen]
        pixels = self.pixels(images, colours) if side is None else self.squares(images, colours, side)
        return chosen, pixels.float() / 255

    def all_pixels(self, colours: int, side: int | None = None) -> Tensor:
        """All images [N, C, A, A] uint8, or their middle squares, resized to `side`."""
        rows = range(len(self))
        steps = range(0, len(self), IMAGES_AT_ONCE)
        quiet = len(self) < WORTH_A_BAR
        parts = track(steps, f"reading {self.name}", console=Console(stderr=True), disable=quiet)
        read = self.pixels if side is None else partial(self.squares, side=side)
        return torch.cat([read(rows[start : start + IMAGES_AT_ONCE], colours) for start in parts])


def pixels_of(stored: bytes, name: str, colours: int, side: int | None = None, fit: Fit = "stretch") -> Tensor:
    """The pixels [C, A, A] uint8 of a stored image, resized if a side is given.

    Raises:
        ValueError: it cannot be decoded; the message names it.
    """

    def pixels_of_image(picture: Image.Image) -> np.ndarray:
        upright = picture if side is None or picture.size == (side, side) else fitted(picture, side, fit)
        return np.array(upright.convert("RGB" if colours == 3 else "L"))

    try:
        pixels = read_image(ImageBytes(name, stored), pixels_of_image)
    except MemoryError:
        raise
    except Exception as error:  # a decoder can fail in any way
        raise ValueError(f"{name}: cannot be decoded: {' '.join(str(error).split())}") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], colours)).permute(2, 0, 1)


def sentence_vectors(dataset: PreparedDataset, split: Split, captions: Sequence[str], encoder: SentenceEncoder) -> np.ndarray:
    """The vectors [M, S] float16 of a split's captions, made once for each encoder and kept beside the dataset.

    What an encoder says of a few fixed sentences names it: another encoder never finds these vectors.
    """
    probe = encoder.encode(["a photo of a cat .", "two people ride a red bus ."]).half().numpy()
    key = hashlib.sha256(probe.tobytes() + "\n".join(captions).encode()).hexdigest()[:16]
    path = Path(dataset.folder) / "sentence-vectors" / f"{split}-{key}.npy"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        steps = range(0, len(captions), 100)
        quiet = len(captions) < CAPTIONS_AT_ONCE
        # written, not mapped: a full disk would end a process that writes into a mapped file by SIGBUS
        with atomic_path(path) as draft, draft.open("wb") as file:
            for start in track(steps, f"{encoder.name} reads the {split} captions", console=Console(stderr=True), disable=quiet):
                vectors = encoder.encode(captions[start : start + 100]).half().numpy()
                if start == 0:
                    write_array_header_1_0(file, header_data_from_array_1_0(vectors) | {"shape": (len(captions), encoder.features)})
                file.write(vectors.tobytes())
    return np.load(path, mmap_mode="r")


class CaptionBatches:
    """Batches of captions of nearly one length, with their images; every batch is a function of the seed and the step.

    Args:
        images: of a split.
        vocabulary: numbers the words.
        noise_shape: (T, Z) of the model's noise.
        colours: 1 or 3.
        batch_size: over all processes.
        seed: of order and noise.
        lengths: fewest and most words of the captions to use; captions without a known word are never used.
        equal_lengths: a batch holds captions of one length alone.
        vectors: [M, S] of all captions, for the models that are conditioned on them.
        side: takes the middle squares of images of any shape, resized to it; None takes images as they are stored, all of one size.

    Raises:
        ValueError: too few captions for a batch.
    """

    def __init__(
        self,
        images: CaptionedImages,
        vocabulary: Vocabulary,
        noise_shape: tuple[int, int],
        *,
        colours: int,
        batch_size: int,
        seed: int = 0,
        lengths: tuple[int, int] = (1, 200),
        equal_lengths: bool = False,
        vectors: np.ndarray | None = None,
        side: int | None = None,
    ) -> None:
        self.images, self.captions = images, images.captions
        self.noise_shape, self.colours, self.vectors, self.side = noise_shape, colours, vectors, side
        self.batch_size, self.seed, self.equal_lengths = batch_size, seed, equal_lengths
        self._vocabulary, self._words = vocabulary, NumberedCaptions(images.captions, vocabulary)
        words = self._words.lengths
        self._chosen = torch.from_numpy(np.flatnonzero((words >= lengths[0]) & (words <= lengths[1])))  # captions
        self.left_out = len(words) - len(self._chosen)  # captions of other lengths, or without a known word
        self._lengths = torch.from_numpy(words)[self._chosen]
        self._epoch: tuple[int, Tensor] | None = None
        self.steps_per_epoch = self._fill(torch.arange(len(self._chosen))) // batch_size
        if self.steps_per_epoch == 0:
            kind = " of one length" if equal_lengths else ""
            raise ValueError(
                f"{len(self._chosen)} captions of {lengths[0]} to {lengths[1]} words do not fill a batch of {batch_size}{kind}; "
                "a smaller batch may: --set train.batch_size=16"
            )

    def _by_length(self, order: Tensor) -> Tensor:
        """The chosen captions in an order, stably sorted by length, without those that fill no batch."""
        if not self.equal_lengths:
            order = order[len(order) % self.batch_size :]
        order = order[self._lengths[order].argsort(stable=True)]
        if self.equal_lengths:
            lengths = self._lengths[order]
            counts = lengths.bincount()
            starts = counts.cumsum(0) - counts
            place = torch.arange(len(order)) - starts[lengths]
            order = order[place < counts[lengths] // self.batch_size * self.batch_size]
        return order

    def _fill(self, order: Tensor) -> int:
        return len(self._by_length(order))

    def _order(self, epoch: int) -> Tensor:
        """[steps, B] the captions of an epoch's batches."""
        if self._epoch is None or self._epoch[0] != epoch:
            random = generator("captions", self.seed, epoch)
            order = self._by_length(torch.randperm(len(self._chosen), generator=random)).view(-1, self.batch_size)
            self._epoch = (epoch, self._chosen[order[torch.randperm(len(order), generator=random)]])
        return self._epoch[1]

    def at(self, step: int, rows: slice = ALL) -> Batch:
        """The batch of the update that follows `step` updates, or some rows of it."""
        epoch, index = divmod(step, self.steps_per_epoch)
        noise = step_noise(self.seed, step, self.batch_size, self.noise_shape)
        return self._batch(self._order(epoch)[index][rows], noise[rows])

    def examples(self, count: int) -> tuple[list[str], Tensor]:
        """Return captions with their images, see `CaptionedImages.examples`."""
        return self.images.examples(count, self._vocabulary, self.colours, self.side)

    def spread(self, count: int) -> Tensor:
        """The rows of at most `count` captions, spread evenly over all of them."""
        return self._chosen[torch.linspace(0, len(self._chosen) - 1, min(count, len(self._chosen))).long()]

    def fixed(self, count: int) -> Batch:
        """The captions of `spread`, with the same noise at every call."""
        captions = self.spread(count)
        return self._batch(captions, fixed_noise(len(captions), self.noise_shape))

    def _batch(self, captions: Tensor, noise: Tensor) -> Batch:
        which = captions.numpy()
        rows = self.images.image_of[which]
        read = self.images.pixels if self.side is None else partial(self.images.squares, side=self.side)
        pixels = read(rows.tolist(), self.colours)
        numbers = [self._words[caption] for caption in which]
        vectors = None if self.vectors is None else torch.from_numpy(self.vectors[which].astype(np.float32))
        return Batch(pixels.float() / 255, *pad(numbers), noise, vectors, self.images.matches[rows])


class NumberedCaptions:
    """The word numbers of many captions, one after another in one array.

    Attributes:
        lengths: [M] words of each caption that the vocabulary numbers.
    """

    def __init__(self, captions: Sequence[str], vocabulary: Vocabulary) -> None:
        numbers = []
        steps = range(0, len(captions), CAPTIONS_AT_ONCE)
        for start in track(steps, "reading captions", console=Console(stderr=True), disable=len(captions) < WORTH_A_BAR):
            numbers += [np.array(vocabulary.numbered(caption), np.int32) for caption in captions[start : start + CAPTIONS_AT_ONCE]]
        self.lengths = np.array([len(each) for each in numbers])
        self._numbers, self._ends = np.concatenate(numbers), self.lengths.cumsum()

    def __getitem__(self, caption: int) -> list[int]:
        end = self._ends[caption]
        return self._numbers[end - self.lengths[caption] : end].tolist()
