"""Write files that are either complete or absent."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cap2im.files.reading import check_regular_file, sha256

try:
    import fcntl
except ModuleNotFoundError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]

MAX_NAME_BYTES = 180  # of a file name made of other text; most file systems allow 255, and suffixes follow
RESERVED_NAMES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})  # Windows


def check_writable_folder(path: Path) -> None:
    """Check that a folder can be created or written into, without creating it.

    Raises:
        ValueError: A file is in the way, or writing is not permitted.
    """
    parent = path.absolute()
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise ValueError(
            f"{path}: is a file, and a folder is needed" if parent == path.absolute() else f"{path}: {parent} is a file, not a folder"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: cannot write into {parent}: {_refusal(parent)}")


def check_writable_file(path: Path) -> None:
    """Check that a file can be written or replaced, without creating it.

    Raises:
        ValueError: The path is no regular file, its folder does not exist, or writing is not permitted.
    """
    if os.path.exists(path):
        try:
            check_regular_file(path)
        except ValueError as error:
            raise ValueError(f"{path}: cannot write this file: {str(error).removeprefix(f'{path}: ')}") from None
    elif not path.parent.is_dir():
        raise ValueError(f"{path}: cannot write this file: no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: cannot write this file: {_refusal(path.parent)}")


def _refusal(folder: Path) -> str:
    """Return why a folder cannot be written; on a read-only file system, root cannot write either."""
    read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY  # Windows has no statvfs
    return "this file system is read-only" if read_only else "permission denied"


def check_unicode_path(path: Path) -> None:
    """Check that a path is UTF-8: safetensors and TensorBoard open no other files.

    Raises:
        ValueError: The path or the locale is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: the path is not UTF-8, or the locale is not (LC_ALL=C.UTF-8); weights need such a path") from None


def safe_file_name(text: str) -> str:
    """Return text as the beginning of a file name that every system allows, of at most `MAX_NAME_BYTES`.

    Characters that some system forbids become `-`, and a name that Windows reserves gets an underscore in front. A long name is cut, and
    ends in the first 8 digits of the SHA-256 of the whole.
    """
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', "-", text)
    if name.partition(".")[0].strip().lower() in RESERVED_NAMES:
        name = f"_{name}"
    if len(name.encode()) > MAX_NAME_BYTES:
        name = f"{name.encode()[: MAX_NAME_BYTES - 9].decode(errors='ignore')}-{sha256(text.encode('utf-8', 'surrogatepass'))[:8]}"
    return name


def flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes only files that are open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed.

    Returns:
        False if another process holds the lock; True also on systems without locks.
    """
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
    """Add the name of a file to an OSError of writing: the error of a full disk has none.

    Args:
        path: File to name if the error names none, or one of `hidden`.
        hidden: Temporary files.

    Raises:
        OSError: Raised in the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, *hidden, *map(str, hidden)):
            raise
        raise OSError(error.errno, f"cannot write ({error.strerror or os.strerror(error.errno)})", str(path)) from None


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it there when the block ends without an error.

    After an error or a kill, `path` is unchanged. The temporary file of a killed process is overwritten when `path` is written again. If
    several processes write one file at a time, the last one wins.

    Args:
        path: File to write.
        durable: Flush the file to the disk first. Without, a loss of power can leave an empty file.

    Raises:
        OSError: The disk is full or the folder cannot be written; the error names `path`.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[:40]
    usual = path.with_name(f".{name}.{sha256(os.fsencode(path.name))[:8]}.draft")
    with naming(path, usual):
        draft, descriptor = _create(usual)
        try:
            with naming(path, draft):
                yield draft
                if durable:
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
    """Create an empty file, and return its path and the descriptor of its lock, None on systems without locks.

    Args:
        usual: Path to use; a file that a killed process left there is emptied. While another process writes it, another path is chosen.
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


def write_atomically(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write a file that is either complete or absent; text is stored as UTF-8, lone surrogates as backslash escapes.

    Args:
        path: File to write.
        data: Its content.
        durable: See `atomic_path`.

    Raises:
        OSError: The disk is full or the folder cannot be written; the error names the file.
    """
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    with atomic_path(path, durable=durable) as draft:
        draft.write_bytes(content)


def has_no_files(folder: Path, first: str, subfolders: Collection[str]) -> bool:
    """Return whether a folder is empty, or holds only what a process left that was killed before it completed its first file.

    Args:
        folder: An existing folder.
        first: Name of the first file, whose temporary file may exist; see `atomic_path`.
        subfolders: Names of empty folders that may exist.
    """

    def is_left(path: Path) -> bool:
        if path.name in subfolders:
            return path.is_dir() and not any(path.iterdir())
        return re.fullmatch(rf"\.{re.escape(first)}\.([0-9a-f.]+\.)?draft", path.name) is not None

    return all(is_left(path) for path in folder.iterdir())
