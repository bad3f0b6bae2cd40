"""What every source of captioned images answers: records of each split, and what is wrong with the files."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from cap2im.data.image_files import ImageReference
from cap2im.data.image_resizing import Box
from cap2im.data.splits import Split
from cap2im.data.tokenizer import is_unspaced
from cap2im.data.vocabulary import LONGEST_CAPTION, Tokenizer, Vocabulary, split_words
from cap2im.files import BYTE_ORDER_MARKS, decode_text, read_bytes, split_lines

PickleReader = Callable[[Path], Any]  # reads a pickle without executing what it holds

MOST_CHARACTERS = 10_000  # of a caption

# what can be wrong -> whether data is lost by it
PROBLEMS = {
    "unreadable image": True,
    "unreadable file": True,
    "picture format not read": True,
    "picture outside the folder": True,
    "image without captions": True,
    "image without annotation": False,
    "caption without image": True,
    "misspelt metadata file": True,
    "misplaced metadata file": True,
    "unusable entry": True,
    "duplicate id": True,
    "ids of two types": False,
    "not a caption": True,
    "empty caption": False,
    "caption without words": True,
    "over-long caption": True,
    "words not separated": False,
    "wrong encoding": True,
    "split not used": True,
    "no training images": True,
    "misplaced split folder": False,
    "picture in no split": False,
    "column not used": False,
    "file not used": False,
    "linked folder": False,
    "duplicate across splits": False,
    "damaged file": True,
}


def visible(text: str) -> str:
    """Return text with escapes for invisible characters, line breaks and what cannot be UTF-8."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong, with the file that it is in; invisible characters and what cannot be UTF-8 are written as escapes."""

    kind: str
    file: str
    detail: str = ""

    def __post_init__(self) -> None:
        assert self.kind in PROBLEMS, self.kind
        for name in ("file", "detail"):
            object.__setattr__(self, name, visible(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.kind}: {self.file}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class CaptionedImage:
    """An image that is not read yet, with its captions as they were found.

    Attributes:
        class_id: -1 where there is none.
        box: the part of the picture to take.
    """

    id: str
    image: ImageReference
    captions: tuple[str, ...]
    class_id: int = -1
    box: Box | None = None


@dataclass(frozen=True)
class LazyRecords(Sequence[CaptionedImage]):
    """Records that are made when they are asked for, from rows of arrays or of a table.

    Attributes:
        rows: which rows, in this order.
        prefix: of the ids, which end with the row.
        make: (row, id) -> record.
        state: what changes when the rows do, or what is made of them.
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
            return LazyRecords(self.rows[index], self.prefix, self.make, self.state)
        row = int(self.rows[index])
        return self.make(row, self.id(row))

    def id(self, row: int) -> str:
        return f"{self.prefix}-{row:06d}"


@dataclass
class Source:
    """Captioned images as somebody has them.

    Attributes:
        splits: the records of each split.
        problems: what is wrong with the listing; pictures are not read yet.
        vocabulary: of sources that bring their own numbers.
    """

    splits: dict[Split, Sequence[CaptionedImage]]
    problems: list[Problem] = field(default_factory=list)
    vocabulary: Vocabulary | None = None


def fingerprint(source: Source, options: dict[str, Any]) -> str:
    """A checksum of a source's listing and words, the sizes and times of its files, and the options of preparing it."""
    digest = hashlib.sha256(repr((sorted(options.items()), source.vocabulary)).encode())
    for split, records in source.splits.items():
        if isinstance(records, LazyRecords):
            digest.update(repr((split, records.prefix, records.state, list(records.rows))).encode())
            continue
        for record in records:
            digest.update(repr((split, record, record.image.state)).encode())
    return digest.hexdigest()


def tokens_of(source: Source, asked: Tokenizer | None) -> Tokenizer:
    """How captions are split: as the source's own vocabulary does, else as asked for, else as alignDRAW did.

    Raises:
        ValueError: the source's own vocabulary does it otherwise than asked for.
    """
    if source.vocabulary is None:
        return "released" if asked is None else asked
    if asked not in (None, source.vocabulary.tokens):
        raise ValueError(
            f"--tokens {asked}: this source brings its own vocabulary, whose captions are split by {source.vocabulary.tokens!r}"
        )
    return source.vocabulary.tokens


def held_out(id: str, share: float, start: float = 0.0) -> bool:
    """Return whether an image belongs to a held-out share, by its id alone, so that adding images moves no other.

    Args:
        id: of the image.
        share: of all images.
        start: the shares before this one; shares that do not overlap have no image in common.
    """
    position = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big")
    return start * 2**64 <= position < (start + share) * 2**64


def hold_out(
    records: Sequence[CaptionedImage], share: float, start: float = 0.0
) -> tuple[Sequence[CaptionedImage], Sequence[CaptionedImage]]:
    """Return the records that remain, and the held-out share of them; see `held_out`."""
    if isinstance(records, LazyRecords):
        parts = [[row for row in records.rows if held_out(records.id(row), share, start) is kept] for kept in (False, True)]
        return tuple(LazyRecords(rows, records.prefix, records.make, records.state) for rows in parts)  # type: ignore[return-value]
    return [r for r in records if not held_out(r.id, share, start)], [r for r in records if held_out(r.id, share, start)]


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON may hold halves of characters, and a file name may be in any encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def usable_captions(record: CaptionedImage, most: int | None = None, tokens: Tokenizer = "released") -> tuple[list[str], list[Problem]]:
    """The captions that can be trained on, white space tidied, and what is wrong with the others.

    Args:
        record: with its captions as found.
        most: take the first ones of these alone; None takes all.
        tokens: how they are split.
    """
    captions, problems = [], []
    for caption in record.captions:
        tidy = " ".join(caption.split())
        if len(tidy) > MOST_CHARACTERS:  # a word may have any length, and would be in the vocabulary
            detail = f"{len(tidy):,} characters, at most {MOST_CHARACTERS:,}: {tidy[:50]}…"
            problems.append(Problem("over-long caption", record.image.name, detail))
            continue
        words = split_words(tidy, tokens)
        if not re.search(r"\w", tidy):
            problems.append(Problem("empty caption", record.image.name))
        elif not is_utf8(tidy):
            problems.append(Problem("wrong encoding", record.image.name, f"a caption with half a character: {tidy[:50]}"))
        elif not any(re.match(r"\w", word) for word in words):
            problems.append(Problem("caption without words", record.image.name, f"none as {tokens!r} splits it: {tidy[:50]}"))
        elif len(words) > LONGEST_CAPTION:
            problems.append(Problem("over-long caption", record.image.name, f"{len(words)} words, at most {LONGEST_CAPTION}: {tidy[:50]}…"))
        else:
            captions.append(tidy)
            if is_unspaced(tidy):
                detail = f"text without spaces between words counts as one word; separate words by spaces: {tidy[:50]}"
                problems.append(Problem("words not separated", record.image.name, detail))
    if not captions:
        problems.append(Problem("image without captions", record.image.name))
    return captions[:most], problems


def read_lines(path: Path, problems: list[Problem]) -> list[tuple[int, str]]:
    """Return the numbered lines of a text file.

    UTF-16 and UTF-32 are read by their byte order mark. Lines that are not UTF-8, and files that cannot be read, become problems.
    """
    try:
        data = read_bytes(path)
    except (ValueError, OSError) as error:
        problems.append(Problem("unreadable file", str(path), _reason(error, path)))
        return []
    try:
        return list(enumerate(split_lines(decode_text(data, str(path))), 1))
    except ValueError as error:
        marked = any(data.startswith(mark) for mark, encoding in BYTE_ORDER_MARKS if encoding != "utf-8")
        if marked or b"\0" in data:
            problems.append(Problem("wrong encoding", str(path), _reason(error, path)))
            return []
    lines = []
    for number, line in enumerate(re.split(rb"\r\n|\n|\r", data.removeprefix(codecs.BOM_UTF8)), 1):
        try:
            lines.append((number, line.decode("utf-8")))
        except UnicodeDecodeError as error:
            detail = f"not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8"
            problems.append(Problem("wrong encoding", f"{path}, line {number}", detail))
    return lines


def _reason(error: ValueError | OSError, path: Path) -> str:
    """The message of an error without the path, which stands beside it."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return reason.removeprefix(f"{path}: ")


_PICTURE_NAME = re.compile(r"[^\t,;|]+\.(?:jpe?g|png|gif|bmp|webp|tiff?)(?:\.\d)?(?:#\d|[\t,;|])", re.I)
_JSON = re.compile(r"[{\[]\s*[\"'{\[]")
_MARKUP = re.compile(r"<\?xml|<!doctype|<html|\{\\rtf", re.I)


def not_a_sentence(line: str) -> str | None:
    """Return why a line of a text file beside a picture is no caption; None for captions."""
    fields = line.strip()[:500].replace(",", " ").split()
    if len(fields) >= 4 and all(re.fullmatch(r"[-+.\d]+(e[-+]?\d+)?", field) for field in fields[:-1]):
        return "it is numbers, as of boxes"
    return data_format(line)


def data_format(line: str) -> str | None:
    """Return what a line of a table, of JSON or of markup is; None for sentences and numbers."""
    start = line.strip()[:500]
    if _PICTURE_NAME.match(start):
        return "it begins with the name of a picture, as tables do"
    if _JSON.match(start):
        return "it is JSON"
    if _MARKUP.match(start):
        return "it is markup"
    return None


def caption_lines(path: Path, problems: list[Problem]) -> tuple[str, ...]:
    """Return the captions of a text file, one a line; lines that are data, not sentences, become problems."""
    captions = []
    for number, line in read_lines(path, problems):
        if (reason := not_a_sentence(line)) is not None:
            problems.append(Problem("not a caption", f"{path}, line {number}", f"{reason}: {line.strip()[:50]}"))
        elif line.strip():
            captions.append(line)
    return tuple(captions)
