"""Read tables that hold the pictures themselves: datasets of the Hugging Face hub, and Parquet files."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from cap2im.data.image_files import ImageBytes, ImageFile, ImageReference, MissingImage
from cap2im.data.listing import FileIndex, Missing, list_files
from cap2im.data.records import CaptionedImage, LazyRecords, Problem, Source
from cap2im.data.splits import SPLIT_NAMES, Split, parse_split
from cap2im.data.table_columns import (
    CAPTION_COLUMNS,
    SPLIT_COLUMN,
    TEXT_KEYS,
    AskedColumns,
    as_captions,
    as_class_id,
    caption_columns,
    holds_sentences,
)
from cap2im.files import shortened
from cap2im.hub import is_repository, offline_if_unreachable

logger = logging.getLogger(__name__)

TABLES = ("parquet", "arrow", "json", "csv")  # what datasets reads whose file names are as somebody wrote them


def read_huggingface(name: str, columns: AskedColumns) -> Source:
    """Read a dataset of the Hugging Face hub, a Parquet file, or a folder that `datasets` opens.

    Args:
        name: OWNER/NAME, a file or a folder.
        columns: that the user named.

    Raises:
        ValueError: it cannot be opened, or its columns cannot be told.
    """
    import datasets

    path = Path(name).expanduser()
    load: dict[str, Any]
    on_hub = False
    if path.is_file() or (path.is_dir() and any(path.glob("*.parquet"))):
        load = {"path": "parquet", "data_files": _parquet_files(path)}
    elif path.is_dir():
        load = {"path": str(path)}
    elif not is_repository(name) or path.suffix == ".parquet":
        raise ValueError(f"{name}: no such file or folder, nor a name on the Hugging Face hub, OWNER/NAME")
    else:
        logger.info("downloading %s from the Hugging Face hub, or finding it in its cache", name)
        load, on_hub = {"path": name}, True
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its log has the error that is raised, on many lines
    try:
        with offline_if_unreachable(name) if on_hub else nullcontext():
            tables = datasets.load_dataset(**load)
    except Exception as error:  # datasets raises its own and its readers' errors
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):  # the outer ones only say that there is one
            error = error.__cause__
        raise ValueError(f"{name}: datasets cannot open it ({' '.join(str(error).split())[:300]})") from None
    finally:
        datasets.logging.set_verbosity(verbosity)
    source = Source({})
    beside = _pictures_beside(path if path.is_dir() else path.parent) if path.exists() else _no_picture
    for name_there, table in tables.items():
        split = parse_split(str(name_there))
        if split is None or (split in source.splits and columns.split is None):
            reason = "is none of train, validation, test" if split is None else f"is {split}, too"
            source.problems.append(Problem("split not used", name, f"{name_there} {reason}"))
            continue
        image = _image_column(table.features, columns.image, name)
        captions = _caption_columns(table, columns.captions, name, source.problems)
        locate = beside if table.info.builder_name in TABLES else _local_picture
        table = table.cast_column(image, datasets.Image(decode=False))
        for part, rows in _rows_by_split(table, split, columns.split, name, source.problems).items():
            if part in source.splits:
                raise ValueError(f"{name}: rows of {part} are in several of its splits; leave out --split-column")
            source.splits[part] = _records(table, image, captions, part, rows, locate)
    return source


def holds_pictures(file: Path, column: str | None) -> bool:
    """Return whether a Parquet file has pictures in it, in a column or in any; names of files are none."""
    import pyarrow as pa  # an extra, and slow to import
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return False
    fields = [each for each in schema if column is None or each.name == column]
    return any(
        (pa.types.is_struct(each.type) and each.type.get_field_index("bytes") >= 0)
        or pa.types.is_binary(each.type)
        or pa.types.is_large_binary(each.type)
        for each in fields
    )


def _parquet_files(path: Path) -> dict[str, list[str]]:
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    splits: dict[str, list[str]] = {}
    for file in files:
        split = SPLIT_NAMES.get(re.split(r"[-_.]", file.name)[0].lower(), "train")
        splits.setdefault(split, []).append(glob.escape(str(file)))  # datasets takes names for patterns
    return splits


def _rows_by_split(table: Any, split: Split, column: str | None, name: str, problems: list[Problem]) -> dict[Split, Any]:
    """The rows of each split by a column, which may be one named `split`; without such a column all are of one split."""
    guessed = column is None and SPLIT_COLUMN in table.column_names
    if column is not None and column not in table.column_names:
        raise ValueError(f"{name}: no column {column!r} (--split-column); its columns: {_describe(table.features)}")
    if column is None and not guessed:
        return {split: range(len(table))}
    rows: dict[Split, list[int]] = {}
    unknown: dict[str, int] = {}
    for row, value in enumerate(table[column or SPLIT_COLUMN]):
        if (part := parse_split(value)) is None:
            unknown[str(value)] = unknown.get(str(value), 0) + 1
        else:
            rows.setdefault(part, []).append(row)
    if guessed and (not rows or split != "train"):
        return {split: range(len(table))}
    for value, count in unknown.items():
        problems.append(Problem("split not used", name, f"{shortened(repr(value))} of {count} rows is none of train, validation, test"))
    order: tuple[Split, ...] = ("train", "validation", "test")
    return {part: rows[part] for part in order if part in rows}


def holds_text(feature: Any) -> bool:
    """Return whether a column of `datasets` holds captions in a form that `as_captions` reads."""
    if isinstance(feature, Mapping):
        return any(key in feature and holds_text(feature[key]) for key in (*TEXT_KEYS, "tokens"))
    if isinstance(feature, list):  # as older files write lists
        return len(feature) == 1 and holds_text(feature[0])
    if (inner := getattr(feature, "feature", None)) is not None:
        return holds_text(inner)
    return getattr(feature, "dtype", None) in ("string", "large_string") and type(feature).__name__ == "Value"


def _is_empty(feature: Any) -> bool:
    return getattr(feature, "dtype", None) == "null"


def _content(feature: Any) -> str:
    if isinstance(feature, Mapping):
        return "pictures" if "bytes" in feature else "object with " + ", ".join(list(feature)[:6])
    if isinstance(feature, list):
        return f"list of {_content(feature[0])}" if feature else "list"
    if (inner := getattr(feature, "feature", None)) is not None:
        return f"list of {_content(inner)}"
    if type(feature).__name__ == "Image":
        return "pictures"
    dtype = str(getattr(feature, "dtype", type(feature).__name__))
    return {"string": "text", "large_string": "text", "null": "empty", "binary": "bytes"}.get(dtype, dtype)


def _describe(features: Mapping[str, Any]) -> str:
    """The columns with what they hold, on one line."""
    return ", ".join(f"{shortened(name)} ({_content(feature)})" for name, feature in features.items())


def _image_column(features: Mapping[str, Any], asked: str | None, where: str) -> str:
    if asked is not None:
        if asked not in features:
            raise ValueError(f"{where}: no column {asked!r} (--image-column); its columns: {_describe(features)}")
        return asked
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    images = images or [
        name
        for name, feature in features.items()
        if (isinstance(feature, dict) and "bytes" in feature) or getattr(feature, "dtype", "") in ("binary", "large_binary")
    ]
    if len(images) != 1:
        raise ValueError(f"{where}: {len(images)} columns of images; name one with --image-column; its columns: {_describe(features)}")
    return images[0]


def _caption_columns(table: Any, asked: tuple[str, ...], where: str, problems: list[Problem]) -> tuple[str, ...]:
    features: Mapping[str, Any] = table.features
    for column in asked:
        if column not in features:
            raise ValueError(f"{where}: no column {column!r} (--caption-column); its columns: {_describe(features)}")
        if not holds_text(features[column]):
            raise ValueError(
                f"{where}: column {column!r} holds no captions but {_content(features[column])}; its columns: {_describe(features)}"
            )
    if asked:
        return asked
    texts = [name for name, feature in features.items() if holds_text(feature)]
    named, unused = caption_columns(name for name, feature in features.items() if holds_text(feature) or _is_empty(feature))
    chosen = named or tuple(texts if len(texts) == 1 else ())
    if not chosen:
        raise ValueError(
            f"{where}: no column of captions ({', '.join(CAPTION_COLUMNS[:3])}, ...); --caption-column names it; its columns: "
            f"{_describe(features)}"
        )
    for name in (*unused, *_sentence_columns(table, [text for text in texts if text not in (*chosen, *unused)])):
        detail = f"column {name!r} may hold captions; {' and '.join(chosen)} is used, --caption-column adds columns"
        problems.append(Problem("column not used", where, detail))
    return chosen


def _sentence_columns(table: Any, names: list[str]) -> list[str]:
    """Return the columns whose first rows hold sentences."""
    rows = table.select_columns(names)[:100] if names else {}
    return [name for name in names if holds_sentences(rows[name])]


def _pictures_beside(folder: Path) -> Callable[[str], ImageReference]:
    """Return what finds a picture whose file name a Parquet file holds: below the folder of the Parquet file."""

    @cache
    def index() -> FileIndex:
        return FileIndex(folder, list_files(folder).files)

    def locate(name: str) -> ImageReference:
        found = index().find(name)
        return MissingImage(name, found.detail) if isinstance(found, Missing) else ImageFile(index().files[found])

    return locate


def _no_picture(name: str) -> ImageReference:
    """Return that a table of the hub names a file, which may not be one of this machine."""
    return MissingImage(name, "the dataset holds its name alone, not the picture")


def _local_picture(name: str) -> ImageReference:
    """Return the picture that `datasets` unpacked or listed; what it lists has absolute paths."""
    return ImageFile(Path(name)) if Path(name).is_absolute() else MissingImage(name, "there is no such file in the dataset")


def _records(
    table: Any, image: str, columns: tuple[str, ...], split: Split, rows: Any, locate: Callable[[str], ImageReference]
) -> LazyRecords:
    def make(row: int, id: str) -> CaptionedImage:
        entry = table[row]
        picture = entry[image] or {}
        captions = tuple(text for column in columns for text in as_captions(entry[column]) or ())
        if len(columns) > 1:  # columns that are empty in this row are no empty captions
            captions = tuple(text for text in captions if text.strip())
        if picture.get("bytes") is not None:
            reference: ImageReference = ImageBytes(f"{split} row {row}", picture["bytes"])
        elif picture.get("path"):
            reference = locate(picture["path"])
        else:
            reference = MissingImage(f"{split} row {row}", "it holds no picture")
        return CaptionedImage(id, reference, captions, as_class_id(entry.get("class_id")))

    return LazyRecords(rows, split, make, f"{table._fingerprint} {image} {' '.join(columns)}")
