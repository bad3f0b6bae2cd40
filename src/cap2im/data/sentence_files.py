"""Text files for skip-thoughts: plain sentences, token files and tables of captions, recognised by their whole content.

Anything else is refused: a table or a JSON document never counts as sentences. Plain text is read line by line, because it may be large.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from cap2im.data.flickr import TOKEN_LINE, token_captions
from cap2im.data.problems import Problem
from cap2im.data.table_columns import CAPTION_COLUMNS, IMAGE_COLUMNS, caption_columns, plain_name, row_captions
from cap2im.data.table_files import read_rows, separator_of, split_cells
from cap2im.data.text_files import file_format
from cap2im.files import BYTE_ORDER_MARKS, check_regular_file, decode_text, read_bytes, shortened, split_lines

FileKind = Literal["text", "tokens", "table"]

LONGEST_LINE = 16 * 2**20  # bytes
SHARE = 0.2  # of the lines; from this share of lines of another format on, a file is not plain text
START = 1_000  # characters of a line that are searched for signs of another format

IMAGE_NAMES = (*IMAGE_COLUMNS, "image_id")  # columns that identify images

_PICTURE = re.compile(r"[\"']?[^\s\"',;|]+\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b", re.IGNORECASE)
_ID_FIRST = re.compile(r"[\"']?[\w./:\\-]*\d[\w./:\\-]*[\"']?\s*[,;](?=\D|\d*[,;])")
_TIGHT_SEPARATOR = re.compile(r"[A-Za-z.!?)\"'][,;](?=[A-Za-z(\"'])|[\"'][,;]|[,;]\"|[^\d],\d+$")
_JSON = re.compile(r"\{\s*\"|\[\s*[\[{\"\d-]|\"[^\"]*\"\s*:|[{}\[\]]+,?$")
_TAGS = "html|head|body|title|meta|div|p|span|br|table|tr|t[dh]|ul|ol|li|a|h[1-6]"
_MARKUP = re.compile(rf"<(?:!doctype|!--|\?xml|/?(?:{_TAGS})\b)|</(?!s>)\w+>", re.IGNORECASE)  # language models mark sentences with <s>

_SIGNS: dict[str, Callable[[str], object]] = {
    "tokens": TOKEN_LINE.fullmatch,
    "table": lambda line: (
        "\t" in line or "|" in line or _PICTURE.match(line) or _ID_FIRST.match(line[:200]) or _TIGHT_SEPARATOR.search(line[:START])
    ),
    "JSON": lambda line: _JSON.match(line[:START]),
    "HTML or XML": lambda line: _MARKUP.search(line[:START]),
}


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text without their ends.

    Raises:
        ValueError: not a regular file, neither UTF-8 nor Unicode with a byte order mark, a NUL byte, or a line of over 16 MiB.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        start = file.read(16)
        if any(start.startswith(mark) for mark, encoding in BYTE_ORDER_MARKS if encoding != "utf-8"):
            yield from split_lines(decode_text(read_bytes(path), str(path)))
            return
        file.seek(0)
        number = 1
        while raw := file.readline(LONGEST_LINE + 1):
            if len(raw) > LONGEST_LINE:
                raise ValueError(f"{path}: line {number} has over {LONGEST_LINE:,} bytes; a sentence a line is needed")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = raw[error.start]
                raise ValueError(f"{path}: line {number} is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None
            if "\0" in text:
                raise ValueError(f"{path}: line {number} holds a NUL byte; text in UTF-16 needs a byte order mark")
            lines = split_lines(text)
            yield from lines
            number += len(lines)


def recognise(path: Path) -> FileKind:
    """Return what a file holds: plain sentences, `IMAGE.jpg#N<TAB>caption`, or a table with columns of images and captions.

    Raises:
        ValueError: those of `text_lines`, or the file is empty or something else.
    """
    check_regular_file(path)
    if (other := file_format(path)) is not None:
        raise ValueError(f"{path}: is {other}, not a text of sentences")
    counts: Counter[str] = Counter()
    first = ""
    for raw in text_lines(path):
        if line := raw.strip():
            first = first or line
            counts["lines"] += 1
            counts.update(kind for kind, has_sign in _SIGNS.items() if has_sign(line))
    if not counts["lines"]:
        raise ValueError(f"{path}: empty")
    enough = SHARE * counts["lines"]
    for kind in ("JSON", "HTML or XML"):
        if counts[kind] >= enough or (kind == "HTML or XML" and _MARKUP.match(first)):
            hint = "make a dataset of it with cap2im prepare, and give its folder to --data"
            raise ValueError(f"{path}: is {kind}, not a text of sentences; {hint}")
    if counts["tokens"] >= enough:
        return "tokens"
    if _caption_table(split_cells(first, separator_of(first))) is not None:
        return "table"
    if counts["table"] >= enough:
        raise ValueError(
            f"{path}: {counts['table']:,} of its {counts['lines']:,} lines look like a table, and its first line has no columns of images "
            f"({', '.join(IMAGE_COLUMNS[:4])}) and captions ({', '.join(CAPTION_COLUMNS[:3])}): {shortened(first)}; "
            "rename them, or make a dataset of the table: cap2im prepare table"
        )
    return "text"


def _caption_table(names: Iterable[str]) -> tuple[str, tuple[str, ...]] | None:
    """Return the column of images and the columns of captions by their names, or None."""
    by_name = {plain_name(name): name for name in names}
    image = next((by_name[name] for name in IMAGE_NAMES if name in by_name), None)
    captions = caption_columns(by_name.values())[0]
    return (image, captions) if image is not None and captions else None


def named_captions(path: Path, kind: Literal["tokens", "table"]) -> Iterator[tuple[str, str]]:
    """Yield the image's name and the caption of each line of a token file, or of each row of a table.

    Raises:
        ValueError: a line or row cannot be used.
    """
    problems: list[Problem] = []
    if kind == "tokens":
        captions = [(name, texts) for name, texts, _ in token_captions(path, problems)]
    else:
        captions = list(_table_captions(path, problems))
    if problems:
        raise ValueError(f"{problems[0].file}: {problems[0].detail}")
    yield from ((name, text) for name, texts in captions for text in texts)


def _table_captions(path: Path, problems: list[Problem]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for where, row in read_rows(path, problems):
        columns = _caption_table(row)
        assert columns is not None, "recognised as a table"
        yield str(row[columns[0]]).strip(), row_captions(row, columns[1], where, problems) or ()


def has_words(sentence: str) -> bool:
    """Return whether a sentence holds a letter or digit."""
    return re.search(r"\w", sentence) is not None
