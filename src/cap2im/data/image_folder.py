"""Read image folders as `datasets` defines them: pictures, and metadata that names them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from cap2im.data.folder_listing import is_picture
from cap2im.data.problems import Problem
from cap2im.data.readers import Candidate, ReadOptions, SourceReader
from cap2im.data.records import Source
from cap2im.data.table_entries import TableEntries
from cap2im.data.table_files import TABLES

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet", "metadata.json", "metadata.tsv")


class FolderReader(SourceReader):
    """Reads pictures with metadata.jsonl, .csv, .tsv, .json or .parquet at the top or in folders below.

    File names are relative to the folder of their metadata file.
    """

    has_columns = True

    def recognises(self, candidate: Candidate) -> bool:
        """Recognise metadata at the top or one folder below."""
        depths = [len(file.relative_to(candidate.path).parts) for file in candidate.files if _is_metadata(file)]
        return min(depths, default=3) <= 2

    def resembles(self, candidate: Candidate) -> bool:
        """Recognise metadata in any folder, and misspelt names."""
        return any(map(_is_metadata, candidate.files)) or bool(_misspelt_metadata(candidate.files))

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read an image folder.

        Raises:
            ValueError: no metadata, two metadata files in one folder, or columns that cannot be guessed.
        """
        entries = TableEntries(path, options.columns)
        listed = entries.listing.files
        files = [file for file in listed if _is_metadata(file)]
        misspelt = _misspelt_metadata(listed)
        if not files:
            example = "with lines such as " + json.dumps({"file_name": "cat.jpg", "text": "a cat on a chair"})
            hint = "; ".join(f"{problem.file}: {problem.detail}" for problem in misspelt) or example
            tables = [file for file in listed if file.suffix.lower() in TABLES - {".txt"}]
            other = f"; a table of another name is read as cap2im prepare table {tables[0]}" if tables else ""
            raise ValueError(f"{path}: no {', '.join(METADATA[:2])} or {METADATA[2]} in this folder ({hint}){other}")
        if len({file.parent for file in files}) < len(files):
            names = ", ".join(str(file.relative_to(path)) for file in files)
            raise ValueError(f"{path}: two metadata files in one folder ({names}); keep one")
        entries.problems += misspelt
        for file in files:
            entries.add(file, file.parent.relative_to(path).as_posix())
        return entries.source("in no metadata file")


def _is_metadata(path: Path) -> bool:
    return path.name.lower() in METADATA


def _misspelt_metadata(files: Sequence[Path]) -> list[Problem]:
    """Return a problem for each file that was probably meant to be metadata.jsonl, .csv or .parquet."""
    problems = []
    for path in files:
        if _is_metadata(path) or is_picture(path) or not path.name.lower().startswith("meta"):
            continue
        if near := difflib.get_close_matches(path.name.lower(), METADATA[:3], n=1, cutoff=0.8):
            problems.append(Problem("misspelt metadata file", str(path), f"its name should be {near[0]}"))
    return problems
