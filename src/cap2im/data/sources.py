"""Registry of the kinds of captioned images, and functions to read a source or guess its kind.

A new kind is one module with a `SourceReader` and one line in `SOURCES`. Importing this module is cheap: readers are imported on use.
"""

from __future__ import annotations

import difflib
import os
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from cap2im.data.readers import ColumnNames, ReadOptions, SourceReader
    from cap2im.data.records import Source
    from cap2im.data.splits import Split

# kind -> reader, in the order in which a path of unknown kind is tried
SOURCES = {
    "coco": "cap2im.data.coco:CocoReader",
    "attngan": "cap2im.data.attngan_metadata:AttnGANReader",
    "birds": "cap2im.data.birds:BirdsReader",
    "released": "cap2im.data.released_arrays:ReleasedReader",
    "flickr8k": "cap2im.data.flickr:FlickrReader",
    "folder": "cap2im.data.image_folder:FolderReader",
    "pairs": "cap2im.data.image_pairs:PairsReader",
    "cifar": "cap2im.data.class_folders:ClassFoldersReader",
    "webdataset": "cap2im.data.webdataset:WebDatasetReader",
    "huggingface": "cap2im.data.huggingface:HuggingFaceReader",
    "table": "cap2im.data.table:TableReader",
}


@cache
def reader_of(kind: str) -> SourceReader:
    """Return the reader of a kind."""
    reader: SourceReader = pkgutil.resolve_name(SOURCES[kind])()
    return reader


def read_source(kind: str, path: str, options: ReadOptions | None = None, *, validation: float = 0.0, test: float = 0.0) -> Source:
    """List the captioned images of a source; no picture is decoded.

    Args:
        kind: key of `SOURCES`.
        path: a file or folder, a pattern of files, or the name of a dataset on the Hugging Face hub.
        options: of reading.
        validation: share of the training images to hold out, if the source has no validation images.
        test: share of the training images to hold out, if the source has no test images.

    Raises:
        ValueError: the path does not exist or is not of this kind, or an option does not apply.
    """
    from cap2im.data.readers import ReadOptions

    reader = reader_of(kind)
    options = ReadOptions() if options is None else options
    _check_options(kind, options)
    if validation + test > 0.9:
        raise ValueError(f"--validation {validation} and --test {test}: at most 0.9 together")
    name = os.path.expanduser(path)
    where = Path(name)
    if where.exists():
        if where.is_file() and not reader.reads_files:
            raise ValueError(f"{path}: is a file, and {kind} needs a folder")
        if where.is_dir() and not reader.reads_folders:
            raise ValueError(f"{path}: is a folder, and {kind} needs a file")
        if not os.access(where, os.R_OK):
            raise ValueError(f"{path}: cannot be read")
    elif not reader.reads_name(name):
        hint = f"; {reader.name_hint}" if reader.name_hint else ""
        raise ValueError(f"{no_such_path(path)}{hint}")
    try:
        source = reader.read(where, options)
    except ValueError as error:
        raise ValueError(f"{error}{_hint_below(where, [kind])}") from None
    source.drop_invalid_ids()
    _hold_out(source, path, "validation", validation, 0.0)
    _hold_out(source, path, "test", test, validation)
    return source


def _check_options(kind: str, options: ReadOptions) -> None:
    reader, columns = reader_of(kind), options.columns
    given = {"--image-column": columns.image, "--caption-column": next(iter(columns.captions), None), "--split-column": columns.split}
    for option, value in given.items():
        if value is not None and not reader.has_columns:
            having = ", ".join(other for other in SOURCES if reader_of(other).has_columns)
            raise ValueError(f"{option} {value}: a source of kind {kind} has no columns; {having} have")
    if options.images is not None and not reader.has_images_folder:
        raise ValueError(f"--images {options.images}: a source of kind {kind} has its pictures in its own folder; table takes --images")


def _hold_out(source: Source, path: str, split: Split, share: float, start: float) -> None:
    if share and source.splits.get(split):
        raise ValueError(f"--{split} {share}: {path} already has {split} images")
    if share:
        source.hold_out(split, share, start)


def no_such_path(path: str) -> str:
    """Return the error message for a path that does not exist, with the existing name closest to it."""
    missing = Path(os.path.expanduser(path))
    parent = next((each for each in missing.parents if each.is_dir()), None)
    message = f"{path}: no such file or folder"
    if parent is None:
        return message
    part = missing.relative_to(parent).parts[0]
    try:
        names = os.listdir(parent)
    except OSError:
        return message
    near = [n for n in names if n.casefold() == part.casefold()] or difflib.get_close_matches(part, names, n=1, cutoff=0.75)
    return f"{message}; there is {parent / near[0]}" if near else message


def guess_kind(path: str, columns: ColumnNames | None = None) -> str:
    """Return the kind of a source by its content.

    Args:
        path: a file or folder, or a pattern of files.
        columns: of a table, as the user named them.

    Raises:
        ValueError: the path does not exist or no reader recognises it.
    """
    from cap2im.data.readers import ColumnNames
    from cap2im.data.table import no_table

    where = Path(os.path.expanduser(path))
    columns = ColumnNames() if columns is None else columns
    if (kind := _recognised(where, columns)) is not None:
        return kind
    if not where.exists():
        raise ValueError(no_such_path(path))
    hint = _hint_below(where, SOURCES)
    if where.is_file() and (reason := no_table(where, columns)) is not None:
        hint = f"; as a table: {reason.removeprefix(f'{where}: ')}"
    raise ValueError(f"{path}: cannot tell what kind of captioned images this is{hint}; name it with --kind: {', '.join(SOURCES)}, cutouts")


def _recognised(path: Path, columns: ColumnNames) -> str | None:
    from cap2im.data.readers import Candidate

    candidate = Candidate(path, columns)
    surely = (kind for kind in SOURCES if reader_of(kind).recognises(candidate))
    perhaps = (kind for kind in SOURCES if reader_of(kind).resembles(candidate))
    return next(surely, None) or next(perhaps, None)


def _hint_below(folder: Path, kinds: Collection[str]) -> str:
    """Return a hint to a subfolder that is of one of some kinds, or nothing."""
    from cap2im.data.folder_listing import is_hidden
    from cap2im.data.readers import ColumnNames

    if not folder.is_dir():
        return ""
    inner = [each for each in folder.iterdir() if each.is_dir() and not is_hidden(each.name) and not each.name.startswith("annotations")]
    for each in sorted(inner)[:20]:
        kind = _recognised(each, ColumnNames())
        if kind is not None and kind in kinds:
            return f"; one folder deeper, {each} is {kind}"
    return ""
