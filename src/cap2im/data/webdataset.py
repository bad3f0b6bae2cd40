"""Read tar files in the layout of WebDataset; see `tar_samples`."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from pathlib import Path, PurePosixPath

from cap2im.data.folder_listing import list_files
from cap2im.data.image_files import ImageFile
from cap2im.data.problems import Problem
from cap2im.data.readers import Candidate, ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, Source
from cap2im.data.splits import SPLIT_NAMES, SPLITS, Split
from cap2im.data.tar_samples import TarSamples
from cap2im.data.text_files import file_format
from cap2im.files import check_regular_file

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
MOST_FILES = 100_000  # tar files of a pattern
BRACES = re.compile(r"\{(?:([0-9]+)\.\.([0-9]+)|([^{}]*,[^{}]*))\}")


class WebDatasetReader(SourceReader):
    """Reads a tar file, a folder of them, or a pattern such as `shards/{0000..0099}.tar`.

    Pictures stay in the tar files and are read from there.
    """

    folder_patterns = ("*.tar", "*/*.tar")
    reads_files = True

    def recognises(self, candidate: Candidate) -> bool:
        """Recognise files and patterns of files, too."""
        return super().recognises(candidate) or (candidate.path.suffix.lower() == ".tar" and not candidate.is_folder)

    def reads_name(self, name: str) -> bool:
        """Return True: any name may be a pattern."""
        return True

    def read(self, path: Path, options: ReadOptions) -> Source:
        """List the samples of tar files.

        Raises:
            ValueError: no such files, or a file is compressed, truncated or not a tar file.
        """
        files = tar_files(path)
        root = path.absolute() if path.is_dir() else Path(os.path.commonpath([file.absolute().parent for file in files]))
        splits: dict[Split, list[CaptionedImage]] = {split: [] for split in SPLITS}
        problems: list[Problem] = []
        if path.is_dir():
            listing = list_files(path)
            compressed = [file for file in listing.files if file.name.lower().endswith(COMPRESSED)]
            problems += listing.problems + [
                Problem("unreadable file", str(file), "is compressed; unpack it to .tar") for file in compressed
            ]
        for file in files:
            relative = file.absolute().relative_to(root)
            splits[_split_of(relative)] += _records(file, relative, problems)
        return Source(splits, problems)


def _records(file: Path, relative: Path, problems: list[Problem]) -> list[CaptionedImage]:
    """Return the samples of one tar file.

    Raises:
        ValueError: compressed, truncated or not a tar file.
    """
    records = []
    try:
        check_regular_file(file)
        with tarfile.open(file, "r:") as archive:
            listed = TarSamples(archive, str(file))
        problems += listed.problems + listed.unused
        for sample in listed.samples:
            image = ImageFile(file, sample.image.offset_data, sample.image.size, sample.image.name)
            parts = (*relative.with_suffix("").parts, *PurePosixPath(sample.key).parts)
            id = "/".join(part for part in parts if part not in ("/", ".."))
            records.append(CaptionedImage(id, image, sample.captions, sample.class_id))
    except (tarfile.TarError, OSError) as error:
        if file.is_file() and (compression := file_format(file)) is not None:
            raise ValueError(f"{file}: is {compression}; unpack it") from None
        raise ValueError(f"{file}: not an uncompressed, whole tar file ({' '.join(str(error).split())})") from None
    return records


def _split_of(relative: Path) -> Split:
    """Return the split named by a folder of a tar file's path, or by its name up to the first dash, dot or underscore."""
    for part in (*relative.parts[:-1], re.split(r"[-_.]", relative.name)[0]):
        if part.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[part.lower()]
    return "train"


def tar_files(path: Path) -> list[Path]:
    """Return the tar files of a path: a file, a folder, or a pattern with braces, `*`, `?` and `[]`. An existing path is no pattern.

    Raises:
        ValueError: there are none, or one of the files is missing.
    """
    if path.is_dir():
        files = [file for file in list_files(path).files if file.suffix.lower() == ".tar"]
        if not files:
            raise ValueError(f"{path}: no .tar in this folder")
        return files
    if path.exists():
        return [path]
    files = []
    for name in expand_braces(str(path)):
        matches = [Path(name)] if Path(name).exists() else sorted(Path(each) for each in glob.glob(name, recursive=True))
        if not matches:
            raise ValueError(f"{name}: no such file")
        files += matches
    return list(dict.fromkeys(files))


def expand_braces(pattern: str) -> list[str]:
    """Return the names of a pattern with `{000..099}` or `{a,b}`, as WebDataset expands it.

    Raises:
        ValueError: more than 100,000 names.
    """
    names = [pattern]
    while any(BRACES.search(name) for name in names):
        expanded: list[str] = []
        for name in names:
            match = BRACES.search(name)
            choices = [""] if match is None else _choices(match)
            if len(expanded) + len(choices) > MOST_FILES:
                raise ValueError(f"{pattern}: more than {MOST_FILES:,} files")
            start, end = (0, 0) if match is None else match.span()
            expanded += [name[:start] + choice + name[end:] for choice in choices]
        names = expanded
    return list(dict.fromkeys(names))


def _choices(braces: re.Match[str]) -> list[str]:
    """Return what braces stand for; of endless ranges, one more than is allowed."""
    first, last, listed = braces.groups()
    if listed is not None:
        return str(listed).split(",")
    if max(len(first), len(last)) > 18:
        return [""] * (MOST_FILES + 1)
    step = 1 if int(first) <= int(last) else -1
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)[: MOST_FILES + 1]]
