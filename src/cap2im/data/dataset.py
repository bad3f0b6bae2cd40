"""A prepared dataset on this machine or at a URL: its manifest, vocabulary and shards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cap2im.data.dataset_files import is_url, join_url, read_document
from cap2im.data.manifest import MANIFEST, PROGRESS, VOCABULARY, Manifest, Shard, parse_manifest
from cap2im.data.splits import Split
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import file_sha256, parse_json, sha256
from cap2im.progress import track

LARGE = 10**9  # bytes of shards; checking them shows a progress bar
HOW_TO_PREPARE = "cap2im prepare KIND PATH --out DIR makes one"


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset written by `cap2im prepare`.

    Attributes:
        folder: a folder, or any URL that fsspec supports.
        manifest: its source and its shards.
        vocabulary: words of the training captions.
        sha256: of the manifest, which holds the checksums of all images and captions.
    """

    folder: str
    manifest: Manifest
    vocabulary: Vocabulary
    sha256: str

    @classmethod
    def open(cls, folder: str | Path) -> PreparedDataset:
        """Read the manifest and the vocabulary of a dataset.

        Raises:
            ValueError: not a prepared dataset, damaged, or of another version.
        """
        where = str(folder)
        if not is_url(where):
            if not Path(folder).exists():
                raise ValueError(f"{folder}: no such folder; a prepared dataset is needed ({HOW_TO_PREPARE})")
            if not Path(folder).is_dir():
                raise ValueError(f"{folder}: is a file, and the folder of a prepared dataset is needed ({HOW_TO_PREPARE})")
            if (Path(folder) / PROGRESS).is_file() and not (Path(folder) / MANIFEST).is_file():
                raise ValueError(f"{folder}: its preparation was interrupted; the same cap2im prepare command with --resume finishes it")
        try:
            data = read_document(join_url(where, MANIFEST))
        except FileNotFoundError:
            raise ValueError(f"{folder}: not a prepared dataset, it has no {MANIFEST}; {HOW_TO_PREPARE}") from None
        manifest = parse_manifest(data, where)
        words = join_url(where, VOCABULARY)
        try:
            content = read_document(words)
        except FileNotFoundError:
            raise ValueError(f"{folder}: damaged dataset: no {VOCABULARY}") from None
        vocabulary = parse_json(content, Vocabulary, words)
        check_sha256(words, sha256(content), manifest.vocabulary.sha256)
        return cls(where, manifest, vocabulary, sha256(data))

    @property
    def content_sha256(self) -> str | None:
        """SHA-256 over the checksums of the vocabulary and the shards; None if a checksum is missing.

        Unlike `sha256`, it does not depend on the path of the source.
        """
        checksums = [self.manifest.vocabulary.sha256, *(shard.sha256 for shard in self.manifest.shards)]
        return None if None in checksums else sha256(" ".join(map(str, checksums)).encode())

    def has(self, split: Split) -> bool:
        """Return whether a split has images."""
        return any(shard.split == split and shard.rows for shard in self.manifest.shards)

    def shards(self, split: Split) -> list[Shard]:
        """Return the shards of a split that have images.

        Raises:
            ValueError: there are none.
        """
        shards = [shard for shard in self.manifest.shards if shard.split == split and shard.rows]
        if not shards:
            splits = sorted({shard.split for shard in self.manifest.shards if shard.rows})
            hint = ""
            if split == "validation":
                hint = "; prepare with --validation SHARE, larger for few images, or put some into a folder named validation"
            elif split == "test" and "validation" in splits:
                hint = "; --split validation takes those"
            elif split == "test":
                hint = "; prepare with --test SHARE" + ("; --split train takes the training images" if "train" in splits else "")
            raise ValueError(f"{self.folder}: has no {split} images; its splits: {', '.join(splits) or 'none'}{hint}")
        return shards

    def url(self, shard: Shard) -> str:
        """Return the path or URL of a shard."""
        return shard.file if is_url(shard.file) else join_url(self.folder, shard.file)

    def is_local(self, split: Split) -> bool:
        """Return whether a split is Parquet files on this machine, which need no streaming."""
        return all(self.url(shard).endswith(".parquet") and Path(self.url(shard)).is_file() for shard in self.shards(split))

    def files(self, split: Split) -> list[Path]:
        """Return the Parquet files of a split, checked against their SHA-256.

        Raises:
            ValueError: no such split, not local Parquet files, or a file is missing, truncated or altered.
        """
        shards = self.shards(split)
        files = [Path(self.url(shard)) for shard in shards]
        for file in files:
            if file.suffix == ".parquet" and not is_url(self.folder) and not file.is_file():
                raise ValueError(f"{file}: missing; cap2im prepare with --resume makes it again")
            if file.suffix != ".parquet" or not file.is_file():
                raise ValueError(f"{file}: is not a Parquet file on this machine; tar shards and remote shards need --stream")
        large = sum(file.stat().st_size for file in files) >= LARGE
        for file, shard in track(list(zip(files, shards, strict=True)), f"checking {split} shards", show=large):
            if shard.sha256 is not None:
                check_sha256(str(file), file_sha256(file), shard.sha256)
        return files

    def require_size(self, side: int, purpose: str, setting: str = "") -> None:
        """Check that images have the size that something needs.

        Args:
            side: needed size, in pixels.
            purpose: what needs it, named in the message.
            setting: option, without its value, that would change the needed size; the message offers it.

        Raises:
            ValueError: images have another size.
        """
        if self.manifest.fit == "shorter":
            raise ValueError(f"{self.folder}: its images are not square, {purpose} is {side}; prepare with --fit crop or --fit stretch")
        if self.manifest.side != side:
            offer = f", or give {setting}{self.manifest.side}" if setting else ""
            raise ValueError(
                f"{self.folder}: its images are {self.manifest.side} pixels wide, {purpose} is {side}; prepare with --side {side}{offer}"
            )

    def about(self) -> dict[str, Any]:
        """Return the identity of the dataset for models and measurements, JSON-ready, without local paths."""
        named = {"title": self.manifest.title, "licence": self.manifest.licence}
        images = sum(shard.rows for shard in self.manifest.shards if shard.split == "train")
        return {"sha256": self.sha256, "source": _public(self.manifest.source), "images": images} | {
            key: value for key, value in named.items() if value
        }


def check_sha256(name: str, actual: str, expected: str | None) -> None:
    """Compare checksums.

    Raises:
        ValueError: they differ; the message begins with the name.
    """
    if expected is not None and actual != expected:
        raise ValueError(f"{name}: truncated or altered: SHA-256 {actual[:12]}…, expected {expected[:12]}…")


def _public(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source with only the last part of its path: local folders are private. Names on the hub stay whole."""
    path = str(source.get("path", "")).replace("\\", "/")
    on_hub = source.get("kind") == "huggingface" and path.count("/") == 1 and path[0] not in "/~."
    return {**source, "path": path if on_hub else PurePosixPath(path).name} if path else dict(source)


def is_prepared(path: str | Path) -> bool:
    """Return whether a path is the URL or folder of a prepared dataset."""
    return is_url(str(path)) or (Path(os.path.expanduser(path)) / MANIFEST).is_file()
