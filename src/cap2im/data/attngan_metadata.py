"""Read AttnGAN's metadata: lists of file names, class numbers, and captions as word numbers.

Source: taoxugit/AttnGAN, code/datasets.py, whose pickles Python 2 wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cap2im.data.birds import read_cub, read_filenames
from cap2im.data.folder_listing import needed_file
from cap2im.data.image_files import ImageFile
from cap2im.data.problems import Problem
from cap2im.data.readers import PickleReader, ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, Source
from cap2im.data.splits import Split
from cap2im.data.text_files import caption_lines
from cap2im.data.vocabulary import Vocabulary, words_in_order
from cap2im.files import brief


class AttnGANReader(SourceReader):
    """Reads `captions.pickle`, `{train,test}/filenames.pickle`, `{train,test}/class_info.pickle`, and pictures in `images`.

    Word numbers become text again; the numbering is the source's vocabulary. Without `captions.pickle`, captions are read from `text`.
    Pictures of birds are cropped if CUB_200_2011 is in the folder.
    """

    folder_patterns = ("captions.pickle", "*/filenames.pickle")

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read the metadata.

        Raises:
            ValueError: files are missing, damaged, or do not belong together.
        """
        parts: tuple[Split, Split] = ("train", "test")
        names: dict[Split, list[str]] = {
            split: read_filenames(needed_file(path / split / "filenames.pickle", content="file names"), options.read_pickle)
            for split in parts
        }
        numbered: dict[Split, Sequence[Any]] = {}
        words: tuple[str, ...] = ()
        if (path / "captions.pickle").is_file():
            numbered["train"], numbered["test"], words = read_attngan_captions(path / "captions.pickle", options.read_pickle)
        birds = read_cub(path / "CUB_200_2011") if (path / "CUB_200_2011").is_dir() else {}
        splits: dict[Split, list[CaptionedImage]] = {"train": [], "test": []}
        problems: list[Problem] = []
        for split, listed in names.items():
            texts = _split_evenly(numbered[split], listed, f"{path}: {split} images in captions.pickle") if words else []
            classes = _class_ids(path / split / "class_info.pickle", len(listed), options.read_pickle)
            folders = (path / "images", path / split / "images", path / "CUB_200_2011" / "images", path)
            for index, (name, class_id) in enumerate(zip(listed, classes, strict=True)):
                image = next((folder / f"{name}.jpg" for folder in folders if (folder / f"{name}.jpg").is_file()), None)
                if image is None:
                    missing = str(path / "images" / f"{name}.jpg")
                    problems.append(Problem("caption without image", missing, f"listed in {split}/filenames.pickle"))
                    continue
                if words:
                    captions = _as_text(texts[index], words, f"{path / 'captions.pickle'}: a caption of {name}")
                else:
                    text = path / "text" / f"{name}.txt"
                    captions = caption_lines(text, problems) if text.is_file() else ()
                bird = birds.get(name)
                splits[split].append(CaptionedImage(name, ImageFile(image), captions, class_id, bird.box if bird else None))
        return Source(splits, problems, Vocabulary(words=words, tokens="attngan") if words else None)


def read_attngan_captions(path: Path, read_pickle: PickleReader) -> tuple[Any, Any, tuple[str, ...]]:
    """Read AttnGAN's `captions.pickle`.

    Args:
        path: of the file.
        read_pickle: reads pickles.

    Returns:
        training captions and test captions as lists of word numbers, and the words in the order of their numbers.

    Raises:
        ValueError: it holds something else.
    """
    document = read_pickle(path)
    lists = (list, tuple, np.ndarray)
    if isinstance(document, (list, tuple)) and len(document) >= 4:
        train, test, _, numbers = document[:4]
        if isinstance(train, lists) and isinstance(test, lists) and isinstance(numbers, Mapping):
            return train, test, words_in_order(numbers, path)
    raise ValueError(f"{path}: [train captions, test captions, number to word, word to number] was expected")


def _split_evenly(captions: Sequence[Any], names: Sequence[str], where: str) -> list[Sequence[Any]]:
    """Return the captions of each image, of which all have as many."""
    count, rest = divmod(len(captions), max(1, len(names)))
    if rest:
        raise ValueError(f"{where}: {len(captions)} captions of {len(names)} images; they must divide evenly")
    return [captions[index * count : (index + 1) * count] for index in range(len(names))]


def _as_text(captions: Sequence[Any], words: Sequence[str], where: str) -> tuple[str, ...]:
    """Return captions of word numbers as text; number 0 is padding."""
    by_number = dict(enumerate(words))
    try:
        return tuple(" ".join(by_number[number] for number in caption if number) for caption in captions)
    except (KeyError, TypeError):
        raise ValueError(f"{where} is no list of numbers that words have") from None


def _class_ids(path: Path, count: int, read_pickle: PickleReader) -> list[int]:
    """Return the class number of each image; -1 for all without the file.

    Raises:
        ValueError: the file holds something else.
    """
    if not path.is_file():
        return [-1] * count
    document = read_pickle(path)
    try:
        ids = [int(number) for number in document]
        np.array(ids, np.int64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{path}: a list of class numbers was expected, and {brief(document)} was found") from None
    if len(ids) != count:
        raise ValueError(f"{path}: {len(ids)} classes of {count} images")
    return ids
