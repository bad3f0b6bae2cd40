"""Read pictures that are sorted into folders by class, whose names become captions."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cap2im.data.image_files import ImageFile
from cap2im.data.listing import is_picture, list_files
from cap2im.data.records import CaptionedImage, Problem, Source
from cap2im.data.splits import Split


def class_caption(name: str) -> str:
    """Return a class as a caption: airplane -> a photo of an airplane ."""
    words = name.replace("_", " ").lower()
    return f"a photo of {'an' if words[:1] in set('aeiou') else 'a'} {words} ."


def read_cifar(path: Path) -> Source:
    """Read pictures sorted into classes: `train` and `test`, each a tar file or a folder of CLASS/NAME.jpg.

    The class is the caption. The last tenth of each class of the training images validates.

    Raises:
        ValueError: no such files, a compressed tar file, or two pictures of one CLASS/NAME.jpg in it.
    """
    found = {name: [c for c in (path / f"{name}.tar", path / name) if c.exists()] for name in ("train", "test")}
    if not found["train"]:
        raise ValueError(f"{path}: neither train.tar nor a folder train of CLASS/NAME.jpg in it")
    problems: list[Problem] = []
    listings = {name: dict(_class_images(paths[0], problems)) for name, paths in found.items() if paths}
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
    return Source({split: records for split, records in splits.items() if records}, problems)


def _class_images(path: Path, problems: list[Problem]) -> Iterator[tuple[str, ImageFile]]:
    if path.is_dir():
        listing = list_files(path)
        problems += [*listing.problems, *listing.other_formats()]
        for file in listing.pictures():
            relative = file.relative_to(path)
            if len(relative.parts) == 2:
                yield relative.as_posix(), ImageFile(file)
            else:
                problems.append(Problem("unusable entry", str(file), f"is not CLASS/NAME below {path}"))
        return
    try:
        names = set()
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile() and is_picture(PurePosixPath(member.name)) and not PurePosixPath(member.name).name.startswith("."):
                    if "/" not in member.name.removeprefix("./"):
                        problems.append(Problem("unusable entry", f"{path}:{member.name}", "is in no folder of a class"))
                        continue
                    name = "/".join(member.name.split("/")[-2:])
                    if name in names:
                        raise ValueError(f"{path}: two pictures in it are {name}, in different folders or twice; keep one")
                    names.add(name)
                    yield name, ImageFile(path, member.offset_data, member.size, name)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not an uncompressed tar file ({error})") from None
