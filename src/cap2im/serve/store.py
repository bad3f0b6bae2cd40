"""The store for pictures that responses link to: a local folder, or a bucket of S3, Azure or Google Cloud through fsspec.

A file's name is the SHA-256 of its content, so that no input of a client becomes part of a path and each picture is stored once.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NoReturn, TypeVar
from uuid import uuid4

import fsspec
from anyio import CapacityLimiter, fail_after, to_thread
from fastapi import APIRouter, HTTPException, Request, Response
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from cap2im.files import sha256

Kind = Literal["png", "gif", "html"]
MEDIA_TYPES: dict[Kind, str] = {"png": "image/png", "gif": "image/gif", "html": "text/html; charset=utf-8"}
FILES = "/v1/files"  # route of the files of a local store
MARK = ".cap2im"  # written when a store is opened, to fail at the start and not at the first request
AT_ONCE = 8  # concurrent transfers; a store that hangs must not block all threads of the server

FILE_HEADERS = {  # content never changes under its name; the sandbox gives a page an opaque origin
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

# How each library sets the content type; without it a browser saves a picture instead of showing it.
_TYPE_OPTIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    "s3": lambda media_type: {"ContentType": media_type},
    "gs": lambda media_type: {"content_type": media_type},
    "abfs": lambda media_type: {"content_settings": {"content_type": media_type}},
}
_NAME = re.compile(rf"[0-9a-f]{{64}}\.({'|'.join(MEDIA_TYPES)})")
logger = logging.getLogger(__name__)
T = TypeVar("T")


class StoreError(Exception):
    """A file cannot be written or read: an HTTP status, and a sentence without names of this machine."""

    def __init__(self, status: Literal[503, 507], detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Store:
    """A place for pictures, each with its own URL.

    Attributes:
        files: the fsspec file system.
        root: the folder in it.
        public: base URL of the files; None signs links.
        link_s: seconds until a signed link expires.
        timeout_s: seconds to write or read one file.
    """

    files: fsspec.AbstractFileSystem
    root: str
    public: str | None
    link_s: int
    timeout_s: float
    _limit: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(AT_ONCE))

    @classmethod
    def open(cls, url: str, *, public: str | None = None, root_path: str = "", link_s: int = 86_400, timeout_s: float = 20) -> Store:
        """Open the store at a URL and check that it can be written.

        Args:
            url: a folder, created if missing, or s3://BUCKET/FOLDER, abfs://CONTAINER/FOLDER, gs://BUCKET/FOLDER. Their libraries read
                credentials from the environment.
            public: base URL of the files, for a public bucket or a CDN. None serves the files of a local store, and signs links into a
                bucket.
            root_path: path prefix of the server, for links to its own files.
            link_s: seconds until a signed link expires; S3 and Google Cloud allow a week.
            timeout_s: seconds to write or read one file.

        Raises:
            ValueError: an unknown kind of store, a missing library, a store that cannot be written, or one that cannot sign links.
        """
        try:
            files, root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"store {url!r}: {_one_line(error)}") from None
        is_local = isinstance(files, LocalFileSystem | MemoryFileSystem)
        if public is None and is_local:
            public = root_path + FILES
        store = cls(files, root.rstrip("/"), public if public is None else public.rstrip("/"), link_s, timeout_s)
        try:
            if is_local:
                files.makedirs(store.root, exist_ok=True)
            store._write(MARK, b"cap2im\n", "text/plain")
        except Exception as error:  # each bucket's library has its own errors
            reason = "part of its path is a file" if isinstance(error, FileExistsError | NotADirectoryError) else _one_line(error)
            raise ValueError(f"store {url!r} cannot be written: {reason}") from None
        try:
            store._link(MARK)
        except NotImplementedError:
            raise ValueError(f"store {url!r} cannot sign links: give its public address, --set store_public=URL") from None
        return store

    def link(self, name: str) -> str:
        """Return the URL of a file.

        Raises:
            StoreError: 503 if it cannot be signed.
        """
        try:
            return self._link(name)
        except Exception as error:  # each bucket's library has its own errors
            _fail(error, "the store")

    async def keep(self, name: str, content: bytes) -> None:
        """Write a file atomically. Rewriting an existing file refreshes its timestamp.

        Raises:
            StoreError: 507 if the store is full, 503 if it cannot be written or takes too long.
        """
        await self._in_time(partial(self._write, name, content, _media_type(name)), "the picture was drawn, but its store")

    async def read(self, name: str) -> tuple[bytes, str] | None:
        """Return a file's content and media type; None if it does not exist or the name is not one of `file_name`.

        Raises:
            StoreError: 503 if the store cannot be read or takes too long.
        """
        if _NAME.fullmatch(name) is None:
            return None

        def read() -> tuple[bytes, str] | None:
            try:
                return self._content(f"{self.root}/{name}"), _media_type(name)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a FIFO or socket
                    raise
                return None

        return await self._in_time(read, "the store")

    async def _in_time(self, work: Callable[[], T], subject: str) -> T:
        try:
            with fail_after(self.timeout_s):
                return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limit)
        except TimeoutError:
            logger.error("the store did not answer within %g s", self.timeout_s)
            raise StoreError(503, f"{subject} does not answer; try again later") from None
        except Exception as error:  # each bucket's library has its own errors
            _fail(error, subject)

    def _write(self, name: str, content: bytes, media_type: str) -> None:
        path = f"{self.root}/{name}"
        if not isinstance(self.files, LocalFileSystem):
            protocols = {self.files.protocol} if isinstance(self.files.protocol, str) else set(self.files.protocol)
            options = [option(media_type) for protocol, option in _TYPE_OPTIONS.items() if protocol in protocols]
            self.files.pipe_file(path, content, **(options[0] if options else {}))  # buckets write atomically
            return
        part = f"{self.root}/.{uuid4().hex}.partial"
        try:
            self.files.pipe_file(part, content)
            self.files.mv(part, path)  # a rename within one folder is atomic
        except BaseException:
            if self.files.exists(part):
                self.files.rm_file(part)
            raise

    def _content(self, path: str) -> bytes:
        if not isinstance(self.files, LocalFileSystem):
            return bytes(self.files.cat_file(path))
        # whoever can write into the folder must not expose other files by a link, nor block threads with a FIFO
        safe_flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | safe_flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return file.read()

    def _link(self, name: str) -> str:
        return str(self.files.sign(f"{self.root}/{name}", expiration=self.link_s)) if self.public is None else f"{self.public}/{name}"


def router() -> APIRouter:
    """Return the route of the files of a local store. It requires no API key, which `<img>` cannot send: the name is as long as a key."""
    routes = APIRouter()

    @routes.get(f"{FILES}/{{name}}", response_class=Response, name="file", responses={404: {"description": "The file does not exist."}})
    async def get_file(request: Request, name: str) -> Response:
        """Returns a picture or a page that a response linked to."""
        file = await request.app.state.store.read(name)
        if file is None:
            raise HTTPException(404, "the file does not exist")
        content, media_type = file
        return Response(content, media_type=media_type, headers=FILE_HEADERS)

    return routes


class Files:
    """The files of one response: inline, or in a store after `keep`."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._content: dict[str, bytes] = {}

    def add(self, content: bytes, kind: Kind) -> dict[str, str]:
        """Add a file and return its entry in the response: `media_type`, and `base64` or `url`.

        Raises:
            StoreError: the link cannot be signed.
        """
        if self._store is None:
            return {"media_type": MEDIA_TYPES[kind], "base64": base64.b64encode(content).decode()}
        name = file_name(content, kind)
        self._content[name] = content
        return {"media_type": MEDIA_TYPES[kind], "url": self._store.link(name)}

    async def keep(self) -> None:
        """Write all files to the store.

        Raises:
            StoreError: a file could not be written; see `Store.keep`.
        """
        if self._store is not None:
            writes = (self._store.keep(name, content) for name, content in self._content.items())
            for error in await asyncio.gather(*writes, return_exceptions=True):
                if error is not None:
                    raise error


def file_name(content: bytes, kind: Kind) -> str:
    """Return the name of a file in a store."""
    return f"{sha256(content)}.{kind}"


def _media_type(name: str) -> str:
    return next(media_type for kind, media_type in MEDIA_TYPES.items() if name.endswith(f".{kind}"))


def _fail(error: Exception, subject: str) -> NoReturn:
    logger.error("store: %s", _one_line(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StoreError(507, f"{subject} is full") from None
    raise StoreError(503, f"{subject} cannot be reached; try again later") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
