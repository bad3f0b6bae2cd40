"""Choose the columns of a table of pictures and captions, and read captions, splits and class numbers from its cells."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cap2im.data.listing import PICTURES
from cap2im.files import shortened

IMAGE_COLUMNS = ("file_name", "filename", "image", "image_name", "image_path", "image_file", "file", "path", "img", "picture", "photo")
CAPTION_COLUMNS = ("text", "caption", "captions", "texts", "sentences", "sentence", "comment", "comments", "description", "prompt")
SPLIT_COLUMN = "split"
TEXT_KEYS = ("raw", "caption", "text", "sentence", "value")  # of a caption that is an object


@dataclass(frozen=True)
class AskedColumns:
    """The columns that the user named; None and () where they are guessed."""

    image: str | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; captions of several columns add up."""

    image: str
    captions: tuple[str, ...]
    split: str | None
    unused: tuple[str, ...] = ()  # other columns that may hold captions, by their names or their text


def plain(name: str) -> str:
    """Return a column's name as it is compared: lower case, with underscores."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def has_picture_ending(text: Any) -> bool:
    """Return whether a cell is a file name with the ending of a picture."""
    return isinstance(text, str) and len(text) < 1000 and PurePosixPath(text.strip().replace("\\", "/")).suffix.lower() in PICTURES


def caption_columns(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that are captions by their names, numbered ones (`caption_0`, `caption_1`) together, and others that might be."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if (match := re.fullmatch(r"(.*?)_?(\d{1,4})?", plain(name))) and match[1] in CAPTION_COLUMNS:
            groups.setdefault(match[1], []).append((-1 if match[2] is None else int(match[2]), name))
    ordered = [tuple(name for _, name in sorted(groups[base])) for base in CAPTION_COLUMNS if base in groups]
    return (ordered[0], tuple(name for group in ordered[1:] for name in group)) if ordered else ((), ())


def holds_sentences(cells: Sequence[Any]) -> bool:
    """Return whether most cells are different texts of three words or more, as captions are and names, URLs and licences are not."""
    texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    sentences = {text for text in texts if len(text.split()) >= 3}
    return len(sentences) > len(texts) / 2


def choose_columns(names: Sequence[str], asked: AskedColumns, rows: Sequence[Mapping[str, Any]], where: str) -> Columns:
    """Choose the columns of a table: those that were asked for, else by their names, else by what they hold.

    Args:
        names: all columns.
        asked: the user's choice.
        rows: some rows, to see what the columns hold.
        where: the table's name, for messages.

    Raises:
        ValueError: a column is not there, or cannot be guessed; the message lists the columns with what they hold.
    """
    for option, column in [("image", asked.image), ("split", asked.split), *(("caption", c) for c in asked.captions)]:
        if column is not None and column not in names:
            raise ValueError(f"{where}: no column {column!r} (--{option}-column); its columns: {describe_columns(names, rows)}")
    image = asked.image
    if image is None:
        by_name = {plain(name): name for name in reversed(names)}
        by_content = [n for n in names if (cells := [r[n] for r in rows if r.get(n)]) and all(has_picture_ending(cell) for cell in cells)]
        guessed = [by_name[name] for name in IMAGE_COLUMNS if name in by_name]
        image = next((n for n in guessed if n in by_content), guessed[0] if guessed else by_content[0] if len(by_content) == 1 else None)
        if image is None:
            raise ValueError(
                f"{where}: no column names the pictures ({', '.join(IMAGE_COLUMNS[:3])}, ...); its columns: "
                f"{describe_columns(names, rows)}; --image-column names it"
            )
    split = asked.split if asked.split is not None else next((name for name in names if plain(name) == SPLIT_COLUMN), None)
    captions = asked.captions
    unused: tuple[str, ...] = ()
    if not captions:
        others = [name for name in names if name not in (image, split)]
        captions, unused = caption_columns(others)
        texts = [name for name in others if any(isinstance(row.get(name), str) and row[name].strip() for row in rows)]
        if not captions and len(texts) == 1:
            captions = (texts[0],)
        if captions:
            told = (*captions, *unused)
            unused += tuple(name for name in texts if name not in told and holds_sentences([row.get(name) for row in rows]))
        if not captions:
            raise ValueError(
                f"{where}: no column of captions ({', '.join(CAPTION_COLUMNS[:3])}, ...); its columns: {describe_columns(names, rows)}; "
                "--caption-column names it"
            )
    return Columns(image, captions, split, unused)


def describe_columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the columns with what they hold, on one line."""
    parts = [f"{shortened(name)} ({_content([row.get(name) for row in rows])})" for name in names[:30]]
    return ", ".join(parts) + (f" and {len(names) - 30} more" if len(names) > 30 else "") if parts else "none"


def _content(cells: Sequence[Any]) -> str:
    value = next((cell for cell in cells if cell not in (None, "", [], {})), None)
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        if "bytes" in value:
            return "pictures"
        return "object with " + ", ".join(map(str, list(value)[:6]))
    if isinstance(value, (list, tuple)):
        return f"list of {_content(value)}"
    if isinstance(value, bool):
        return "true or false"
    return {str: "text", int: "numbers", float: "numbers", bytes: "bytes"}.get(type(value), type(value).__name__)


def as_captions(value: Any) -> tuple[str, ...] | None:
    """Return the captions of a cell, or None if it holds anything else.

    A cell may hold text, a list of texts, an object with the text under `raw`, `caption`, `text`, `sentence` or `value`, or with `tokens`,
    a list of such objects, a list of lists of texts, or a list written as text. Lists of lists of single words are captions in words.
    """
    if value is None or (isinstance(value, float) and value != value):
        return ()
    if isinstance(value, str):
        listed = _written_list(value)
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


def _joined(tokens: Any) -> tuple[str, ...] | None:
    return (" ".join(tokens),) if isinstance(tokens, (list, tuple)) and all(isinstance(token, str) for token in tokens) else None


def _written_list(text: str) -> tuple[str, ...] | None:
    """The texts of a list that was written into a cell, as JSON or as Python writes it."""
    if len(text) > 100_000 or not re.match(r"\s*\[\s*[\"']", text) or not text.rstrip().endswith("]"):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
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
