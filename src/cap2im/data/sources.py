"""The kinds of captioned images that are understood, by name."""

from __future__ import annotations

import os
from pathlib import Path

from cap2im.data import folders, published
from cap2im.data.captioned import LazyRecords, PickleReader, Problem, Source, hold_out, image_files, is_utf8, unreadable_image_files
from cap2im.data.kinds import KINDS, Kind
from cap2im.data.pictures import unreadable_format
from cap2im.data.webdataset import read_webdataset


def read_source(
    kind: Kind,
    path: str,
    *,
    read_pickle: PickleReader,
    side: int = 32,
    validation: float = 0.0,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> Source:
    """Lists the captioned images of a source; no picture is read yet.

    Args:
        kind: what the source is; see the functions of `folders` and `published`.
        path: a file or folder, or the name of a dataset on the Hugging Face hub.
        read_pickle: reads the pickles of the authors' files without executing them.
        side: the authors' arrays come in several sizes; that of this side is taken.
        validation: share of the training images that validates, where the source has no validation images.
        image_column, caption_column: of tables, where their names do not tell.

    Raises:
        ValueError: the source is not there, or not of this kind, or its kind has no columns to name.
    """
    if image_column is not None and kind != "huggingface":
        raise ValueError(f"--image-column {image_column}: a source of kind {kind} has no columns of images; huggingface has")
    if caption_column is not None and kind not in ("huggingface", "folder"):
        raise ValueError(
            f"--caption-column {caption_column}: a source of kind {kind} has no columns of captions; huggingface and folder have"
        )
    where = Path(os.path.expanduser(path))  # of the text: Path drops the ./ of ./~name
    if kind not in ("huggingface", "webdataset"):
        if not where.exists():
            raise ValueError(f"{path}: no such file or folder")
        if where.is_file() and kind not in ("coco", "released"):
            raise ValueError(f"{path}: is a file, and {kind} wants a folder")
        if not os.access(where, os.R_OK):
            raise ValueError(f"{path}: cannot be read")
    match kind:
        case "coco":
            source = folders.read_coco(where)
        case "folder":
            source = folders.read_folder(where, caption_column=caption_column)
        case "pairs":
            source = folders.read_pairs(where)
        case "cifar":
            source = folders.read_cifar(where)
        case "webdataset":
            source = read_webdataset(path)
        case "huggingface":
            source = folders.read_huggingface(path, image_column=image_column, caption_column=caption_column)
        case "birds":
            source = published.read_birds(where, read_pickle)
        case "attngan":
            source = published.read_attngan(where, read_pickle)
        case "released":
            source = published.read_released(where, read_pickle, side)
    if kind in ("folder", "cifar"):
        others = unreadable_image_files(where)
        source.problems += [Problem("unreadable image", str(file), unreadable_format(file.suffix)) for file in others]
    for split, records in source.splits.items():
        if not isinstance(records, LazyRecords):  # those have ids of our own
            source.problems += [Problem("wrong encoding", r.image.name, "its name is not UTF-8") for r in records if not is_utf8(r.id)]
            source.splits[split] = [record for record in records if is_utf8(record.id)]
    if validation:
        if source.splits.get("validation"):
            raise ValueError(f"--validation {validation}: {path} has validation images of its own")
        if "train" in source.splits:
            train, held_out = hold_out(source.splits["train"], validation)
            source.splits["train"] = train
            if held_out:
                source.splits["validation"] = held_out
    return source


def guess_kind(path: str) -> Kind:
    """The kind of a source by what lies there.

    Raises:
        ValueError: nothing that is known lies there.
    """
    folder = Path(os.path.expanduser(path))
    if not folder.exists():
        if path.endswith(".tar"):  # a pattern
            return "webdataset"
        raise ValueError(f"{path}: no such file or folder")
    if folder.is_file():
        by_ending: dict[str, Kind] = {".json": "coco", ".parquet": "huggingface", ".h5": "released", ".tar": "webdataset"}
        if folder.suffix in by_ending:
            return by_ending[folder.suffix]
    else:
        signs: list[tuple[Kind, tuple[str, ...]]] = [
            ("coco", ("annotations/captions_*.json", "captions_*.json")),
            ("attngan", ("captions.pickle", "*/filenames.pickle")),
            ("birds", ("CUB_200_2011", "bounding_boxes.txt")),
            ("released", ("*-cap2im.pkl", "mnist.h5")),
            ("cifar", ("train.tar",)),
            ("folder", ("metadata.*", "*/metadata.*")),
            ("huggingface", ("*.parquet", "data/*.parquet")),
        ]
        for kind, patterns in signs:
            if any(next(folder.glob(pattern), None) is not None for pattern in patterns):
                return kind
        if any(file.with_suffix(".txt").is_file() for file in image_files(folder)):
            return "pairs"
        if any(next(folder.glob(pattern), None) is not None for pattern in ("*.tar", "*/*.tar")):
            return "webdataset"
        if folders.misspelt_metadata(folder) or any(file.name in folders.METADATA for file in folder.rglob("metadata.*")):
            return "folder"
        if next(folder.glob("train/*/*"), None) is not None:
            return "cifar"
    raise ValueError(f"{path}: cannot tell what kind of captioned images this is; name it with --kind: {', '.join(KINDS)}")
