"""List the files below a folder, and find those that people name in metadata."""

from __future__ import annotations

import ntpath
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cap2im.data.image_files import EXTENSIONS, UNREADABLE_EXTENSIONS, unreadable_format
from cap2im.data.records import Problem
from cap2im.data.splits import SPLIT_NAMES

PICTURES = EXTENSIONS | UNREADABLE_EXTENSIONS  # endings of pictures that people have


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is left out: its name begins with a dot, or macOS or Python made it."""
    return name.startswith(".") or name in ("__MACOSX", "__pycache__")


def is_picture(path: Path | PurePosixPath) -> bool:
    """Return whether a file's ending is that of a picture that can be read."""
    return path.suffix.lower() in EXTENSIONS


@dataclass
class Listing:
    """The files below a folder.

    Attributes:
        root: the folder.
        files: sorted, without hidden ones; see `is_hidden`.
        problems: folders, files and links that cannot be read, and links to a folder that is read already.
    """

    root: Path
    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def pictures(self) -> Iterator[Path]:
        """Iterate over the pictures that can be read."""
        return filter(is_picture, self.files)

    def other_formats(self, paired: Iterable[Path] = ()) -> list[Problem]:
        """Return a problem for each picture of a format that is not read.

        Args:
            paired: files that are named elsewhere.
        """
        known = set(paired)
        other = (file for file in self.files if file.suffix.lower() in UNREADABLE_EXTENSIONS and file not in known)
        return [unread_format(file) for file in other]

    def split_folders(self) -> list[Problem]:
        """Return a problem for each folder named like a split that is not at the top, where it does not count."""
        inside: dict[str, list[str]] = {}
        for file in self.files:
            parts = file.relative_to(self.root).parts
            if len(parts) > 2 and parts[0].lower() not in SPLIT_NAMES and parts[1].lower() in SPLIT_NAMES:
                names = inside.setdefault(parts[0], [])
                if parts[1] not in names:
                    names.append(parts[1])
        return [
            Problem(
                "misplaced split folder", str(self.root / outer), f"{' and '.join(names)} in it do not count as splits; give this folder"
            )
            for outer, names in inside.items()
        ]


def unread_format(file: Path) -> Problem:
    """Return the problem of a picture whose format is not read."""
    return Problem("picture format not read", str(file), unreadable_format(file.suffix))


def list_files(root: Path) -> Listing:
    """List the files below a folder, through linked folders too.

    Each folder is read once: first what lies below `root` itself, then what links lead to. So links in a circle end.
    """
    listing = Listing(root)
    visited: dict[tuple[int, int], Path] = {}
    links = [root]
    while links:
        stack = [links.pop(0)]
        while stack:
            folder = stack.pop()
            try:
                status = folder.stat()
                if (first := visited.setdefault((status.st_dev, status.st_ino), folder)) != folder:
                    listing.problems.append(Problem("linked folder", str(folder), f"leads to {first}, which is read already"))
                    continue
                with os.scandir(folder) as entries:
                    found = [entry for entry in entries if not is_hidden(entry.name)]
            except OSError as error:
                listing.problems.append(Problem("unreadable file", str(folder), error.strerror or str(error)))
                continue
            for entry in sorted(found, key=lambda entry: entry.name):
                path = folder / entry.name
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError:  # a link to itself
                    is_folder = is_file = False
                if is_folder:
                    (links if entry.is_symlink() else stack).append(path)
                elif is_file:
                    listing.files.append(path)
                else:
                    reason = "is not a regular file" if path.exists() else "is a link that leads to nothing"
                    listing.problems.append(Problem("unreadable file", str(path), reason))
    listing.files.sort()
    return listing


def fold(name: str) -> str:
    """Return a file name without what differs between file systems: the composition of accents, and case."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class Missing:
    """Why a name stands for no picture: the kind of problem, and what to write instead."""

    kind: str
    detail: str


class FileIndex:
    """Find files by the names that people write for them.

    Names match whatever the composition of their accents, their case if that is not ambiguous, with backslashes, and without the ending of
    a picture. Names that lead out of the folder, absolute ones and URLs match nothing.

    Args:
        root: the folder that names may not leave.
        files: below it.
    """

    def __init__(self, root: Path, files: Iterable[Path]) -> None:
        self.root = root
        self.files = {file.relative_to(root).as_posix(): file for file in files}
        self._folded: dict[str, list[str]] = {}
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._real_folders: dict[str, str | None] = {}
        for name in self.files:
            self._folded.setdefault(fold(name), []).append(name)
            self._by_name.setdefault(fold(posixpath.basename(name)), []).append(name)
            if is_picture(PurePosixPath(name)):
                self._by_stem.setdefault(fold(posixpath.splitext(name)[0]), []).append(name)

    def find(self, name: str, folder: str = "", anywhere: bool = False) -> str | Missing:
        """Return the file that a name stands for, relative to the root with `/`, or why there is none.

        Args:
            name: as it was written.
            folder: relative to the root; the name is relative to it.
            anywhere: also take the only file of this name in any folder.
        """
        if not name.strip():
            return Missing("unusable entry", "the name of the picture is empty")
        if "://" in name or name.startswith("data:"):
            return Missing("picture outside the folder", f"{name!r} is a URL; download the picture and give its file")
        matches: list[str] = []
        for written in dict.fromkeys((name, name.strip(), name.strip().replace("\\", "/"))):
            joined = posixpath.normpath(posixpath.join(folder, written))
            if joined in self.files:  # also a:b.jpg, which is no drive here
                return joined
            if posixpath.isabs(written) or ntpath.splitdrive(written)[0] or written.startswith("\\"):
                return self._outside(name, "is absolute", folder)
            if joined.split("/")[0] == "..":
                return self._outside(name, f"leaves {self.root}", folder)
            matches = matches or self._folded.get(fold(joined), []) or self._by_stem.get(fold(joined), [])
        if not matches and (through := self._through_link(joined)):
            return through
        elsewhere = self._named(name)
        if not matches and anywhere:
            matches = elsewhere
        if len(matches) == 1:
            return matches[0]
        if matches:
            return Missing("caption without image", f"{name!r} may be any of {', '.join(map(repr, matches[:3]))}")
        if len(elsewhere) == 1:
            hint = f"file_name {name!r} is not relative to this folder: write {self._from(elsewhere[0], folder)!r}"
            return Missing("misplaced metadata file", hint)
        alike = self._by_stem.get(fold(posixpath.splitext(joined)[0]), [])
        hint = f"; there is {' and '.join(map(repr, alike[:3]))}" if alike else ""
        return Missing("caption without image", f"there is no {self.root / joined}{hint}")

    def _named(self, name: str) -> list[str]:
        base = fold(name.strip().replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])
        return self._by_name.get(base, [])

    def _from(self, file: str, folder: str) -> str:
        return posixpath.relpath(file, folder or ".")

    def _outside(self, name: str, what: str, folder: str) -> Missing:
        elsewhere = self._named(name)
        hint = f": write {self._from(elsewhere[0], folder)!r}" if len(elsewhere) == 1 else ""
        return Missing("picture outside the folder", f"{name!r} {what}{hint}")

    def _through_link(self, joined: str) -> str | None:
        """A name may go through a link to a folder that was read under another name."""
        folder, name = posixpath.split(joined)
        if folder not in self._real_folders:
            try:
                real = Path(os.path.realpath(self.root / folder)).relative_to(os.path.realpath(self.root)).as_posix()
            except (OSError, ValueError):  # outside of the root, or no file name at all
                self._real_folders[folder] = None
            else:
                self._real_folders[folder] = real
        through = self._real_folders[folder]
        file = None if through is None else posixpath.normpath(posixpath.join(through, name))
        return file if file in self.files else None


def unique_ids(files: Sequence[str]) -> list[str]:
    """Return an id for each of several different files: its stem, or where files share one its path, with its ending if need be."""
    options = [(PurePosixPath(file).stem, posixpath.splitext(file)[0], file) for file in files]
    counts = [Counter(option[level] for option in options) for level in range(2)]
    return [next((o for o, count in zip(option, counts, strict=False) if count[o] == 1), option[2]) for option in options]


def needed_file(*candidates: Path, what: str) -> Path:
    """Return the first of several files that exists.

    Raises:
        ValueError: none does.
    """
    for path in candidates:
        if path.exists():
            return path
    raise ValueError(f"{candidates[0]}: no such file; it should hold {what}")
