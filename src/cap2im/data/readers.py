"""The interface of a source reader; `cap2im.data.sources` registers the readers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from cap2im.data.folder_listing import list_files
from cap2im.data.records import Source

PickleReader = Callable[[Path], Any]  # unpickles a file without executing its content


@dataclass(frozen=True)
class ColumnNames:
    """Columns of a table that the user named; None and () are guessed."""

    image: str | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None


def _refuse_pickle(path: Path) -> Any:
    raise ValueError(f"{path}: is a pickle, and no reader of pickles was given")


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading a source.

    Attributes:
        columns: of a table.
        images: folder of a table's pictures; None uses the table's folder.
        side: released arrays exist in several sizes; the smallest of at least this side is read.
        read_pickle: reads the pickles of the authors' files.
    """

    columns: ColumnNames = field(default_factory=ColumnNames)
    images: str | None = None
    side: int = 32
    read_pickle: PickleReader = _refuse_pickle


@dataclass(frozen=True)
class Candidate:
    """A path whose kind is to be recognised.

    Attributes:
        path: of a file or folder, or a pattern of file names.
        columns: of a table, as the user named them.
    """

    path: Path
    columns: ColumnNames = field(default_factory=ColumnNames)

    @cached_property
    def is_file(self) -> bool:
        """Whether the path is one file."""
        return self.path.is_file()

    @cached_property
    def is_folder(self) -> bool:
        """Whether the path is a folder."""
        return self.path.is_dir()

    @cached_property
    def files(self) -> Sequence[Path]:
        """All files below the folder."""
        return list_files(self.path).files if self.is_folder else []

    def has(self, *patterns: str) -> bool:
        """Return whether the folder has a file or folder of one of some patterns."""
        return self.is_folder and any(next(self.path.glob(pattern), None) is not None for pattern in patterns)


class SourceReader(ABC):
    """Reads one kind of captioned images.

    Attributes:
        folder_patterns: a folder with a file or folder of one of these patterns is surely of this kind.
        reads_files: the path may be one file.
        reads_folders: the path may be a folder.
        has_columns: `ReadOptions.columns` applies.
        has_images_folder: `ReadOptions.images` applies.
        name_hint: form of the names that `reads_name` accepts, shown in messages.
    """

    folder_patterns: ClassVar[tuple[str, ...]] = ()
    reads_files: ClassVar[bool] = False
    reads_folders: ClassVar[bool] = True
    has_columns: ClassVar[bool] = False
    has_images_folder: ClassVar[bool] = False
    name_hint: ClassVar[str] = ""

    @abstractmethod
    def read(self, path: Path, options: ReadOptions) -> Source:
        """List the captioned images of a source; no picture is decoded.

        Raises:
            ValueError: the source is not of this kind, or damaged.
        """

    def recognises(self, candidate: Candidate) -> bool:
        """Return whether a path is surely of this kind."""
        return candidate.has(*self.folder_patterns)

    def resembles(self, candidate: Candidate) -> bool:
        """Return whether a path that no reader recognises may be of this kind."""
        return False

    def reads_name(self, name: str) -> bool:
        """Return whether a name that is no local path can be read: a pattern, or a dataset on a hub."""
        return False
