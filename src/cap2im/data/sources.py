"""Read a source of captioned images of a given kind, or find out its kind from what lies there."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cap2im.data import class_folders, coco, flickr, huggingface, image_folder, image_pairs, published, table_files
from cap2im.data.listing import is_hidden, list_files
from cap2im.data.records import LazyRecords, PickleReader, Problem, Source, hold_out, is_utf8
from cap2im.data.source_kinds import KINDS, Kind
from cap2im.data.splits import Split
from cap2im.data.table_columns import AskedColumns
from cap2im.data.webdataset import read_webdataset

FILES: tuple[Kind, ...] = ("coco", "flickr8k", "table", "huggingface", "released", "webdataset")  # kinds that may be one file
COLUMNS: tuple[Kind, ...] = ("folder", "table", "huggingface")  # kinds that have columns


def read_source(
    kind: Kind,
    path: str,
    *,
    read_pickle: PickleReader,
    side: int = 32,
    validation: float = 0.0,
    test: float = 0.0,
    image_column: str | None = None,
    caption_column: str | tuple[str, ...] | None = None,
    split_column: str | None = None,
    images: str | None = None,
) -> Source:
    """List the captioned images of a source; no picture is read yet.

    Args:
        kind: what the source is.
        path: a file or folder, or the name of a dataset on the Hugging Face hub.
        read_pickle: reads the pickles of the authors' files without executing them.
        side: the authors' arrays come in several sizes; that of this side is taken.
        validation, test: shares of the training images to hold out, where the source has no such images of its own. An image's id decides.
        image_column, caption_column, split_column: of tables; captions of several columns add up.
        images: folder of a table's pictures; by default that of the table.

    Raises:
        ValueError: the source is not there, or not of this kind, or its kind has no use for an option.
    """
    captions = () if caption_column is None else (caption_column,) if isinstance(caption_column, str) else tuple(caption_column)
    columns = AskedColumns(image_column, captions, split_column)
    _check_options(kind, columns, images)
    if validation + test > 0.9:
        raise ValueError(f"--validation {validation} and --test {test}: at most 0.9 together")
    where = Path(os.path.expanduser(path))
    if kind not in ("huggingface", "webdataset"):  # which may be a name on the hub or a pattern
        if not where.exists():
            raise ValueError(no_such_path(path))
        if where.is_file() and kind not in FILES:
            raise ValueError(f"{path}: is a file, and {kind} needs a folder")
        if not os.access(where, os.R_OK):
            raise ValueError(f"{path}: cannot be read")
    try:
        source = _read(kind, path, where, read_pickle, side, columns, images)
    except ValueError as error:
        hint = _one_folder_deeper(where, (kind,)) if where.is_dir() else ""
        raise ValueError(f"{error}{hint}") from None
    for split, records in source.splits.items():
        if not isinstance(records, LazyRecords):  # those have ids of our own
            source.problems += [Problem("wrong encoding", r.image.name, "its name is not UTF-8") for r in records if not is_utf8(r.id)]
            source.splits[split] = [record for record in records if is_utf8(record.id)]
    shares: list[tuple[Split, float, float]] = [("validation", validation, 0.0), ("test", test, validation)]
    for split, share, start in shares:
        _hold_out(source, path, split, share, start)
    return source


def _read(kind: Kind, path: str, where: Path, read_pickle: PickleReader, side: int, columns: AskedColumns, images: str | None) -> Source:
    match kind:
        case "coco":
            return coco.read_coco(where)
        case "flickr8k":
            return flickr.read_flickr(where)
        case "folder":
            return image_folder.read_folder(where, columns)
        case "table":
            return _read_table(where, columns, images)
        case "pairs":
            return image_pairs.read_pairs(where)
        case "cifar":
            return class_folders.read_cifar(where)
        case "webdataset":
            return read_webdataset(path)
        case "huggingface":
            return huggingface.read_huggingface(path, columns)
        case "birds":
            return published.read_birds(where, read_pickle)
        case "attngan":
            return published.read_attngan(where, read_pickle)
        case "released":
            return published.read_released(where, read_pickle, side)
    raise AssertionError(kind)


def _hold_out(source: Source, path: str, split: Split, share: float, start: float) -> None:
    if not share:
        return
    if source.splits.get(split):
        raise ValueError(f"--{split} {share}: {path} has {split} images of its own")
    if "train" in source.splits:
        source.splits["train"], held_out = hold_out(source.splits["train"], share, start)
        if held_out:
            source.splits[split] = held_out


def _read_table(path: Path, columns: AskedColumns, images: str | None) -> Source:
    table = image_folder.find_table(path, columns) if path.is_dir() else path
    with table.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    if parquet and images is None and huggingface.holds_pictures(table, columns.image):
        return huggingface.read_huggingface(str(table), columns)
    return image_folder.read_table(table, columns, None if images is None else Path(os.path.expanduser(images)))


def _check_options(kind: Kind, columns: AskedColumns, images: str | None) -> None:
    """Refuse options that a kind has no use for."""
    asked = {
        "--image-column": (columns.image, "images"),
        "--caption-column": (columns.captions[0] if columns.captions else None, "captions"),
        "--split-column": (columns.split, "splits"),
    }
    for option, (value, what) in asked.items():
        if value is not None and kind not in COLUMNS:
            raise ValueError(f"{option} {value}: a source of kind {kind} has no columns of {what}; {', '.join(COLUMNS)} have")
    if images is not None and kind != "table":
        raise ValueError(f"--images {images}: a source of kind {kind} has its pictures in its own folder; table takes --images")


def no_such_path(path: str) -> str:
    """Return the message for a path that does not exist: which part of it does, and what is spelt alike there."""
    there = Path(os.path.expanduser(path))
    parent = next((each for each in there.parents if each.is_dir()), None)
    message = f"{path}: no such file or folder"
    if parent is None:
        return message
    missing = there.relative_to(parent).parts[0]
    try:
        names = os.listdir(parent)
    except OSError:
        return message
    near = [n for n in names if n.casefold() == missing.casefold()] or difflib.get_close_matches(missing, names, n=1, cutoff=0.75)
    return f"{message}; there is {parent / near[0]}" if near else message


def guess_kind(path: str, columns: AskedColumns | None = None) -> Kind:
    """Return the kind of a source by what lies there.

    Args:
        path: a file or folder.
        columns: of a table, that the user named.

    Raises:
        ValueError: nothing that is known lies there.
    """
    where = Path(os.path.expanduser(path))
    if not where.exists():
        if path.endswith(".tar"):  # a pattern
            return "webdataset"
        raise ValueError(no_such_path(path))
    asked = AskedColumns() if columns is None else columns
    if kind := _kind_of_file(where, asked) if where.is_file() else _kind_of_folder(where, asked):
        return kind
    hint = _one_folder_deeper(where, KINDS) if where.is_dir() else ""
    if where.is_file() and (reason := image_folder.no_table(where, asked)) is not None:
        hint = f"; as a table: {reason.removeprefix(f'{where}: ')}"
    raise ValueError(f"{path}: cannot tell what kind of captioned images this is{hint}; name it with --kind: {', '.join(KINDS)}")


def _one_folder_deeper(folder: Path, kinds: Sequence[str]) -> str:
    """Return a hint to a folder below that is of one of some kinds."""
    for inner in sorted(
        each for each in folder.iterdir() if each.is_dir() and not is_hidden(each.name) and not each.name.startswith("annotations")
    )[:20]:
        if (kind := _kind_of_folder(inner, AskedColumns())) in kinds:
            return f"; one folder deeper, {inner} is {kind}"
    return ""


def _kind_of_file(file: Path, columns: AskedColumns) -> Kind | None:
    if file.suffix.lower() == ".h5":
        return "released"
    if file.suffix.lower() == ".tar":
        return "webdataset"
    with file.open("rb") as opened:
        if opened.read(4) == b"PAR1" or file.suffix.lower() == ".parquet":
            return "huggingface" if huggingface.holds_pictures(file, None) else "table"
    if file.suffix.lower() == ".json":
        document = table_files.json_document(file)
        if coco.is_coco(document):
            return "coco"
        if flickr.is_karpathy(document):
            return "flickr8k"
    if flickr.is_token_file(file):
        return "flickr8k"
    if image_folder.no_table(file, columns) is not None:
        return None
    return "flickr8k" if file in flickr.caption_files(file.parent) else "table"


def _kind_of_folder(folder: Path, columns: AskedColumns) -> Kind | None:
    def has(*patterns: str) -> bool:
        return any(next(folder.glob(pattern), None) is not None for pattern in patterns)

    listing = list_files(folder)
    signs: list[tuple[Kind, Callable[[], bool]]] = [
        ("coco", lambda: has("annotations/captions_*.json", "captions_*.json")),
        ("attngan", lambda: has("captions.pickle", "*/filenames.pickle")),
        ("birds", lambda: has("CUB_200_2011", "bounding_boxes.txt")),
        ("released", lambda: has("*-cap2im.pkl", "mnist.h5")),
        ("cifar", lambda: has("train.tar")),
        ("flickr8k", lambda: flickr.is_flickr(folder)),
        ("folder", lambda: any(image_folder.is_metadata(file) and len(file.relative_to(folder).parts) <= 2 for file in listing.files)),
        ("pairs", lambda: image_pairs.has_pairs(listing.files)),
        ("webdataset", lambda: has("*.tar", "*/*.tar")),
        ("huggingface", lambda: has("*.parquet", "data/*.parquet")),
        ("folder", lambda: any(map(image_folder.is_metadata, listing.files)) or bool(image_folder.misspelt_metadata(listing.files))),
        ("coco", lambda: bool(coco.other_annotations(folder))),
        ("table", lambda: _has_table(folder, columns)),
        ("cifar", lambda: has("train/*/*")),
    ]
    return next((kind for kind, is_there in signs if is_there()), None)


def _has_table(folder: Path, columns: AskedColumns) -> bool:
    try:
        image_folder.find_table(folder, columns)
    except ValueError:
        return False
    return True
