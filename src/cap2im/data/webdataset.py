"""Tar files in the layout of WebDataset: `KEY.jpg` beside `KEY.txt` or `KEY.json` with captions, as img2dataset writes them.

The key of a member is its folder and its name up to the first dot, the rest is the extension, as WebDataset has it. Members of one key
that differ in a further dot (`0001.left.jpg`, `0001.left.txt`) are samples of their own where both picture and captions are there.
Nothing is unpacked: names in a tar file, links and `..` among them, never become paths.
"""

from __future__ import annotations

import glob
import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic_core import from_json

from cap2im.data.captioned import SPLIT_FOLDERS, CaptionedImage, Problem, Source
from cap2im.data.digits import Split
from cap2im.data.pictures import EXTENSIONS, LARGEST_FILE, UNREADABLE_EXTENSIONS, ImageFile, unreadable_format
from cap2im.files import decode_text, shortened, split_lines

CAPTION_KEYS = ("captions", "caption", "text", "txt")  # of a sample's JSON, the first that holds text
LARGEST_TEXT = 2**20  # bytes of a .txt, .json or .cls
MOST_FILES = 100_000  # tar files of a pattern


@dataclass(frozen=True)
class Sample:
    """One picture of a tar file with its captions.

    Attributes:
        key: folder and name up to the first dot, and what follows up to the extension.
        image: the member that holds the picture.
        captions: at least one.
        class_id: of `KEY.cls`, -1 without.
    """

    key: str
    image: tarfile.TarInfo
    captions: tuple[str, ...]
    class_id: int = -1


def read_samples(archive: tarfile.TarFile, name: str, problems: list[Problem]) -> list[Sample]:
    """List the samples of a tar file; incomplete ones are added to the problems.

    Args:
        archive: opened, not compressed.
        name: of the tar file, for messages.
        problems: is extended.

    Raises:
        tarfile.TarError: the file is truncated or damaged.
    """
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in archive:
        path = PurePosixPath(member.name)
        if any(part.startswith((".", "__")) and part != ".." for part in path.parts) or not (member.isfile() or _is_link(member)):
            continue  # folders, devices, and what macOS adds
        stem, dot, extension = path.name.partition(".")
        parts = groups.setdefault(str(path.with_name(stem)), {})
        if dot + extension.lower() in parts:
            twice = "two members have this name; the last one is read"
            problems.append(Problem("unusable entry", f"{name}: {shortened(member.name)}", twice))
        parts[dot + extension.lower()] = member
    return [sample for key, parts in groups.items() for sample in _samples(archive, name, key, parts, problems)]


def _is_link(member: tarfile.TarInfo) -> bool:
    return member.issym() or member.islnk()


def _samples(archive: tarfile.TarFile, name: str, key: str, parts: dict[str, tarfile.TarInfo], problems: list[Problem]) -> Iterator[Sample]:
    """Yield the samples of one key: extension -> member."""
    variants: dict[str, dict[str, tarfile.TarInfo]] = {}
    for extension, member in parts.items():
        suffix = PurePosixPath(f"x{extension}").suffix
        variants.setdefault(extension.removesuffix(suffix), {}).setdefault(suffix, member)
    complete = {variant: each for variant, each in variants.items() if EXTENSIONS & each.keys() and {".txt", ".json"} & each.keys()}
    if not complete:  # 0001.img.jpg beside 0001.txt
        merged: dict[str, tarfile.TarInfo] = {}
        for _, each in sorted(variants.items()):
            merged = each | merged
        complete = {"": merged}
    for variant, each in complete.items():
        where = f"{name}: image {shortened(key + variant)}"
        image = next((each[suffix] for suffix in sorted(EXTENSIONS & each.keys())), None)
        if image is None:
            other = next((suffix for suffix in each if suffix in UNREADABLE_EXTENSIONS), None)
            if other is not None:
                problems.append(Problem("unreadable image", where, unreadable_format(other)))
            elif {".txt", ".json"} & each.keys():
                problems.append(Problem("caption without image", where, f"its members: {', '.join(sorted(each))}"))
            else:
                problems.append(Problem("unusable entry", where, f"neither picture nor captions; its members: {', '.join(sorted(each))}"))
            continue
        captions, reasons = _captions(archive, each)
        if (image := _resolved(archive, image)) is None or image.size > LARGEST_FILE or image.issparse():
            problems.append(Problem("unreadable image", where, "a link that leads nowhere, or a member that is too large"))
        elif captions:
            yield Sample(key + variant, image, captions, _class_id(archive, each))
        else:
            problems.append(Problem("image without captions", where, "; ".join(reasons) or "no .txt and no .json"))


def _resolved(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return the member that holds the bytes; links inside of the tar file are followed, others are not."""
    for _ in range(10):
        if not _is_link(member):
            return member if member.isfile() else None
        target = member.linkname if member.islnk() else str(PurePosixPath(member.name).parent / member.linkname)
        try:
            member = archive.getmember(_normal(target))
        except KeyError:
            return None
    return None


def _normal(name: str) -> str:
    parts: list[str] = []
    for part in PurePosixPath(name).parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the content of a member that is no link."""
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    """Return the text of a small member.

    Raises:
        ValueError: too large, no text, or a link that leads nowhere.
    """
    found = _resolved(archive, member)
    if found is None or found.issparse() or found.size > LARGEST_TEXT:
        raise ValueError(f"{member.name}: a link that leads nowhere, or more than {LARGEST_TEXT:,} bytes")
    return decode_text(read_member(archive, found), shortened(member.name))


def _captions(archive: tarfile.TarFile, parts: dict[str, tarfile.TarInfo]) -> tuple[tuple[str, ...], list[str]]:
    """Return the captions of the JSON, else of the text; and what is wrong with either."""
    reasons = []
    if (member := parts.get(".json")) is not None:
        try:
            if captions := captions_of(from_json(_text(archive, member))):
                return captions, []
            reasons.append(f"{member.name} has no text under {' or '.join(CAPTION_KEYS)}")
        except ValueError as error:  # also of documents that are nested too deeply
            reasons.append(f"{member.name}: {' '.join(str(error).split())[:100]}")
    if (member := parts.get(".txt")) is not None:
        try:
            if captions := tuple(line.strip() for line in split_lines(_text(archive, member)) if line.strip()):
                return captions, []
            reasons.append(f"{member.name} is empty")
        except ValueError as error:
            reasons.append(" ".join(str(error).split())[:100])
    return (), [shortened(reason, 150) for reason in reasons]


def captions_of(document: Any) -> tuple[str, ...]:
    """Return the captions in a sample's JSON, whatever its structure; none if there is no text where captions are looked for."""
    if isinstance(document, str):
        return (document,) if document.strip() else ()
    if isinstance(document, list):
        return tuple(caption for each in document if isinstance(each, str | dict) for caption in captions_of(each))
    if isinstance(document, dict):
        return next((found for key in CAPTION_KEYS if (found := captions_of(document.get(key)))), ())
    return ()


def _class_id(archive: tarfile.TarFile, parts: dict[str, tarfile.TarInfo]) -> int:
    try:
        text = _text(archive, parts[".cls"]).strip()
    except (KeyError, ValueError):
        return -1
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern with `{000..099}` or `{a,b}` stands for, as WebDataset has them.

    Raises:
        ValueError: more than 100,000 names.
    """
    names, done = [pattern], False
    while not done:
        done, expanded = True, []
        for name in names:
            if (match := re.search(r"\{(?:([0-9]+)\.\.([0-9]+)|([^{}]*,[^{}]*))\}", name)) is None:
                expanded.append(name)
                continue
            done = False
            first, last, listed = match.groups()
            if listed is not None:
                choices = listed.split(",")
            elif len(first) > 18 or len(last) > 18 or abs(int(last) - int(first)) >= MOST_FILES:
                raise ValueError(f"{pattern}: more than {MOST_FILES:,} files")
            else:
                step = 1 if int(first) <= int(last) else -1
                width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
                choices = [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]
            if len(expanded) + len(choices) > MOST_FILES:
                raise ValueError(f"{pattern}: more than {MOST_FILES:,} files")
            expanded += [name[: match.start()] + choice + name[match.end() :] for choice in choices]
        names = expanded
    return list(dict.fromkeys(names))


def tar_files(path: str) -> list[Path]:
    """Return the tar files of a path: a file, a folder, or a pattern with braces, `*`, `?` and `[]`. What exists is no pattern.

    Raises:
        ValueError: nothing is there, or one of the files is missing.
    """
    where = Path(os.path.expanduser(path))  # of the text: Path drops the ./ of ./~name
    if where.is_dir():
        files = sorted(file for file in where.rglob("*.tar") if not file.name.startswith("."))
        if not files:
            raise ValueError(f"{path}: no .tar in this folder")
        return files
    if where.exists():
        return [where]
    files = []
    for name in expand_braces(str(where)):
        found = [Path(name)] if Path(name).exists() else sorted(Path(each) for each in glob.glob(name, recursive=True))
        if not found:
            raise ValueError(f"{name}: no such file")
        files += found
    return list(dict.fromkeys(files))


def _split_of(relative: Path) -> Split:
    """Return the split that a folder on the way to a tar file, or its name up to the first dash, dot or underscore, stands for."""
    for part in (*relative.parts[:-1], re.split(r"[-_.]", relative.name)[0]):
        if part.lower() in SPLIT_FOLDERS:
            return SPLIT_FOLDERS[part.lower()]
    return "train"


def read_webdataset(path: str) -> Source:
    """List the samples of tar files; pictures are read from there when they are needed.

    Args:
        path: a tar file, a folder of them, or a pattern such as `shards/{0000..0099}.tar`.

    Raises:
        ValueError: nothing is there, or a file is compressed, truncated or no tar file.
    """
    files = tar_files(path)
    parents = {file.absolute().parent for file in files}
    where = Path(os.path.expanduser(path))
    root = where.absolute() if where.is_dir() else _common(parents)
    splits: dict[Split, list[CaptionedImage]] = {"train": [], "validation": [], "test": []}
    problems: list[Problem] = []
    for file in files:
        relative = file.absolute().relative_to(root)
        try:
            if not file.is_file():
                raise tarfile.ReadError("is not a regular file")
            with tarfile.open(file, "r:") as archive:
                for sample in read_samples(archive, str(file), problems):
                    image = ImageFile(file, sample.image.offset_data, sample.image.size, sample.image.name)
                    parts = (*relative.with_suffix("").parts, *PurePosixPath(sample.key).parts)
                    id = "/".join(part for part in parts if part not in ("/", ".."))
                    splits[_split_of(relative)].append(CaptionedImage(id, image, sample.captions, sample.class_id))
        except (tarfile.TarError, OSError) as error:
            raise ValueError(f"{file}: not an uncompressed, whole tar file ({' '.join(str(error).split())})") from None
    return Source({split: records for split, records in splits.items() if records}, problems)


def _common(folders: set[Path]) -> Path:
    shared = next(iter(folders))
    while not all(folder.is_relative_to(shared) for folder in folders):
        shared = shared.parent
    return shared


def open_tar(data: bytes) -> tarfile.TarFile:
    """Open a tar file that is in memory, and not compressed.

    Raises:
        tarfile.TarError: it is damaged, or compressed.
    """
    return tarfile.open(fileobj=io.BytesIO(data), mode="r:")
