"""Read files that people bring: text and JSON of any encoding, size and damage.

Every text and JSON document from outside is read here, so that encodings, damage and hostile content are handled once.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, RootModel, ValidationError

from cap2im.files.messages import describe

LARGEST_DOCUMENT = 256 * 2**20  # bytes of a text or JSON document that is read into memory
LARGEST_PARSED = 2**30  # bytes of memory for the values of a JSON document, as `check_parsed_size` estimates them

# longest mark first: that of UTF-32 begins with that of UTF-16
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

Model = TypeVar("Model", bound=BaseModel)


def sha256(data: bytes) -> str:
    """Return the SHA-256 hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- bytes and text


def check_regular_file(path: Path) -> None:
    """Check that a path is a regular file: reading a FIFO or a device may never end.

    Raises:
        ValueError: The path does not exist, or is a folder, FIFO, socket or device.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a component is a file, a loop of links, or a NUL in the name
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{path}: is {kinds.get(stat.S_IFMT(mode), 'a device')}, and a file is needed")


def read_bytes(path: Path, largest: int = LARGEST_DOCUMENT) -> bytes:
    """Return the content of a regular file.

    Args:
        path: Of the file.
        largest: Bytes; a larger file is refused before it is read.

    Raises:
        ValueError: The file does not exist, is not regular, or is too large.
    """
    check_regular_file(path)
    if (size := path.stat().st_size) > largest:
        raise ValueError(f"{path}: {size:,} bytes; at most {largest:,} are read")
    return path.read_bytes()


def decode_text(data: bytes, name: str) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 by their byte order mark, and drop the mark.

    Args:
        data: The whole content.
        name: Of the file, for messages.

    Raises:
        ValueError: The text has another encoding; the message has the line.
    """
    mark, encoding = next(((mark, encoding) for mark, encoding in BYTE_ORDER_MARKS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{name}: has the byte order mark of {encoding.upper()} and is damaged ({error.reason})") from None
        before = data[: len(mark) + error.start]
        line = len(re.findall(rb"\r\n|\n|\r", before)) + 1
        raise ValueError(f"{name}: line {line} is not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8") from None
    if "\0" in text:
        line = len(split_lines(text[: text.index("\0")])) or 1
        raise ValueError(f"{name}: line {line} holds a NUL byte; text in UTF-16 needs a byte order mark, or save the file as UTF-8")
    return text


def read_text(path: Path) -> str:
    """Return the decoded text of a file; see `read_bytes` and `decode_text` for errors."""
    return decode_text(read_bytes(path), str(path))


def split_lines(text: str) -> list[str]:
    r"""Split text at `\n`, `\r\n` and `\r` only.

    `str.splitlines` also splits at U+2028, form feeds and others, which may occur inside a name or a JSON string.
    """
    lines = re.split(r"\r\n|\n|\r", text)
    return lines[:-1] if lines[-1] == "" else lines


# ---- JSON


class JSONObject(RootModel[dict[str, Any]]):
    """A JSON object whose values the caller checks."""


def parse_json(data: bytes | str, model: type[Model], name: str) -> Model:
    """Parse and validate a JSON document.

    Args:
        data: The document.
        model: Its schema.
        name: Of the file, for messages.

    Raises:
        ValueError: The document is not UTF-8, not JSON, nested too deeply, of another structure, or has too many values.
    """
    text = decode_text(data, name) if isinstance(data, bytes) else data
    try:
        check_parsed_size(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{name}: {describe(error)}") from None


def check_parsed_size(text: str) -> None:
    """Check that the values of a JSON document fit into memory: the 3 bytes of `[],` take 100 bytes.

    Raises:
        ValueError: They would take more than `LARGEST_PARSED` bytes, by an estimate.
    """
    objects, lists, strings, values = text.count("{"), text.count("["), text.count('"') // 2, text.count(",")
    if len(text) + 200 * objects + 80 * lists + 56 * strings + 32 * values > LARGEST_PARSED:
        raise ValueError(f"JSON of {values:,} values; at most {LARGEST_PARSED:,} bytes of memory are used for them")


def validate(document: Any, model: type[Model], name: str) -> Model:
    """Validate a parsed document; see `parse_json`."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"{name}: {describe(error)}") from None


def read_json(path: Path, model: type[Model]) -> Model:
    """Read and validate a JSON file; see `read_bytes` and `parse_json` for errors."""
    return parse_json(read_bytes(path), model, str(path))


def dump_json(document: Any, indent: int | None = 1) -> str:
    """Return a document as JSON that `parse_json` accepts; a lone surrogate becomes the text of its escape."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\\\u{ord(match[0]):04x}", text)
