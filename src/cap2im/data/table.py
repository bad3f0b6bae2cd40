"""Read a table that names pictures in files: CSV with any separator, JSON lines, JSON or Parquet."""

from __future__ import annotations

import os
from pathlib import Path

from cap2im.data.huggingface import HuggingFaceReader, holds_pictures
from cap2im.data.readers import Candidate, ColumnNames, ReadOptions, SourceReader
from cap2im.data.records import Source
from cap2im.data.table_columns import SAMPLE_ROWS, choose_columns
from cap2im.data.table_entries import TableEntries
from cap2im.data.table_files import TABLES, is_parquet, read_rows


class TableReader(SourceReader):
    """Reads a table, or the only table in a folder. Parquet may also hold the pictures themselves."""

    reads_files = True
    has_columns = True
    has_images_folder = True

    def resembles(self, candidate: Candidate) -> bool:
        """Recognise tables with a column of pictures and one of captions."""
        if candidate.is_file:
            return is_parquet(candidate.path) or no_table(candidate.path, candidate.columns) is None
        try:
            return candidate.is_folder and find_table(candidate.path, candidate.columns).is_file()
        except ValueError:
            return False

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read a table.

        Raises:
            ValueError: no table, no folder of pictures, or columns that cannot be guessed.
        """
        table = find_table(path, options.columns) if path.is_dir() else path
        if options.images is None and is_parquet(table) and holds_pictures(table, options.columns.image):
            return HuggingFaceReader().read(table, options)
        folder = table.parent if options.images is None else Path(os.path.expanduser(options.images))
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder (--images)")
        entries = TableEntries(folder, options.columns)
        entries.add(table)
        if not entries:
            misplaced = [problem for problem in entries.problems if problem.kind == "misplaced metadata file"]
            if misplaced:
                raise ValueError(f"{misplaced[0]}; or name the folder of the pictures with --images")
            first = f"; the first problem: {entries.problems[0]}" if entries.problems else ""
            raise ValueError(f"{table}: none of its rows can be used{first}")
        return entries.source(f"not in {table.name}")


def find_table(folder: Path, columns: ColumnNames) -> Path:
    """Return the only table of pictures and captions in a folder.

    Raises:
        ValueError: there is none, or there are several.
    """
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLES and file.is_file()]
    reasons = {file: no_table(file, columns) for file in files}
    tables = [file for file in files if reasons[file] is None]
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise ValueError(f"{folder}: several tables ({', '.join(file.name for file in tables)}); give the file")
    details = "; ".join(str(reason) for file, reason in reasons.items() if file.suffix.lower() != ".txt")
    raise ValueError(f"{folder}: no table of pictures and captions in this folder{'; ' if details else ''}{details[:500]}")


def no_table(file: Path, columns: ColumnNames) -> str | None:
    """Return why a file is no table of pictures and captions, or None if it is one."""
    try:
        rows = read_rows(file, [])
        if not rows:
            return f"{file}: holds no rows"
        sample = [row for _, row in rows[:SAMPLE_ROWS]]
        chosen = choose_columns(list(dict.fromkeys(name for row in sample for name in row)), columns, sample, str(file))
    except ValueError as error:
        return str(error)
    return None if isinstance(sample[0].get(chosen.image), str) else f"{file}: no file name in {chosen.image!r}"
