"""Read COCO's caption annotations beside its image folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from cap2im.data.image_files import ImageFile
from cap2im.data.listing import FileIndex, Missing, is_picture, list_files, unique_ids, unread_format
from cap2im.data.records import CaptionedImage, Problem, Source, visible
from cap2im.data.splits import SPLIT_NAMES, Split
from cap2im.data.table_files import json_document
from cap2im.files import describe, shortened

ANNOTATIONS = re.compile(r"captions_(train|val|test)(\d{4})?\.json")


def _id(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():  # JSON that passed through a table has 1.0 for 1
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("an id is a whole number or text")
    return value


Id = Annotated[int | str, BeforeValidator(_id)]


class CocoImage(BaseModel):
    """An entry of `images`."""

    id: Id
    file_name: str


class CocoCaption(BaseModel):
    """An entry of `annotations`."""

    image_id: Id
    caption: str


@dataclass
class _Annotations:
    """A file of annotations: names of images by id, captions by id, and the folder of the pictures."""

    file: Path
    names: dict[int | str, str]
    captions: dict[int | str, list[str]]
    folder: Path


def read_coco(path: Path) -> Source:
    """Read captions_{train,val}{2014,2017}.json beside the image folders; the annotations decide what belongs to the dataset.

    An image's id is the stem of its file name, or its whole name where two images of a split share a stem.

    Args:
        path: the folder that holds `annotations` and the image folders, or one annotations file.

    Raises:
        ValueError: no annotations, those of several years, or a file of another form.
    """
    if path.is_file():
        files, root = [path], path.parent.parent if path.parent.name == "annotations" else path.parent
    else:
        files, root = [file for file in _json_files(path) if ANNOTATIONS.fullmatch(file.name)], path
        if not files:
            names = ", ".join(str(file.relative_to(path)) for file in other_annotations(path))
            others = f"; give a file, as training data: {names}" if names else ""
            raise ValueError(f"{path}: no annotations/captions_train2017.json or the like in this folder{others}")
    splits: dict[Split, list[CaptionedImage]] = {}
    problems: list[Problem] = []
    indexes: dict[Path, FileIndex] = {}
    used: dict[Path, set[str]] = {}
    for file in files:
        match = ANNOTATIONS.fullmatch(file.name)
        name, year = (match[1], match[2] or "") if match else ("train", "")
        split = SPLIT_NAMES[name]
        if split in splits:
            names = ", ".join(str(each.relative_to(root)) for each in files)
            raise ValueError(f"{root}: several annotations of one split ({names}); give one file in place of the folder, or keep one year")
        annotations = _read_annotations(file, root, name + year, problems)
        folder = annotations.folder
        if folder not in indexes:
            listing = list_files(folder)
            problems += listing.problems
            indexes[folder] = FileIndex(folder, listing.files)
        splits[split] = _records(annotations, indexes[folder], used.setdefault(folder, set()), problems)
    for folder, index in indexes.items():
        if folder != root:
            strays = (file for name, file in index.files.items() if name not in used[folder] and is_picture(file))
            listed_in = (
                " nor ".join(file.name for file in files if len(indexes) == 1 or _folder_name(file) == folder.name) or "the annotations"
            )
            problems += [Problem("image without annotation", str(file), f"not in {listed_in}") for file in strays]
    order: tuple[Split, ...] = ("train", "validation", "test")
    return Source({split: splits[split] for split in order if split in splits}, problems)


def _folder_name(file: Path) -> str:
    match = ANNOTATIONS.fullmatch(file.name)
    return f"{match[1]}{match[2] or ''}" if match else "train"


def _entries(entries: Iterable[Any], model: type[BaseModel], file: Path, name: str, problems: list[Problem]) -> list[Any]:
    """Validate the entries of a list; one that is wrong becomes a problem."""
    valid = []
    for number, entry in enumerate(entries):
        try:
            valid.append(model.model_validate(entry))
        except ValidationError as error:
            inside = f": {shortened(repr(entry)[:200], 100)}" if isinstance(entry, dict) else ""
            detail = f"{name}[{number}]: {describe(error)}{inside}"
            problems.append(Problem("unusable entry", str(file), detail))
    return valid


def _read_annotations(file: Path, root: Path, folder_name: str, problems: list[Problem]) -> _Annotations:
    document = json_document(file)
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in ("images", "annotations")):
        raise ValueError(f"{file}: not COCO's captions: an object with the lists images and annotations was expected")
    wrong: list[Problem] = []
    images: list[CocoImage] = _entries(document["images"], CocoImage, file, "images", wrong)
    annotations: list[CocoCaption] = _entries(document["annotations"], CocoCaption, file, "annotations", wrong)
    for key, valid in (("images", images), ("annotations", annotations)):
        if document[key] and not valid:
            first = next(problem.detail for problem in wrong if problem.detail.startswith(key))
            raise ValueError(
                f"{file}: not COCO's captions: images have id and file_name, annotations image_id and caption; the first problem: {first}"
            )
    problems += wrong
    names: dict[int | str, str] = {}
    shared: dict[int | str, list[str]] = {}
    for image in images:
        if names.setdefault(image.id, image.file_name) != image.file_name:
            shared.setdefault(image.id, [names[image.id]]).append(image.file_name)
    counts = Counter(annotation.image_id for annotation in annotations)
    for id, those in shared.items():
        detail = f"images {' and '.join(map(repr, those[:5]))} have one id, {id!r}; they and its {counts[id]} captions are left out"
        problems.append(Problem("duplicate id", str(file), visible(detail)))
        del names[id]
    captions: dict[int | str, list[str]] = {id: [] for id in names}
    aliases: dict[str, int | str] = {str(id): id for id in names}  # for ids that are text on one side and numbers on the other
    ambiguous = len(aliases) < len(names)
    converted, strays = 0, Counter[int | str]()
    for annotation in annotations:
        id = annotation.image_id
        if id not in names and not ambiguous and str(id) in aliases and id not in shared:
            converted += 1
            id = aliases[str(id)]
        if id in names:
            captions[id].append(annotation.caption)
        elif id not in shared:
            strays[id] += 1
    if converted:
        unmatched = next(a.image_id for a in annotations if a.image_id not in names and str(a.image_id) in aliases)
        types = f"id {aliases[str(unmatched)]!r} in images, image_id {unmatched!r} in annotations"
        detail = f"the types differ: {types}; {converted} captions matched by digits"
        problems.append(Problem("ids of two types", str(file), detail))
    for id, count in strays.items():
        problems.append(Problem("caption without image", str(file), f"image_id {shortened(repr(id))} is not listed ({count} captions)"))
    return _Annotations(file, names, captions, _image_folder(root, folder_name, names.values()))


def _image_folder(root: Path, folder_name: str, names: Iterable[str]) -> Path:
    """Return the first of the usual folders that has any of the first images, else the first that exists."""
    candidates = [folder for name in (folder_name, f"images/{folder_name}", "images", ".") if (folder := root / name).is_dir()]
    first = [name.replace("\\", "/") for name, _ in zip(names, range(50), strict=False)]
    safe = [name for name in first if name and "\0" not in name and not name.startswith("/") and ".." not in name.split("/")]
    fitting = (folder for folder in candidates if any(_is_file(folder / name) for name in safe))
    return next(fitting, candidates[0])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or not UTF-8
        return False


def _records(annotations: _Annotations, index: FileIndex, used: set[str], problems: list[Problem]) -> list[CaptionedImage]:
    captions: dict[str, list[str]] = {}
    for id, name in annotations.names.items():
        found = index.find(name)
        if isinstance(found, Missing):
            outside = found.kind != "caption without image"
            where = str(annotations.file if outside else index.root / name)
            lost = f"; its {len(annotations.captions[id])} captions are lost"
            problems.append(Problem(found.kind, where, (found.detail if outside else f"listed in {annotations.file.name}") + lost))
            continue
        used.add(found)
        if not is_picture(PurePosixPath(found)):
            problems.append(unread_format(index.files[found]))
            continue
        captions.setdefault(found, []).extend(annotations.captions[id])
    ids = unique_ids(list(captions))
    return [CaptionedImage(id, ImageFile(index.files[name]), tuple(captions[name])) for id, name in zip(ids, captions, strict=True)]


def _json_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("annotations/*.json"), *folder.glob("*.json")])


def other_annotations(folder: Path) -> list[Path]:
    """Return COCO's annotations that have other names than COCO's."""
    found = []
    for file in _json_files(folder)[:20]:
        try:
            if is_coco(json_document(file)):
                found.append(file)
        except ValueError:
            continue
    return found


def is_coco(document: Any) -> bool:
    """Return whether a JSON document has COCO's images and annotations with captions."""
    if not isinstance(document, dict):
        return False
    images, annotations = document.get("images"), document.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        return False
    return any(isinstance(each, dict) and "caption" in each for each in annotations[:1000])
