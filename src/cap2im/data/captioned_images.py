"""Read one split of a prepared dataset: captions in memory, pixels decoded on demand."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cap2im.data.dataset import PreparedDataset
from cap2im.data.image_decoding import read_image
from cap2im.data.image_files import ImageBytes
from cap2im.data.image_resizing import Fit, resize_image
from cap2im.data.splits import Split
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import explain
from cap2im.progress import track

AT_ONCE = 1_000  # images or captions between two updates of a progress bar
MANY = 20_000  # images or captions that take long enough to show a progress bar


class CaptionedImages:
    """One split of a prepared dataset.

    Attributes:
        ids: [N] ids of the images.
        captions: [M] captions of all images.
        image_of: [M] row of each caption's image.
        classes: [N] class of each image, or -1.
        matches: [N] int64, equal for images of one class: their captions are no wrong match for each other.

    Raises:
        ValueError: no such split, or its files are missing, damaged or not those of the manifest.
        OSError: the cache of `datasets`, which unpacks the files, cannot be written.
    """

    def __init__(self, dataset: PreparedDataset, split: Split) -> None:
        import datasets  # an extra, and slow to import

        self.name = f"{dataset.folder}, {split}"
        files = [glob.escape(str(file.absolute())) for file in dataset.files(split)]  # `datasets` takes them for patterns
        if chained := next((file for file in files if "::" in file), None):
            raise ValueError(f"{chained}: `datasets` cannot open a path with '::'; rename the folder, or read it with --stream")
        try:
            rows = datasets.load_dataset("parquet", data_files=files, split="train")
        except (datasets.exceptions.DatasetsError, OSError) as error:
            cause = error.__cause__ or error
            is_full = str(error).startswith("Not enough disk space")  # this error has no number
            number = errno.ENOSPC if is_full else getattr(cause, "errno", None)
            if number is None:
                raise ValueError(f"{self.name}: cannot be read: {explain(cause)}") from None
            reason = f"the cache of `datasets` cannot be written ({os.strerror(number).lower()}); HF_DATASETS_CACHE names another folder"
            raise OSError(number, reason, str(datasets.config.HF_DATASETS_CACHE)) from None
        if len(rows) != (listed := sum(shard.rows for shard in dataset.shards(split))):
            raise ValueError(f"{self.name}: holds {len(rows)} images; the manifest lists {listed}")
        self._rows = rows.cast_column("image", datasets.Image(decode=False))
        self.ids: list[str] = self._rows.data.column("id").to_pylist()
        column = self._rows.data.column("captions").combine_chunks()
        self.captions: list[str] = column.flatten().to_pylist()
        self.image_of = np.repeat(np.arange(len(column)), column.value_lengths().to_numpy())
        self.classes = self._rows.data.column("class_id").to_numpy()
        self.matches = torch.from_numpy(np.where(self.classes < 0, self.classes.max() + 1 + np.arange(len(self)), self.classes))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def pixels(self, rows: Sequence[int], colours: int, side: int | None = None) -> Tensor:
        """Return images [N, C, A, A] uint8.

        Args:
            rows: of the images.
            colours: 1 or 3.
            side: of the middle squares, in pixels; None returns images as stored, which must have one size.
        """
        return torch.stack([pixels_of(stored, name, colours, side, "crop") for name, stored in self._stored(rows)])

    def pictures(self, rows: Sequence[int], colours: int, side: int) -> list[Tensor]:
        """Return images [C, H, W] uint8, resized so that their shorter side is `side`."""
        return [pixels_of(stored, name, colours, side, "shorter") for name, stored in self._stored(rows)]

    def _stored(self, rows: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the encoded bytes of images."""
        table = self._rows[list(rows)]
        for id, image in zip(table["id"], table["image"], strict=True):
            yield f"{self.name}: image {id}", image["bytes"]

    def examples(self, count: int, vocabulary: Vocabulary, colours: int, side: int | None = None) -> tuple[list[str], Tensor]:
        """Return different captions with a known word, evenly spaced over the split, and their images.

        Args:
            count: most captions.
            vocabulary: of known words.
            colours: 1 or 3.
            side: see `pixels`.

        Returns:
            N captions, and their images [N, C, A, A] in 0..1.
        """
        rows = {caption: row for caption, row in zip(self.captions, self.image_of.tolist(), strict=True) if vocabulary.numbered(caption)}
        captions, places = list(rows), torch.linspace(0, len(rows) - 1, min(count, len(rows))).long().tolist()
        chosen = [captions[place] for place in places]
        return chosen, self.pixels([rows[caption] for caption in chosen], colours, side).float() / 255

    def all_pixels(self, colours: int, side: int | None = None) -> Tensor:
        """Return all images [N, C, A, A] uint8; see `pixels`."""
        starts = track(range(0, len(self), AT_ONCE), f"reading {self.name}", show=len(self) >= MANY)
        return torch.cat([self.pixels(range(len(self))[start : start + AT_ONCE], colours, side) for start in starts])


def pixels_of(stored: bytes, name: str, colours: int, side: int | None = None, fit: Fit = "stretch") -> Tensor:
    """Decode an image to pixels [C, A, A] uint8.

    Args:
        stored: encoded bytes.
        name: of the image, named in messages.
        colours: 1 or 3.
        side: in pixels; None keeps the size.
        fit: how the image is resized to the side.

    Raises:
        MemoryError: the image does not fit into memory.
        ValueError: it cannot be decoded.
    """

    def decode(picture: Image.Image) -> np.ndarray:
        resized = picture if side is None or picture.size == (side, side) else resize_image(picture, side, fit)
        return np.array(resized.convert("RGB" if colours == 3 else "L"))

    try:
        pixels = read_image(ImageBytes(name, stored), decode)
    except MemoryError:
        raise
    except Exception as error:  # a decoder can fail in any way
        raise ValueError(f"{name}: cannot be decoded: {' '.join(str(error).split())}") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], colours)).permute(2, 0, 1)


class NumberedCaptions:
    """The word numbers of many captions, concatenated in one array.

    Attributes:
        lengths: [M] number of words of each caption; unknown words that the vocabulary leaves out do not count.
    """

    def __init__(self, captions: Sequence[str], vocabulary: Vocabulary) -> None:
        numbers = []
        for start in track(range(0, len(captions), AT_ONCE), "reading captions", show=len(captions) >= MANY):
            numbers += [np.array(vocabulary.numbered(caption), np.int32) for caption in captions[start : start + AT_ONCE]]
        self.lengths = np.array([len(each) for each in numbers])
        self._numbers, self._ends = np.concatenate(numbers), self.lengths.cumsum()

    def __getitem__(self, caption: int) -> list[int]:
        """Return the word numbers of a caption."""
        end = self._ends[caption]
        numbers: list[int] = self._numbers[end - self.lengths[caption] : end].tolist()
        return numbers
