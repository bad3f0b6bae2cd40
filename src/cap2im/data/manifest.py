"""The manifest of a prepared dataset, and the layout of its files.

data/{train,validation,test}-00000-of-0000N.parquet     id, image, captions, class_id
vocabulary.json    manifest.json    README.md    problems.txt (only if there are problems)
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cap2im.data.dataset_files import is_url, join_url
from cap2im.data.problems import PROBLEMS, Problem
from cap2im.data.splits import SPLIT_NAMES, SPLITS, Split
from cap2im.files import parse_json

FORMAT = "cap2im captioned images 1"
MANIFEST, VOCABULARY, PROBLEMS_FILE, CARD = "manifest.json", "vocabulary.json", "problems.txt", "README.md"
PROGRESS = "preparing.json"  # exists only while `cap2im prepare` runs or was interrupted
MOST_ROWS = 10**9  # of a shard

Count = Annotated[int, Field(ge=0, strict=True)]


def _check_shard_name(file: str) -> str:
    """Return the name of a shard: a relative path below the dataset, or a URL.

    Raises:
        ValueError: it begins with no split, leaves the dataset's folder, or is a chain of URLs.
    """
    if PurePosixPath(file).name.split("-")[0] not in SPLITS:
        raise ValueError(f"the name begins with none of {', '.join(SPLITS)}")
    if is_url(file):
        if "::" in file:
            raise ValueError("a chain of URLs is not followed")
        return file
    windows = PureWindowsPath(file)
    if "\0" in file or PurePosixPath(file).is_absolute() or windows.drive or windows.root or ".." in windows.parts or not windows.parts:
        raise ValueError("a file below the dataset's folder is needed, without .. and not absolute")
    return file


class Shard(BaseModel):
    """A file of captioned images: Parquet, or tar in WebDataset's layout.

    Attributes:
        file: relative to the dataset, or a URL.
        rows: number of images.
        captions: number of captions, if known.
        sha256: of the file, if known.
        problems: kind, file and detail of each problem of the records that the shard was made of.
    """

    model_config = ConfigDict(frozen=True)

    file: Annotated[str, AfterValidator(_check_shard_name)]
    rows: Annotated[int, Field(ge=0, le=MOST_ROWS, strict=True)]
    captions: Count | None = None
    sha256: str | None = None
    problems: tuple[tuple[str, str, str], ...] | None = None

    @property
    def split(self) -> Split:
        """The split that the shard belongs to."""
        return SPLIT_NAMES[PurePosixPath(self.file).name.split("-")[0]]

    @property
    def known_problems(self) -> list[Problem]:
        """The problems of kinds that this version has."""
        return [Problem(*problem) for problem in self.problems or () if problem[0] in PROBLEMS]


class VocabularyEntry(BaseModel):
    """The vocabulary of a dataset.

    Attributes:
        file: its name.
        words: number of words.
        sha256: of the file.
    """

    model_config = ConfigDict(frozen=True)

    file: str = VOCABULARY
    words: int | None = None
    sha256: str | None = None


def _check_distinct(shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
    if len({shard.file for shard in shards}) < len(shards):
        raise ValueError("a shard is listed twice")
    return shards


class Manifest(BaseModel):
    """The entries of `manifest.json` that reading a dataset needs.

    Attributes:
        format: `FORMAT`.
        side: of the images, in pixels.
        fit: how images were fitted to the side; see `pictures.fitted`.
        source: kind and path of the source.
        title: name of the data in model cards.
        licence: of the data in model cards.
        minimum_count: rarer words were left out of the vocabulary; None if it was not made from the captions.
        vocabulary: words of the training captions.
        shards: of all splits.
    """

    model_config = ConfigDict(frozen=True)

    format: str
    side: int = Field(ge=1, le=65_535, strict=True)
    fit: Literal["stretch", "crop", "shorter"]
    source: dict[str, Any]
    title: str | None = None
    licence: str | None = None
    minimum_count: int | None = None
    vocabulary: VocabularyEntry = VocabularyEntry()
    shards: Annotated[tuple[Shard, ...], AfterValidator(_check_distinct)]


class SplitCounts(BaseModel):
    """Number of images and captions of a split."""

    images: int = 0
    captions: int = 0


class WrittenManifest(Manifest):
    """All entries of a manifest, as `cap2im prepare` writes it.

    Attributes:
        version: of cap2im.
        captions: most captions of an image that were kept; None keeps all.
        tokens: how captions are split into words.
        words: most words of the vocabulary; None keeps all.
        stored: format of the stored images.
        splits: number of images and captions.
        problems: number of problems.
        fingerprint: checksum of the source and the options.
    """

    version: str
    captions: int | None
    tokens: str
    words: int | None
    stored: str
    splits: dict[Split, SplitCounts]
    problems: int
    fingerprint: str


def parse_manifest(data: bytes, folder: str) -> Manifest:
    """Validate the manifest of a dataset.

    Args:
        data: content of `manifest.json`.
        folder: path or URL of the dataset. Shards at URLs are only allowed if it is a URL, and local files only if it is a `file://` URL.

    Raises:
        ValueError: damaged, of another version, or a shard lies outside of the dataset.
    """
    manifest = parse_json(data, Manifest, join_url(folder, MANIFEST))
    if manifest.format != FORMAT:
        raise ValueError(f"{folder}: its format is {manifest.format!r}, this version of cap2im reads {FORMAT!r}")
    if not is_url(folder) and (remote := next((shard.file for shard in manifest.shards if is_url(shard.file)), None)):
        url = Path(folder).absolute().as_uri()
        raise ValueError(f"{folder}: its manifest names {remote}; URLs are followed only if the dataset itself is given as a URL: {url}")
    schemes = ("file:", "local:")
    local = next((shard.file for shard in manifest.shards if shard.file.lower().startswith(schemes)), None)
    if local and not folder.lower().startswith(schemes):
        raise ValueError(f"{folder}: its manifest names {local}, a file of this machine")
    return manifest
