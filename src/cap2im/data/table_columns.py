"""Choose the columns of a table of pictures and captions, and parse the captions and class numbers in its cells."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cap2im.data.folder_listing import PICTURES
from cap2im.data.problems import Problem
from cap2im.data.readers import ColumnNames
from cap2im.files import shortened

IMAGE_COLUMNS = ("file_name", "filename", "image", "image_name", "image_path", "image_file", "file", "path", "img", "picture", "photo")
CAPTION_COLUMNS = ("text", "caption", "captions", "texts", "sentences", "sentence", "comment", "comments", "description", "prompt")
SPLIT_COLUMN = "split"
TEXT_KEYS = ("raw", "caption", "text", "sentence", "value")  # of a caption that is an object
SAMPLE_ROWS = 100  # rows that decide what a column holds


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table.

    Attributes:
        image: names of pictures, or pictures.
        captions: the captions of all these columns belong to the picture.
        split: names of splits, if the table has any.
        unused: other columns that may hold captions.
    """

    image: str
    captions: tuple[str, ...]
    split: str | None
    unused: tuple[str, ...] = ()

    def unused_problems(self, where: str) -> list[Problem]:
        """Return a problem for each column that may hold captions and is not used."""
        used = f"{' and '.join(self.captions)} is used, --caption-column adds columns"
        return [Problem("column not used", where, f"column {name!r} may hold captions; {used}") for name in self.unused]


def plain_name(name: str) -> str:
    """Return a column's name in lower case, with underscores."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def has_picture_extension(cell: Any) -> bool:
    """Return whether a cell is a file name with the extension of a picture."""
    return isinstance(cell, str) and len(cell) < 1000 and PurePosixPath(cell.strip().replace("\\", "/")).suffix.lower() in PICTURES


def caption_columns(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that hold captions by their names, and other columns that may.

    Numbered columns (`caption_0`, `caption_1`, ...) belong together.
    """
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if (match := re.fullmatch(r"(.*?)_?(\d{1,4})?", plain_name(name))) and match[1] in CAPTION_COLUMNS:
            groups.setdefault(match[1], []).append((-1 if match[2] is None else int(match[2]), name))
    ordered = [tuple(name for _, name in sorted(groups[base])) for base in CAPTION_COLUMNS if base in groups]
    return (ordered[0], tuple(name for group in ordered[1:] for name in group)) if ordered else ((), ())


def holds_sentences(cells: Sequence[Any]) -> bool:
    """Return whether most cells are different texts of three words or more, unlike names, URLs and licences."""
    texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    sentences = {text for text in texts if len(text.split()) >= 3}
    return len(sentences) > len(texts) / 2


def choose_columns(names: Sequence[str], given: ColumnNames, rows: Sequence[Mapping[str, Any]], where: str) -> TableColumns:
    """Choose the columns of a table: as the user named them, else by their names, else by their content.

    Args:
        names: of all columns.
        given: the user's choice.
        rows: the first rows.
        where: name of the table in messages.

    Raises:
        ValueError: a column does not exist or cannot be guessed; the message lists all columns and their content.
    """
    content = f"its columns: {describe_columns(names, rows)}"
    for option, column in [("image", given.image), ("split", given.split), *(("caption", c) for c in given.captions)]:
        if column is not None and column not in names:
            raise ValueError(f"{where}: no column {column!r} (--{option}-column); {content}")
    cells = {name: [row.get(name) for row in rows] for name in names}
    image = given.image or _guess_image_column(names, cells)
    if image is None:
        raise ValueError(f"{where}: no column names the pictures ({', '.join(IMAGE_COLUMNS[:3])}, ...); {content}; --image-column names it")
    split = given.split or next((name for name in names if plain_name(name) == SPLIT_COLUMN), None)
    if given.captions:
        for column in given.captions:
            if not _may_hold_captions(cells[column]):
                raise ValueError(f"{where}: column {column!r} holds no captions but {_content(cells[column])}; {content}")
        return TableColumns(image, given.captions, split)
    others = [name for name in names if name not in (image, split)]
    captions, unused = caption_columns(name for name in others if _may_hold_captions(cells[name]))
    texts = [name for name in others if any(isinstance(cell, str) and cell.strip() for cell in cells[name])]
    if not captions:
        guesses = texts or [name for name in others if any(as_captions(cell) for cell in cells[name])]
        captions = tuple(guesses) if len(guesses) == 1 else ()
    if not captions:
        raise ValueError(f"{where}: no column of captions ({', '.join(CAPTION_COLUMNS[:3])}, ...); {content}; --caption-column names it")
    known = (*captions, *unused)
    unused += tuple(name for name in texts if name not in known and holds_sentences(cells[name]))
    return TableColumns(image, captions, split, unused)


def _guess_image_column(names: Sequence[str], cells: Mapping[str, Sequence[Any]]) -> str | None:
    by_name = {plain_name(name): name for name in reversed(names)}
    named = [by_name[name] for name in IMAGE_COLUMNS if name in by_name]
    by_content = [n for n in names if (full := [cell for cell in cells[n] if cell]) and all(map(has_picture_extension, full))]
    both = next((name for name in named if name in by_content), None)
    return both or (named[0] if named else by_content[0] if len(by_content) == 1 else None)


def _may_hold_captions(cells: Sequence[Any]) -> bool:
    """Return whether any cell holds captions, or all are empty."""
    return any(as_captions(cell) for cell in cells) or all(as_captions(cell) is not None for cell in cells)


def describe_columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the columns and their content, on one line."""
    parts = [f"{shortened(name)} ({_content([row.get(name) for row in rows])})" for name in names[:30]]
    return ", ".join(parts) + (f" and {len(names) - 30} more" if len(names) > 30 else "") if parts else "none"


def _content(cells: Sequence[Any]) -> str:
    value = next((cell for cell in cells if cell not in (None, "", [], {})), None)
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "pictures" if "bytes" in value else "object with " + ", ".join(map(str, list(value)[:6]))
    if isinstance(value, (list, tuple)):
        return f"list of {_content(value)}"
    names = {bool: "true or false", str: "text", int: "numbers", float: "numbers", bytes: "bytes"}
    return names.get(type(value), type(value).__name__)


def as_captions(value: Any) -> tuple[str, ...] | None:
    """Return the captions in a cell, or None if it holds anything else.

    A cell may hold text, a list of texts, an object with the text under a key of `TEXT_KEYS` or with a list of `tokens`, a list of such
    objects, a list of lists of texts, or a list written as text. Lists of lists of single words are captions in words.
    """
    if value is None or (isinstance(value, float) and value != value):
        return ()
    if isinstance(value, str):
        listed = _parse_list(value)
        return (value,) if listed is None else listed
    if isinstance(value, Mapping):
        for key in TEXT_KEYS:
            if value.get(key) is not None:
                return as_captions(value[key])
        return _joined(value.get("tokens"))
    if isinstance(value, (list, tuple)):
        inner = [each for each in value if each is not None]
        if inner and all(isinstance(each, (list, tuple)) and _joined(each) is not None for each in inner):
            if all(len(each) > 1 and not any(re.search(r"\s", word) for word in each) for each in inner):
                return tuple(" ".join(each) for each in inner)
            return tuple(text for each in inner for text in each)
        if any(isinstance(each, (list, tuple)) for each in inner):
            return None
        parts = [(each,) if isinstance(each, str) else as_captions(each) if isinstance(each, Mapping) else None for each in inner]
        return None if any(part is None for part in parts) else tuple(text for part in parts for text in part or ())
    return None


def row_captions(row: Mapping[str, Any], columns: Sequence[str], where: str, problems: list[Problem]) -> tuple[str, ...] | None:
    """Return the captions of a row, or None if no column holds captions.

    Args:
        row: cells by column.
        columns: of captions. Of several, empty ones are skipped: they are no empty captions.
        where: location of the row in problems.
        problems: extended by columns that hold something else.
    """
    cells = {column: as_captions(row.get(column)) for column in columns}
    wrong = [column for column, captions in cells.items() if captions is None]
    problems += [Problem("unusable entry", where, f"{column} is neither text nor a list of texts") for column in wrong]
    if cells and len(wrong) == len(cells):
        return None
    texts = tuple(text for captions in cells.values() for text in captions or ())
    return texts if len(columns) == 1 else tuple(text for text in texts if text.strip())


def _joined(tokens: Any) -> tuple[str, ...] | None:
    return (" ".join(tokens),) if isinstance(tokens, (list, tuple)) and all(isinstance(token, str) for token in tokens) else None


def _parse_list(text: str) -> tuple[str, ...] | None:
    """Parse a list of texts that is written into a cell as JSON or as Python writes it."""
    if len(text) > 100_000 or not re.match(r"\s*\[\s*[\"']", text) or not text.rstrip().endswith("]"):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
    return None


def as_class_id(value: Any) -> int:
    """Return a class number of at most 63 bits, or -1."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else -1
