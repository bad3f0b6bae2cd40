"""Samples in tar files, in the layout of WebDataset: `KEY.jpg` beside `KEY.txt` or `KEY.json` with captions, as img2dataset writes them.

The key of a member is its folder and its name up to the first dot; the rest is the extension. Members of one key with further dots
(`0001.left.jpg`, `0001.left.txt`) are samples of their own if both picture and captions exist.
Nothing is unpacked: names in a tar file, among them links and `..`, never become paths.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pydantic_core import from_json

from cap2im.data.folder_listing import is_hidden
from cap2im.data.image_files import EXTENSIONS, MAX_FILE_BYTES, UNREADABLE_EXTENSIONS, member_name, unreadable_format
from cap2im.data.problems import Problem
from cap2im.files import decode_text, shortened, split_lines

# keys of a sample's JSON; the first that holds text counts
CAPTION_KEYS = ("captions", "caption", "text", "txt", "texts", "sentences", "sentence", "raw")
CAPTION_EXTENSIONS = (".json", ".txt", ".caption")  # the first that holds captions is read
LARGEST_TEXT = 2**20  # bytes of a caption file or a .cls

Members = dict[str, tarfile.TarInfo]  # of one sample, by extension


@dataclass(frozen=True)
class Sample:
    """One picture of a tar file with its captions.

    Attributes:
        key: folder and name, without the extension.
        image: the member that holds the picture; not a link.
        captions: at least one.
        class_id: number in `KEY.cls`, or -1.
    """

    key: str
    image: tarfile.TarInfo
    captions: tuple[str, ...]
    class_id: int = -1


@dataclass
class TarSamples:
    """The samples of an uncompressed tar file.

    Attributes:
        archive: opened.
        name: of the tar file, named in messages.
        samples: that can be used.
        problems: one for each sample that cannot be used.
        unused: pictures and captions beside those that are read.

    Raises:
        tarfile.TarError: the file is truncated or damaged.
    """

    archive: tarfile.TarFile
    name: str
    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unused: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups: dict[str, Members] = {}
        for member in self.archive:
            path = PurePosixPath(member.name)
            if any(is_hidden(part) and part != ".." for part in path.parts) or not (member.isfile() or _is_link(member)):
                continue  # folders, devices, and files of macOS
            stem, dot, extension = path.name.partition(".")
            members = groups.setdefault(str(path.with_name(stem)), {})
            if (extension := dot + extension.lower()) in members:
                self.problems.append(Problem("unusable entry", self._where(member), "two members have this name; the last one is read"))
            members[extension] = member
        for key, members in groups.items():
            variants = _variants(members)
            used = {id(member) for variant in variants.values() for member in variant.values()}
            self._add_unused(key, (member for member in members.values() if id(member) not in used))
            for variant, parts in variants.items():
                self._add_sample(key + variant, parts)

    def _where(self, member: tarfile.TarInfo) -> str:
        return member_name(self.name, shortened(member.name))

    def _add_unused(self, key: str, members: Iterable[tarfile.TarInfo]) -> None:
        for member in members:
            suffix = PurePosixPath(member.name.lower()).suffix
            if suffix in EXTENSIONS:
                self.unused.append(Problem("file not used", self._where(member), f"another picture of {shortened(key)} is read"))
            elif suffix in (".txt", ".caption"):
                self.unused.append(Problem("file not used", self._where(member), f"other captions of {shortened(key)} are read"))

    def _add_sample(self, key: str, members: Members) -> None:
        where = f"{self.name}: image {shortened(key)}"
        pictures = [members[suffix] for suffix in sorted(EXTENSIONS & members.keys())]
        if not pictures:
            self.problems.append(_missing_picture(where, members))
            return
        for other in pictures[1:]:
            detail = f"the captions are of another picture of this key, {shortened(pictures[0].name)}"
            self.unused.append(Problem("image without captions", self._where(other), detail))
        captions, reasons = self._captions(members)
        image = resolve_link(self.archive, pictures[0])
        if image is None or image.size > MAX_FILE_BYTES or image.issparse():
            self.problems.append(Problem("unreadable image", where, "a link that leads nowhere, or a member that is too large"))
        elif not captions:
            self.problems.append(Problem("image without captions", where, "; ".join(reasons) or "no .json, .txt or .caption"))
        else:
            self.samples.append(Sample(key, image, captions, self._class_id(members)))
            self.unused += [Problem("file not used", where, reason) for reason in reasons]

    def _captions(self, members: Members) -> tuple[tuple[str, ...], list[str]]:
        """Return the captions of the first member that has some, and why other members are not read."""
        captions: tuple[str, ...] = ()
        source, failures, unused = "", [], []
        for member in (members[suffix] for suffix in CAPTION_EXTENSIONS if suffix in members):
            is_json = member.name.lower().endswith(".json")
            try:
                text = self._text(member)
                own = captions_of(from_json(text)) if is_json else tuple(line.strip() for line in split_lines(text) if line.strip())
            except ValueError as error:  # also of documents that are nested too deeply
                message = " ".join(str(error).split()).removeprefix(f"{member.name}: ")
                failures.append(f"{member.name}: {message[:100]}")
                continue
            if captions and not set(map(str.strip, own)) <= set(map(str.strip, captions)):
                unused.append(f"{member.name} has other captions than {source}, which is read")
            elif not captions and own:
                captions, source = own, member.name
            elif not captions:
                failures.append(
                    f"{member.name} has no text under {' or '.join(CAPTION_KEYS[:3])}" if is_json else f"{member.name} is empty"
                )
        return captions, [shortened(reason, 150) for reason in (unused if captions else failures)]

    def _class_id(self, members: Members) -> int:
        try:
            text = self._text(members[".cls"]).strip()
        except (KeyError, ValueError):
            return -1
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1

    def _text(self, member: tarfile.TarInfo) -> str:
        """Return the text of a small member.

        Raises:
            ValueError: too large, not text, or a link that leads nowhere.
        """
        target = resolve_link(self.archive, member)
        if target is None or target.issparse() or target.size > LARGEST_TEXT:
            raise ValueError(f"{member.name}: a link that leads nowhere, or more than {LARGEST_TEXT:,} bytes")
        return decode_text(read_member(self.archive, target), shortened(member.name))


def _variants(members: Members) -> dict[str, Members]:
    """Return the samples of one key: name between key and last dot -> members by last extension.

    Without a variant that has both picture and captions, all members are one sample, as `0001.img.jpg` beside `0001.txt`.
    """
    variants: dict[str, Members] = {}
    for extension, member in members.items():
        suffix = PurePosixPath(f"x{extension}").suffix
        variants.setdefault(extension.removesuffix(suffix), {}).setdefault(suffix, member)
    complete = {name: each for name, each in variants.items() if EXTENSIONS & each.keys() and set(CAPTION_EXTENSIONS) & each.keys()}
    if complete:
        return complete
    merged: Members = {}
    for _, each in sorted(variants.items()):
        merged = each | merged
    return {"": merged}


def _missing_picture(where: str, members: Members) -> Problem:
    names = f"its members: {', '.join(sorted(members))}"
    if (unread := next((suffix for suffix in members if suffix in UNREADABLE_EXTENSIONS), None)) is not None:
        return Problem("unreadable image", where, unreadable_format(unread))
    if set(CAPTION_EXTENSIONS) & members.keys():
        return Problem("caption without image", where, names)
    return Problem("unusable entry", where, f"neither picture nor captions; {names}")


def _is_link(member: tarfile.TarInfo) -> bool:
    return member.issym() or member.islnk()


def resolve_link(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return the member that holds the bytes, or None. Links inside the tar file are followed, others are not."""
    for _ in range(10):
        if not _is_link(member):
            return member if member.isfile() else None
        target = PurePosixPath(member.linkname if member.islnk() else PurePosixPath(member.name).parent / member.linkname)
        parts: list[str] = []
        for part in target.parts:
            if part == ".." and parts:
                parts.pop()
            else:
                parts.append(part)
        try:
            member = archive.getmember("/".join(parts))
        except KeyError:
            return None
    return None


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the content of a member that is not a link."""
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def captions_of(document: Any) -> tuple[str, ...]:
    """Return the captions in a sample's JSON of any structure."""
    if isinstance(document, str):
        return (document,) if document.strip() else ()
    if isinstance(document, list):
        return tuple(caption for each in document if isinstance(each, str | dict) for caption in captions_of(each))
    if isinstance(document, dict):
        return next((captions for key in CAPTION_KEYS if (captions := captions_of(document.get(key)))), ())
    return ()
