"""Sentences with their neighbours, for skip-thoughts: from any text, or from captions, whose neighbours are other captions of their image.

Source: Kiros et al., Skip-Thought Vectors (arXiv:1506.06726), section 2.1; that the captions of an image are neighbours is this project's
own.

Shapes: B batch, L words, W words of all sentences, S sentences, G groups, M triples.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import fsspec
import numpy as np
import torch
from torch import Tensor

from cap2im.data.batch import ALL
from cap2im.data.dataset import PreparedDataset
from cap2im.data.sentence_files import has_words, read_lines, recognise, table_captions, token_captions
from cap2im.data.vocabulary import Vocabulary
from cap2im.randomness import generator

END_OF_SENTENCE = "<eos>"  # number 0, as in the released dictionary; no sentence holds it, for its brackets are words of their own
POOLED_BATCHES = 50  # triples of so many batches are sorted by length before they are parted

Part = Literal["train", "validation"]


@dataclass(frozen=True)
class SentenceSource:
    """Where sentences lie.

    Attributes:
        path: a text, one sentence a line, whose paragraphs are separated by lines without words; a token file as Flickr8k's,
            `IMAGE#N<TAB>caption`; a table of images and captions, as Kaggle's CSV of Flickr8k or Flickr30k's results.csv; or a folder that
            `cap2im prepare` made.
        kind: which of these it is.
        validation_share: of the sentences, which training does not see: the last ones, where a folder holds none for validation.
        shards: of a folder, where the captions of its parts lie.
    """

    path: Path
    kind: Literal["text", "tokens", "table", "prepared"]
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
            with suppress(ValueError):  # it has no images for validation
                shards["validation"] = [dataset.url(shard) for shard in dataset.shards("validation")]
            return cls(path, "prepared", validation_share, shards)
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder; sentences come from a text, a token file, a table or a prepared dataset")
        return cls(path, recognise(path), validation_share)

    @property
    def ordered(self) -> bool:
        """Whether a sentence's neighbours are the ones before and after it, or any others of its group."""
        return self.kind == "text"

    def groups(self, part: Part) -> Iterator[list[str]]:
        """Paragraphs, or the captions of an image; sentences without words are left out.

        Raises:
            ValueError: a line of a token file or table is not as it should be, the encoding is wrong, or a Parquet file cannot be read.
        """
        if "validation" in self.shards:
            yield from _captions(self.shards[part])
            return
        boundary = round((1 - self.validation_share) * sum(len(group) for group in self._all()))
        seen = 0
        for group in self._all():
            cut = min(max(boundary - seen, 0), len(group))
            if cut and not self.ordered:
                cut = len(group)  # an image's captions stay together
            if here := group[:cut] if part == "train" else group[cut:]:
                yield here
            seen += len(group)

    def _all(self) -> Iterator[list[str]]:
        if self.kind == "prepared":
            return _captions(self.shards["train"])
        return {"text": _paragraphs, "tokens": _token_groups, "table": _table_groups}[self.kind](self.path)


def _paragraphs(path: Path) -> Iterator[list[str]]:
    paragraph: list[str] = []
    for _, raw in read_lines(path):
        line = raw.strip()
        if has_words(line):
            paragraph.append(line)
        elif paragraph:
            yield paragraph
            paragraph = []
    if paragraph:
        yield paragraph


def _token_groups(path: Path) -> Iterator[list[str]]:
    return _by_image(token_captions(path))


def _table_groups(path: Path) -> Iterator[list[str]]:
    return _by_image(table_captions(path))


def _by_image(captions: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
    """The captions of each image, of pairs of an image's name and a caption; those without words are left out."""
    images: dict[str, list[str]] = {}
    for image, caption in captions:
        if has_words(caption):
            images.setdefault(image, []).append(caption.strip())
    yield from images.values()


def _captions(shards: Iterable[str]) -> Iterator[list[str]]:
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


def sentence_vocabulary(sentences: Iterable[str], size: int) -> Vocabulary:
    """The most frequent words of sentences, `<eos>` before them and `UNK` after them, `size` in all."""
    words = Vocabulary.build(sentences, size=size - 1)
    return Vocabulary(words=(END_OF_SENTENCE, *words.words), tokens=words.tokens, unknown=words.unknown)


@dataclass(frozen=True)
class SentenceGroups:
    """Sentences as numbers, and which belong together.

    Attributes:
        numbers: [W] int32, the words of all sentences after each other.
        starts: [S + 1] where each sentence begins in `numbers`, and where the last one ends.
        groups: [G + 1] the first sentence of each group, and the number of sentences.
        ordered: whether neighbours are the sentences before and after, or any two others of the group.
    """

    numbers: Tensor
    starts: Tensor
    groups: Tensor
    ordered: bool

    @classmethod
    def of(cls, groups: Iterable[list[str]], vocabulary: Vocabulary, *, longest: int, ordered: bool) -> SentenceGroups:
        """Numbers sentences; unknown words become the vocabulary's word for them, and what is beyond `longest` words is cut off."""
        assert vocabulary.unknown is not None
        numbers, starts, firsts = array("i"), array("q", [0]), array("q", [0])  # a list would take many times the memory
        for group in groups:
            for sentence in group:
                numbers.extend(vocabulary.numbered(sentence)[:longest])
                starts.append(len(numbers))
            firsts.append(len(starts) - 1)
        words, sentences, paragraphs = (torch.from_numpy(np.array(values)) for values in (numbers, starts, firsts))
        return cls(words, sentences, paragraphs, ordered)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.numbers, self.starts, self.groups):
            digest.update(tensor.numpy().data)
        return digest.hexdigest()

    def triples(self, *key: int | str) -> Tensor:
        """Sentence numbers [M, 3]: the one before, the sentence, the one after.

        Sentences without two neighbours in an ordered group, or without any other in another one, are left out.

        Args:
            key: decides which captions of an image are neighbours; the neighbours in a text are always the same.
        """
        sizes = self.groups.diff()
        group = torch.arange(len(sizes)).repeat_interleave(sizes)  # [S]
        first, size = self.groups[group], sizes[group]  # [S]
        place = torch.arange(len(self))
        if self.ordered:
            inside = place[(place > first) & (place < first + size - 1)]
            return torch.stack([inside - 1, inside, inside + 1], dim=1)
        shuffled = (group + torch.rand(len(self), generator=generator("neighbours", *key), dtype=torch.float64)).argsort()
        around = torch.stack([first + (place - first + turn) % size for turn in (-1, 0, 1)], dim=1)
        return shuffled[around[size > 1]]

    def batch(self, triples: Tensor) -> TripleBatch:
        """The words of triples [B, 3]."""
        starts, lengths = self.starts[triples.T], self.starts.diff()[triples.T]  # [3, B]
        place = torch.arange(int(lengths.max()))
        mask = place < lengths.unsqueeze(2)  # [3, B, L]
        return TripleBatch(self.numbers[(starts.unsqueeze(2) + place) * mask].long() * mask, mask)


@dataclass(frozen=True)
class TripleBatch:
    """Word numbers [3, B, L] of the sentences before, the sentences, and those after; mask [3, B, L] is true for words."""

    tokens: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[1]

    def __getitem__(self, rows: slice) -> TripleBatch:
        return TripleBatch(self.tokens[:, rows], self.mask[:, rows])

    def to(self, device: torch.device) -> TripleBatch:
        return TripleBatch(self.tokens.to(device), self.mask.to(device))


class TripleBatches:
    """Batches of triples of nearly one length; every batch is a function of the seed and the step.

    Args:
        sentences: to take triples from.
        batch_size: over all processes.
        seed: of the order, and of the neighbours of captions.

    Raises:
        ValueError: there are fewer triples than a batch has.
    """

    def __init__(self, sentences: SentenceGroups, batch_size: int, seed: int) -> None:
        self.sentences, self.batch_size, self.seed = sentences, batch_size, seed
        self.triples = len(sentences.triples(seed, 0))
        self.steps_per_epoch = self.triples // batch_size
        if not self.steps_per_epoch:
            raise ValueError(f"{self.triples} of {len(sentences)} sentences have neighbours, and a batch needs {batch_size}")
        self._epoch: tuple[int, Tensor] | None = None

    def at(self, step: int, rows: slice = ALL) -> TripleBatch:
        """The batch of the update that follows `step` updates, or some rows of it."""
        number, index = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != number:
            self._epoch = (number, self._order(number))
        return self.sentences.batch(self._epoch[1][index])[rows]

    def _order(self, epoch: int) -> Tensor:
        """The triples [steps, B, 3] of an epoch."""
        triples = self.sentences.triples(self.seed, epoch)
        order = generator("triples", self.seed, epoch)
        chosen = triples[torch.randperm(len(triples), generator=order)[: self.steps_per_epoch * self.batch_size]]
        longest = self.sentences.starts.diff()[chosen].amax(dim=1)
        pool = torch.arange(len(chosen)) // (POOLED_BATCHES * self.batch_size)
        chosen = chosen[(pool * (int(longest.max()) + 1) + longest).argsort(stable=True)]
        return chosen.view(-1, self.batch_size, 3)[torch.randperm(self.steps_per_epoch, generator=order)]


def spread_triples(sentences: SentenceGroups, count: int, batch_size: int) -> list[TripleBatch]:
    """At most `count` triples from all over the sentences, sorted by length, in batches: the same at every call, to validate on."""
    triples = sentences.triples("validation")
    chosen = triples[torch.linspace(0, len(triples) - 1, min(count, len(triples))).long()]
    chosen = chosen[sentences.starts.diff()[chosen].amax(dim=1).argsort(stable=True)]
    return [sentences.batch(part) for part in chosen.split(batch_size) if len(part)]
