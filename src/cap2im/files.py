"""Read files that people bring, and write files that are either whole or absent.

Every text and every JSON document that comes from outside is read here, so that encodings, damage and hostile content are handled once.
Imports nothing heavy.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

LARGEST_DOCUMENT = 256 * 2**20  # bytes of a text or JSON document that is read into memory

# longest mark first: that of UTF-32 begins with that of UTF-16
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

OS_PROBLEMS = {
    errno.ENOENT: "no such file or folder",
    errno.EEXIST: "a file or folder of this name is in the way",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "is a folder, and a file is needed",
    errno.ENOTEMPTY: "this folder is not empty",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "cannot be written, for this file system is read-only",
    errno.ENOSPC: "cannot be written, for the disk is full",
    errno.EDQUOT: "cannot be written, for the disk quota is used up",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many files are open",
    errno.ELOOP: "symbolic links point at each other",
}

NO_HOST = "no such host, or no network"

Model = TypeVar("Model", bound=BaseModel)


def sha256(data: bytes) -> str:
    """Return the SHA-256 hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regular_file(path: Path) -> None:
    """Refuse what is not a regular file: reading a FIFO or a device may never end.

    Raises:
        ValueError: the path does not exist, or is a folder, FIFO, socket or device.
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
        path: of the file.
        largest: bytes; a larger file is refused before it is read.

    Raises:
        ValueError: no such file, not a regular file, or too large.
    """
    check_regular_file(path)
    if (size := path.stat().st_size) > largest:
        raise ValueError(f"{path}: {size:,} bytes; at most {largest:,} are read")
    return path.read_bytes()


def decode_text(data: bytes, name: str) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 by their byte order mark, which is dropped.

    Args:
        data: the whole content.
        name: of the file, for messages.

    Raises:
        ValueError: another encoding; the message has the line.
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
    """Split text at `\\n`, `\\r\\n` and `\\r` only.

    `str.splitlines` also splits at U+2028, form feeds and others, which may stand inside of a name or a JSON string.
    """
    lines = re.split(r"\r\n|\n|\r", text)
    return lines[:-1] if lines[-1] == "" else lines


def check_writable_folder(path: Path) -> None:
    """Check that a folder can be written into, or made; nothing is made.

    Raises:
        ValueError: a file is in the way, or writing is not permitted.
    """
    here = path.absolute()
    while not os.path.lexists(here):
        here = here.parent
    if not here.is_dir():
        raise ValueError(
            f"{path}: is a file, and a folder is needed" if here == path.absolute() else f"{path}: {here} is a file, not a folder"
        )
    if not os.access(here, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: cannot write into {here}: permission denied")


def check_writable_file(path: Path) -> None:
    """Check that a file can be written or replaced; nothing is made.

    Raises:
        ValueError: the path is no regular file, its folder does not exist, or writing is not permitted.
    """
    if os.path.exists(path):
        try:
            check_regular_file(path)
        except ValueError as error:
            raise ValueError(f"{path}: cannot write this file: {str(error).removeprefix(f'{path}: ')}") from None
    elif not path.parent.is_dir():
        raise ValueError(f"{path}: cannot write this file: no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: cannot write this file: permission denied")


def explain(error: BaseException) -> str:
    """Return any error as one line for people: the file and a sentence, without error numbers and the names of Python's classes."""
    if isinstance(error, OSError) and error.strerror is not None and error.errno is not None:
        own = error.strerror != os.strerror(error.errno)  # a text of this package
        told = error.strerror if own else OS_PROBLEMS.get(error.errno, error.strerror.lower())
        return f"{error.filename}: {told}" if error.filename else told
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"<urlopen error (.*?)>", r"\1", text)
    text = re.sub(r"\[(?:Errno|WinError) -?\d+\] ", "", text)
    return re.sub(r"(?:Name or service not known|Temporary failure in name resolution|nodename nor servname provided.*)", NO_HOST, text)


def describe(error: ValidationError, most: int = 3) -> str:
    """Return a validation error as one short line: where, what, got."""
    problems = []
    for each in error.errors(include_url=False)[:most]:
        place = ".".join(str(part) for part in each["loc"])
        got = "" if each["type"] == "json_invalid" or isinstance(each["input"], dict | list) else f", got {shortened(repr(each['input']))}"
        problems.append(f"{place + ': ' if place else ''}{each['msg'].removeprefix('Value error, ')}{got}")
    more = error.error_count() - most
    return "; ".join(problems) + (f"; and {more} problems more" if more > 0 else "")


def shortened(text: str, most: int = 60) -> str:
    """Return text of at most so many characters, invisible characters and line breaks escaped."""
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return visible if len(visible) <= most else f"{visible[: most - 1]}…"


def parse_json(data: bytes | str, model: type[Model], name: str) -> Model:
    """Validate a JSON document.

    Args:
        data: the document.
        model: what it has to hold.
        name: of the file, for messages.

    Raises:
        ValueError: not UTF-8, not JSON, nested too deeply, or of another structure.
    """
    text = decode_text(data, name) if isinstance(data, bytes) else data
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{name}: {describe(error)}") from None


def read_json(path: Path, model: type[Model]) -> Model:
    """Read and validate a JSON file; see `read_bytes` and `parse_json` for errors."""
    return parse_json(read_bytes(path), model, str(path))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it there when the block ends well.

    The file is flushed to the disk first. After an error or a kill `path` is what it was before.
    """
    draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.draft")
    try:
        draft.touch(exist_ok=False)
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file that is either whole or absent; text is stored as UTF-8, lone surrogates as backslash escapes.

    Raises:
        OSError: the disk is full or the folder cannot be written; the error names the file.
    """
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    try:
        with atomic_path(path) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, f"cannot write ({error.strerror})", str(path)) from None
