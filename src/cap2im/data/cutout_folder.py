"""List the cut-outs of a folder: pictures with transparency, and the names of the things that they show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cap2im.data.file_index import FileIndex, LookupFailure
from cap2im.data.folder_listing import FolderListing, list_files
from cap2im.data.image_files import ImageFile
from cap2im.data.problems import Problem
from cap2im.data.table_files import read_rows
from cap2im.data.tokenizer import normalise

TABLES = ("cutouts.csv", "metadata.csv")
LONGEST_NAME = 60  # characters


@dataclass(frozen=True)
class CutoutFile:
    """A cut-out that is not decoded yet.

    Attributes:
        image: the picture.
        thing: its name.
        style: of drawing.
        licence: "" if it is not known.
        plural: of the name; "" if it is not given.
    """

    image: ImageFile
    thing: str
    style: str
    licence: str = ""
    plural: str = ""


@dataclass
class CutoutFolder:
    """The cut-outs of a folder.

    Attributes:
        files: all cut-outs with a usable name, sorted by their files.
        problems: of the listing; no picture is decoded yet.
    """

    files: list[CutoutFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def thing_name(text: str) -> str:
    """Return the name of a thing as captions write it: lower case, plain apostrophes, single spaces."""
    return " ".join(normalise(text).split())


def list_cutouts(folder: Path) -> CutoutFolder:
    """List the cut-outs of a folder.

    Names come from the column `text` of cutouts.csv or metadata.csv, whose column `file_name` is relative to the folder; the columns style,
    licence and plural may be absent. Without such a table they come from the names of the files: red-apple.png and red_apple.png are a red
    apple. The style is the column or the first subfolder, else the name of the folder.

    Args:
        folder: of the pictures.

    Raises:
        ValueError: not a folder, two tables, a table without the columns, or no picture.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'is a file, and a folder is needed' if folder.exists() else 'no such folder'}")
    listing = list_files(folder)
    listed = CutoutFolder(problems=list(listing.problems))
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) == 2:
        raise ValueError(f"{folder}: has {' and '.join(TABLES)}; keep one")
    named = _named_by_table(folder, listing, tables[0], listed.problems) if tables else _named_by_files(listing)
    if not named and not listed.problems:
        raise ValueError(f"{folder}: no pictures in this folder")
    seen: dict[tuple[str, str], Path] = {}
    for file, cells in sorted(named.items()):
        name, style = thing_name(cells["text"]), cells["style"].strip() or _style_of(file.relative_to(folder), folder)
        if (reason := _name_problem(name)) is not None:
            listed.problems.append(Problem("unnamed cut-out", str(file), reason))
        elif (first := seen.setdefault((name, style), file)) != file:
            listed.problems.append(Problem("duplicate name", str(file), f"{name!r} in the style {style!r} is {first}"))
        else:
            plural = thing_name(cells["plural"])
            listed.files.append(CutoutFile(ImageFile(file), name, style, cells["licence"].strip(), plural))
    listed.problems += listing.unread_formats()
    return listed


def _name_problem(name: str) -> str | None:
    if not re.search(r"[^\W\d_]", name):
        return f"the name {name!r} has no letter" if name else "the name is empty"
    if len(name) > LONGEST_NAME:
        return f"the name has {len(name)} characters, at most {LONGEST_NAME} are read: {name[:30]}…"
    return None


def _style_of(relative: Path, folder: Path) -> str:
    return relative.parts[0] if len(relative.parts) > 1 else folder.resolve().name or "cut-outs"


def _named_by_files(listing: FolderListing) -> dict[Path, dict[str, str]]:
    empty = {"style": "", "licence": "", "plural": ""}
    return {file: {"text": re.sub(r"[-_\s]+", " ", file.stem)} | empty for file in listing.pictures()}


def _named_by_table(folder: Path, listing: FolderListing, table: Path, problems: list[Problem]) -> dict[Path, dict[str, str]]:
    """Return the cells of each listed picture; rows without a picture and pictures without a row become problems.

    Raises:
        ValueError: not a table, or without the columns file_name and text.
    """
    if not (rows := read_rows(table, problems)):
        raise ValueError(f"{table}: has no rows; it needs the columns file_name and text, and a row for each picture")
    columns = set().union(*(row for _, row in rows[:1]))
    if missing := [name for name in ("file_name", "text") if name not in columns]:
        raise ValueError(f"{table}: has no column {' and '.join(missing)}; its columns are {', '.join(sorted(columns))}")
    index, named = FileIndex(folder, listing.files), dict[Path, dict[str, str]]()
    for where, row in rows:
        match = index.find_picture(_cell(row, "file_name"))
        if isinstance(match, LookupFailure):
            problems.append(Problem(match.kind, where, match.detail))
        elif index.files[match] in named:
            problems.append(Problem("unusable entry", where, f"{match} is listed twice"))
        else:
            named[index.files[match]] = {key: _cell(row, key) for key in ("text", "style", "licence", "plural")}
    rest = (file for file in listing.pictures() if file not in named)
    problems += [Problem("unnamed cut-out", str(file), f"it is not in {table.name}") for file in rest]
    return named


def _cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""


def has_cutouts_table(folder: Path) -> bool:
    """Return whether a folder is surely one of cut-outs: it holds cutouts.csv."""
    return (folder / PurePosixPath(TABLES[0])).is_file()
