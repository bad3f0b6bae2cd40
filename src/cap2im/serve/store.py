"""Where pictures go when requests are answered with links: a local folder, or a bucket of S3, Azure or Google Cloud, through fsspec.

A file is named by the SHA-256 of its bytes, so that nothing that a client sends becomes part of a path, and the same picture is kept once.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar
from uuid import uuid4

import fsspec
from anyio import CapacityLimiter, fail_after, to_thread
from fastapi import APIRouter, HTTPException, Request, Response
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

Kind = Literal["png", "gif", "html"]
MEDIA_TYPES: dict[Kind, str] = {"png": "image/png", "gif": "image/gif", "html": "text/html; charset=utf-8"}
FILES = "/v1/files"  # where the server itself answers the files of a local store
MARK = ".cap2im"  # written when a store is opened: a store that cannot be written is told before the first request
AT_ONCE = 8  # files on their way to or from a store; one that hangs must not hold all threads of the server

SHOWN = {  # a name stands for its content for ever; a page is shown as if it came from nowhere, so that it can do nothing here
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

# Each library's own way to tell what a file is: without it a browser offers to save a picture in place of showing it.
_TYPED: dict[str, Callable[[str], dict[str, Any]]] = {
    "s3": lambda media_type: {"ContentType": media_type},
    "gs": lambda media_type: {"content_type": media_type},
    "abfs": lambda media_type: {"content_settings": {"content_type": media_type}},
}
_NAME = re.compile(rf"[0-9a-f]{{64}}\.({'|'.join(MEDIA_TYPES)})")
_log = logging.getLogger(__name__)
T = TypeVar("T")


class StoreError(Exception):
    """A file cannot be kept or read: the answer's HTTP status, and one sentence that names nothing of the machine."""

    def __init__(self, status: Literal[503, 507], detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Store:
    """A place for pictures, each under a URL of its own.

    Attributes:
        files: fsspec's file system.
        root: the folder in it.
        public: what the names of files are appended to; None has the file system sign links.
        link_s: seconds for which a signed link holds.
        timeout_s: seconds after which a file that is not yet written or read counts as lost.
    """

    files: fsspec.AbstractFileSystem
    root: str
    public: str | None
    link_s: int
    timeout_s: float
    _limit: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(AT_ONCE))

    @classmethod
    def open(cls, url: str, *, public: str | None = None, root_path: str = "", link_s: int = 86_400, timeout_s: float = 20) -> Store:
        """The store at a URL, to which something was written.

        Args:
            url: a folder, which is made if it is missing, or s3://BUCKET/FOLDER, abfs://CONTAINER/FOLDER, gs://BUCKET/FOLDER; the keys
                come from the environment, as their libraries read it.
            public: the address under which others read the files, for a bucket that all may read or a network of caches. Without one
                the server itself answers the files of a local store, and links into a bucket are signed.
            root_path: path prefix of the server, which links to its own files begin with.
            link_s: seconds for which a signed link holds; S3 and Google Cloud allow a week.
            timeout_s: seconds to write or read one file.

        Raises:
            ValueError: no such kind of store, its library is missing, it cannot be written, or it has to sign links and cannot.
        """
        try:
            files, root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"store {url!r}: {_one_line(error)}") from None
        served = isinstance(files, LocalFileSystem | MemoryFileSystem)
        if public is None and served:
            public = root_path + FILES
        store = cls(files, root.rstrip("/"), public if public is None else public.rstrip("/"), link_s, timeout_s)
        try:
            if served:
                files.makedirs(store.root, exist_ok=True)
            store._write(MARK, b"cap2im\n", "text/plain")
        except Exception as error:  # each bucket's library has errors of its own
            raise ValueError(f"store {url!r} cannot be written: {_one_line(error)}") from None
        try:
            store._link(MARK)
        except NotImplementedError:
            raise ValueError(f"store {url!r} cannot sign links: give the address under which its files are public") from None
        return store

    def link(self, name: str) -> str:
        """The URL under which others read a file.

        Raises:
            StoreError: 503 when it cannot be signed.
        """
        try:
            return self._link(name)
        except Exception as error:  # each bucket's library has errors of its own
            raise _told(error, "the store") from None

    async def keep(self, name: str, content: bytes) -> None:
        """Writes a file of `file_name`, whole or not at all; one that is there already is written anew, so that its age starts again.

        Raises:
            StoreError: 507 when the store is full, 503 when it cannot be written for another reason or takes too long.
        """
        await self._in_time(partial(self._write, name, content, _media_type(name)), "the picture was drawn, but its store")

    async def read(self, name: str) -> tuple[bytes, str] | None:
        """A file's content and media type; None where there is no file of that name, or could be none.

        Raises:
            StoreError: 503 when the store cannot be read or takes too long.
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
            _log.error("the store did not answer within %g s", self.timeout_s)
            raise StoreError(503, f"{subject} does not answer; try again later") from None
        except Exception as error:  # each bucket's library has errors of its own, and none of them may end the server
            raise _told(error, subject) from None

    def _write(self, name: str, content: bytes, media_type: str) -> None:
        path = f"{self.root}/{name}"
        if not isinstance(self.files, LocalFileSystem):
            protocols = {self.files.protocol} if isinstance(self.files.protocol, str) else set(self.files.protocol)
            typed = [options(media_type) for protocol, options in _TYPED.items() if protocol in protocols]
            self.files.pipe_file(path, content, **(typed[0] if typed else {}))  # a bucket shows an object when it is complete
            return
        part = f"{self.root}/.{uuid4().hex}.partial"
        try:
            self.files.pipe_file(part, content)
            self.files.mv(part, path)  # a rename: both are in one folder
        except BaseException:
            if self.files.exists(part):
                self.files.rm_file(part)
            raise

    def _content(self, path: str) -> bytes:
        if not isinstance(self.files, LocalFileSystem):
            return self.files.cat_file(path)
        # who can write into the folder must not thereby show all that the server can read, nor hold its threads with a FIFO
        careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | careful)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return file.read()

    def _link(self, name: str) -> str:
        return str(self.files.sign(f"{self.root}/{name}", expiration=self.link_s)) if self.public is None else f"{self.public}/{name}"


def router() -> APIRouter:
    """The route that answers the files of a local store. Who knows a name may read: it is long as a key, and `<img>` brings none along."""
    routes = APIRouter()

    @routes.get(f"{FILES}/{{name}}", response_class=Response, responses={404: {"description": "There is no such file."}})
    async def file(request: Request, name: str) -> Response:
        """A picture, or a page, to which an answer linked."""
        found = await request.app.state.store.read(name)
        if found is None:
            raise HTTPException(404, "there is no such file")
        content, media_type = found
        return Response(content, media_type=media_type, headers=SHOWN)

    return routes


class Files:
    """The files of one answer: inline, or in a store, where they are only after `keep`."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._kept: dict[str, bytes] = {}

    def add(self, content: bytes, kind: Kind) -> dict[str, str]:
        """What an answer says of a file: its media type, and `base64` or `url`.

        Raises:
            StoreError: the link cannot be signed.
        """
        if self._store is None:
            return {"media_type": MEDIA_TYPES[kind], "base64": base64.b64encode(content).decode()}
        name = file_name(content, kind)
        self._kept[name] = content
        return {"media_type": MEDIA_TYPES[kind], "url": self._store.link(name)}

    async def keep(self) -> None:
        """Writes them all.

        Raises:
            StoreError: one of them could not be kept; see `Store.keep`.
        """
        if self._store is not None:
            kept = await asyncio.gather(*(self._store.keep(name, content) for name, content in self._kept.items()), return_exceptions=True)
            for failed in kept:
                if failed is not None:
                    raise failed


def file_name(content: bytes, kind: Kind) -> str:
    """The name under which a store keeps a file."""
    return f"{hashlib.sha256(content).hexdigest()}.{kind}"


def _media_type(name: str) -> str:
    return next(media_type for kind, media_type in MEDIA_TYPES.items() if name.endswith(f".{kind}"))


def _told(error: Exception, subject: str) -> StoreError:
    _log.error("store: %s", _one_line(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(507, f"{subject} is full")
    return StoreError(503, f"{subject} cannot be reached; try again later")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
