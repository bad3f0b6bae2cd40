"""List the files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cap2im.data.image_files import EXTENSIONS, UNREADABLE_EXTENSIONS, unreadable_format
from cap2im.data.problems import Problem
from cap2im.data.splits import SPLIT_NAMES

PICTURES = EXTENSIONS | UNREADABLE_EXTENSIONS  # file extensions of pictures, readable or not


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is left out: dot files, and folders of macOS and Python."""
    return name.startswith(".") or name in ("__MACOSX", "__pycache__")


def is_picture(path: Path | PurePosixPath) -> bool:
    """Return whether a file has the extension of a picture that can be read."""
    return path.suffix.lower() in EXTENSIONS


def unread_format(file: Path) -> Problem:
    """Return the problem of a picture whose format cannot be read."""
    return Problem("picture format not read", str(file), unreadable_format(file.suffix))


@dataclass
class FolderListing:
    """The files below a folder.

    Attributes:
        root: the folder.
        files: sorted, without hidden ones.
        problems: files, folders and links that cannot be read, and links to a folder that is listed already.
    """

    root: Path
    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def pictures(self) -> Iterator[Path]:
        """Iterate over the pictures that can be read."""
        return filter(is_picture, self.files)

    def unread_formats(self) -> list[Problem]:
        """Return a problem for each picture whose format cannot be read."""
        return [unread_format(file) for file in self.files if file.suffix.lower() in UNREADABLE_EXTENSIONS]

    def misplaced_splits(self) -> list[Problem]:
        """Return a problem for each folder named like a split that is not at the top and so is no split."""
        inside: dict[str, dict[str, None]] = {}
        for file in self.files:
            parts = file.relative_to(self.root).parts
            if len(parts) > 2 and parts[0].lower() not in SPLIT_NAMES and parts[1].lower() in SPLIT_NAMES:
                inside.setdefault(parts[0], {})[parts[1]] = None
        return [
            Problem(
                "misplaced split folder", str(self.root / outer), f"{' and '.join(names)} in it do not count as splits; give this folder"
            )
            for outer, names in inside.items()
        ]


def list_files(root: Path) -> FolderListing:
    """List the files below a folder, through linked folders too.

    Each folder is listed once: first those below `root` itself, then the targets of links. So circular links end.
    """
    listing = FolderListing(root)
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
                with os.scandir(folder) as scan:
                    entries = sorted((entry for entry in scan if not is_hidden(entry.name)), key=lambda entry: entry.name)
            except OSError as error:
                listing.problems.append(Problem("unreadable file", str(folder), error.strerror or str(error)))
                continue
            for entry in entries:
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


def needed_file(*candidates: Path, content: str) -> Path:
    """Return the first of several files or folders that exists.

    Raises:
        ValueError: none exists.
    """
    for path in candidates:
        if path.exists():
            return path
    raise ValueError(f"{candidates[0]}: no such file; it should hold {content}")
