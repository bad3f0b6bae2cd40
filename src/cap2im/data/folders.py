"""Captioned images as people have them: COCO annotations, folders with metadata or with text files, classes, Hugging Face tables."""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cap2im.data.captioned import (
    SPLIT_FOLDERS,
    CaptionedImage,
    LazyRecords,
    Problem,
    Source,
    image_files,
    read_lines,
    split_of,
    unreadable_image_files,
)
from cap2im.data.digits import Split
from cap2im.data.pictures import EXTENSIONS, ImageBytes, ImageFile, unreadable_format
from cap2im.hub import is_repository

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTION_COLUMNS = ("text", "caption", "captions", "texts", "sentences")
COCO_ANNOTATIONS = re.compile(r"captions_(train|val|test)(\d{4})?\.json")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        raise ValueError(f"{path}: not JSON ({error})") from None


def read_coco(path: Path) -> Source:
    """COCO's captions_{train,val}{2014,2017}.json beside its image folders; the annotations decide what belongs to the dataset.

    Args:
        path: the folder that holds `annotations` and the image folders, or one annotations file.

    Raises:
        ValueError: no annotations, those of several years, or a file of another form.
    """
    if path.is_file():
        files, root = [path], path.parent.parent if path.parent.name == "annotations" else path.parent
    else:
        there = sorted([*path.glob("annotations/*.json"), *path.glob("*.json")])
        files, root = [file for file in there if COCO_ANNOTATIONS.fullmatch(file.name)], path
    if not files:
        raise ValueError(f"{path}: no annotations/captions_train2017.json or the like in this folder")
    splits: dict[Split, list[CaptionedImage]] = {}
    problems: list[Problem] = []
    for file in files:
        match = COCO_ANNOTATIONS.fullmatch(file.name)
        name, year = (match[1], match[2] or "") if match else ("train", "")
        split = SPLIT_FOLDERS[name]
        if split in splits:
            names = ", ".join(str(each.relative_to(root)) for each in files)
            raise ValueError(f"{root}: several annotations of one split ({names}); give one file in place of the folder, or keep one year")
        splits[split] = list(_coco_records(file, root, name + year, problems))
    order: tuple[Split, ...] = ("train", "validation", "test")
    return Source({split: splits[split] for split in order if split in splits}, problems)


def _coco_records(file: Path, root: Path, folder_name: str, problems: list[Problem]) -> Iterator[CaptionedImage]:
    document = _json(file)
    try:
        images = [(image["id"], str(image["file_name"])) for image in document["images"]]
        captions: dict[Any, list[str]] = {id: [] for id, _ in images}
        for annotation in document["annotations"]:
            if annotation["image_id"] in captions:
                if isinstance(annotation["caption"], str):
                    captions[annotation["image_id"]].append(annotation["caption"])
                else:
                    detail = f"the caption of image_id {annotation['image_id']} is no text: {annotation['caption']!r}"
                    problems.append(Problem("unusable entry", str(file), detail[:200]))
            else:
                problems.append(Problem("caption without image", str(file), f"image_id {annotation['image_id']} is not listed"))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: not COCO's captions: {error!r} where images have id and file_name, annotations image_id and caption"
        ) from None
    candidates = [root / folder_name, root / "images" / folder_name, root / "images", root]
    folder = next((c for c in candidates if images and (c / images[0][1]).is_file()), None)
    folder = folder or next((c for c in candidates[:3] if c.is_dir()), root)
    there = {entry.name for entry in os.scandir(folder)}
    for id, name in images:
        if name in there or (folder / name).is_file():
            yield CaptionedImage(Path(name).stem, ImageFile(folder / name), tuple(captions[id]))
        else:
            problems.append(Problem("caption without image", str(folder / name), f"listed in {file.name}"))
    if folder != root:
        strays = sorted(name for name in there - {name for _, name in images} if Path(name).suffix.lower() in EXTENSIONS)
        problems += [Problem("image without annotation", str(folder / name), f"not in {file.name}") for name in strays]


def _metadata_rows(path: Path, problems: list[Problem]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The entries of a metadata file, each with the place where it stands."""
    if path.suffix == ".parquet":
        import pyarrow as pa  # an extra, and slow to import
        import pyarrow.parquet as pq

        try:
            rows = pq.read_table(path).to_pylist()
        except pa.ArrowException as error:
            raise ValueError(f"{path}: not a Parquet file ({error})") from None
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
        return
    lines = read_lines(path, problems)
    if path.suffix == ".csv":
        reader = csv.DictReader((f"{line}\n" for _, line in lines), strict=True)
        whole = 1  # the names of the columns
        try:
            for row in reader:
                whole = reader.line_num
                if None in row:
                    problems.append(
                        Problem("unusable entry", f"{path}, line {whole}", "more cells than columns; text with commas wants quotes")
                    )
                else:
                    yield f"{path}, line {whole}", row
        except csv.Error as error:
            raise ValueError(f"{path}: not CSV after line {whole}: {error}; is a quote not closed?") from None
        return
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            problems.append(Problem("unusable entry", f"{path}, line {number}", f"not JSON ({reason})"))
            continue
        if isinstance(row, dict):
            yield f"{path}, line {number}", row
        else:
            problems.append(Problem("unusable entry", f"{path}, line {number}", "not a JSON object like {'file_name': ..., 'text': ...}"))


def _caption_column(columns: Iterable[str], asked: str | None, where: str) -> str:
    names = list(columns)
    if asked is not None:
        if asked not in names:
            raise ValueError(f"{where}: no column {asked!r}; its columns: {', '.join(names)}")
        return asked
    for name in CAPTION_COLUMNS:
        if name in names:
            return name
    raise ValueError(f"{where}: no column of captions ({', '.join(CAPTION_COLUMNS)}); name it with --caption-column: {', '.join(names)}")


def _as_captions(value: Any) -> tuple[str, ...] | None:
    """A cell as captions; None if it holds neither text nor a list of texts."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        return tuple(value)
    return None


def misspelt_metadata(folder: Path) -> list[Problem]:
    """Files that were probably meant to be metadata.jsonl, .csv or .parquet."""
    problems = []
    for path in sorted(folder.rglob("*")):
        if path.name in METADATA or path.suffix.lower() in EXTENSIONS or not path.name.lower().startswith("meta") or not path.is_file():
            continue
        if near := difflib.get_close_matches(path.name.lower(), METADATA, n=1, cutoff=0.8):
            problems.append(Problem("misspelt metadata file", str(path), f"its name should be {near[0]}"))
    return problems


def read_folder(path: Path, *, caption_column: str | None = None) -> Source:
    """An image folder with metadata.jsonl, .csv or .parquet: `file_name` beside `text`, one caption or a list; entries of one image add up.

    Metadata may lie at the top or in a folder of each split; `file_name` is relative to the metadata's own folder.

    Raises:
        ValueError: no metadata file, two in one folder, or no column of captions.
    """
    files = sorted(file for file in path.rglob("metadata.*") if file.name in METADATA)
    problems = misspelt_metadata(path)
    if not files:
        hint = "; ".join(f"{p.file}: {p.detail}" for p in problems[:3]) or "with lines such as " + json.dumps(
            {"file_name": "cat.jpg", "text": "a cat on a chair"}
        )
        raise ValueError(f"{path}: no {METADATA[0]}, {METADATA[1]} or {METADATA[2]} in this folder ({hint})")
    if len({file.parent for file in files}) < len(files):
        raise ValueError(f"{path}: two metadata files in one folder ({', '.join(str(file.relative_to(path)) for file in files)}); keep one")
    images = {file.relative_to(path): file for file in image_files(path)}
    entries: dict[Path, tuple[list[str], int]] = {}
    for file in files:
        _read_metadata(file, path, images, entries, problems, caption_column)
    splits: dict[Split, list[CaptionedImage]] = {"train": [], "validation": [], "test": []}
    for relative, (captions, class_id) in entries.items():
        record = CaptionedImage(relative.as_posix(), ImageFile(images[relative]), tuple(captions), class_id)
        splits[split_of(relative)].append(record)
    strays = [Problem("image without captions", str(file), "in no metadata file") for name, file in images.items() if name not in entries]
    return Source({split: records for split, records in splits.items() if records}, problems + strays)


def _read_metadata(
    file: Path,
    root: Path,
    images: Mapping[Path, Path],
    entries: dict[Path, tuple[list[str], int]],
    problems: list[Problem],
    caption_column: str | None,
) -> None:
    """Adds the entries of one metadata file: relative path -> captions and class."""
    by_name: dict[str, list[Path]] = {}
    for relative in images:
        by_name.setdefault(relative.name, []).append(relative)
    here = file.parent.relative_to(root)
    missing: list[tuple[str, str]] = []
    column = None
    for where, row in _metadata_rows(file, problems):
        if "file_name" not in row:
            raise ValueError(f"{where}: no file_name; its columns: {', '.join(map(str, row))}")
        column = column if column is not None and column in row else _caption_column(row, caption_column, where)
        captions = _as_captions(row[column])
        if captions is None:
            problems.append(Problem("unusable entry", where, f"{column} is neither text nor a list of texts"))
            continue
        relative = Path(os.path.normpath(here / str(row["file_name"])))
        if relative not in images:
            missing.append((where, str(row["file_name"])))
            continue
        known, _ = entries.setdefault(relative, ([], -1))
        known += captions
        class_id = row.get("class_id")
        if isinstance(class_id, int) or (isinstance(class_id, str) and class_id.isdigit()):
            entries[relative] = (known, int(class_id))
    for where, name in missing:
        elsewhere = by_name.get(Path(name).name, [])
        if len(elsewhere) == 1:
            wanted = os.path.relpath(elsewhere[0], here)
            detail = f"{where.removeprefix(str(file)).lstrip(', ')}: file_name {name!r} is not relative to this folder: write {wanted!r}"
            problems.append(Problem("misplaced metadata file", str(file), detail))
        else:
            problems.append(Problem("caption without image", where, f"there is no {file.parent / name}"))


def read_pairs(path: Path) -> Source:
    """Pairs of `name.jpg` and `name.txt`, one caption a line, in folders of any depth.

    Raises:
        ValueError: no image in the folder.
    """
    splits: dict[Split, list[CaptionedImage]] = {"train": [], "validation": [], "test": []}
    problems: list[Problem] = []
    used = set()
    for file in image_files(path):
        text, relative = file.with_suffix(".txt"), file.relative_to(path)
        if text in used:
            problems.append(Problem("image without captions", str(file), f"{text.name} is of another image"))
        elif text.is_file():
            used.add(text)
            captions = tuple(line for _, line in read_lines(text, problems) if line.strip())
            splits[split_of(relative)].append(CaptionedImage(relative.with_suffix("").as_posix(), ImageFile(file), captions))
        else:
            problems.append(Problem("image without captions", str(file), f"there is no {text.name}"))
    for file in unreadable_image_files(path):
        problems.append(Problem("unreadable image", str(file), unreadable_format(file.suffix)))
        used.add(file.with_suffix(".txt"))
    if not any(splits.values()):
        raise ValueError(f"{path}: no image in this folder has a text file of its name beside it (name.jpg + name.txt)")
    strays = [file for file in sorted(path.rglob("*.txt")) if file not in used and not file.name.startswith(".")]
    problems += [Problem("caption without image", str(file), f"there is no image {file.stem}.jpg or the like beside it") for file in strays]
    return Source({split: records for split, records in splits.items() if records}, problems)


def class_caption(name: str) -> str:
    """A class as a caption: airplane -> a photo of an airplane ."""
    words = name.replace("_", " ").lower()
    return f"a photo of {'an' if words[0] in 'aeiou' else 'a'} {words} ."


def read_cifar(path: Path) -> Source:
    """Images sorted into classes, `train` and `test`, each a tar file or a folder of CLASS/NAME.jpg; the class is the caption.

    The last tenth of each class of the training images validates.

    Raises:
        ValueError: no such files, a compressed tar file, or two pictures of one CLASS/NAME.jpg in it.
    """
    found = {name: [c for c in (path / f"{name}.tar", path / name) if c.exists()] for name in ("train", "test")}
    if not found["train"]:
        raise ValueError(f"{path}: neither train.tar nor a folder train of CLASS/NAME.jpg in it")
    listings = {name: dict(_class_images(paths[0])) for name, paths in found.items() if paths}
    if not listings["train"]:
        raise ValueError(f"{found['train'][0]}: no CLASS/NAME.jpg in it")
    classes = sorted({member.split("/")[0] for listing in listings.values() for member in listing})
    splits: dict[Split, list[CaptionedImage]] = {"train": [], "validation": [], "test": []}
    for name, listing in listings.items():
        members = {each: sorted(member for member in listing if member.split("/")[0] == each) for each in classes}
        for index in range(max(map(len, members.values()))):  # classes take turns, so that a stream of the records is a mixture
            for class_id, class_name in enumerate(classes):
                if index < (count := len(members[class_name])):
                    member = members[class_name][index]
                    split: Split = "test" if name == "test" else "train" if index < count - count // 10 else "validation"
                    record = CaptionedImage(f"{name}/{member}", listing[member], (class_caption(class_name),), class_id)
                    splits[split].append(record)
    return Source({split: records for split, records in splits.items() if records})


def _class_images(path: Path) -> Iterator[tuple[str, ImageFile]]:
    if path.is_dir():
        for file in image_files(path):
            if len(file.relative_to(path).parts) == 2:
                yield file.relative_to(path).as_posix(), ImageFile(file)
        return
    try:
        names = set()
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile() and Path(member.name).suffix.lower() in EXTENSIONS and member.name.count("/") >= 1:
                    name = "/".join(member.name.split("/")[-2:])
                    if name in names:
                        raise ValueError(f"{path}: two pictures in it are {name}, in different folders or twice; keep one")
                    names.add(name)
                    yield name, ImageFile(path, member.offset_data, member.size, name)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not an uncompressed tar file ({error})") from None


def read_huggingface(name: str, *, image_column: str | None = None, caption_column: str | None = None) -> Source:
    """A dataset of the Hugging Face hub, a Parquet file, or a folder that `datasets` opens.

    Raises:
        ValueError: it cannot be opened, or its columns are not told apart.
    """
    import datasets

    path = Path(name).expanduser()
    if path.is_file() or (path.is_dir() and any(path.glob("*.parquet"))):
        load = {"path": "parquet", "data_files": _parquet_files(path)}
    elif path.is_dir():
        load = {"path": str(path)}
    elif not is_repository(name) or path.suffix == ".parquet":
        raise ValueError(f"{name}: no such file or folder, nor a name on the Hugging Face hub, OWNER/NAME")
    else:
        print(f"downloading {name} from the Hugging Face hub, or finding it in its cache", file=sys.stderr)
        load = {"path": name}
    try:
        tables = datasets.load_dataset(**load)
    except Exception as error:  # datasets raises its own and its readers' errors
        raise ValueError(f"{name}: datasets cannot open it ({' '.join(str(error).split())[:300]})") from None
    source = Source({})
    for name_there, table in tables.items():
        split = SPLIT_FOLDERS.get(str(name_there))
        if split is None or split in source.splits:
            source.problems.append(Problem("split not used", name, f"{name_there} is none of train, validation, test"))
            continue
        image = _image_column(table.features, image_column, name)
        texts = [c for c, feature in table.features.items() if _holds_text(feature)]
        caption = texts[0] if len(texts) == 1 and caption_column is None else _caption_column(texts, caption_column, name)
        source.splits[split] = _table_records(table.cast_column(image, datasets.Image(decode=False)), image, caption, split)
    return source


def _parquet_files(path: Path) -> dict[str, list[str]]:
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    splits: dict[str, list[str]] = {}
    for file in files:
        splits.setdefault(SPLIT_FOLDERS.get(re.split(r"[-_.]", file.name)[0].lower(), "train"), []).append(str(file))
    return splits


def _holds_text(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)
    return getattr(inner, "dtype", None) in ("string", "large_string") and type(inner).__name__ == "Value"


def _image_column(features: Mapping[str, Any], asked: str | None, where: str) -> str:
    if asked is not None:
        if asked not in features:
            raise ValueError(f"{where}: no column {asked!r}; its columns: {', '.join(features)}")
        return asked
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    images = images or [
        name
        for name, feature in features.items()
        if (isinstance(feature, dict) and "bytes" in feature) or getattr(feature, "dtype", "") == "binary"
    ]
    if len(images) != 1:
        raise ValueError(f"{where}: {len(images)} columns of images; name one with --image-column: {', '.join(features)}")
    return images[0]


def _table_records(table: Any, image: str, caption: str, split: Split) -> LazyRecords:
    def make(row: int, id: str) -> CaptionedImage:
        entry = table[row]
        picture = entry[image] or {}
        captions = _as_captions(entry[caption]) or ()
        class_id = entry.get("class_id")
        if picture.get("bytes") is not None:
            reference: ImageBytes | ImageFile = ImageBytes(f"{split} row {row}", picture["bytes"])
        else:
            reference = ImageFile(Path(picture.get("path") or f"{split} row {row}"))
        return CaptionedImage(id, reference, captions, class_id if isinstance(class_id, int) else -1)

    return LazyRecords(range(len(table)), split, make, f"{table._fingerprint} {image} {caption}")
