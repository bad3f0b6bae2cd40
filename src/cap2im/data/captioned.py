"""What every source of captioned images answers: records of each split, and what is wrong with the files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from cap2im.data.digits import Split
from cap2im.data.pictures import EXTENSIONS, UNREADABLE_EXTENSIONS, Box, ImageReference
from cap2im.data.tokenizer import is_unspaced
from cap2im.data.vocabulary import LONGEST_CAPTION, Tokenizer, Vocabulary, split_words

PickleReader = Callable[[Path], Any]  # reads a pickle without executing what it holds

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}

# what can be wrong -> whether data is lost by it
PROBLEMS = {
    "unreadable image": True,
    "image without captions": True,
    "image without annotation": False,
    "caption without image": True,
    "misspelt metadata file": True,
    "misplaced metadata file": True,
    "unusable entry": True,
    "empty caption": False,
    "caption without words": True,
    "over-long caption": True,
    "words not separated": False,
    "wrong encoding": True,
    "split not used": True,
    "duplicate across splits": False,
    "damaged file": True,
}


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong, with the file that it is in; what cannot be UTF-8 has backslashes, so that it can be written anywhere."""

    kind: str
    file: str
    detail: str = ""

    def __post_init__(self) -> None:
        assert self.kind in PROBLEMS, self.kind
        for name in ("file", "detail"):
            object.__setattr__(self, name, getattr(self, name).encode("utf-8", "backslashreplace").decode())

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


def held_out(id: str, share: float) -> bool:
    """Whether an image belongs to the held-out share: by its id alone, so that more images never move it."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") < share * 2**64


def hold_out(records: Sequence[CaptionedImage], share: float) -> tuple[Sequence[CaptionedImage], Sequence[CaptionedImage]]:
    """Training records and the held-out share of them."""
    if isinstance(records, LazyRecords):
        parts = [[row for row in records.rows if held_out(records.id(row), share) is kept] for kept in (False, True)]
        return tuple(LazyRecords(rows, records.prefix, records.make, records.state) for rows in parts)  # type: ignore[return-value]
    return [r for r in records if not held_out(r.id, share)], [r for r in records if held_out(r.id, share)]


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
    """The numbered lines of a text file that are UTF-8; the others are told."""
    lines = []
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            lines.append((number, line.decode("utf-8")))
        except UnicodeDecodeError as error:
            problems.append(Problem("wrong encoding", f"{path}, line {number}", f"not UTF-8 text ({error.reason} at byte {error.start})"))
    return lines


def image_files(folder: Path) -> Iterator[Path]:
    """The image files below a folder, sorted; hidden ones do not count."""
    yield from _files_with(EXTENSIONS, folder)


def unreadable_image_files(folder: Path) -> Iterator[Path]:
    """Yield the pictures below a folder, sorted, whose format is known and cannot be read, such as .heic; hidden ones do not count."""
    yield from _files_with(UNREADABLE_EXTENSIONS, folder)


def _files_with(extensions: frozenset[str], folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in extensions and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts):
            yield path


def split_of(relative: Path) -> Split:
    """The split that a file belongs to by the first folder on its way; train if that names none."""
    return SPLIT_FOLDERS.get(relative.parts[0].lower(), "train") if len(relative.parts) > 1 else "train"


def needed_file(*candidates: Path, what: str) -> Path:
    """The first of several files that exists.

    Raises:
        ValueError: none does.
    """
    for path in candidates:
        if path.exists():
            return path
    raise ValueError(f"{candidates[0]}: no such file; it should hold {what}")
