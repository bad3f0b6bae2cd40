"""Read pictures with a text file of the same name beside each: `cat.jpg`, and `cat.txt` or `cat.caption`."""

from __future__ import annotations

from pathlib import Path

from cap2im.data.image_files import EXTENSIONS, ImageFile
from cap2im.data.listing import PICTURES, fold, list_files, unread_format
from cap2im.data.records import CaptionedImage, Problem, Source, caption_lines
from cap2im.data.splits import Split, split_of

TEXT_ENDINGS = (".txt", ".caption")  # in any case; the first that is there counts


def read_pairs(path: Path) -> Source:
    """Read pairs of `name.jpg` and `name.txt` (or `name.caption`), one caption a line, in folders of any depth.

    Names match whatever the composition of their accents, and their case if that is not ambiguous.

    Raises:
        ValueError: no picture in the folder has a text file.
    """
    listing = list_files(path)
    texts: dict[tuple[Path, str], list[Path]] = {}
    for file in listing.files:
        if file.suffix.lower() in TEXT_ENDINGS:
            texts.setdefault((file.parent, fold(file.stem)), []).append(file)
    splits: dict[Split, list[CaptionedImage]] = {"train": [], "validation": [], "test": []}
    problems = [*listing.problems, *listing.split_folders()]
    used: dict[Path, Path] = {}  # text -> picture
    other_formats = set()
    pictures = [file for file in listing.files if file.suffix.lower() in PICTURES]
    stems = {(file.parent, file.stem) for file in pictures}
    for file in pictures:
        same = texts.get((file.parent, fold(file.stem)), [])
        exact = [text for text in same if text.stem == file.stem]
        same = exact or [text for text in same if (text.parent, text.stem) not in stems]
        text = min(same, key=lambda text: (TEXT_ENDINGS.index(text.suffix.lower()), text), default=None)
        if file.suffix.lower() not in EXTENSIONS:
            problems.append(unread_format(file))
            other_formats.update(same)
            continue
        if text is None:
            beside = next((f"; {file.stem}{ending} is not read" for ending in (".json", ".xml") if file.with_suffix(ending).is_file()), "")
            problems.append(Problem("image without captions", str(file), f"there is no {file.stem}.txt{beside}"))
        elif text in used:
            problems.append(Problem("image without captions", str(file), f"{text.name} is of another image, {used[text].name}"))
        else:
            used[text] = file
            name = file.relative_to(path)
            record = CaptionedImage(name.with_suffix("").as_posix(), ImageFile(file), caption_lines(text, problems))
            splits[split_of(name)].append(record)
            for other in same:
                if other != text and other not in used:
                    used[other] = file
                    problems.append(Problem("file not used", str(other), f"{text.name} has the captions of {file.name}"))
    if not any(splits.values()):
        raise ValueError(f"{path}: no image in this folder has a text file of its name beside it (name.jpg + name.txt)")
    for file in (each for group in texts.values() for each in group):
        if file not in used and file not in other_formats:
            problems.append(Problem("caption without image", str(file), f"there is no image {file.stem}.jpg or the like beside it"))
    return Source({split: records for split, records in splits.items() if records}, problems)


def has_pairs(files: list[Path]) -> bool:
    """Return whether some picture among files has a text file of its name beside it."""
    texts = {(file.parent, fold(file.stem)) for file in files if file.suffix.lower() in TEXT_ENDINGS}
    return any((file.parent, fold(file.stem)) in texts for file in files if file.suffix.lower() in PICTURES)
