"""Read files that people bring, and write files that are either whole or absent.

Every text and every JSON document that comes from outside is read here, so that encodings, damage and hostile content are handled once.
Imports nothing heavy.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import re
import reprlib
import secrets
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, RootModel, ValidationError

try:
    import fcntl
except ModuleNotFoundError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]

LARGEST_DOCUMENT = 256 * 2**20  # bytes of a text or JSON document that is read into memory
LARGEST_PARSED = 2**30  # bytes that the values of a JSON document may take in memory, as `check_parsed_size` estimates them
LONGEST_NAME = 180  # bytes of a file name that is made of other text; most file systems allow 255, and endings follow
RESERVED_NAMES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})  # Windows

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


def check_unicode_path(path: Path) -> None:
    """Refuse a path that is not UTF-8: safetensors and TensorBoard open no such files.

    Raises:
        ValueError: the path is not UTF-8, or the locale is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: the path is not UTF-8, or the locale is not (LC_ALL=C.UTF-8); weights need such a path") from None


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


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 2, 60, 60, 40


def brief(value: Any) -> str:
    """Return a short `repr` of a value of any size; nothing that is nested or shared is expanded."""
    try:
        return shortened(_BRIEF.repr(value))
    except ValueError:  # an integer of more digits than Python writes
        return f"a long {type(value).__name__}"


def parse_json(data: bytes | str, model: type[Model], name: str) -> Model:
    """Validate a JSON document.

    Args:
        data: the document.
        model: what it has to hold.
        name: of the file, for messages.

    Raises:
        ValueError: not UTF-8, not JSON, nested too deeply, of another structure, or of too many values.
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
    """Refuse a JSON document whose values would take too much memory: `[],` of 3 bytes takes 100.

    Raises:
        ValueError: they would take more than `LARGEST_PARSED` bytes, by an estimate.
    """
    objects, lists, strings, values = text.count("{"), text.count("["), text.count('"') // 2, text.count(",")
    if len(text) + 200 * objects + 80 * lists + 56 * strings + 32 * values > LARGEST_PARSED:
        raise ValueError(f"JSON of {values:,} values; at most {LARGEST_PARSED:,} bytes of memory are used for them")


def validate(document: Any, model: type[Model], name: str) -> Model:
    """Validate what was read already; see `parse_json`."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"{name}: {describe(error)}") from None


def read_json(path: Path, model: type[Model]) -> Model:
    """Read and validate a JSON file; see `read_bytes` and `parse_json` for errors."""
    return parse_json(read_bytes(path), model, str(path))


class JSONObject(RootModel[dict[str, Any]]):
    """A JSON object whose values are checked by those who use them."""


def dump_json(document: Any, indent: int | None = 1) -> str:
    """Return a document as JSON that `parse_json` reads back; a lone surrogate becomes the text of its escape."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\\\u{ord(found[0]):04x}", text)


def safe_file_name(text: str) -> str:
    """Return text as the beginning of a file name that every system allows, of at most `LONGEST_NAME` bytes.

    Characters that some system does not allow become `-`. A name that is reserved by Windows gets an underscore in front. A long name is
    cut, and ends in the first 8 digits of the SHA-256 of the whole.
    """
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', "-", text)
    if name.partition(".")[0].strip().lower() in RESERVED_NAMES:
        name = f"_{name}"
    if len(name.encode()) > LONGEST_NAME:
        name = f"{name.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}-{sha256(text.encode('utf-8', 'surrogatepass'))[:8]}"
    return name


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes only what it may write to
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed, and return False if another process has; True where there are no locks."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # some network file systems have no locks
            pass
    return True


@contextmanager
def naming(path: Path, *hidden: Path) -> Iterator[None]:
    """Make an OSError of writing name the file: a full disk names none by itself.

    Args:
        path: that the error is to name, in place of none and of `hidden`.
        hidden: temporary files that the error is not to name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, *hidden, *map(str, hidden)):
            raise
        raise OSError(error.errno, f"cannot write ({error.strerror or os.strerror(error.errno)})", str(path)) from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it there when the block ends well.

    The file is flushed to the disk first. After an error or a kill `path` is what it was before. The temporary file of a process that
    was killed is overwritten when `path` is written again. If processes write one file at one time, the last one wins.

    Raises:
        OSError: the disk is full or the folder cannot be written; the error names `path`.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[:40]
    usual = path.with_name(f".{name}.{sha256(os.fsencode(path.name))[:8]}.draft")
    with naming(path, usual):
        draft, descriptor = _create(usual)
        try:
            with naming(path, draft):
                yield draft
                flush(draft)
                os.replace(draft, path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _create(usual: Path) -> tuple[Path, int | None]:
    """Create an empty file, and return its path and the descriptor of its lock if there are locks.

    Args:
        usual: the path, whose file is emptied if it was left by a process that was killed. Another is chosen while a process writes it.
    """
    for path in (usual, usual.with_name(f"{usual.stem}.{secrets.token_hex(4)}.draft")):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if lock(descriptor):
            with suppress(FileNotFoundError):  # the other process ended, and moved its file away
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    os.ftruncate(descriptor, 0)
                    break
        os.close(descriptor)
    if fcntl is None:
        os.close(descriptor)  # Windows moves no open files
        return path, None
    return path, descriptor


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file that is either whole or absent; text is stored as UTF-8, lone surrogates as backslash escapes.

    Raises:
        OSError: the disk is full or the folder cannot be written; the error names the file.
    """
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    with atomic_path(path) as draft:
        draft.write_bytes(content)


def is_unbegun(folder: Path, first: str, subfolders: Collection[str]) -> bool:
    """Return whether a folder is empty, or holds only what a process left that was killed before its first file was whole.

    Args:
        folder: that exists.
        first: name of the first file, whose temporary file may be there; see `atomic_path`.
        subfolders: names of folders that may be there, empty.
    """

    def is_left(path: Path) -> bool:
        if path.name in subfolders:
            return path.is_dir() and not any(path.iterdir())
        return re.fullmatch(rf"\.{re.escape(first)}\.([0-9a-f.]+\.)?draft", path.name) is not None

    return all(is_left(path) for path in folder.iterdir())
