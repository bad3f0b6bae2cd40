"""What a prepared dataset says of itself: its manifest and its vocabulary, wherever it lies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, Literal
from urllib.parse import quote

import fsspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import track

from cap2im.data.prepare import FORMAT, MANIFEST, PROGRESS, VOCABULARY, Rows, check_relative
from cap2im.data.splits import SPLITS, Split
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import LARGEST_DOCUMENT, check_regular_file, explain, file_sha256, parse_json, sha256, shortened

WORTH_A_BAR = 10**9  # bytes


def is_url(text: str) -> bool:
    """Return whether a text is a URL of fsspec (`s3://...`, `zip://...::https://...`); all else is a path, whatever it holds."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z][A-Za-z0-9+.-]+)*://", text) is not None


def join_url(folder: str, file: str) -> str:
    """Return the path or URL of a file below a folder; HTTP's URLs are percent-encoded."""
    if not is_url(folder):
        return f"{folder}/{file}"
    return f"{folder.rstrip('/')}/{quote(file) if folder.startswith(('http://', 'https://')) else file}"


@contextmanager
def open_file(where: str) -> Iterator[IO[bytes]]:
    """Open a path, which is no pattern, or a URL of fsspec.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no regular file, or cannot be read from there.
    """
    if is_url(where):
        with fsspec.open(where, "rb", expand=False) as file:
            yield file
        return
    path = Path(where)
    if path.exists():
        check_regular_file(path)
    with path.open("rb") as file:
        yield file


def _shard_name(file: str) -> str:
    """Return a shard's name: relative to the dataset, or a URL."""
    if PurePosixPath(file).name.split("-")[0] not in SPLITS:
        raise ValueError(f"the name begins with none of {', '.join(SPLITS)}")
    if not is_url(file):
        return check_relative(file)
    if "::" in file:
        raise ValueError("a chain of URLs is not followed")
    return file


class Shard(BaseModel):
    """A file of captioned images: Parquet, or tar in WebDataset's layout."""

    model_config = ConfigDict(frozen=True)

    file: Annotated[str, AfterValidator(_shard_name)]  # relative to the dataset, or a URL
    rows: Rows
    sha256: str | None = None

    @property
    def split(self) -> str:
        return PurePosixPath(self.file).name.split("-")[0]


class VocabularyEntry(BaseModel):
    """What the manifest knows of the vocabulary."""

    model_config = ConfigDict(frozen=True)

    sha256: str | None = None


def _different(shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
    if len({shard.file for shard in shards}) < len(shards):
        raise ValueError("a shard is listed twice")
    return shards


class Manifest(BaseModel):
    """What training needs of `manifest.json`."""

    model_config = ConfigDict(frozen=True)

    format: str
    side: int = Field(ge=1, le=65_535, strict=True)
    fit: Literal["stretch", "crop", "shorter"]
    source: dict[str, Any]
    title: str | None = None
    licence: str | None = None
    vocabulary: VocabularyEntry = VocabularyEntry()
    shards: Annotated[tuple[Shard, ...], AfterValidator(_different)]


def parse_manifest(data: bytes, folder: str) -> Manifest:
    """Validate the manifest of a dataset.

    Args:
        data: the content of `manifest.json`.
        folder: path or URL of the dataset. Only the manifest of a URL may name shards by URL, and only that of a `file://` URL local files.

    Raises:
        ValueError: damaged, of another version, or it names a shard outside of the dataset.
    """
    manifest = parse_json(data, Manifest, join_url(folder, MANIFEST))
    if manifest.format != FORMAT:
        raise ValueError(f"{folder}: its format is {manifest.format!r}, this version of cap2im reads {FORMAT!r}")
    if not is_url(folder) and (elsewhere := next((shard.file for shard in manifest.shards if is_url(shard.file)), None)):
        there = Path(folder).absolute().as_uri()
        raise ValueError(
            f"{folder}: its manifest names {elsewhere}; URLs are followed only if the dataset itself is given as a URL: {there}"
        )
    local = ("file:", "local:")
    if not folder.lower().startswith(local) and (
        here := next((shard.file for shard in manifest.shards if shard.file.lower().startswith(local)), None)
    ):
        raise ValueError(f"{folder}: its manifest names {here}, a file of this machine")
    return manifest


@dataclass(frozen=True)
class PreparedDataset:
    """What `cap2im prepare` made.

    Attributes:
        folder: a folder, or any URL that fsspec knows.
        manifest: where it came from and what is in it.
        vocabulary: the words of its training captions.
        sha256: of the manifest, which names the checksums of all images and captions.
    """

    folder: str
    manifest: Manifest
    vocabulary: Vocabulary
    sha256: str

    @classmethod
    def open(cls, folder: str | Path) -> PreparedDataset:
        """Read the manifest and the vocabulary of a dataset.

        Raises:
            ValueError: it is no prepared dataset, or damaged, or of another version.
        """
        where = str(folder)
        made = "cap2im prepare KIND PATH --out DIR makes one"
        if not is_url(where):
            if not Path(folder).exists():
                raise ValueError(f"{folder}: no such folder; a prepared dataset is needed ({made})")
            if not Path(folder).is_dir():
                raise ValueError(f"{folder}: is a file, and the folder of a prepared dataset is needed ({made})")
            if (Path(folder) / PROGRESS).is_file() and not (Path(folder) / MANIFEST).is_file():
                raise ValueError(f"{folder}: its preparation was interrupted; the same cap2im prepare command with --resume finishes it")
        try:
            data = _read(join_url(where, MANIFEST))
        except FileNotFoundError:
            raise ValueError(f"{folder}: no prepared dataset, for it has no {MANIFEST}; {made}") from None
        manifest = parse_manifest(data, where)
        words = join_url(where, VOCABULARY)
        try:
            content = _read(words)
        except FileNotFoundError:
            raise ValueError(f"{folder}: damaged dataset: no {VOCABULARY}") from None
        vocabulary = parse_json(content, Vocabulary, words)
        if (expected := manifest.vocabulary.sha256) is not None and (found := sha256(content)) != expected:
            raise ValueError(f"{words}: truncated or altered: SHA-256 {found[:12]}…, expected {expected[:12]}…")
        return cls(where, manifest, vocabulary, sha256(data))

    def has(self, split: Split) -> bool:
        """Whether a split holds any images."""
        return any(shard.split == split and shard.rows for shard in self.manifest.shards)

    def shards(self, split: Split) -> list[Shard]:
        """The shards of a split that hold anything.

        Raises:
            ValueError: there are none.
        """
        found = [shard for shard in self.manifest.shards if shard.split == split and shard.rows]
        if not found:
            there = sorted({shard.split for shard in self.manifest.shards if shard.rows})
            hint = ""
            if split == "validation":
                hint = "; prepare with --validation SHARE, larger for few images, or put some into a folder named validation"
            elif split == "test" and "validation" in there:
                hint = "; --split validation takes those"
            elif split == "test":
                hint = "; prepare with --test SHARE" + ("; --split train takes the training images" if "train" in there else "")
            raise ValueError(f"{self.folder}: has no {split} images; its splits: {', '.join(there) or 'none'}{hint}")
        return found

    def url(self, shard: Shard) -> str:
        """Return the path or URL of a shard."""
        return shard.file if is_url(shard.file) else join_url(self.folder, shard.file)

    def is_here(self, split: Split) -> bool:
        """Whether all of a split are Parquet files of this machine, so that they need not be streamed."""
        return all(self.url(shard).endswith(".parquet") and Path(self.url(shard)).is_file() for shard in self.shards(split))

    def files(self, split: Split) -> list[Path]:
        """The Parquet files of a split, checked against their SHA-256.

        Raises:
            ValueError: there is no such split, it cannot be read at once, or a file is missing, truncated or altered.
        """
        shards = self.shards(split)
        files = [Path(self.url(shard)) for shard in shards]
        for file in files:
            if file.suffix == ".parquet" and not is_url(self.folder) and not file.is_file():
                raise ValueError(f"{file}: missing; cap2im prepare with --resume makes it again")
            if file.suffix != ".parquet" or not file.is_file():
                raise ValueError(f"{file}: is no Parquet file of this machine; shards that are tar files or lie elsewhere want --stream")
        large = sum(file.stat().st_size for file in files) >= WORTH_A_BAR
        checked = list(zip(files, shards, strict=True))
        for file, shard in track(checked, f"checking {split} shards", console=Console(stderr=True), disable=not large):
            if shard.sha256 is not None and (found := file_sha256(file)) != shard.sha256:
                raise ValueError(f"{file}: truncated or altered: SHA-256 {found[:12]}…, expected {shard.sha256[:12]}…")
        return files

    def require_size(self, side: int, what: str, setting: str = "") -> None:
        """Check that images have the size that something needs.

        Args:
            side: that is needed.
            what: needs it, for the message.
            setting: option that would change what is needed, without its value: the message offers it.

        Raises:
            ValueError: they do not.
        """
        if self.manifest.fit == "shorter":
            raise ValueError(f"{self.folder}: its images are not square, {what} is {side}; prepare with --fit crop or --fit stretch")
        if self.manifest.side != side:
            offer = f", or give {setting}{self.manifest.side}" if setting else ""
            raise ValueError(
                f"{self.folder}: its images are {self.manifest.side} pixels wide, {what} is {side}; prepare with --side {side}{offer}"
            )

    def about(self) -> dict[str, Any]:
        """Return what models and measurements say of it, JSON-ready, without local paths."""
        named = {"title": self.manifest.title, "licence": self.manifest.licence}
        images = sum(shard.rows for shard in self.manifest.shards if shard.split == "train")
        return {"sha256": self.sha256, "source": _public(self.manifest.source), "images": images} | {
            key: value for key, value in named.items() if value
        }


def _public(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source with the last part of its path alone: local folders are private. A name on the hub stays whole."""
    path = str(source.get("path", "")).replace("\\", "/")
    on_hub = source.get("kind") == "huggingface" and path.count("/") == 1 and path[0] not in "/~."
    return {**source, "path": path if on_hub else PurePosixPath(path).name} if path else dict(source)


def _read(where: str) -> bytes:
    """Return the content of a document.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read: too large, no network, no credentials, an unknown protocol.
    """
    try:
        with open_file(where) as file:
            data = file.read(LARGEST_DOCUMENT + 1)
    except Exception as error:  # each remote file system has exceptions of its own: of httpx, botocore, aiohttp
        missing = isinstance(error, FileNotFoundError) and error.__cause__ is None
        if missing or (isinstance(error, ValueError) and not is_url(where)):
            raise
        reason = explain(error.__cause__ or error)  # fsspec calls a host that it cannot reach a missing file
        raise ValueError(f"{where}: cannot be read: {shortened(reason.removeprefix(f'{where}: '), 200)}") from None
    if len(data) > LARGEST_DOCUMENT:
        raise ValueError(f"{where}: more than {LARGEST_DOCUMENT:,} bytes")
    return bytes(data)
