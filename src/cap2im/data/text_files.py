"""Read lines and captions of text files; lines that cannot be used become problems."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from cap2im.data.problems import Problem
from cap2im.files import BYTE_ORDER_MARKS, decode_text, read_bytes, split_lines

# first bytes -> name of a format that is not text
FILE_FORMATS = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"PK\x03\x04": "a spreadsheet or ZIP archive",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"(\xb5/\xfd": "compressed with zstd",
    b"%PDF": "a PDF document",
    b"{\\rtf": "an RTF document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"SQLite format 3": "an SQLite database",
}

_PICTURE_NAME = re.compile(r"[^\t,;|]+\.(?:jpe?g|png|gif|bmp|webp|tiff?)(?:\.\d)?(?:#\d|[\t,;|])", re.I)
_JSON = re.compile(r"[{\[]\s*[\"'{\[]")
_MARKUP = re.compile(r"<\?xml|<!doctype|<html|\{\\rtf", re.I)
_NUMBER = re.compile(r"[-+.\d]+(e[-+]?\d+)?")


def file_format(path: Path) -> str | None:
    """Return the name of a format that is not text, by a file's first bytes, or None.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return next((name for magic, name in FILE_FORMATS.items() if start.startswith(magic)), None)


def read_lines(path: Path, problems: list[Problem]) -> list[tuple[int, str]]:
    """Return the numbered lines of a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: of the file.
        problems: extended by lines that are not UTF-8, and by a file that cannot be read.
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
    """Return the message of an error without the path, which `Problem.file` holds."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return reason.removeprefix(f"{path}: ")


def caption_lines(path: Path, problems: list[Problem]) -> tuple[str, ...]:
    """Return the captions of a text file, one a line.

    Args:
        path: of the file.
        problems: extended by lines that are data and not sentences.
    """
    captions = []
    for number, line in read_lines(path, problems):
        if (reason := not_a_sentence(line)) is not None:
            problems.append(Problem("not a caption", f"{path}, line {number}", f"{reason}: {line.strip()[:50]}"))
        elif line.strip():
            captions.append(line)
    return tuple(captions)


def not_a_sentence(line: str) -> str | None:
    """Return why a line of a text file beside a picture is no caption, or None."""
    fields = line.strip()[:500].replace(",", " ").split()
    if len(fields) >= 4 and all(_NUMBER.fullmatch(field) for field in fields[:-1]):
        return "it is numbers, as of boxes"
    return data_format(line)


def data_format(line: str) -> str | None:
    """Return why a line is part of a table, of JSON or of markup; None for sentences and numbers."""
    start = line.strip()[:500]
    if _PICTURE_NAME.match(start):
        return "it begins with the name of a picture, as tables do"
    if _JSON.match(start):
        return "it is JSON"
    if _MARKUP.match(start):
        return "it is markup"
    return None
