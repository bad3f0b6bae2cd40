"""Text files for skip-thoughts: plain sentences, token files and tables of captions, told apart by their whole content.

What is neither is refused: a table or a JSON document never counts as sentences. Files are read line by line, for a text may be large.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from cap2im.files import BYTE_ORDER_MARKS, check_regular_file, decode_text, read_bytes, shortened, split_lines

LONGEST_LINE = 16 * 2**20  # bytes
SHARE = 0.2  # of the lines that look like those of a token file, table, ...: from here on a file is no plain text

HINT = "make a dataset of it with cap2im prepare, and give its folder to --data"
IMAGE_COLUMNS = ("image", "image_name", "file_name", "filename", "image_id", "img", "file", "path")
CAPTION_COLUMNS = ("caption", "comment", "text", "sentence", "captions", "raw", "description")

# what other files begin with
MAGIC = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"(\xb5/\xfd": "compressed with Zstandard",
    b"%PDF": "a PDF document",
    b"{\\rtf": "an RTF document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"SQLite format 3": "an SQLite database",
}

_NAME = r"[^\t#]*[^\t#\s]"
_TOKEN_LINE = re.compile(rf"({_NAME})#\d+(?:\t(.*))?|([^\s#]+\.\w+)#\d+(?:\s+(.*))?", re.DOTALL)  # a caption may be empty
_BARS = re.compile(r"([^|]*[^|\s])\s*\|\s*\d+\s*(?:\||\s)\s*(.*)", re.DOTALL)  # a line of Flickr30k's results.csv lacks its second bar
_PICTURE = re.compile(r"[\"']?[^\s\"',;|]+\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b", re.IGNORECASE)
_ID_FIRST = re.compile(r"[\"']?[\w./:\\-]*\d[\w./:\\-]*[\"']?\s*[,;](?=\D|\d*[,;])")
_TIGHT_SEPARATOR = re.compile(r"[A-Za-z.!?)\"'][,;](?=[A-Za-z(\"'])|[\"'][,;]|[,;]\"|[^\d],\d+$")
_JSON = re.compile(r"\{\s*\"|\[\s*[\[{\"\d-]|\"[^\"]*\"\s*:|[{}\[\]]+,?$")
_TAGS = "html|head|body|title|meta|div|p|span|br|table|tr|t[dh]|ul|ol|li|a|h[1-6]"
_MARKUP = re.compile(rf"<(?:!doctype|!--|\?xml|/?(?:{_TAGS})\b)|</(?!s>)\w+>", re.IGNORECASE)  # language models mark sentences with <s>

SEEN = 1_000  # characters at the beginning of a line that decide what it looks like
_LOOKS: dict[str, Callable[[str], object]] = {
    "tokens": _TOKEN_LINE.fullmatch,
    "table": lambda line: (
        "\t" in line or "|" in line or _PICTURE.match(line) or _ID_FIRST.match(line[:200]) or _TIGHT_SEPARATOR.search(line[:SEEN])
    ),
    "JSON": lambda line: _JSON.match(line[:SEEN]),
    "HTML or XML": lambda line: _MARKUP.search(line[:SEEN]),
}


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text without their ends, with their numbers from 1.

    Raises:
        ValueError: not a regular file, neither UTF-8 nor Unicode with a byte order mark, a NUL byte, or a line of over 16 MiB.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        start = file.read(16)
        encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")
        if encoding != "utf-8":
            yield from enumerate(split_lines(decode_text(read_bytes(path), str(path))), 1)
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
            for line in split_lines(text):
                yield number, line
                number += 1


def recognise(path: Path) -> Literal["text", "tokens", "table"]:
    """Return what a file holds: plain sentences, `IMAGE#N<TAB>caption`, or a table with columns of images and captions.

    Raises:
        ValueError: those of `read_lines`, or the file is empty or something else.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        start = file.read(16)
    if other := next((name for magic, name in MAGIC.items() if start.startswith(magic)), None):
        raise ValueError(f"{path}: is {other}, not a text of sentences")
    counts: Counter[str] = Counter()
    first = ""
    for _, raw in read_lines(path):
        if line := raw.strip():
            first = first or line
            counts["lines"] += 1
            counts.update(kind for kind, looks in _LOOKS.items() if looks(line))
    if not counts["lines"]:
        raise ValueError(f"{path}: empty")
    enough = SHARE * counts["lines"]
    for kind in ("JSON", "HTML or XML"):
        if counts[kind] >= enough or (kind == "HTML or XML" and _MARKUP.match(first)):
            raise ValueError(f"{path}: is {kind}, not a text of sentences; {HINT}")
    if counts["tokens"] >= enough:
        return "tokens"
    if _columns(first) is not None:
        return "table"
    if counts["table"] >= enough:
        raise ValueError(
            f"{path}: {counts['table']:,} of its {counts['lines']:,} lines look like a table, and its first line has no columns of images "
            f"({', '.join(IMAGE_COLUMNS[:4])}) and captions ({', '.join(CAPTION_COLUMNS[:3])}): {shortened(first)}; "
            "rename them, or make a dataset of the table: cap2im prepare table"
        )
    return "text"


def token_captions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the image's name and the caption of each line of a token file; any white space may stand for the tab.

    Raises:
        ValueError: those of `read_lines`, or another line; the message has its number.
    """
    for number, raw in read_lines(path):
        if not (line := raw.strip()):
            continue
        if (match := _TOKEN_LINE.fullmatch(line)) is None:
            raise ValueError(f"{path}: line {number}: expected IMAGE#N<TAB>caption, got {shortened(line)!r}")
        yield match[1] or match[3], match[2] or match[4] or ""


def _columns(header: str) -> tuple[str, int, int] | None:
    """Return the separator and the columns of images and captions of a table's first line; None if it names no such columns."""
    for separator in "\t|;,":
        names = [name.strip().strip("\"'").lower() for name in header.split(separator)]
        images, captions = ([names.index(each) for each in known if each in names] for known in (IMAGE_COLUMNS, CAPTION_COLUMNS))
        if images and captions:
            return separator, images[0], captions[0]
    return None


def table_captions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the image's name and the caption of each row of a table.

    Raises:
        ValueError: those of `read_lines`, or a row of other columns than the first line names; the message has its number.
    """
    lines = read_lines(path)
    at, header = next((number, line) for number, line in lines if line.strip())
    columns = _columns(header)
    assert columns is not None, "recognised as a table"
    separator, image, caption = columns
    width = len(header.split(separator))
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if separator in ",;" else csv.QUOTE_NONE  # others hold quotes as they stand
    rows = csv.reader((f"{line}\n" for _, line in lines), delimiter=separator, quoting=quoting, skipinitialspace=separator != "\t")
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != width and separator == "|" and (match := _BARS.fullmatch(separator.join(row))) and width == 3:
                row = [match[1], "", match[2]]
            if len(row) != width:
                where = f"{path}: line {at + rows.line_num}"
                raise ValueError(f"{where}: {len(row)} columns, and the first line has {width}; text with {separator!r} needs quotes")
            yield row[image].strip(), row[caption]
    except csv.Error as error:
        raise ValueError(f"{path}: line {at + rows.line_num}: {error}") from None


def has_words(sentence: str) -> bool:
    """Return whether a sentence holds a letter or digit."""
    return re.search(r"\w", sentence) is not None
