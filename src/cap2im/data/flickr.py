"""Read Flickr8k, Flickr30k and Karpathy's JSON, in the layouts in which they are distributed.

- Original: `Flicker8k_Dataset/`, `Flickr8k.token.txt` (IMAGE.jpg#N, tab, caption) and the split lists
  `Flickr_8k.{train,dev,test}Images.txt`, at the top or in `Flickr8k_text/`.
- Kaggle: `Images/` and `captions.txt`, CSV with the header `image,caption`; Flickr30k's `results.csv`, separated by bars.
- Karpathy: `dataset_flickr8k.json`, `dataset_flickr30k.json` or `dataset_coco.json`, with splits; `restval` is training data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ValidationError

from cap2im.data.image_files import ImageFile
from cap2im.data.listing import FileIndex, Missing, is_picture, list_files, unique_ids, unread_format
from cap2im.data.records import CaptionedImage, Problem, Source, read_lines
from cap2im.data.splits import Split, parse_split
from cap2im.data.table_columns import AskedColumns, as_captions, choose_columns
from cap2im.data.table_files import json_document, read_rows
from cap2im.files import describe, shortened

TOKEN_LINE = re.compile(r"([^\t]*?\.[A-Za-z]{3,4}(?:\.\d+)?)#(\d+)[\t ]+(.*)")
SPLIT_LIST = re.compile(r"flickr_?(?:8|30)k[._](train|dev|val|test)images\.txt", re.I)
TEXT_FOLDERS = ("", "Flickr8k_text", "flickr8k_text", "annotations", "text")

Named = tuple[str, tuple[str, ...], Split | None]  # name of the picture, captions, split


class Sentence(BaseModel):
    """A caption in Karpathy's JSON."""

    raw: str | None = None
    tokens: list[str] = []


class KarpathyImage(BaseModel):
    """An image in Karpathy's JSON; `sentences` are validated one by one."""

    filename: str
    split: str
    filepath: str = ""
    sentences: list[Any]


def is_karpathy(document: Any) -> bool:
    """Return whether a JSON document has Karpathy's images with sentences."""
    images = document.get("images") if isinstance(document, dict) else None
    return isinstance(images, list) and any(isinstance(each, dict) and "sentences" in each and "split" in each for each in images[:100])


def is_token_file(path: Path) -> bool:
    """Return whether the first lines of a file are IMAGE.jpg#N and a caption."""
    lines = [line for _, line in read_lines(path, []) if line.strip()][:20]
    return bool(lines) and sum(TOKEN_LINE.fullmatch(line.strip()) is not None for line in lines) * 2 > len(lines)


def caption_files(folder: Path) -> list[Path]:
    """Return the files of captions in a folder, those with splits first."""
    files = [file for name in TEXT_FOLDERS if (folder / name).is_dir() for file in sorted((folder / name).iterdir()) if file.is_file()]
    named = [
        [f for f in files if re.fullmatch(r"dataset_?(flickr8k|flickr30k|coco)?\.json", f.name, re.I)],
        [f for f in files if re.search(r"\.token(\.txt)?$", f.name, re.I) and "lemma" not in f.name.lower()],
        [f for f in files if f.name.lower() in ("captions.txt", "captions.csv", "results.csv")],
    ]
    return list(dict.fromkeys(file for group in named for file in group))


def is_flickr(folder: Path) -> bool:
    """Return whether a folder has one of the layouts, by the content of its files."""
    for file in caption_files(folder):
        try:
            if file.suffix.lower() == ".json":
                known = is_karpathy(json_document(file))
            else:
                known = is_token_file(file) or next(_table(file, []), None) is not None
        except ValueError:
            continue
        if known:
            return True
    return False


def read_flickr(path: Path) -> Source:
    """Read Flickr8k, Flickr30k or Karpathy's JSON; see the module's docstring for the layouts.

    The split lists, or the JSON, decide the splits; without them everything is training data. Pictures in no list are left out.

    Args:
        path: the folder of pictures and captions, or its file of captions.

    Raises:
        ValueError: no captions, or none of them has a picture.
    """
    if path.is_file():
        files, root = [path], path.parent.parent if path.parent.name in TEXT_FOLDERS[1:] else path.parent
    else:
        files, root = caption_files(path), path
    if not files:
        raise ValueError(
            f"{path}: none of Flickr8k.token.txt, captions.txt, results.csv and dataset_flickr8k.json in this folder or Flickr8k_text"
        )
    file = files[0]
    listing = list_files(root)
    problems = [*listing.problems, *(Problem("file not used", str(other), f"captions are taken from {file.name}") for other in files[1:])]
    named = list(_named_captions(file, problems))
    lists = {} if any(split for _, _, split in named) else _split_lists(root, problems)
    index = FileIndex(root, [each for each in listing.files if each.suffix.lower() != ".txt"])
    captions: dict[str, list[str]] = {}
    splits: dict[str, Split] = {}
    missing: dict[str, tuple[Missing, int]] = {}
    found: dict[str, str | Missing] = {}
    for name, texts, split in named:
        place = found[name] if name in found else found.setdefault(name, index.find(name, anywhere=True))
        if isinstance(place, Missing):
            missing[name] = (place, missing.get(name, (place, 0))[1] + len(texts))
            continue
        captions.setdefault(place, []).extend(texts)
        if split is not None and splits.setdefault(place, split) != split:
            problems.append(Problem("unusable entry", str(file), f"{name} is in the splits {splits[place]} and {split}; the first counts"))
    problems += [Problem(why.kind, str(file), f"{why.detail} ({count} captions)") for why, count in missing.values()]
    if not captions:
        first = f"; the first: {next(iter(missing.values()))[0].detail}" if missing else ""
        raise ValueError(f"{file}: none of its {len(named)} captions has a picture in {root}{first}")
    for name in (each for each in captions if not is_picture(PurePosixPath(each))):
        problems.append(unread_format(index.files[name]))
    usable = [name for name in captions if is_picture(PurePosixPath(name))]
    for name, split in lists.items():
        place = index.find(name, anywhere=True)
        if isinstance(place, str) and place in captions:
            splits[place] = split
        else:
            problems.append(Problem("image without captions", name, f"is in the list of {split} images, and has no captions or no picture"))
    if lists:
        problems += [Problem("picture in no split", str(index.files[name]), "in no split list") for name in usable if name not in splits]
        usable = [name for name in usable if name in splits]
    problems += [
        Problem("image without captions", str(each), f"not in {file.name}")
        for n, each in index.files.items()
        if is_picture(each) and n not in captions
    ]
    source = Source({}, problems + listing.other_formats(index.files[name] for name in captions))
    order: tuple[Split, ...] = ("train", "validation", "test")
    for split in order:
        mine = [name for name in usable if splits.get(name, "train") == split]
        records = zip(unique_ids(mine), mine, strict=True)
        if mine:
            source.splits[split] = [CaptionedImage(id, ImageFile(index.files[n]), tuple(captions[n])) for id, n in records]
    return source


def _named_captions(file: Path, problems: list[Problem]) -> Iterator[Named]:
    if file.suffix.lower() == ".json":
        return _karpathy(file, problems)
    return _tokens(file, problems) if is_token_file(file) else _table(file, problems)


def _tokens(file: Path, problems: list[Problem]) -> Iterator[Named]:
    for number, line in read_lines(file, problems):
        if match := TOKEN_LINE.fullmatch(line.strip()):
            yield match[1].strip(), (match[3],), None
        elif line.strip():
            problems.append(Problem("unusable entry", f"{file}, line {number}", f"not IMAGE.jpg#N and a caption: {shortened(line)}"))


def _table(file: Path, problems: list[Problem]) -> Iterator[Named]:
    try:
        rows = read_rows(file, problems)
        names = list(dict.fromkeys(name for _, row in rows[:100] for name in row))
        columns = choose_columns(names, AskedColumns(), [row for _, row in rows[:100]], str(file))
    except ValueError as error:
        raise ValueError(f"{error}; a file of captions has lines IMAGE.jpg#N and a caption, or columns such as image and caption") from None
    for where, row in rows:
        name = row.get(columns.image)
        texts = [as_captions(row.get(column)) for column in columns.captions]
        if not isinstance(name, str) or None in texts:
            problems.append(Problem("unusable entry", where, "not a file name and captions"))
            continue
        split = None if columns.split is None else parse_split(row.get(columns.split))
        if columns.split is not None and split is None:
            problems.append(Problem("split not used", where, f"{row.get(columns.split)!r} is none of train, validation, test"))
            continue
        yield name.strip(), tuple(text for part in texts for text in part or ()), split


def _karpathy(file: Path, problems: list[Problem]) -> Iterator[Named]:
    document = json_document(file)
    if not is_karpathy(document):
        raise ValueError(f"{file}: not Karpathy's JSON: an object with a list of images with filename, split and sentences was expected")
    for number, entry in enumerate(document["images"]):
        where = f"{file}, image {number}"
        try:
            image = KarpathyImage.model_validate(entry)
        except ValidationError as error:
            problems.append(Problem("unusable entry", where, describe(error)))
            continue
        captions = []
        for each in image.sentences:
            try:
                sentence = Sentence.model_validate(each)
            except ValidationError as error:
                problems.append(Problem("unusable entry", where, f"a sentence: {describe(error)}"))
                continue
            captions.append(sentence.raw if sentence.raw is not None else " ".join(sentence.tokens))
        split = parse_split(image.split)
        if split is None:
            problems.append(Problem("split not used", where, f"{image.split!r} is none of train, restval, val, test"))
            continue
        name = f"{image.filepath}/{image.filename}" if image.filepath else image.filename
        yield name, tuple(captions), split


def _split_lists(root: Path, problems: list[Problem]) -> dict[str, Split]:
    """Return the split of each picture by the lists of a folder; one that is in two lists is in the first."""
    splits: dict[str, Split] = {}
    for name in TEXT_FOLDERS:
        for file in sorted((root / name).iterdir()) if (root / name).is_dir() else ():
            match = SPLIT_LIST.fullmatch(file.name)
            split = parse_split(match[1]) if match else None
            if split is None:
                continue
            for number, line in read_lines(file, problems):
                if (listed := line.strip()) and splits.setdefault(listed, split) != split:
                    detail = f"{listed} is in the list of {splits[listed]} images, too"
                    problems.append(Problem("unusable entry", f"{file}, line {number}", detail))
    return splits
