"""Read COCO's caption annotations beside its image folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from cap2im.data.file_index import FileIndex, LookupFailure, unique_ids
from cap2im.data.folder_listing import is_picture, list_files
from cap2im.data.image_files import ImageFile
from cap2im.data.problems import Problem, visible
from cap2im.data.readers import Candidate, ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, Records, Source
from cap2im.data.splits import SPLIT_NAMES, Split
from cap2im.data.table_files import read_json_value
from cap2im.files import describe, shortened

ANNOTATIONS = re.compile(r"captions_(train|val|test)(\d{4})?\.json")


def _parse_id(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():  # JSON that passed through a table has 1.0 for 1
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("an id is a whole number or text")
    return value


Id = Annotated[int | str, BeforeValidator(_parse_id)]


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
    """A file of annotations.

    Attributes:
        file: its path.
        part: `train2017` or the like, as in the file's name.
        names: image id -> file name.
        captions: image id -> captions.
    """

    file: Path
    part: str
    names: dict[int | str, str]
    captions: dict[int | str, list[str]]


class CocoReader(SourceReader):
    """Reads captions_{train,val}{2014,2017}.json beside the image folders.

    The annotations decide which images belong to the dataset. An image's id is the stem of its file name, or the whole name if two images
    of a split share a stem.
    """

    folder_patterns = ("annotations/captions_*.json", "captions_*.json")
    reads_files = True

    def recognises(self, candidate: Candidate) -> bool:
        """Recognise a file by its content."""
        if candidate.is_file:
            return candidate.path.suffix.lower() == ".json" and _is_coco_file(candidate.path)
        return super().recognises(candidate)

    def resembles(self, candidate: Candidate) -> bool:
        """Recognise annotations of other names by their content."""
        return candidate.is_folder and bool(_other_annotations(candidate.path))

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read the annotations of a folder with `annotations` and image folders, or one file of annotations.

        Raises:
            ValueError: no annotations, those of several years, or a file of another form.
        """
        if path.is_file():
            files, root = [path], path.parent.parent if path.parent.name == "annotations" else path.parent
        else:
            files, root = [file for file in _json_files(path) if ANNOTATIONS.fullmatch(file.name)], path
            if not files:
                names = ", ".join(str(file.relative_to(path)) for file in _other_annotations(path))
                others = f"; give a file, as training data: {names}" if names else ""
                raise ValueError(f"{path}: no annotations/captions_train2017.json or the like in this folder{others}")
        splits: dict[Split, Records] = {}
        problems: list[Problem] = []
        indexes: dict[Path, FileIndex] = {}
        used: dict[Path, set[str]] = {}
        listed_in: dict[Path, list[str]] = {}
        for file in files:
            match = ANNOTATIONS.fullmatch(file.name)
            name, year = (match[1], match[2] or "") if match else ("train", "")
            split = SPLIT_NAMES[name]
            if split in splits:
                names = ", ".join(str(each.relative_to(root)) for each in files)
                raise ValueError(
                    f"{root}: several annotations of one split ({names}); give one file in place of the folder, or keep one year"
                )
            annotations = _read_annotations(file, name + year, problems)
            index = _image_index(root, annotations, indexes, problems)
            listed_in.setdefault(index.root, []).append(file.name)
            splits[split] = _records(annotations, index, used.setdefault(index.root, set()), problems)
        for folder, names_of_files in listed_in.items():
            if folder != root:
                pictures = ((name, file) for name, file in indexes[folder].files.items() if is_picture(file))
                unlisted = [file for name, file in pictures if name not in used[folder]]
                detail = f"not in {' nor '.join(names_of_files)}"
                problems += [Problem("image without annotation", str(file), detail) for file in unlisted]
        return Source(splits, problems)


def _entries(entries: Iterable[Any], model: type[BaseModel], file: Path, name: str, problems: list[Problem]) -> list[Any]:
    """Validate the entries of a list; invalid ones become problems."""
    valid = []
    for number, entry in enumerate(entries):
        try:
            valid.append(model.model_validate(entry))
        except ValidationError as error:
            content = f": {shortened(repr(entry)[:200], 100)}" if isinstance(entry, dict) else ""
            problems.append(Problem("unusable entry", str(file), f"{name}[{number}]: {describe(error)}{content}"))
    return valid


def _read_annotations(file: Path, part: str, problems: list[Problem]) -> _Annotations:
    document = read_json_value(file)
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in ("images", "annotations")):
        raise ValueError(f"{file}: not COCO's captions: an object with the lists images and annotations was expected")
    invalid: list[Problem] = []
    images: list[CocoImage] = _entries(document["images"], CocoImage, file, "images", invalid)
    annotations: list[CocoCaption] = _entries(document["annotations"], CocoCaption, file, "annotations", invalid)
    for key, valid in (("images", images), ("annotations", annotations)):
        if document[key] and not valid:
            first = next(problem.detail for problem in invalid if problem.detail.startswith(key))
            raise ValueError(
                f"{file}: not COCO's captions: images have id and file_name, annotations image_id and caption; the first problem: {first}"
            )
    problems += invalid
    names, duplicates = _names_by_id(images)
    counts = Counter(annotation.image_id for annotation in annotations)
    for id, shared in duplicates.items():
        detail = f"images {' and '.join(map(repr, shared[:5]))} have one id, {id!r}; they and its {counts[id]} captions are left out"
        problems.append(Problem("duplicate id", str(file), visible(detail)))
    captions: dict[int | str, list[str]] = {id: [] for id in names}
    by_text: dict[str, int | str] = {str(id): id for id in names}  # ids may be text in one list and numbers in the other
    ambiguous = len(by_text) < len(names)
    converted: list[int | str] = []
    unlisted = Counter[int | str]()
    for annotation in annotations:
        id = annotation.image_id
        if id not in names and not ambiguous and str(id) in by_text and id not in duplicates:
            converted.append(id)
            id = by_text[str(id)]
        if id in names:
            captions[id].append(annotation.caption)
        elif id not in duplicates:
            unlisted[id] += 1
    if converted:
        types = f"id {by_text[str(converted[0])]!r} in images, image_id {converted[0]!r} in annotations"
        problems.append(Problem("ids of two types", str(file), f"the types differ: {types}; {len(converted)} captions matched by digits"))
    for id, count in unlisted.items():
        problems.append(Problem("caption without image", str(file), f"image_id {shortened(repr(id))} is not listed ({count} captions)"))
    return _Annotations(file, part, names, captions)


def _names_by_id(images: list[CocoImage]) -> tuple[dict[int | str, str], dict[int | str, list[str]]]:
    """Return the file name of each unique id, and all names of each id that several images share."""
    names: dict[int | str, list[str]] = {}
    for image in images:
        if image.file_name not in (known := names.setdefault(image.id, [])):
            known.append(image.file_name)
    unique = {id: known[0] for id, known in names.items() if len(known) == 1}
    return unique, {id: known for id, known in names.items() if len(known) > 1}


def _image_index(root: Path, annotations: _Annotations, indexes: dict[Path, FileIndex], problems: list[Problem]) -> FileIndex:
    """Return the index of the first of the usual folders that has any of the first images, else of the first that exists."""
    folders = [folder for name in (annotations.part, f"images/{annotations.part}", "images", ".") if (folder := root / name).is_dir()]
    names = list(annotations.names.values())[:50]
    for folder in folders:
        if folder not in indexes:
            listing = list_files(folder)
            problems += listing.problems
            indexes[folder] = FileIndex(folder, listing.files)
        if any(isinstance(indexes[folder].find(name), str) for name in names):
            return indexes[folder]
    return indexes[folders[0]]


def _records(annotations: _Annotations, index: FileIndex, used: set[str], problems: list[Problem]) -> list[CaptionedImage]:
    captions: dict[str, list[str]] = {}
    for id, name in annotations.names.items():
        match = index.find_picture(name)
        if not isinstance(match, LookupFailure):
            used.add(match)
            captions.setdefault(match, []).extend(annotations.captions[id])
            continue
        lost = f"; its {len(annotations.captions[id])} captions are lost"
        if match.kind == "caption without image":
            problems.append(Problem(match.kind, str(index.root / name), f"listed in {annotations.file.name}{lost}"))
        else:
            problems.append(Problem(match.kind, str(annotations.file), f"{match.detail}{lost}"))
    ids = unique_ids(list(captions))
    return [CaptionedImage(id, ImageFile(index.files[name]), tuple(captions[name])) for id, name in zip(ids, captions, strict=True)]


def _json_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("annotations/*.json"), *folder.glob("*.json")])


def _other_annotations(folder: Path) -> list[Path]:
    """Return COCO's annotations under other names than COCO's."""
    return [file for file in _json_files(folder)[:20] if _is_coco_file(file)]


def _is_coco_file(file: Path) -> bool:
    """Return whether a JSON file has COCO's images and annotations with captions."""
    try:
        document = read_json_value(file)
    except ValueError:
        return False
    if not isinstance(document, dict):
        return False
    images, annotations = document.get("images"), document.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        return False
    return any(isinstance(each, dict) and "caption" in each for each in annotations[:1000])
