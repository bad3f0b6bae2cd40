"""Find pictures by the names that people write for them in metadata."""

from __future__ import annotations

import ntpath
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cap2im.data.folder_listing import is_picture, unread_format


def fold(name: str) -> str:
    """Return a file name in one composition of accents (NFC) and without case, in which file systems differ."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class LookupFailure:
    """Why a name matches no picture.

    Attributes:
        kind: of the problem, a key of `PROBLEMS`.
        detail: explanation, with the name to write instead if there is one.
    """

    kind: str
    detail: str


class FileIndex:
    """Index of files by name.

    Names match in any composition of accents, in any case if that is not ambiguous, with backslashes, and without a picture's extension.
    Absolute names, URLs and names that leave the folder match nothing.

    Args:
        root: folder that names may not leave.
        files: files below it.
    """

    def __init__(self, root: Path, files: Iterable[Path]) -> None:
        self.root = root
        self.files = {file.relative_to(root).as_posix(): file for file in files}
        self._by_path: dict[str, list[str]] = {}
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._real_folders: dict[str, str | None] = {}
        for name in self.files:
            self._by_path.setdefault(fold(name), []).append(name)
            self._by_name.setdefault(fold(posixpath.basename(name)), []).append(name)
            if is_picture(PurePosixPath(name)):
                self._by_stem.setdefault(fold(posixpath.splitext(name)[0]), []).append(name)

    def find_picture(self, name: str, folder: str = "", anywhere: bool = False) -> str | LookupFailure:
        """Find a file as `find` does; a file whose format cannot be read is a failure."""
        match = self.find(name, folder, anywhere)
        if isinstance(match, LookupFailure) or is_picture(PurePosixPath(match)):
            return match
        problem = unread_format(self.files[match])
        return LookupFailure(problem.kind, f"{match}: {problem.detail}")

    def find(self, name: str, folder: str = "", anywhere: bool = False) -> str | LookupFailure:
        """Find the file that a name stands for.

        Args:
            name: as written in metadata.
            folder: that the name is relative to, relative to the root.
            anywhere: also match the only file of this name in any folder.

        Returns:
            the file relative to the root, with `/`, or why there is none.
        """
        if not name.strip():
            return LookupFailure("unusable entry", "the name of the picture is empty")
        if "://" in name or name.startswith("data:"):
            return LookupFailure("picture outside the folder", f"{name!r} is a URL; download the picture and give its file")
        matches: list[str] = []
        for written in dict.fromkeys((name, name.strip(), name.strip().replace("\\", "/"))):
            joined = posixpath.normpath(posixpath.join(folder, written))
            if joined in self.files:  # also a:b.jpg, which has no drive letter here
                return joined
            if posixpath.isabs(written) or ntpath.splitdrive(written)[0] or written.startswith("\\"):
                return self._outside(name, "is absolute", folder)
            if joined.split("/")[0] == "..":
                return self._outside(name, f"leaves {self.root}", folder)
            matches = matches or self._by_path.get(fold(joined), []) or self._by_stem.get(fold(joined), [])
        if not matches and (linked := self._through_link(joined)):
            return linked
        same_name = self._same_name(name)
        if not matches and anywhere:
            matches = same_name
        if len(matches) == 1:
            return matches[0]
        if matches:
            return LookupFailure("caption without image", f"{name!r} may be any of {', '.join(map(repr, matches[:3]))}")
        if len(same_name) == 1:
            correct = posixpath.relpath(same_name[0], folder or ".")
            return LookupFailure("misplaced metadata file", f"file_name {name!r} is not relative to this folder: write {correct!r}")
        alike = self._by_stem.get(fold(posixpath.splitext(joined)[0]), [])
        hint = f"; there is {' and '.join(map(repr, alike[:3]))}" if alike else ""
        return LookupFailure("caption without image", f"there is no {self.root / joined}{hint}")

    def _same_name(self, name: str) -> list[str]:
        """Return the files of a name in any folder."""
        return self._by_name.get(fold(name.strip().replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]), [])

    def _outside(self, name: str, reason: str, folder: str) -> LookupFailure:
        same_name = self._same_name(name)
        hint = f": write {posixpath.relpath(same_name[0], folder or '.')!r}" if len(same_name) == 1 else ""
        return LookupFailure("picture outside the folder", f"{name!r} {reason}{hint}")

    def _through_link(self, joined: str) -> str | None:
        """Return the file of a name whose folder is a link to a folder that is listed under another name."""
        folder, name = posixpath.split(joined)
        if folder not in self._real_folders:
            try:
                real = Path(os.path.realpath(self.root / folder)).relative_to(os.path.realpath(self.root)).as_posix()
            except (OSError, ValueError):  # outside of the root, or no file name
                self._real_folders[folder] = None
            else:
                self._real_folders[folder] = real
        real_folder = self._real_folders[folder]
        file = None if real_folder is None else posixpath.normpath(posixpath.join(real_folder, name))
        return file if file in self.files else None


def unique_ids(files: Sequence[str]) -> list[str]:
    """Return an id for each of several different files: the stem if it is unique, else the path without extension, else the path."""
    options = [(PurePosixPath(file).stem, posixpath.splitext(file)[0], file) for file in files]
    counts = [Counter(option[level] for option in options) for level in range(2)]
    return [next((o for o, count in zip(option, counts, strict=False) if count[o] == 1), option[2]) for option in options]
