"""Read groups of neighbouring sentences for skip-thoughts: paragraphs of a text, or the captions of an image.

Source: Kiros et al., Skip-Thought Vectors (arXiv:1506.06726), section 2.1. Training on captions, whose neighbours are other captions of
their image, is this project's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import fsspec

from cap2im.data.dataset import PreparedDataset
from cap2im.data.sentence_files import FileKind, has_words, named_captions, recognise, text_lines

Part = Literal["train", "validation"]


@dataclass(frozen=True)
class SentenceSource:
    """A file or folder of sentences.

    Attributes:
        path: a text, one sentence a line, with paragraphs separated by lines without words; a token file as Flickr8k's,
            `IMAGE.jpg#N<TAB>caption`; a table of images and captions, as Kaggle's CSV of Flickr8k or Flickr30k's results.csv; or a folder
            that `cap2im prepare` wrote.
        kind: which of these it is.
        validation_share: share of the sentences to validate on, the last ones, unless a folder has validation captions.
        shards: of a folder: paths or URLs of the shards of each part.
    """

    path: Path
    kind: FileKind | Literal["prepared"]
    validation_share: float
    shards: Mapping[Part, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, validation_share: float) -> SentenceSource:
        """Recognise what a path holds, by the whole content of a file.

        Raises:
            ValueError: no such file or folder, no sentences in it, or neither plain sentences nor captions with the names of their images.
        """
        if path.is_dir():
            dataset = PreparedDataset.open(path)
            shards: dict[Part, list[str]] = {"train": [dataset.url(shard) for shard in dataset.shards("train")]}
            if dataset.has("validation"):
                shards["validation"] = [dataset.url(shard) for shard in dataset.shards("validation")]
            return cls(path, "prepared", validation_share, shards)
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder; sentences come from a text, a token file, a table or a prepared dataset")
        return cls(path, recognise(path), validation_share)

    @property
    def ordered(self) -> bool:
        """Whether a sentence's neighbours are the ones before and after it, rather than any others of its group."""
        return self.kind == "text"

    def groups(self, part: Part) -> Iterator[list[str]]:
        """Yield paragraphs, or the captions of each image; sentences without words are left out.

        Raises:
            ValueError: a line or row cannot be used, the encoding is wrong, or a Parquet file cannot be read.
        """
        if "validation" in self.shards:
            yield from _shard_groups(self.shards[part])
            return
        boundary = round((1 - self.validation_share) * sum(len(group) for group in self._all_groups()))
        seen = 0
        for group in self._all_groups():
            cut = min(max(boundary - seen, 0), len(group))
            if cut and not self.ordered:
                cut = len(group)  # an image's captions stay together
            if sentences := group[:cut] if part == "train" else group[cut:]:
                yield sentences
            seen += len(group)

    def _all_groups(self) -> Iterator[list[str]]:
        if self.kind == "prepared":
            return _shard_groups(self.shards["train"])
        if self.kind == "text":
            return _paragraphs(text_lines(self.path))
        return _groups_by_image(named_captions(self.path, self.kind))


def _paragraphs(lines: Iterable[str]) -> Iterator[list[str]]:
    paragraph: list[str] = []
    for line in lines:
        if has_words(line):
            paragraph.append(line.strip())
        elif paragraph:
            yield paragraph
            paragraph = []
    if paragraph:
        yield paragraph


def _groups_by_image(captions: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
    """Yield the captions of each image, of pairs of image name and caption; captions without words are left out."""
    images: dict[str, list[str]] = {}
    for image, caption in captions:
        if has_words(caption):
            images.setdefault(image, []).append(caption.strip())
    yield from images.values()


def _shard_groups(shards: Iterable[str]) -> Iterator[list[str]]:
    """Yield the captions of each image of Parquet shards.

    Raises:
        ValueError: a shard has no column of captions, or cannot be read.
    """
    from pyarrow import ArrowException  # comes with datasets, an extra
    from pyarrow.parquet import ParquetFile

    for shard in shards:
        try:
            with fsspec.open(shard, "rb") as file:
                for batch in ParquetFile(file).iter_batches(columns=["captions"]):
                    for captions in batch.column(0).to_pylist():
                        yield [caption.strip() for caption in captions or [] if has_words(caption)]
        except (ArrowException, IndexError, OSError) as error:
            raise ValueError(f"{shard}: no column of captions can be read from it: {' '.join(str(error).split())[:200]}") from None
