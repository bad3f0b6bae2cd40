"""What a prepared dataset says of itself: its manifest and its vocabulary, wherever it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

import fsspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import track

from cap2im.data.digits import Split
from cap2im.data.preparing import FORMAT, MANIFEST, VOCABULARY
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import file_sha256

SPLITS: tuple[Split, ...] = get_args(Split)
WORTH_A_BAR = 10**9  # bytes


def _of_a_split(file: str) -> str:
    if PurePosixPath(file).name.split("-")[0] not in SPLITS:
        raise ValueError(f"the name begins with none of {', '.join(SPLITS)}")
    return file


class Shard(BaseModel):
    """A file of captioned images: Parquet, or tar in WebDataset's layout."""

    model_config = ConfigDict(frozen=True)

    file: Annotated[str, AfterValidator(_of_a_split)]  # relative to the dataset, or a URL
    rows: int = Field(ge=0)
    sha256: str | None = None

    @property
    def split(self) -> str:
        return PurePosixPath(self.file).name.split("-")[0]


class Manifest(BaseModel):
    """What training needs of `manifest.json`."""

    model_config = ConfigDict(frozen=True)

    format: str
    side: int = Field(ge=1)
    fit: Literal["stretch", "crop", "shorter"]
    source: dict[str, Any]
    title: str | None = None
    licence: str | None = None
    shards: tuple[Shard, ...]


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
        """Reads what a dataset says of itself.

        Raises:
            ValueError: it is no prepared dataset, or damaged, or of another version.
        """
        try:
            text = _read(f"{folder}/{MANIFEST}")
        except FileNotFoundError:
            if "://" not in str(folder) and not Path(folder).exists():
                raise ValueError(f"{folder}: no such folder") from None
            made = "cap2im prepare KIND PATH --out DIR makes one"
            raise ValueError(f"{folder}: no prepared dataset, for it has no {MANIFEST}; {made}") from None
        try:
            manifest = Manifest.model_validate_json(text)
            vocabulary = Vocabulary.model_validate_json(_read(f"{folder}/{VOCABULARY}"))
        except FileNotFoundError:
            raise ValueError(f"{folder}: damaged dataset: no {VOCABULARY}") from None
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
            raise ValueError(f"{folder}: damaged dataset: {told}") from None
        if manifest.format != FORMAT:
            raise ValueError(f"{folder}: its format is {manifest.format!r}, this version of cap2im reads {FORMAT!r}")
        return cls(str(folder), manifest, vocabulary, hashlib.sha256(text).hexdigest())

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
            raise ValueError(f"{self.folder}: has no {split} images; its splits: {', '.join(there) or 'none'}{hint}")
        return found

    def url(self, shard: Shard) -> str:
        """Where a shard lies."""
        return shard.file if "://" in shard.file else f"{self.folder}/{shard.file}"

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
            if file.suffix == ".parquet" and "://" not in self.folder and not file.is_file():
                raise ValueError(f"{file}: missing; cap2im prepare with --resume makes it again")
            if file.suffix != ".parquet" or not file.is_file():
                raise ValueError(f"{file}: is no Parquet file of this machine; shards that are tar files or lie elsewhere want --stream")
        large = sum(file.stat().st_size for file in files) >= WORTH_A_BAR
        checked = list(zip(files, shards, strict=True))
        for file, shard in track(checked, f"checking {split} shards", console=Console(stderr=True), disable=not large):
            if shard.sha256 is not None and (found := file_sha256(file)) != shard.sha256:
                raise ValueError(f"{file}: truncated or altered: SHA-256 {found[:12]}…, expected {shard.sha256[:12]}…")
        return files

    def require_size(self, side: int, what: str) -> None:
        """Makes sure that images have the size that something needs.

        Raises:
            ValueError: they do not.
        """
        if self.manifest.fit == "shorter":
            raise ValueError(f"{self.folder}: its images are not square, {what} is {side}; prepare with --fit crop or --fit stretch")
        if self.manifest.side != side:
            raise ValueError(
                f"{self.folder}: its images are {self.manifest.side} pixels wide, {what} is {side}; prepare with --side {side}"
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


def _read(url: str) -> bytes:
    """A whole file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read from there.
    """
    try:
        with fsspec.open(url, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(f"{url}: cannot be read: {' '.join(str(error).split())[:200]}") from None
