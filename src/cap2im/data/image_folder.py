"""Read pictures whose captions stand in a table: an image folder with metadata in it, or any table beside a folder."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cap2im.data.image_files import ImageFile
from cap2im.data.listing import FileIndex, Listing, Missing, is_picture, list_files, unread_format
from cap2im.data.records import CaptionedImage, Problem, Source
from cap2im.data.splits import Split, parse_split, split_of
from cap2im.data.table_columns import AskedColumns, Columns, as_captions, as_class_id, caption_columns, choose_columns, describe_columns
from cap2im.data.table_files import read_rows

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet", "metadata.json", "metadata.tsv")
TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt"})


@dataclass
class _Entry:
    """What a table says of a picture."""

    captions: list[str] = field(default_factory=list)
    class_id: int = -1
    split: Split | None = None


def is_metadata(path: Path) -> bool:
    """Return whether a file is named as metadata of an image folder."""
    return path.name.lower() in METADATA


def misspelt_metadata(files: Sequence[Path]) -> list[Problem]:
    """Return a problem for each file that was probably meant to be metadata.jsonl, .csv or .parquet."""
    problems = []
    for path in files:
        if is_metadata(path) or is_picture(path) or not path.name.lower().startswith("meta"):
            continue
        if near := difflib.get_close_matches(path.name.lower(), METADATA[:3], n=1, cutoff=0.8):
            problems.append(Problem("misspelt metadata file", str(path), f"its name should be {near[0]}"))
    return problems


def read_folder(path: Path, columns: AskedColumns) -> Source:
    """Read an image folder: pictures, and metadata.jsonl, .csv, .tsv, .json or .parquet at the top or in folders below.

    File names are relative to the folder of their metadata file. Entries of one picture add up.

    Args:
        path: the folder.
        columns: that the user named.

    Raises:
        ValueError: no metadata, two metadata files in one folder, or columns that cannot be told.
    """
    listing = list_files(path)
    files = [file for file in listing.files if is_metadata(file)]
    problems = [*listing.problems, *misspelt_metadata(listing.files), *listing.split_folders()]
    if not files:
        hint = "; ".join(
            f"{p.file}: {p.detail}" for p in problems if p.kind == "misspelt metadata file"
        ) or "with lines such as " + json.dumps({"file_name": "cat.jpg", "text": "a cat on a chair"})
        tables = [file for file in listing.files if file.suffix.lower() in TABLES and file.suffix.lower() != ".txt"]
        other = f"; a table of another name is read as cap2im prepare table {tables[0]}" if tables else ""
        raise ValueError(f"{path}: no {', '.join(METADATA[:2])} or {METADATA[2]} in this folder ({hint}){other}")
    if len({file.parent for file in files}) < len(files):
        raise ValueError(f"{path}: two metadata files in one folder ({', '.join(str(file.relative_to(path)) for file in files)}); keep one")
    entries: dict[str, _Entry] = {}
    index = FileIndex(path, listing.files)
    for file in files:
        _add_entries(file, index, file.parent.relative_to(path).as_posix(), columns, entries, problems)
    return _source(index, entries, problems, listing, "in no metadata file")


def find_table(folder: Path, asked: AskedColumns) -> Path:
    """Return the only table of pictures and captions in a folder.

    Raises:
        ValueError: there is none, or there are several.
    """
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLES and file.is_file()]
    reasons = {file: no_table(file, asked) for file in files}
    tables = [file for file in files if reasons[file] is None]
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise ValueError(f"{folder}: several tables ({', '.join(file.name for file in tables)}); give the file")
    said = "; ".join(str(reason) for file, reason in reasons.items() if file.suffix.lower() != ".txt")
    raise ValueError(f"{folder}: no table of pictures and captions in this folder{'; ' if said else ''}{said[:500]}")


def no_table(file: Path, asked: AskedColumns) -> str | None:
    """Return why a file is no table with a column that names pictures and one of captions; None if it is one."""
    try:
        rows = read_rows(file, [])
        if not rows:
            return f"{file}: holds no rows"
        names = list(dict.fromkeys(name for _, row in rows[:100] for name in row))
        columns = choose_columns(names, asked, [row for _, row in rows[:100]], str(file))
    except ValueError as error:
        return str(error)
    return None if isinstance(rows[0][1].get(columns.image), str) else f"{file}: no file name in {columns.image!r}"


def read_table(path: Path, columns: AskedColumns, images: Path | None = None) -> Source:
    """Read a table (CSV with any separator, JSON lines, JSON, Parquet) that names pictures in files.

    Splits come from a column, else from the first folder of each file name.

    Args:
        path: the table, or a folder with one table in it.
        columns: that the user named.
        images: folder that file names are relative to; by default that of the table.

    Raises:
        ValueError: no table, no such folder, or columns that cannot be told.
    """
    table = find_table(path, columns) if path.is_dir() else path
    folder = table.parent if images is None else images
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder (--images)")
    listing = list_files(folder)
    problems = [*listing.problems, *listing.split_folders()]
    entries: dict[str, _Entry] = {}
    index = FileIndex(folder, listing.files)
    _add_entries(table, index, "", columns, entries, problems)
    if not entries and (misplaced := [problem for problem in problems if problem.kind == "misplaced metadata file"]):
        raise ValueError(f"{misplaced[0]}; or name the folder of the pictures with --images")
    if not entries:
        first = f"; the first problem: {problems[0]}" if problems else ""
        raise ValueError(f"{table}: none of its rows can be used{first}")
    return _source(index, entries, problems, listing, f"not in {table.name}")


def _source(index: FileIndex, entries: dict[str, _Entry], problems: list[Problem], listing: Listing, stray: str) -> Source:
    splits: dict[Split, list[CaptionedImage]] = {"train": [], "validation": [], "test": []}
    for name, entry in entries.items():
        record = CaptionedImage(name, ImageFile(index.files[name]), tuple(entry.captions), entry.class_id)
        splits[entry.split or split_of(PurePosixPath(name))].append(record)
    known = {index.files[name] for name in entries}
    problems += [Problem("image without captions", str(file), stray) for file in listing.pictures() if file not in known]
    return Source({split: records for split, records in splits.items() if records}, problems + listing.other_formats())


def _add_entries(
    file: Path, index: FileIndex, folder: str, asked: AskedColumns, entries: dict[str, _Entry], problems: list[Problem]
) -> None:
    """Add the entries of one table.

    Args:
        file: the table.
        index: of the pictures.
        folder: that file names are relative to, relative to the index's root.
        asked: columns that the user named.
        entries: by picture; added to.
        problems: added to.
    """
    rows = read_rows(file, problems)
    if not rows:
        problems.append(Problem("unusable entry", str(file), "holds no usable rows"))
        return
    samples = [row for _, row in rows[:100]]
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = choose_columns(names, asked, samples, rows[0][0] if len(rows) == 1 else str(file))
    for name in columns.unused:
        detail = f"column {name!r} may hold captions; {' and '.join(columns.captions)} is used, --caption-column adds columns"
        problems.append(Problem("column not used", str(file), detail))
    if columns.split is not None:
        unknown = {str(row.get(columns.split)) for _, row in rows if parse_split(row.get(columns.split)) is None}
        if asked.split is None and len(unknown) == len({str(row.get(columns.split)) for _, row in rows}):
            columns = Columns(columns.image, columns.captions, None)  # the column holds something else
    missing: list[tuple[str, Missing]] = []
    for where, row in rows:
        found = _add_entry(where, row, index, folder, columns, entries, problems)
        if isinstance(found, Missing):
            missing.append((where, found))
    for where, reason in missing:
        place = where.removeprefix(str(file)).lstrip(", ")
        if reason.kind == "misplaced metadata file":
            problems.append(Problem(reason.kind, str(file), f"{place}: {reason.detail}"))
        else:
            problems.append(Problem(reason.kind, where, reason.detail))


def _add_entry(
    where: str, row: Any, index: FileIndex, folder: str, columns: Columns, entries: dict[str, _Entry], problems: list[Problem]
) -> Missing | None:
    name = row.get(columns.image)
    if not isinstance(name, str):
        held = describe_columns(list(row), [row])
        return Missing("unusable entry", f"no text in {columns.image!r}; its columns: {held}")
    chosen = columns.captions
    if not any(column in row for column in chosen):
        chosen = caption_columns(c for c in row if c != columns.image)[0]
    captions: list[str] = []
    for column in chosen:
        values = as_captions(row.get(column))
        if values is None:
            problems.append(Problem("unusable entry", where, f"{column} is neither text nor a list of texts"))
            if len(chosen) == 1:
                return None
        captions += values or ()
    if len(chosen) > 1:  # columns that are empty in this row are no empty captions
        captions = [caption for caption in captions if caption.strip()]
    found = index.find(name, folder)
    if isinstance(found, Missing):
        return found
    if not is_picture(PurePosixPath(found)):
        problem = unread_format(index.files[found])
        return Missing(problem.kind, f"{found}: {problem.detail}")
    split = None
    if columns.split is not None and (split := parse_split(row.get(columns.split))) is None:
        return Missing("split not used", f"{columns.split} {row.get(columns.split)!r} is none of train, validation, test")
    entry = entries.setdefault(found, _Entry(split=split))
    if entry.split != split:
        return Missing("unusable entry", f"{found} is in the split {entry.split}, too; entries of one picture need one split")
    entry.captions += captions
    if (class_id := as_class_id(row.get("class_id"))) != -1:
        entry.class_id = class_id
    elif row.get("class_id") not in (None, "", -1, "-1"):
        problems.append(Problem("unusable entry", where, f"class_id {str(row['class_id'])[:40]!r} is no whole number of at most 63 bits"))
    return None
