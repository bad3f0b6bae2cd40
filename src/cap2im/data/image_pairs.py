"""Read pictures with a text file of the same name beside each: `cat.jpg`, and `cat.txt` or `cat.caption`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cap2im.data.file_index import fold
from cap2im.data.folder_listing import PICTURES, is_picture, list_files, unread_format
from cap2im.data.image_files import ImageFile
from cap2im.data.problems import Problem
from cap2im.data.readers import Candidate, ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, Source
from cap2im.data.splits import SPLITS, Split, split_of
from cap2im.data.text_files import caption_lines

TEXT_EXTENSIONS = (".txt", ".caption")  # in any case; the first that exists is read


class PairsReader(SourceReader):
    """Reads pairs of `name.jpg` and `name.txt` (or `name.caption`), one caption a line, in folders of any depth.

    Names match in any composition of accents, and in any case if that is not ambiguous.
    """

    def recognises(self, candidate: Candidate) -> bool:
        """Recognise a picture with a text file of its name."""
        texts = _texts(candidate.files)
        return any((file.parent, fold(file.stem)) in texts for file in candidate.files if file.suffix.lower() in PICTURES)

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read pairs.

        Raises:
            ValueError: no picture in the folder has a text file.
        """
        listing = list_files(path)
        texts = _texts(listing.files)
        splits: dict[Split, list[CaptionedImage]] = {split: [] for split in SPLITS}
        problems = [*listing.problems, *listing.misplaced_splits()]
        used: dict[Path, Path] = {}  # text -> picture
        of_unread: set[Path] = set()  # texts of pictures whose format cannot be read
        pictures = [file for file in listing.files if file.suffix.lower() in PICTURES]
        stems = {(file.parent, file.stem) for file in pictures}
        for file in pictures:
            same = texts.get((file.parent, fold(file.stem)), [])
            exact = [text for text in same if text.stem == file.stem]
            same = exact or [text for text in same if (text.parent, text.stem) not in stems]
            text = min(same, key=lambda text: (TEXT_EXTENSIONS.index(text.suffix.lower()), text), default=None)
            if not is_picture(file):
                problems.append(unread_format(file))
                of_unread.update(same)
            elif text is None:
                beside = next((f"; {file.stem}{e} is not read" for e in (".json", ".xml") if file.with_suffix(e).is_file()), "")
                problems.append(Problem("image without captions", str(file), f"there is no {file.stem}.txt{beside}"))
            elif text in used:
                problems.append(Problem("image without captions", str(file), f"{text.name} is of another image, {used[text].name}"))
            else:
                used[text] = file
                name = file.relative_to(path)
                record = CaptionedImage(name.with_suffix("").as_posix(), ImageFile(file), caption_lines(text, problems))
                splits[split_of(name)].append(record)
                others = [other for other in same if other not in used]
                problems += [Problem("file not used", str(other), f"{text.name} has the captions of {file.name}") for other in others]
                used.update(dict.fromkeys(others, file))
        if not any(splits.values()):
            raise ValueError(f"{path}: no image in this folder has a text file of its name beside it (name.jpg + name.txt)")
        for text in (each for group in texts.values() for each in group):
            if text not in used and text not in of_unread:
                problems.append(Problem("caption without image", str(text), f"there is no image {text.stem}.jpg or the like beside it"))
        return Source(splits, problems)


def _texts(files: Iterable[Path]) -> dict[tuple[Path, str], list[Path]]:
    """Return the text files by folder and folded stem."""
    texts: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        if file.suffix.lower() in TEXT_EXTENSIONS:
            texts.setdefault((file.parent, fold(file.stem)), []).append(file)
    return texts
