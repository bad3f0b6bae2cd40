"""Records of a source: images that are not decoded yet, with their captions, by split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

from cap2im.data.image_files import ImageReference
from cap2im.data.image_resizing import Box
from cap2im.data.problems import Problem
from cap2im.data.splits import SPLITS, Split
from cap2im.data.tokenizer import Tokenizer, is_unspaced, split_words
from cap2im.data.vocabulary import LONGEST_CAPTION, Vocabulary

MOST_CHARACTERS = 10_000  # of a caption


@dataclass(frozen=True)
class CaptionedImage:
    """An image that is not decoded yet, with its captions as written in the source.

    Attributes:
        id: unique within the source.
        image: reference to the encoded picture.
        captions: as written.
        class_id: class number, or -1.
        box: part of the picture to use; None uses all.
    """

    id: str
    image: ImageReference
    captions: tuple[str, ...]
    class_id: int = -1
    box: Box | None = None


@dataclass(frozen=True)
class LazyRecords(Sequence[CaptionedImage]):
    """Records built on access from rows of arrays or of a table.

    Attributes:
        rows: row numbers, in order.
        prefix: of the ids, which end with the row number.
        make: builds the record of a row: (row, id) -> record.
        state: text that changes when the underlying data changes.
    """

    rows: Sequence[int]
    prefix: str
    make: Callable[[int, str], CaptionedImage]
    state: str

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> CaptionedImage: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[CaptionedImage]: ...

    def __getitem__(self, index: int | slice) -> CaptionedImage | Sequence[CaptionedImage]:
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index])
        row = int(self.rows[index])
        return self.make(row, self.id(row))

    def id(self, row: int) -> str:
        """Return the id of a row's record."""
        return f"{self.prefix}-{row:06d}"


Records = Sequence[CaptionedImage]


@dataclass
class Source:
    """Captioned images as a user has them. Splits without records are dropped.

    Attributes:
        splits: records of each split.
        problems: of the listing; pictures are not decoded yet.
        vocabulary: of sources whose captions are word numbers.
    """

    splits: Mapping[Split, Records]
    problems: list[Problem] = field(default_factory=list)
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        self.splits = {split: self.splits[split] for split in SPLITS if self.splits.get(split)}

    def tokenizer(self, requested: Tokenizer | None) -> Tokenizer:
        """Return how captions are split: as the source's vocabulary does, else as requested, else as alignDRAW's release.

        Raises:
            ValueError: the request contradicts the source's vocabulary.
        """
        if self.vocabulary is None:
            return "released" if requested is None else requested
        if requested not in (None, self.vocabulary.tokens):
            raise ValueError(
                f"--tokens {requested}: this source has its own vocabulary, whose captions are split by {self.vocabulary.tokens!r}"
            )
        return self.vocabulary.tokens

    def drop_invalid_ids(self) -> None:
        """Move records whose ids are not UTF-8 to the problems."""
        splits = dict(self.splits)
        for split, records in self.splits.items():
            if not isinstance(records, LazyRecords):  # whose ids are ASCII
                self.problems += [Problem("wrong encoding", r.image.name, "its name is not UTF-8") for r in records if not is_utf8(r.id)]
                splits[split] = [record for record in records if is_utf8(record.id)]
        self.splits = splits

    def hold_out(self, split: Split, share: float, start: float = 0.0) -> None:
        """Move a share of the training images to another split; see `is_held_out`."""
        if "train" not in self.splits:
            return
        records = self.splits["train"]
        parts: list[Records] = []
        for held_out in (False, True):
            if isinstance(records, LazyRecords):
                rows = [row for row in records.rows if is_held_out(records.id(row), share, start) is held_out]
                parts.append(replace(records, rows=rows))
            else:
                parts.append([record for record in records if is_held_out(record.id, share, start) is held_out])
        self.splits = {**self.splits, "train": parts[0]} | ({split: parts[1]} if parts[1] else {})


def is_held_out(id: str, share: float, start: float = 0.0) -> bool:
    """Return whether an image belongs to a held-out share.

    Only the id decides, so adding images moves no others.

    Args:
        id: of the image.
        share: of all images, 0..1.
        start: sum of the shares held out before; disjoint ranges hold disjoint images.
    """
    position = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")
    return start * 2**64 <= position < (start + share) * 2**64


def is_utf8(text: str) -> bool:
    """Return whether text can be encoded as UTF-8. Lone surrogates, as in JSON and file names, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def usable_captions(record: CaptionedImage, most: int | None = None, tokens: Tokenizer = "released") -> tuple[list[str], list[Problem]]:
    """Return the captions to train on, with single spaces, and the problems of the others.

    Args:
        record: with its captions as written.
        most: number of captions to keep; None keeps all.
        tokens: how captions are split into words.
    """
    captions, problems = [], []
    for caption in record.captions:
        tidy = " ".join(caption.split())
        kind, detail = _caption_problem(tidy, tokens)
        if kind is not None:
            problems.append(Problem(kind, record.image.name, detail))
            continue
        captions.append(tidy)
        if is_unspaced(tidy):
            detail = f"text without spaces between words counts as one word; separate words by spaces: {tidy[:50]}"
            problems.append(Problem("words not separated", record.image.name, detail))
    if not captions:
        problems.append(Problem("image without captions", record.image.name))
    return captions[:most], problems


def _caption_problem(caption: str, tokens: Tokenizer) -> tuple[str | None, str]:
    """Return the kind and detail of what is wrong with a caption; kind is None if nothing is."""
    if len(caption) > MOST_CHARACTERS:  # before splitting: a word of any length would enter the vocabulary
        return "over-long caption", f"{len(caption):,} characters, at most {MOST_CHARACTERS:,}: {caption[:50]}…"
    if not re.search(r"\w", caption):
        return "empty caption", ""
    if not is_utf8(caption):
        return "wrong encoding", f"a caption with half a character: {caption[:50]}"
    words = split_words(caption, tokens)
    if not any(re.match(r"\w", word) for word in words):
        return "caption without words", f"none as {tokens!r} splits it: {caption[:50]}"
    if len(words) > LONGEST_CAPTION:
        return "over-long caption", f"{len(words)} words, at most {LONGEST_CAPTION}: {caption[:50]}…"
    return None, ""


def training_captions(records: Iterable[CaptionedImage], most: int | None, tokens: Tokenizer) -> list[str]:
    """Return the usable captions of all records."""
    return [caption for record in records for caption in usable_captions(record, most, tokens)[0]]
