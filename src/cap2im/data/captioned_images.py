"""Read one split of a prepared dataset lazily: captions in memory, pixels decoded on demand."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from cap2im.data.dataset import PreparedDataset
from cap2im.data.image_decoding import read_image
from cap2im.data.image_files import ImageBytes
from cap2im.data.image_resizing import Fit, resize_image
from cap2im.data.splits import Split
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import explain

CAPTIONS_AT_ONCE = 1_000
IMAGES_AT_ONCE = 1_000
WORTH_A_BAR = 20_000  # captions


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
        upright = picture if side is None or picture.size == (side, side) else resize_image(picture, side, fit)
        return np.array(upright.convert("RGB" if colours == 3 else "L"))

    try:
        pixels = read_image(ImageBytes(name, stored), pixels_of_image)
    except MemoryError:
        raise
    except Exception as error:  # a decoder can fail in any way
        raise ValueError(f"{name}: cannot be decoded: {' '.join(str(error).split())}") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], colours)).permute(2, 0, 1)


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
        numbers: list[int] = self._numbers[end - self.lengths[caption] : end].tolist()
        return numbers
