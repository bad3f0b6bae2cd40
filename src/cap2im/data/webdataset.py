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

from cap2im.data.image_files import EXTENSIONS, MAX_FILE_BYTES, UNREADABLE_EXTENSIONS, ImageFile, unreadable_format
from cap2im.data.listing import is_hidden, list_files
from cap2im.data.records import CaptionedImage, Problem, Source
from cap2im.data.splits import SPLIT_NAMES, Split
from cap2im.files import decode_text, shortened, split_lines

CAPTION_KEYS = (
    "captions",
    "caption",
    "text",
    "txt",
    "texts",
    "sentences",
    "sentence",
    "raw",
)  # of a sample's JSON, the first that holds text
CAPTION_FILES = (".json", ".txt", ".caption")  # the first that holds captions is read
LARGEST_TEXT = 2**20  # bytes of a caption file or a .cls
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
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


def read_samples(archive: tarfile.TarFile, name: str, problems: list[Problem], unused: list[Problem] | None = None) -> list[Sample]:
    """List the samples of a tar file; incomplete ones are added to the problems.

    Args:
        archive: opened, not compressed.
        name: of the tar file, for messages.
        problems: is extended by the samples that cannot be used.
        unused: is extended by pictures and captions beside those that are read.

    Raises:
        tarfile.TarError: the file is truncated or damaged.
    """
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in archive:
        path = PurePosixPath(member.name)
        if any(is_hidden(part) and part != ".." for part in path.parts) or not (member.isfile() or _is_link(member)):
            continue  # folders, devices, and what macOS adds
        stem, dot, extension = path.name.partition(".")
        parts = groups.setdefault(str(path.with_name(stem)), {})
        if dot + extension.lower() in parts:
            twice = "two members have this name; the last one is read"
            problems.append(Problem("unusable entry", f"{name}: {shortened(member.name)}", twice))
        parts[dot + extension.lower()] = member
    others: list[Problem] = [] if unused is None else unused
    return [sample for key, parts in groups.items() for sample in _samples(archive, name, key, parts, problems, others)]


def _is_link(member: tarfile.TarInfo) -> bool:
    return member.issym() or member.islnk()


def _samples(
    archive: tarfile.TarFile,
    name: str,
    key: str,
    parts: dict[str, tarfile.TarInfo],
    problems: list[Problem],
    unused: list[Problem],
) -> Iterator[Sample]:
    """Yield the samples of one key: extension -> member."""
    variants: dict[str, dict[str, tarfile.TarInfo]] = {}
    for extension, member in parts.items():
        suffix = PurePosixPath(f"x{extension}").suffix
        variants.setdefault(extension.removesuffix(suffix), {}).setdefault(suffix, member)
    complete = {variant: each for variant, each in variants.items() if EXTENSIONS & each.keys() and set(CAPTION_FILES) & each.keys()}
    if not complete:  # 0001.img.jpg beside 0001.txt
        merged: dict[str, tarfile.TarInfo] = {}
        for _, each in sorted(variants.items()):
            merged = each | merged
        complete = {"": merged}
    read = {id(member) for each in complete.values() for member in each.values()}
    for extension, member in parts.items():
        suffix = PurePosixPath(f"x{extension}").suffix
        if id(member) not in read and suffix in EXTENSIONS:
            unused.append(Problem("file not used", f"{name}: {shortened(member.name)}", f"another picture of {shortened(key)} is read"))
        elif id(member) not in read and suffix in (".txt", ".caption"):
            unused.append(Problem("file not used", f"{name}: {shortened(member.name)}", f"other captions of {shortened(key)} are read"))
    for variant, each in complete.items():
        where = f"{name}: image {shortened(key + variant)}"
        pictures = [each[suffix] for suffix in sorted(EXTENSIONS & each.keys())]
        image = pictures[0] if pictures else None
        if image is None:
            other = next((suffix for suffix in each if suffix in UNREADABLE_EXTENSIONS), None)
            if other is not None:
                problems.append(Problem("unreadable image", where, unreadable_format(other)))
            elif set(CAPTION_FILES) & each.keys():
                problems.append(Problem("caption without image", where, f"its members: {', '.join(sorted(each))}"))
            else:
                problems.append(Problem("unusable entry", where, f"neither picture nor captions; its members: {', '.join(sorted(each))}"))
            continue
        detail = f"the captions are of another picture of this key, {shortened(image.name)}"
        unused.extend(Problem("image without captions", f"{name}: {shortened(other.name)}", detail) for other in pictures[1:])
        captions, reasons = _captions(archive, each)
        if captions:
            unused.extend(Problem("file not used", where, reason) for reason in reasons)
        if (image := _resolved(archive, image)) is None or image.size > MAX_FILE_BYTES or image.issparse():
            problems.append(Problem("unreadable image", where, "a link that leads nowhere, or a member that is too large"))
        elif captions:
            yield Sample(key + variant, image, captions, _class_id(archive, each))
        else:
            problems.append(Problem("image without captions", where, "; ".join(reasons) or "no .json, .txt or .caption"))


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
    """Return the captions of the first file that has some, and why other captions are not read."""
    captions: tuple[str, ...] = ()
    source, reasons = "", []
    for member in (parts[suffix] for suffix in CAPTION_FILES if suffix in parts):
        is_json = member.name.lower().endswith(".json")
        try:
            text = _text(archive, member)
            found = captions_of(from_json(text)) if is_json else tuple(line.strip() for line in split_lines(text) if line.strip())
        except ValueError as error:  # also of documents that are nested too deeply
            message = " ".join(str(error).split()).removeprefix(f"{member.name}: ")
            if not captions:
                reasons.append(f"{member.name}: {message[:100]}")
            continue
        if captions and not set(map(str.strip, found)) <= set(map(str.strip, captions)):
            reasons.append(f"{member.name} has other captions than {source}, which is read")
        elif not captions and found:
            captions, source = found, member.name
        elif not captions:
            reasons.append(f"{member.name} has no text under {' or '.join(CAPTION_KEYS[:3])}" if is_json else f"{member.name} is empty")
    if captions:
        reasons = [reason for reason in reasons if reason.endswith("which is read")]
    return captions, [shortened(reason, 150) for reason in reasons]


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
        files = [file for file in list_files(where).files if file.suffix.lower() == ".tar"]
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
        if part.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[part.lower()]
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
    if where.is_dir():
        listing = list_files(where)
        compressed = [file for file in listing.files if file.name.lower().endswith(COMPRESSED)]
        problems += listing.problems + [Problem("unreadable file", str(file), "is compressed; unpack it to .tar") for file in compressed]
    for file in files:
        relative = file.absolute().relative_to(root)
        try:
            if not file.is_file():
                raise tarfile.ReadError("is not a regular file")
            with tarfile.open(file, "r:") as archive:
                for sample in read_samples(archive, str(file), problems, problems):
                    image = ImageFile(file, sample.image.offset_data, sample.image.size, sample.image.name)
                    parts = (*relative.with_suffix("").parts, *PurePosixPath(sample.key).parts)
                    id = "/".join(part for part in parts if part not in ("/", ".."))
                    splits[_split_of(relative)].append(CaptionedImage(id, image, sample.captions, sample.class_id))
        except (tarfile.TarError, OSError) as error:
            if file.is_file() and (packed := _compression(file)) is not None:
                raise ValueError(f"{file}: is compressed by {packed}; unpack it") from None
            raise ValueError(f"{file}: not an uncompressed, whole tar file ({' '.join(str(error).split())})") from None
    return Source({split: records for split, records in splits.items() if records}, problems)


def _compression(file: Path) -> str | None:
    """Return how a file is compressed, by its first bytes."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(6)
    except OSError:
        return None
    return next((name for start, name in MAGIC.items() if head.startswith(start)), None)


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
