"""Write folders that are either complete or absent.

A folder NAME is written as `.NAME.draft` beside it, and renamed. An existing folder is first renamed to `.NAME.retired`, and removed after
the second rename. A kill between the two renames leaves only the retired folder, which `existing_folder` returns. The next write of the
folder removes what a killed process left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cap2im.files.writing import flush, lock, naming


def _beside(folder: Path, state: str) -> Path:
    return folder.with_name(f".{folder.name}.{state}")


def existing_folder(folder: Path) -> Path:
    """Return a folder, or its retired predecessor if a kill has interrupted the replacement."""
    retired = _beside(folder, "retired") if folder.name else folder
    return retired if not folder.exists() and retired.is_dir() else folder


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder, and move it to `target` when the block ends without an error; else remove it.

    Raises:
        ValueError: another process writes this folder, or `target` is a file.
        OSError: the disk is full, or the folder cannot be written.
    """
    given, target = target, target.resolve()  # a link stays a link
    draft, retired = _beside(target, "draft"), _beside(target, "retired")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{given}: is a file, and a folder is needed")
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(given, draft):
        draft.mkdir(exist_ok=True)  # a killed process may have left one
    with _locked(draft, given):
        try:
            for left in draft.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield draft
            for path in (*draft.rglob("*"), draft):
                flush(path)
            if target.exists():
                shutil.rmtree(retired, ignore_errors=True)
                os.replace(target, retired)
            try:
                os.replace(draft, target)
            except OSError:
                if retired.exists():
                    os.replace(retired, target)
                raise
            flush(target.parent)
            shutil.rmtree(retired, ignore_errors=True)
        except OSError as error:
            if error.errno is None or not isinstance(error.filename, str) or not Path(error.filename).is_relative_to(draft):
                raise
            raise OSError(error.errno, error.strerror, str(given / Path(error.filename).relative_to(draft))) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked(folder: Path, target: Path) -> Iterator[None]:
    """Lock a folder against other processes.

    Raises:
        ValueError: another process writes it.
    """
    if os.name == "nt":  # Windows opens no folders
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not lock(descriptor):
            raise ValueError(f"{target}: another process is writing this folder")
        yield
    finally:
        os.close(descriptor)
