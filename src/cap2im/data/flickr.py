"""Read Flickr8k, Flickr30k and Karpathy's JSON, in the layouts in which they are distributed.

- Original: `Flicker8k_Dataset/`, `Flickr8k.token.txt` (IMAGE.jpg#N, tab, caption) and the split lists
  `Flickr_8k.{train,dev,test}Images.txt`, at the top or in `Flickr8k_text/`.
- Kaggle: `Images/` and `captions.txt`, CSV with the header `image,caption`; Flickr30k's `results.csv`, separated by bars.
- Karpathy: `dataset_flickr8k.json`, `dataset_flickr30k.json` or `dataset_coco.json`, with splits; `restval` is training data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cap2im.data.file_index import FileIndex, LookupFailure, unique_ids
from cap2im.data.folder_listing import list_files
from cap2im.data.image_files import ImageFile
from cap2im.data.problems import Problem
from cap2im.data.readers import Candidate, ColumnNames, ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, Source
from cap2im.data.splits import SPLITS, Split, parse_split
from cap2im.data.table_columns import SAMPLE_ROWS, choose_columns, row_captions
from cap2im.data.table_files import read_json_value, read_rows
from cap2im.data.text_files import read_lines
from cap2im.files import describe, shortened

# IMAGE.jpg#N and a caption, or IMAGE#N, a tab and a caption
TOKEN_LINE = re.compile(r"([^\t]*?\.[A-Za-z]\w{1,4}(?:\.\d+)?)#\d+(?:\s+(.*))?|([^\t#]*[^\t#\s])#\d+(?:\t(.*))?", re.DOTALL)
SPLIT_LIST = re.compile(r"flickr_?(?:8|30)k[._](train|dev|val|test)images\.txt", re.I)
TEXT_FOLDERS = ("", "Flickr8k_text", "flickr8k_text", "annotations", "text")

NamedCaptions = tuple[str, tuple[str, ...], Split | None]  # name of the picture, captions, split


class KarpathySentence(BaseModel):
    """A caption in Karpathy's JSON."""

    raw: str | None = None
    tokens: list[str] = []


class KarpathyImage(BaseModel):
    """An image in Karpathy's JSON; `sentences` are validated one by one."""

    filename: str
    split: str
    filepath: str = ""
    sentences: list[Any]


class FlickrReader(SourceReader):
    """Reads Flickr8k, Flickr30k or Karpathy's JSON.

    The split lists, or the JSON, decide the splits; without them everything is training data. Pictures in no list are left out.
    """

    reads_files = True

    def recognises(self, candidate: Candidate) -> bool:
        """Recognise files of captions by their content."""
        path = candidate.path
        if candidate.is_folder:
            return any(_has_captions(file) for file in _caption_files(path))
        if not candidate.is_file:
            return False
        if path.suffix.lower() == ".json":
            return _has_captions(path)
        return is_token_file(path) or (path in _caption_files(path.parent) and _has_captions(path))

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read a folder of pictures and captions, or its file of captions.

        Raises:
            ValueError: no captions, or none of them has a picture.
        """
        if path.is_file():
            files, root = [path], path.parent.parent if path.parent.name in TEXT_FOLDERS[1:] else path.parent
        else:
            files, root = _caption_files(path), path
        if not files:
            raise ValueError(
                f"{path}: none of Flickr8k.token.txt, captions.txt, results.csv and dataset_flickr8k.json in this folder or Flickr8k_text"
            )
        file = files[0]
        listing = list_files(root)
        unused = [Problem("file not used", str(other), f"captions are taken from {file.name}") for other in files[1:]]
        problems = [*listing.problems, *unused]
        named = list(_named_captions(file, problems))
        index = FileIndex(root, [each for each in listing.files if each.suffix.lower() != ".txt"])
        matches = {name: index.find_picture(name, anywhere=True) for name, _, _ in named}
        captions: dict[str, list[str]] = {}
        splits: dict[str, Split] = {}
        lost: Counter[LookupFailure] = Counter()
        for name, texts, split in named:
            match = matches[name]
            if isinstance(match, LookupFailure):
                lost[match] += len(texts)
                continue
            captions.setdefault(match, []).extend(texts)
            if split is not None and splits.setdefault(match, split) != split:
                detail = f"{name} is in the splits {splits[match]} and {split}; the first counts"
                problems.append(Problem("unusable entry", str(file), detail))
        problems += [Problem(failure.kind, str(file), f"{failure.detail} ({count} captions)") for failure, count in lost.items()]
        if not captions:
            first = f"; the first: {next(iter(lost)).detail}" if lost else ""
            raise ValueError(f"{file}: none of its {len(named)} captions has a picture in {root}{first}")
        lists = {} if splits else _split_lists(root, problems)
        for name, split in lists.items():
            match = index.find(name, anywhere=True)
            if isinstance(match, str) and match in captions:
                splits[match] = split
            else:
                detail = f"is in the list of {split} images, and has no captions or no picture"
                problems.append(Problem("image without captions", name, detail))
        usable = [name for name in captions if not lists or name in splits]
        problems += [Problem("picture in no split", str(index.files[n]), "in no split list") for n in captions if lists and n not in splits]
        uncaptioned = (picture for picture in listing.pictures() if picture.relative_to(root).as_posix() not in captions)
        problems += [Problem("image without captions", str(picture), f"not in {file.name}") for picture in uncaptioned]
        records: dict[Split, list[CaptionedImage]] = {}
        for part in SPLITS:
            names = [name for name in usable if splits.get(name, "train") == part]
            pairs = zip(unique_ids(names), names, strict=True)
            records[part] = [CaptionedImage(id, ImageFile(index.files[name]), tuple(captions[name])) for id, name in pairs]
        return Source(records, problems + listing.unread_formats())


def _caption_files(folder: Path) -> list[Path]:
    """Return the files of captions in a folder by their names, those with splits first."""
    files = [file for name in TEXT_FOLDERS if (folder / name).is_dir() for file in sorted((folder / name).iterdir()) if file.is_file()]
    named = [
        [f for f in files if re.fullmatch(r"dataset_?(flickr8k|flickr30k|coco)?\.json", f.name, re.I)],
        [f for f in files if re.search(r"\.token(\.txt)?$", f.name, re.I) and "lemma" not in f.name.lower()],
        [f for f in files if f.name.lower() in ("captions.txt", "captions.csv", "results.csv")],
    ]
    return list(dict.fromkeys(file for group in named for file in group))


def _has_captions(file: Path) -> bool:
    """Return whether a file has one of the layouts, by its content."""
    try:
        if file.suffix.lower() == ".json":
            return _is_karpathy(read_json_value(file))
        return is_token_file(file) or next(_table_captions(file, []), None) is not None
    except ValueError:
        return False


def is_token_file(path: Path) -> bool:
    """Return whether most of the first lines of a file are IMAGE.jpg#N and a caption."""
    lines = [line for _, line in read_lines(path, []) if line.strip()][:20]
    return sum(TOKEN_LINE.fullmatch(line.strip()) is not None for line in lines) * 2 > len(lines)


def _is_karpathy(document: Any) -> bool:
    """Return whether a JSON document has Karpathy's images with sentences."""
    images = document.get("images") if isinstance(document, dict) else None
    return isinstance(images, list) and any(isinstance(each, dict) and "sentences" in each and "split" in each for each in images[:100])


def _named_captions(file: Path, problems: list[Problem]) -> Iterator[NamedCaptions]:
    if file.suffix.lower() == ".json":
        return _karpathy_captions(file, problems)
    return token_captions(file, problems) if is_token_file(file) else _table_captions(file, problems)


def token_captions(file: Path, problems: list[Problem]) -> Iterator[NamedCaptions]:
    """Yield the captions of a token file; other lines become problems."""
    for number, line in read_lines(file, problems):
        if match := TOKEN_LINE.fullmatch(line.strip()):
            yield (match[1] or match[3]).strip(), (match[2] or match[4] or "",), None
        elif line.strip():
            problems.append(Problem("unusable entry", f"{file}, line {number}", f"not IMAGE.jpg#N and a caption: {shortened(line)}"))


def _table_captions(file: Path, problems: list[Problem]) -> Iterator[NamedCaptions]:
    try:
        rows = read_rows(file, problems)
        sample = [row for _, row in rows[:SAMPLE_ROWS]]
        columns = choose_columns(list(dict.fromkeys(name for row in sample for name in row)), ColumnNames(), sample, str(file))
    except ValueError as error:
        raise ValueError(f"{error}; a file of captions has lines IMAGE.jpg#N and a caption, or columns such as image and caption") from None
    for where, row in rows:
        name = row.get(columns.image)
        if not isinstance(name, str):
            problems.append(Problem("unusable entry", where, f"no file name in {columns.image!r}"))
            continue
        split = None if columns.split is None else parse_split(row.get(columns.split))
        if columns.split is not None and split is None:
            problems.append(Problem("split not used", where, f"{row.get(columns.split)!r} is none of {', '.join(SPLITS)}"))
        elif captions := row_captions(row, columns.captions, where, problems):
            yield name.strip(), captions, split


def _karpathy_captions(file: Path, problems: list[Problem]) -> Iterator[NamedCaptions]:
    document = read_json_value(file)
    if not _is_karpathy(document):
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
                sentence = KarpathySentence.model_validate(each)
            except ValidationError as error:
                problems.append(Problem("unusable entry", where, f"a sentence: {describe(error)}"))
                continue
            captions.append(sentence.raw if sentence.raw is not None else " ".join(sentence.tokens))
        if (split := parse_split(image.split)) is None:
            problems.append(Problem("split not used", where, f"{image.split!r} is none of train, restval, val, test"))
            continue
        yield (f"{image.filepath}/{image.filename}" if image.filepath else image.filename), tuple(captions), split


def _split_lists(root: Path, problems: list[Problem]) -> dict[str, Split]:
    """Return the split of each picture by the lists in a folder; the first list counts."""
    splits: dict[str, Split] = {}
    for name in TEXT_FOLDERS:
        for file in sorted((root / name).iterdir()) if (root / name).is_dir() else ():
            match = SPLIT_LIST.fullmatch(file.name)
            if match is None or (split := parse_split(match[1])) is None:
                continue
            for number, line in read_lines(file, problems):
                if (listed := line.strip()) and splits.setdefault(listed, split) != split:
                    detail = f"{listed} is in the list of {splits[listed]} images, too"
                    problems.append(Problem("unusable entry", f"{file}, line {number}", detail))
    return splits
