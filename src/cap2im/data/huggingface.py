"""Read tables that hold the pictures themselves: datasets of the Hugging Face hub, and Parquet files."""

from __future__ import annotations

import glob
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from cap2im.data.file_index import FileIndex, LookupFailure
from cap2im.data.folder_listing import list_files
from cap2im.data.image_files import ImageBytes, ImageFile, ImageReference, MissingImage
from cap2im.data.problems import Problem
from cap2im.data.readers import Candidate, ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, LazyRecords, Records, Source
from cap2im.data.splits import SPLIT_NAMES, SPLITS, Split, parse_split
from cap2im.data.table_columns import SAMPLE_ROWS, SPLIT_COLUMN, as_class_id, choose_columns, describe_columns, row_captions
from cap2im.data.table_files import is_parquet
from cap2im.files import shortened
from cap2im.hub import is_repository, offline_if_unreachable

logger = logging.getLogger(__name__)

BUILDERS_OF_TABLES = ("parquet", "arrow", "json", "csv")  # of `datasets`; their file names are relative to the table


class HuggingFaceReader(SourceReader):
    """Reads a dataset of the hub, a Parquet file, or a folder that `datasets` opens."""

    folder_patterns = ("*.parquet", "data/*.parquet")
    reads_files = True
    has_columns = True
    name_hint = "a name on the Hugging Face hub is OWNER/NAME"

    def recognises(self, candidate: Candidate) -> bool:
        """Recognise Parquet files that hold pictures."""
        if candidate.is_file:
            return is_parquet(candidate.path) and holds_pictures(candidate.path, None)
        return super().recognises(candidate)

    def reads_name(self, name: str) -> bool:
        """Return whether a name is OWNER/NAME."""
        return is_repository(name) and "@" not in name and not name.endswith(".parquet")

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read a dataset.

        Raises:
            ValueError: it cannot be opened, or its columns cannot be guessed.
        """
        import datasets  # an extra, and slow to import

        splits: dict[Split, Records] = {}
        problems: list[Problem] = []
        find_beside = _finder(path if path.is_dir() else path.parent) if path.exists() else _missing_on_hub
        given = options.columns
        for name, table in _load(path).items():
            split = parse_split(str(name))
            if split is None or (split in splits and given.split is None):
                reason = "is none of train, validation, test" if split is None else f"is {split}, too"
                problems.append(Problem("split not used", str(path), f"{name} {reason}"))
                continue
            image, sample = _image_column(table, given.image, str(path))
            columns = choose_columns(list(table.features), replace(given, image=image), sample, str(path))
            problems += columns.unused_problems(str(path))
            find = find_beside if table.info.builder_name in BUILDERS_OF_TABLES else _unpacked_file
            table = table.cast_column(image, datasets.Image(decode=False))
            for part, rows in _rows_by_split(table, split, given.split, str(path), problems).items():
                if part in splits:
                    raise ValueError(f"{path}: rows of {part} are in several of its splits; leave out --split-column")
                splits[part] = _records(table, image, columns.captions, part, rows, find)
        return Source(splits, problems)


def _load(path: Path) -> Mapping[str, Any]:
    """Open a dataset with `datasets`: split -> table.

    Raises:
        ValueError: it cannot be opened.
    """
    import datasets

    load: dict[str, Any] = {"path": str(path)}
    if path.is_file() or any(path.glob("*.parquet")):
        load = {"path": "parquet", "data_files": _parquet_files(path)}
    elif not path.exists():
        logger.info("downloading %s from the Hugging Face hub, or reading its cache", path)
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs the raised error on many lines
    try:
        with nullcontext() if path.exists() else offline_if_unreachable(str(path)):
            tables: Mapping[str, Any] = datasets.load_dataset(**load)
    except Exception as error:  # datasets raises its own errors and those of its readers
        while isinstance(error.__cause__, Exception):  # the outer errors have no details
            error = error.__cause__
        raise ValueError(f"{path}: datasets cannot open it ({' '.join(str(error).split())[:300]})") from None
    finally:
        datasets.logging.set_verbosity(verbosity)
    return tables


def holds_pictures(file: Path, column: str | None) -> bool:
    """Return whether a column of a Parquet file, or any column, holds encoded pictures."""
    import pyarrow as pa  # an extra, and slow to import
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return False
    types = [each.type for each in schema if column is None or each.name == column]
    return any(
        (pa.types.is_struct(t) and t.get_field_index("bytes") >= 0) or pa.types.is_binary(t) or pa.types.is_large_binary(t) for t in types
    )


def _parquet_files(path: Path) -> dict[str, list[str]]:
    """Return the Parquet files of each split, which their names begin with."""
    splits: dict[str, list[str]] = {}
    for file in [path] if path.is_file() else sorted(path.glob("*.parquet")):
        split = SPLIT_NAMES.get(re.split(r"[-_.]", file.name)[0].lower(), "train")
        splits.setdefault(split, []).append(glob.escape(str(file)))  # datasets takes names for patterns
    return splits


def _image_column(table: Any, given: str | None, where: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the column of pictures, and the first rows without their pictures.

    Raises:
        ValueError: the given column does not exist, or there is not one column of pictures.
    """
    features: Mapping[str, Any] = table.features
    encoded = [name for name, feature in features.items() if _holds_bytes(feature)]
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"] or encoded
    others = [name for name in features if name not in {*images, *encoded}]
    placeholder = {name: {"bytes": b""} for name in images}  # described as pictures
    rows = table.select_columns(others)[:SAMPLE_ROWS] if others else {}
    sample = [placeholder | {name: rows[name][row] for name in others} for row in range(min(len(table), SAMPLE_ROWS))]
    names = "; its columns: " + describe_columns(list(features), sample)
    if given is None and len(images) != 1:
        raise ValueError(f"{where}: {len(images)} columns of images; name one with --image-column{names}")
    if given is not None and given not in features:
        raise ValueError(f"{where}: no column {given!r} (--image-column){names}")
    return images[0] if given is None else given, sample


def _holds_bytes(feature: Any) -> bool:
    return (isinstance(feature, dict) and "bytes" in feature) or getattr(feature, "dtype", "") in ("binary", "large_binary")


def _rows_by_split(table: Any, split: Split, given: str | None, where: str, problems: list[Problem]) -> dict[Split, Sequence[int]]:
    """Return the row numbers of each split, by a column of splits if there is one."""
    column = given or SPLIT_COLUMN
    if column not in table.column_names:
        return {split: range(len(table))}
    rows: dict[Split, list[int]] = {part: [] for part in SPLITS}
    unknown: Counter[str] = Counter()
    for row, value in enumerate(table[column]):
        if (part := parse_split(value)) is None:
            unknown[str(value)] += 1
        else:
            rows[part].append(row)
    if given is None and (split != "train" or not any(rows.values())):  # the column holds something else
        return {split: range(len(table))}
    for value, count in unknown.items():
        detail = f"{shortened(repr(value))} of {count} rows is none of train, validation, test"
        problems.append(Problem("split not used", where, detail))
    return {part: numbers for part, numbers in rows.items() if numbers}


def _finder(folder: Path) -> Callable[[str], ImageReference]:
    """Return a function that finds the pictures which a table names, below the folder of the table."""

    @cache
    def index() -> FileIndex:
        return FileIndex(folder, list_files(folder).files)

    def find(name: str) -> ImageReference:
        match = index().find(name)
        return MissingImage(name, match.detail) if isinstance(match, LookupFailure) else ImageFile(index().files[match])

    return find


def _missing_on_hub(name: str) -> ImageReference:
    """Return a missing picture: a table of the hub must not name files of this machine."""
    return MissingImage(name, "the dataset holds only its name, not the picture")


def _unpacked_file(name: str) -> ImageReference:
    """Return a picture that `datasets` unpacked or listed, by its absolute path."""
    return ImageFile(Path(name)) if Path(name).is_absolute() else MissingImage(name, "there is no such file in the dataset")


def _records(
    table: Any, image: str, columns: tuple[str, ...], split: Split, rows: Sequence[int], find: Callable[[str], ImageReference]
) -> LazyRecords:
    def make(row: int, id: str) -> CaptionedImage:
        entry = table[row]
        picture = entry[image] or {}
        if picture.get("bytes") is not None:
            reference: ImageReference = ImageBytes(f"{split} row {row}", picture["bytes"])
        elif picture.get("path"):
            reference = find(picture["path"])
        else:
            reference = MissingImage(f"{split} row {row}", "it holds no picture")
        captions = row_captions(entry, columns, reference.name, []) or ()
        return CaptionedImage(id, reference, captions, as_class_id(entry.get("class_id")))

    return LazyRecords(rows, split, make, f"{table._fingerprint} {image} {' '.join(columns)}")
