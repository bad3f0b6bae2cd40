"""Read CUB-200-2011 birds with ten captions each, cropped as AttnGAN crops them.

Source: taoxugit/AttnGAN, code/datasets.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from cap2im.data.folder_listing import needed_file
from cap2im.data.image_files import ImageFile
from cap2im.data.image_resizing import Box
from cap2im.data.problems import Problem
from cap2im.data.readers import PickleReader, ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, Source
from cap2im.data.splits import Split
from cap2im.data.text_files import caption_lines
from cap2im.files import read_text, shortened, split_lines


@dataclass(frozen=True)
class Bird:
    """A picture of CUB-200-2011.

    Attributes:
        image: its file.
        box: part of the picture to use.
        class_id: species from 1, or -1.
        is_training: its part in CUB's own split.
    """

    image: Path
    box: Box
    class_id: int
    is_training: bool


class BirdsReader(SourceReader):
    """Reads CUB_200_2011 with captions in `text/CLASS/NAME.txt`.

    `train/filenames.pickle` and `test/filenames.pickle` define the splits, else CUB's own split does.
    """

    folder_patterns = ("CUB_200_2011", "bounding_boxes.txt")

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read the folder that holds CUB_200_2011 and text, or CUB_200_2011 itself.

        Raises:
            ValueError: no tables, or no captions.
        """
        cub = path / "CUB_200_2011" if (path / "CUB_200_2011").is_dir() else path
        birds = read_cub(cub)
        texts = needed_file(path / "text", cub / "text", cub.parent / "text", content="CLASS/NAME.txt, one caption a line")
        splits: dict[Split, list[CaptionedImage]] = {"train": [], "test": []}
        problems: list[Problem] = []
        for split, records in splits.items():
            listed = path / split / "filenames.pickle"
            if listed.is_file():
                names = read_filenames(listed, options.read_pickle)
            else:
                names = [name for name, bird in birds.items() if bird.is_training is (split == "train")]
            for name in names:
                bird, text = birds.get(name), texts / f"{name}.txt"
                if bird is None or not bird.image.is_file():
                    problems.append(Problem("caption without image", str(cub / "images" / f"{name}.jpg")))
                elif not text.is_file():
                    problems.append(Problem("image without captions", str(bird.image), f"there is no {text}"))
                else:
                    captions = caption_lines(text, problems)
                    records.append(CaptionedImage(name, ImageFile(bird.image), captions, bird.class_id, bird.box))
        return Source(splits, problems)


def square_around(box: tuple[int, int, int, int]) -> Box:
    """Return AttnGAN's crop of a bird: a square around the box's centre, with 1.5 times the box's longer side.

    The square may leave the picture.

    Args:
        box: left, upper, width, height.
    """
    left, upper, width, height = box
    half = max(1, int(0.75 * max(width, height)))  # the released program crops nothing from a box of one pixel
    x, y = int((2 * left + width) / 2), int((2 * upper + height) / 2)
    return x - half, y - half, x + half, y + half


def read_cub(folder: Path) -> dict[str, Bird]:
    """Return the pictures of CUB-200-2011 by CLASS/NAME.

    Raises:
        ValueError: tables are missing or do not belong together.
    """
    content = "a table of CUB-200-2011"
    images = _table(needed_file(folder / "images.txt", content=content))
    boxes = _table(needed_file(folder / "bounding_boxes.txt", content=content))
    classes, training = (
        _table(folder / name) if (folder / name).is_file() else {} for name in ("image_class_labels.txt", "train_test_split.txt")
    )
    check_names(folder / "images.txt", [row[0] for row in images.values() if row])
    try:
        return {
            name.removesuffix(".jpg"): Bird(
                folder / "images" / name,
                square_around(tuple(int(float(number)) for number in boxes[id][:4])),  # type: ignore[arg-type]
                int(classes[id][0]) if id in classes else -1,
                training.get(id, ["1"])[0] == "1",
            )
            for id, (name, *_) in images.items()
        }
    except (KeyError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{folder}: its tables do not belong together ({error!r})") from None


def _table(path: Path) -> dict[str, list[str]]:
    """Return the words of each line by the first word."""
    rows = [line.split() for line in split_lines(read_text(path)) if line.strip()]
    return {row[0]: row[1:] for row in rows}


def check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse names of pictures that lead out of their folder.

    Raises:
        ValueError: one does.
    """
    for name in names:
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in PurePosixPath(name).parts or "\0" in name:
            raise ValueError(f"{path}: {shortened(repr(name))} leads out of the folder of the pictures")


def read_filenames(path: Path, read_pickle: PickleReader) -> list[str]:
    """Return the names in AttnGAN's `filenames.pickle`.

    Raises:
        ValueError: it holds something else, or a name leads out of the folder of the pictures.
    """
    names = read_pickle(path)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: a list of file names was expected, and {type(names).__name__} was found")
    check_names(path, names)
    return list(names)
