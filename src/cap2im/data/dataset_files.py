"""Open the files of a prepared dataset, on this machine or at a URL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

from cap2im.files import LARGEST_DOCUMENT, check_regular_file, explain, shortened


def is_url(text: str) -> bool:
    """Return whether text is a URL of fsspec (`s3://...`, `zip://...::https://...`); anything else is a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z][A-Za-z0-9+.-]+)*://", text) is not None


def join_url(folder: str, file: str) -> str:
    """Return the path or URL of a file below a folder; HTTP URLs are percent-encoded."""
    if not is_url(folder):
        return f"{folder}/{file}"
    return f"{folder.rstrip('/')}/{quote(file) if folder.startswith(('http://', 'https://')) else file}"


@contextmanager
def open_file(where: str) -> Iterator[IO[bytes]]:
    """Open a path or a URL of fsspec for reading. Paths are no patterns.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is not a regular file, or cannot be read.
    """
    if is_url(where):
        import fsspec  # slow to import

        with fsspec.open(where, "rb", expand=False) as file:
            yield file
        return
    path = Path(where)
    if path.exists():
        check_regular_file(path)
    with path.open("rb") as file:
        yield file


def read_document(where: str) -> bytes:
    """Return the content of a document.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it cannot be read: too large, no network, no credentials, an unknown protocol.
    """
    try:
        with open_file(where) as file:
            data = file.read(LARGEST_DOCUMENT + 1)
    except Exception as error:  # remote file systems raise the exceptions of httpx, botocore, aiohttp and others
        missing = isinstance(error, FileNotFoundError) and error.__cause__ is None
        if missing or (isinstance(error, ValueError) and not is_url(where)):
            raise
        reason = explain(error.__cause__ or error)  # fsspec reports a host that it cannot reach as a missing file
        raise ValueError(f"{where}: cannot be read: {shortened(reason.removeprefix(f'{where}: '), 200)}") from None
    if len(data) > LARGEST_DOCUMENT:
        raise ValueError(f"{where}: more than {LARGEST_DOCUMENT:,} bytes")
    return bytes(data)
