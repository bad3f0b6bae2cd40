"""Read tables of pictures and captions: CSV with any separator, JSON lines, a JSON list or object, Parquet.

What a file is follows from its content, not from its name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cap2im.data.records import Problem, read_lines
from cap2im.data.table_columns import IMAGE_COLUMNS, caption_columns, has_picture_ending, plain
from cap2im.files import check_parsed_size, check_regular_file, read_text, shortened

SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
LARGEST_TABLE = 2**28  # bytes of a Parquet file's cells in memory
MOST_ROWS = 1_000_000

Row = tuple[str, Mapping[str, Any]]  # where it stands, and its cells by column


def read_rows(path: Path, problems: list[Problem]) -> list[Row]:
    """Return the rows of a table of any format.

    Rows that cannot be used are added to the problems.

    Raises:
        ValueError: no table, or damaged.
    """
    check_regular_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if start == b"PAR1" or path.suffix.lower() == ".parquet":
        return _parquet_rows(path)
    if start[:4] == b"PK\x03\x04":
        raise ValueError(f"{path}: is a spreadsheet or a zip file, and a text file is needed; save it as CSV in UTF-8")
    if start[:2] == b"\x1f\x8b":
        raise ValueError(f"{path}: is compressed by gzip; unpack it")
    lines = read_lines(path, problems)
    first = next((line.lstrip() for _, line in lines if line.strip()), "")
    named_json = path.suffix.lower() in (".json", ".jsonl", ".ndjson")
    if first[:1] in ("{", "[") or (named_json and not _is_header(first)):
        return list(_json_rows(path, lines, problems))
    return list(_separated_rows(path, lines, problems))


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
            size, longest = 0, max(chunks, default=0)  # bytes that one cell may have
            for batch in file.iter_batches(min(1000, max(1, 2**29 // max(1, longest)))):
                if (size := size + batch.nbytes) > LARGEST_TABLE:
                    raise ValueError(f"{path}: more than {LARGEST_TABLE:,} bytes of cells")
                rows += [(f"{path}, row {number}", row) for number, row in enumerate(batch.to_pylist(), len(rows) + 1)]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a Parquet file ({' '.join(str(error).split())[:200]})") from None
    return rows


def json_document(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        ValueError: no such file, too large, not UTF-8, or not JSON.
    """
    text = read_text(path)
    try:
        return _json(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def _json(text: str) -> Any:
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
    full = [(number, line) for number, line in lines if line.strip()]
    if full and not _is_object_line(full[0][1]):
        try:
            document = _json("\n".join(line for _, line in lines))
        except ValueError as error:
            if full[0][1].lstrip().startswith("["):
                raise ValueError(f"{path}: not JSON ({error})") from None
        else:
            yield from _document_rows(path, document, problems)
            return
    for number, line in full:
        where = f"{path}, line {number}"
        try:
            row = _json(line)
        except ValueError as error:
            problems.append(Problem("unusable entry", where, f"not JSON ({error})"))
            continue
        if len(full) == 1 and isinstance(row, dict) and row and all(map(has_picture_ending, row)):
            yield from _document_rows(path, row, problems)
        elif isinstance(row, dict):
            yield where, row
        else:
            problems.append(Problem("unusable entry", where, "not a JSON object like {'file_name': ..., 'text': ...}"))


def _is_object_line(line: str) -> bool:
    try:
        return isinstance(_json(line), dict)
    except ValueError:
        return False


def _document_rows(path: Path, document: Any, problems: list[Problem]) -> Iterator[Row]:
    """The rows of a JSON document: a list of objects, {picture: caption}, or one object with such a list."""
    if isinstance(document, dict) and document and all(map(has_picture_ending, document)):
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
            problems.append(Problem("unusable entry", f"{path}, entry {number}", "not a JSON object like {'file_name': ..., 'text': ...}"))


def _cells(line: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    except (csv.Error, StopIteration):
        return []


def _is_header(line: str) -> bool:
    """Whether a line may be the first one of a table with separators."""
    cells = [cell for separator in SEPARATORS for cell in _cells(line, separator)]
    return any(plain(cell) in IMAGE_COLUMNS or has_picture_ending(cell) for cell in cells)


def separator_of(line: str) -> str:
    """Return the separator of a table by its first line: the one that sets columns of known names apart, else the most frequent one."""

    def score(separator: str) -> tuple[int, int]:
        cells = _cells(line, separator)
        known = [cell for cell in map(plain, cells) if cell in IMAGE_COLUMNS or caption_columns([cell])[0]]
        return len(known), len(cells)

    return max(SEPARATORS, key=score)


def _separated_rows(path: Path, lines: list[tuple[int, str]], problems: list[Problem]) -> Iterator[Row]:
    while lines and not lines[0][1].strip():
        lines = lines[1:]
    if not lines:
        return
    separator = separator_of(lines[0][1])
    numbers = [number for number, _ in lines]
    styles = ({"strict": True}, {"quoting": csv.QUOTE_NONE}) if separator in "\t|" else ({"strict": True},)
    for style in styles:
        reader = csv.reader((f"{line}\n" for _, line in lines), delimiter=separator, skipinitialspace=True, **style)
        rows: list[tuple[int, list[str]]] = []
        try:
            for cells in reader:
                if any(_swallowed(cell, separator) for cell in cells):
                    raise csv.Error("a cell holds lines of the table")
                rows.append((numbers[reader.line_num - 1], cells))
            break
        except csv.Error as error:
            if style is styles[-1]:
                whole = rows[-1][0] if rows else numbers[0] - 1
                raise ValueError(f"{path}: not CSV after line {whole}: {error}; is a quote not closed?") from None
    names, body = [cell.strip() for cell in rows[0][1]], rows[1:]
    if any(map(has_picture_ending, names)):  # no header
        if len(names) != 2:
            raise ValueError(f"{path}: its first line names no columns: {shortened(lines[0][1])}")
        names, body = ["file_name", "text"] if has_picture_ending(names[0]) else ["text", "file_name"], rows
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two columns are called {next(n for n in names if names.count(n) > 1)!r}")
    for number, cells in body:
        where = f"{path}, line {number}"
        if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
            told = f"{len(cells)} cells in {len(names)} columns; text with a {SEPARATORS[separator]} needs quotes"
            problems.append(Problem("unusable entry", where, told))
        elif cells and len(cells) < len(names) and any(cell.strip() for cell in cells):
            told = f"{len(cells)} cells in {len(names)} columns, separated by {SEPARATORS[separator]}"
            problems.append(Problem("unusable entry", where, told))
        elif any(cell.strip() for cell in cells):
            yield where, dict(zip(names, cells, strict=False))


def _swallowed(cell: str, separator: str) -> bool:
    """Whether a cell holds further lines of the table, because a quote was not closed."""
    return "\n" in cell and any(has_picture_ending(line.split(separator)[0]) and separator in line for line in cell.split("\n")[1:])
