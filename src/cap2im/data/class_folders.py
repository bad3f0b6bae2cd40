"""Read pictures that are sorted into folders by class, as CIFAR-10; the class is the caption."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cap2im.data.folder_listing import is_hidden, is_picture, list_files
from cap2im.data.image_files import ImageFile, member_name
from cap2im.data.problems import Problem
from cap2im.data.readers import Candidate, ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, Source
from cap2im.data.splits import SPLITS, Split
from cap2im.data.table_files import TABLES


def class_caption(name: str) -> str:
    """Return the caption of a class: airplane -> a photo of an airplane ."""
    words = name.replace("_", " ").lower()
    return f"a photo of {'an' if words[:1] in set('aeiou') else 'a'} {words} ."


class ClassFoldersReader(SourceReader):
    """Reads `train` and `test`, each a tar file or a folder of CLASS/NAME.jpg.

    The last tenth of each class of the training images is for validation.
    """

    folder_patterns = ("train.tar",)

    def resembles(self, candidate: Candidate) -> bool:
        """Recognise folders of classes, unless a table may name the pictures."""
        tables = TABLES - {".txt"}
        return candidate.has("train/*/*") and not any(file.suffix.lower() in tables for file in candidate.files)

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read classes.

        Raises:
            ValueError: no such files, a compressed tar file, or two pictures of one CLASS/NAME.jpg in it.
        """
        problems: list[Problem] = []
        listings: dict[str, dict[str, ImageFile]] = {}
        for name in ("train", "test"):
            places = [place for place in (path / f"{name}.tar", path / name) if place.exists()]
            if places:
                images = _tar_images(places[0], problems) if places[0].is_file() else _folder_images(places[0], problems)
                listings[name] = dict(images)
        if "train" not in listings:
            raise ValueError(f"{path}: neither train.tar nor a folder train of CLASS/NAME.jpg in it")
        if not listings["train"]:
            raise ValueError(f"{path}: no CLASS/NAME.jpg in its training images")
        classes = sorted({member.split("/")[0] for listing in listings.values() for member in listing})
        splits: dict[Split, list[CaptionedImage]] = {split: [] for split in SPLITS}
        for name, listing in listings.items():
            members = {each: sorted(member for member in listing if member.split("/")[0] == each) for each in classes}
            for index in range(max(map(len, members.values()))):  # classes take turns, so that shards are mixtures
                for class_id, class_name in enumerate(classes):
                    if index < (count := len(members[class_name])):
                        member = members[class_name][index]
                        split: Split = "test" if name == "test" else "train" if index < count - count // 10 else "validation"
                        record = CaptionedImage(f"{name}/{member}", listing[member], (class_caption(class_name),), class_id)
                        splits[split].append(record)
        return Source(splits, problems)


def _folder_images(path: Path, problems: list[Problem]) -> Iterator[tuple[str, ImageFile]]:
    """Yield the pictures of a folder by CLASS/NAME."""
    listing = list_files(path)
    problems += [*listing.problems, *listing.unread_formats()]
    for file in listing.pictures():
        relative = file.relative_to(path)
        if len(relative.parts) == 2:
            yield relative.as_posix(), ImageFile(file)
        else:
            problems.append(Problem("unusable entry", str(file), f"is not CLASS/NAME below {path}"))


def _tar_images(path: Path, problems: list[Problem]) -> Iterator[tuple[str, ImageFile]]:
    """Yield the pictures of a tar file by CLASS/NAME.

    Raises:
        ValueError: compressed, damaged, or two pictures have one name.
    """
    names = set()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                relative = PurePosixPath(member.name)
                if not member.isfile() or not is_picture(relative) or is_hidden(relative.name):
                    continue
                if len(relative.parts) < 2:
                    problems.append(Problem("unusable entry", member_name(path, member.name), "is in no folder of a class"))
                    continue
                name = "/".join(relative.parts[-2:])
                if name in names:
                    raise ValueError(f"{path}: two pictures in it are {name}, in different folders or twice; keep one")
                names.add(name)
                yield name, ImageFile(path, member.offset_data, member.size, name)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not an uncompressed tar file ({error})") from None
