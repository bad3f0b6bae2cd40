"""Match the rows of tables with the pictures that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cap2im.data.file_index import FileIndex, LookupFailure
from cap2im.data.folder_listing import list_files
from cap2im.data.image_files import ImageFile
from cap2im.data.problems import Problem
from cap2im.data.readers import ColumnNames
from cap2im.data.records import CaptionedImage, Source
from cap2im.data.splits import SPLITS, Split, parse_split, split_of
from cap2im.data.table_columns import (
    SAMPLE_ROWS,
    TableColumns,
    as_class_id,
    caption_columns,
    choose_columns,
    describe_columns,
    row_captions,
)
from cap2im.data.table_files import Row, read_rows


@dataclass
class _Entry:
    """What tables hold about one picture."""

    split: Split | None
    captions: list[str] = field(default_factory=list)
    class_id: int = -1


class TableEntries:
    """The captions of the pictures of a folder, from one or several tables. Rows of one picture add up.

    Args:
        folder: that holds the pictures.
        columns: as the user named them.
    """

    def __init__(self, folder: Path, columns: ColumnNames) -> None:
        self.listing = list_files(folder)
        self.problems = [*self.listing.problems, *self.listing.misplaced_splits()]
        self._columns = columns
        self._index = FileIndex(folder, self.listing.files)
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, table: Path, folder: str = "") -> None:
        """Add the rows of a table.

        Args:
            table: of any format.
            folder: that the file names are relative to, relative to the folder of the pictures.

        Raises:
            ValueError: not a table, or its columns cannot be guessed.
        """
        rows = read_rows(table, self.problems)
        if not rows:
            self.problems.append(Problem("unusable entry", str(table), "holds no usable rows"))
            return
        names = list(dict.fromkeys(name for _, row in rows for name in row))
        where = rows[0][0] if len(rows) == 1 else str(table)
        columns = choose_columns(names, self._columns, [row for _, row in rows[:SAMPLE_ROWS]], where)
        self.problems += columns.unused_problems(str(table))
        if columns.split is not None and self._columns.split is None and not _holds_splits(rows, columns.split):
            columns = replace(columns, split=None)  # the column holds something else
        for where, row in rows:
            if (failure := self._add_row(where, row, folder, columns)) is None:
                continue
            if failure.kind == "misplaced metadata file":  # one problem of the table
                place = where.removeprefix(str(table)).lstrip(", ")
                self.problems.append(Problem(failure.kind, str(table), f"{place}: {failure.detail}"))
            else:
                self.problems.append(Problem(failure.kind, where, failure.detail))

    def _add_row(self, where: str, row: Mapping[str, Any], folder: str, columns: TableColumns) -> LookupFailure | None:
        """Add one row, or return why it cannot be used."""
        name = row.get(columns.image)
        if not isinstance(name, str):
            return LookupFailure("unusable entry", f"no text in {columns.image!r}; its columns: {describe_columns(list(row), [row])}")
        chosen = columns.captions
        if not any(column in row for column in chosen):
            chosen = caption_columns(column for column in row if column != columns.image)[0]
        captions = row_captions(row, chosen, where, self.problems)
        if captions is None:
            return None
        match = self._index.find_picture(name, folder)
        if isinstance(match, LookupFailure):
            return match
        split = None
        if columns.split is not None and (split := parse_split(row.get(columns.split))) is None:
            return LookupFailure("split not used", f"{columns.split} {row.get(columns.split)!r} is none of {', '.join(SPLITS)}")
        entry = self._entries.setdefault(match, _Entry(split))
        if entry.split != split:
            return LookupFailure("unusable entry", f"{match} is in the split {entry.split}, too; entries of one picture need one split")
        entry.captions += captions
        if (class_id := as_class_id(row.get("class_id"))) != -1:
            entry.class_id = class_id
        elif row.get("class_id") not in (None, "", -1, "-1"):
            detail = f"class_id {str(row['class_id'])[:40]!r} is no whole number of at most 63 bits"
            self.problems.append(Problem("unusable entry", where, detail))
        return None

    def source(self, unlisted: str) -> Source:
        """Return the pictures with their captions; splits come from a column, else from the first folder of a file name.

        Args:
            unlisted: what is wrong with a picture that no row names.
        """
        splits: dict[Split, list[CaptionedImage]] = {split: [] for split in SPLITS}
        for name, entry in self._entries.items():
            record = CaptionedImage(name, ImageFile(self._index.files[name]), tuple(entry.captions), entry.class_id)
            splits[entry.split or split_of(PurePosixPath(name))].append(record)
        listed = {self._index.files[name] for name in self._entries}
        uncaptioned = [Problem("image without captions", str(file), unlisted) for file in self.listing.pictures() if file not in listed]
        return Source(splits, [*self.problems, *uncaptioned, *self.listing.unread_formats()])


def _holds_splits(rows: list[Row], column: str) -> bool:
    return any(parse_split(row.get(column)) is not None for _, row in rows)
