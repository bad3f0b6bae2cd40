"""Read tables of pictures and captions: CSV with any separator, JSON lines, a JSON list or object, Parquet.

The format is recognised by content, not by file name.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cap2im.data.problems import Problem
from cap2im.data.table_columns import IMAGE_COLUMNS, caption_columns, has_picture_extension, plain_name
from cap2im.data.text_files import file_format, read_lines
from cap2im.files import check_parsed_size, check_regular_file, read_text, shortened

TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt"})  # extensions of tables
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
LARGEST_TABLE = 2**28  # bytes of a Parquet file's cells in memory
MOST_ROWS = 1_000_000
NOT_AN_ENTRY = "not a JSON object like {'file_name': ..., 'text': ...}"

Row = tuple[str, Mapping[str, Any]]  # location for messages, and cells by column name

# a row of Flickr30k's results.csv: one lacks its second bar, others have bars in their captions
_FLICKR30K_ROW = re.compile(r"([^|]*[^|\s])\s*\|\s*(\d+)\s*(?:\||\s)\s*(.*)", re.DOTALL)


def read_rows(path: Path, problems: list[Problem]) -> list[Row]:
    """Return the rows of a table of any format.

    Args:
        path: of the table.
        problems: extended by rows that cannot be used.

    Raises:
        ValueError: not a table, or damaged.
    """
    check_regular_file(path)
    kind = file_format(path)
    if kind == "a Parquet file" or path.suffix.lower() == ".parquet":
        return _parquet_rows(path)
    if kind is not None:
        raise ValueError(f"{path}: is {kind}; a table is text: CSV or JSON in UTF-8")
    lines = read_lines(path, problems)
    first = next((line.lstrip() for _, line in lines if line.strip()), "")
    named_json = path.suffix.lower() in (".json", ".jsonl", ".ndjson")
    if first[:1] in ("{", "[") or (named_json and not _is_header(first)):
        return list(_json_rows(path, lines, problems))
    return list(_separated_rows(path, lines, problems))


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its first bytes or its name."""
    return path.suffix.lower() == ".parquet" or file_format(path) == "a Parquet file"


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow as pa  # an extra, and slow to import
    import pyarrow.parquet as pq

    rows: list[Row] = []
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise ValueError(f"{path}: {file.metadata.num_rows:,} rows; at most {MOST_ROWS:,} are read")
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            chunks = [group.column(number).total_uncompressed_size for group in groups for number in range(group.num_columns)]
            size, longest = 0, max(chunks, default=0)  # bytes; one cell may be as large as a chunk
            for batch in file.iter_batches(min(1000, max(1, 2**29 // max(1, longest)))):
                if (size := size + batch.nbytes) > LARGEST_TABLE:
                    raise ValueError(f"{path}: more than {LARGEST_TABLE:,} bytes of cells")
                rows += [(f"{path}, row {number}", row) for number, row in enumerate(batch.to_pylist(), len(rows) + 1)]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a Parquet file ({' '.join(str(error).split())[:200]})") from None
    return rows


def read_json_value(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        ValueError: no such file, too large, not UTF-8, or not JSON.
    """
    text = read_text(path)
    try:
        return _parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def _parse_json(text: str) -> Any:
    """Parse JSON; every failure is a ValueError with a short reason."""
    try:
        check_parsed_size(text)
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:  # numbers with thousands of digits
        raise ValueError(str(error)[:100]) from None


def _json_rows(path: Path, lines: list[tuple[int, str]], problems: list[Problem]) -> Iterator[Row]:
    """Yield the entries of JSON lines or of one JSON document."""
    lines = [(number, line) for number, line in lines if line.strip()]
    if lines and not _is_object(lines[0][1]):
        try:
            document = _parse_json("\n".join(line for _, line in lines))
        except ValueError as error:
            if lines[0][1].lstrip().startswith("["):
                raise ValueError(f"{path}: not JSON ({error})") from None
        else:
            yield from _document_rows(path, document, problems)
            return
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            entry = _parse_json(line)
        except ValueError as error:
            problems.append(Problem("unusable entry", where, f"not JSON ({error})"))
            continue
        if len(lines) == 1 and _is_by_picture(entry):
            yield from _document_rows(path, entry, problems)
        elif isinstance(entry, dict):
            yield where, entry
        else:
            problems.append(Problem("unusable entry", where, NOT_AN_ENTRY))


def _is_object(line: str) -> bool:
    try:
        return isinstance(_parse_json(line), dict)
    except ValueError:
        return False


def _is_by_picture(document: Any) -> bool:
    """Return whether a JSON value is an object whose keys are pictures."""
    return isinstance(document, dict) and bool(document) and all(map(has_picture_extension, document))


def _document_rows(path: Path, document: Any, problems: list[Problem]) -> Iterator[Row]:
    """Yield the entries of a JSON document: a list of objects, {picture: caption}, or an object with one list of objects."""
    if _is_by_picture(document):
        for name, value in document.items():
            yield f"{path}, {name}", {"file_name": name} | (value if isinstance(value, dict) else {"text": value})
        return
    if isinstance(document, dict):
        if "annotations" in document or "images" in document:
            raise ValueError(f"{path}: holds images and annotations as COCO's or Karpathy's JSON do, and a list of entries is needed")
        lists = [value for value in document.values() if isinstance(value, list) and any(isinstance(each, dict) for each in value)]
        if len(lists) != 1:
            raise ValueError(f"{path}: a JSON object with {', '.join(map(repr, list(document)[:5]))}, and a list of entries is needed")
        document = lists[0]
    if not isinstance(document, list):
        raise ValueError(f"{path}: JSON that is no list of entries like {{'file_name': ..., 'text': ...}}")
    for number, entry in enumerate(document, 1):
        if isinstance(entry, dict):
            yield f"{path}, entry {number}", entry
        else:
            problems.append(Problem("unusable entry", f"{path}, entry {number}", NOT_AN_ENTRY))


def split_cells(line: str, separator: str) -> list[str]:
    """Return the cells of one line of a table."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    except (csv.Error, StopIteration):
        return []


def _is_header(line: str) -> bool:
    """Return whether a line may be the first one of a table with separators."""
    cells = [cell for separator in SEPARATORS for cell in split_cells(line, separator)]
    return any(plain_name(cell) in IMAGE_COLUMNS or has_picture_extension(cell) for cell in cells)


def separator_of(line: str) -> str:
    """Return the separator of a table by its first line: the one that yields most columns of known names, else most columns."""

    def score(separator: str) -> tuple[int, int]:
        cells = split_cells(line, separator)
        known = [cell for cell in map(plain_name, cells) if cell in IMAGE_COLUMNS or caption_columns([cell])[0]]
        return len(known), len(cells)

    return max(SEPARATORS, key=score)


def _separated_rows(path: Path, lines: list[tuple[int, str]], problems: list[Problem]) -> Iterator[Row]:
    """Yield the rows of a table with separators; one without a header has pictures and captions."""
    while lines and not lines[0][1].strip():
        lines = lines[1:]
    if not lines:
        return
    separator = separator_of(lines[0][1])
    rows = _parse_csv(path, lines, separator)
    names, body = [cell.strip() for cell in rows[0][1]], rows[1:]
    if any(map(has_picture_extension, names)):  # no header
        if len(names) != 2:
            raise ValueError(f"{path}: its first line names no columns: {shortened(lines[0][1])}")
        names, body = ["file_name", "text"] if has_picture_extension(names[0]) else ["text", "file_name"], rows
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two columns are called {next(n for n in names if names.count(n) > 1)!r}")
    for number, cells in body:
        if not any(cell.strip() for cell in cells):
            continue
        if separator == "|" and len(names) == 3 != len(cells) and (match := _FLICKR30K_ROW.fullmatch("|".join(cells))):
            cells = list(match.groups())
        where = f"{path}, line {number}"
        sizes = f"{len(cells)} cells in {len(names)} columns"
        if any(cell.strip() for cell in cells[len(names) :]):
            problems.append(Problem("unusable entry", where, f"{sizes}; text with a {SEPARATORS[separator]} needs quotes"))
        elif len(cells) < len(names):
            problems.append(Problem("unusable entry", where, f"{sizes}, separated by {SEPARATORS[separator]}"))
        else:
            yield where, dict(zip(names, cells, strict=False))


def _parse_csv(path: Path, lines: list[tuple[int, str]], separator: str) -> list[tuple[int, list[str]]]:
    """Return the cells of each row with its last line's number; with tabs and bars, quotes may be plain characters.

    Raises:
        ValueError: a quote is not closed.
    """
    numbers = [number for number, _ in lines]
    styles: list[dict[str, Any]] = [{"strict": True}, {"quoting": csv.QUOTE_NONE}]
    if separator not in "\t|":
        styles.pop()
    for style in styles:
        reader = csv.reader((f"{line}\n" for _, line in lines), delimiter=separator, skipinitialspace=True, **style)
        rows: list[tuple[int, list[str]]] = []
        try:
            for cells in reader:
                if any(_holds_rows(cell, separator) for cell in cells):
                    raise ValueError("a cell holds lines of the table")
                rows.append((numbers[reader.line_num - 1], cells))
            break
        except (csv.Error, ValueError) as error:
            if style is styles[-1]:
                last = rows[-1][0] if rows else numbers[0] - 1
                raise ValueError(f"{path}: not CSV after line {last}: {error}; is a quote not closed?") from None
    return rows


def _holds_rows(cell: str, separator: str) -> bool:
    """Return whether a cell holds further rows of the table, because a quote is not closed."""
    return "\n" in cell and any(has_picture_extension(line.split(separator)[0]) and separator in line for line in cell.split("\n")[1:])
