"""Captioned images as their authors published them: CUB birds, AttnGAN's metadata, alignDRAW's arrays, MNIST in HDF5.

Sources: the files of taoxugit/AttnGAN (code/datasets.py) and mansimov/text2image (coco/alignDraw.py), whose pickles Python 2 wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from cap2im.arrays import open_hdf5
from cap2im.data.image_files import ArrayImage, ImageFile, open_array
from cap2im.data.image_resizing import Box
from cap2im.data.listing import needed_file
from cap2im.data.mnist_captions import NUMBER_WORDS
from cap2im.data.records import CaptionedImage, LazyRecords, PickleReader, Problem, Source, caption_lines
from cap2im.data.splits import SPLIT_NAMES, Split
from cap2im.data.vocabulary import UNKNOWN, Vocabulary
from cap2im.files import brief, read_text, shortened, split_lines


def square_around(box: tuple[int, int, int, int]) -> Box:
    """AttnGAN's crop of a bird: a square around the box's centre, its half side 0.75 of the box's longer side; it may leave the picture.

    Args:
        box: left, upper, width, height.
    """
    left, upper, width, height = box
    half = max(1, int(0.75 * max(width, height)))  # the released program finds nothing in a box of one pixel
    x, y = int((2 * left + width) / 2), int((2 * upper + height) / 2)
    return x - half, y - half, x + half, y + half


@dataclass(frozen=True)
class _Bird:
    image: Path
    box: Box
    class_id: int
    train: bool


def _table(path: Path) -> dict[str, list[str]]:
    """Return the words of each line by the first of them."""
    rows = [line.split() for line in split_lines(read_text(path)) if line.strip()]
    return {row[0]: row[1:] for row in rows}


def _cub(folder: Path) -> dict[str, _Bird]:
    """CUB-200-2011: CLASS/NAME -> what is known of the picture."""
    what = "a table of CUB-200-2011"
    images, boxes = _table(needed_file(folder / "images.txt", what=what)), _table(needed_file(folder / "bounding_boxes.txt", what=what))
    classes = _table(folder / "image_class_labels.txt") if (folder / "image_class_labels.txt").is_file() else {}
    train = _table(folder / "train_test_split.txt") if (folder / "train_test_split.txt").is_file() else {}
    _check_names(folder / "images.txt", [row[0] for row in images.values() if row])
    try:
        return {
            name.removesuffix(".jpg"): _Bird(
                folder / "images" / name,
                square_around(tuple(int(float(number)) for number in boxes[id][:4])),  # type: ignore[arg-type]
                int(classes[id][0]) if id in classes else -1,
                train.get(id, ["1"])[0] == "1",
            )
            for id, (name, *_) in images.items()
        }
    except (KeyError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{folder}: its tables do not belong together ({error!r})") from None


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse names of pictures that lead out of their folder.

    Raises:
        ValueError: one does.
    """
    for name in names:
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in PurePosixPath(name).parts or "\0" in name:
            raise ValueError(f"{path}: {shortened(repr(name))} leads out of the folder of the pictures")


def _filenames(path: Path, read_pickle: PickleReader) -> list[str]:
    names = read_pickle(path)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: a list of file names was expected, and {type(names).__name__} was found")
    _check_names(path, names)
    return list(names)


def _text_captions(path: Path, problems: list[Problem]) -> tuple[str, ...]:
    return caption_lines(path, problems) if path.is_file() else ()


def read_birds(path: Path, read_pickle: PickleReader) -> Source:
    """CUB-200-2011 with ten captions a bird, `text/CLASS/NAME.txt`; the bird's box is cut out as AttnGAN does.

    `train/filenames.pickle` and `test/filenames.pickle` say which bird is where; without them CUB's own split does.

    Args:
        path: the folder that holds CUB_200_2011 and text, or CUB_200_2011 itself.

    Raises:
        ValueError: no tables, or no captions.
    """
    cub = path / "CUB_200_2011" if (path / "CUB_200_2011").is_dir() else path
    birds = _cub(cub)
    texts = needed_file(path / "text", cub / "text", cub.parent / "text", what="CLASS/NAME.txt, one caption a line")
    names: dict[Split, list[str]] = {"train": [], "test": []}
    for split in names:
        pickle = path / split / "filenames.pickle"
        names[split] = (
            _filenames(pickle, read_pickle) if pickle.is_file() else [n for n, bird in birds.items() if bird.train is (split == "train")]
        )
    source = Source({})
    for split, listed in names.items():
        records = []
        for name in listed:
            if name not in birds or not birds[name].image.is_file():
                source.problems.append(Problem("caption without image", str(cub / "images" / f"{name}.jpg")))
                continue
            bird, text = birds[name], texts / f"{name}.txt"
            if not text.is_file():
                source.problems.append(Problem("image without captions", str(bird.image), f"there is no {text}"))
                continue
            records.append(CaptionedImage(name, ImageFile(bird.image), _text_captions(text, source.problems), bird.class_id, bird.box))
        if records:
            source.splits[split] = records
    return source


def words_by_number(numbers: Mapping[Any, Any], where: Path) -> tuple[str, ...]:
    """A dictionary's words in the order of their numbers; a number without a word gets one that no caption holds.

    Raises:
        ValueError: it is no dictionary of words and numbers, or two words share a number.
    """
    words: dict[int, str] = {}
    for word, number in numbers.items():
        if not isinstance(word, str) or not isinstance(number, (int, np.integer)) or number < 0:
            raise ValueError(f"{where}: words with their numbers were expected, and {brief(word)}: {brief(number)} was found")
        if words.setdefault(int(number), word) != word:
            raise ValueError(f"{where}: the words {brief(words[int(number)])} and {brief(word)} have one number, {brief(number)}")
    if not words or max(words) >= 2 * len(words) + 1000:
        raise ValueError(f"{where}: {len(words)} words with numbers up to {max(words, default=0)} are no vocabulary")
    return tuple(words.get(number, f"<no word {number}>") for number in range(max(words) + 1))


def read_attngan_captions(path: Path, read_pickle: PickleReader) -> tuple[Any, Any, tuple[str, ...]]:
    """AttnGAN's `captions.pickle`: lists of training captions and of test captions as numbers, and the words in the order of their numbers.

    Raises:
        ValueError: it holds something else.
    """
    document = read_pickle(path)
    lists = (list, tuple, np.ndarray)
    if (
        not isinstance(document, (list, tuple))
        or len(document) < 4
        or not isinstance(document[0], lists)
        or not isinstance(document[1], lists)
        or not isinstance(document[3], Mapping)
    ):
        raise ValueError(f"{path}: [train captions, test captions, number to word, word to number] was expected")
    return document[0], document[1], words_by_number(document[3], path)


def _class_ids(path: Path, read_pickle: PickleReader) -> list[int]:
    document = read_pickle(path)
    try:
        ids = [int(number) for number in document]
        np.array(ids, np.int64)
        return ids
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{path}: a list of class numbers was expected, and {brief(document)} was found") from None


def read_attngan(path: Path, read_pickle: PickleReader) -> Source:
    """AttnGAN's metadata: `captions.pickle`, `{train,test}/filenames.pickle`, `{train,test}/class_info.pickle`; pictures in `images`.

    Captions are turned back into text by their own numbers, which are kept as the vocabulary. Without `captions.pickle` they come from
    `text`. Birds are cut out where CUB_200_2011 lies beside.

    Raises:
        ValueError: files are missing, damaged, or do not belong together.
    """
    names = {
        split: _filenames(needed_file(path / split / "filenames.pickle", what="file names"), read_pickle) for split in ("train", "test")
    }
    texts: dict[str, Any] = {}
    words: tuple[str, ...] = ()
    if (path / "captions.pickle").is_file():
        texts["train"], texts["test"], words = read_attngan_captions(path / "captions.pickle", read_pickle)
    by_number = dict(enumerate(words))
    birds = _cub(path / "CUB_200_2011") if (path / "CUB_200_2011").is_dir() else {}
    source = Source({}, vocabulary=Vocabulary(words=words, tokens="attngan") if words else None)
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        listed = names[split]
        per_image, rest = divmod(len(texts[split]), max(1, len(listed))) if words else (0, 0)
        if rest:
            raise ValueError(
                f"{path}: {len(texts[split])} captions of {len(listed)} {split} images in captions.pickle; they must divide evenly"
            )
        class_file = path / split / "class_info.pickle"
        classes = _class_ids(class_file, read_pickle) if class_file.is_file() else [-1] * len(listed)
        if len(classes) != len(listed):
            raise ValueError(f"{class_file}: {len(classes)} classes of {len(listed)} images")
        records = []
        for index, (name, class_id) in enumerate(zip(listed, classes, strict=True)):
            bird = birds.get(name)
            folders = (path / "images", path / split / "images", path / "CUB_200_2011" / "images", path)
            image = next((f / f"{name}.jpg" for f in folders if (f / f"{name}.jpg").is_file()), None)
            if image is None:
                source.problems.append(
                    Problem("caption without image", str(path / "images" / f"{name}.jpg"), f"listed in {split}/filenames.pickle")
                )
                continue
            if words:
                numbered = texts[split][index * per_image : (index + 1) * per_image]
                try:
                    captions = tuple(" ".join(by_number[number] for number in caption if number) for caption in numbered)
                except (KeyError, TypeError):
                    raise ValueError(f"{path / 'captions.pickle'}: a caption of {name} is no list of numbers that words have") from None
            else:
                captions = _text_captions(path / "text" / f"{name}.txt", source.problems)
            records.append(CaptionedImage(name, ImageFile(image), captions, class_id, bird.box if bird else None))
        if records:
            source.splits[split] = records
    return source


def read_released(path: Path, read_pickle: PickleReader, side: int) -> Source:
    """AlignDRAW's arrays as published, or `mnist.h5`, whose digits are captioned "the digit three .".

    The arrays: `{train,dev,test}-images-32x32.npy` (or 56x56), `-captions.npy`, `-captions-len.npy`, `-cap2im.pkl`, and `dictionary.pkl`.
    Images are rows of 3 * side * side numbers, colours first, in 0..1 (or 0..255); the last column of `-captions-len.npy` is the length
    of a caption.

    Raises:
        ValueError: files are missing, damaged, or do not belong together.
    """
    if path.is_file() or (not (path / "dictionary.pkl").exists() and (path / "mnist.h5").is_file()):
        return _read_digits(path if path.is_file() else path / "mnist.h5")
    numbers = read_pickle(needed_file(path / "dictionary.pkl", what="the number of each word"))
    if not isinstance(numbers, Mapping):
        raise ValueError(f"{path / 'dictionary.pkl'}: a dictionary word -> number was expected, and {type(numbers).__name__} was found")
    words = words_by_number(numbers, path / "dictionary.pkl")
    source = Source({}, vocabulary=Vocabulary(words=words, unknown=UNKNOWN if UNKNOWN in words else None))
    for name in ("train", "dev", "test"):
        split = SPLIT_NAMES[name]
        sizes = {
            int(f.stem.rsplit("x", 1)[-1]): f for f in sorted(path.glob(f"{name}-images-*x*.npy")) if f.stem.rsplit("x", 1)[-1].isdigit()
        }
        fitting = [size for size in sorted(sizes) if size >= side]
        if fitting:
            source.splits[split] = _released_split(path, name, sizes[fitting[0]], words, read_pickle)
        elif sizes:
            source.problems.append(Problem("split not used", str(sizes[max(sizes)]), f"its images are smaller than {side} x {side}"))
    if not source.splits:
        raise ValueError(f"{path}: no train-images-{side}x{side}.npy in this folder, nor larger ones")
    return source


def _white(images: Any) -> float:
    """The number that means white: 255 or 1."""
    return 255.0 if images.dtype == np.uint8 or float(np.max(images[:100], initial=0)) > 2 else 1.0


def _released_split(path: Path, name: str, image_file: Path, words: Sequence[str], read_pickle: PickleReader) -> LazyRecords:
    images = open_array(image_file)
    captions_file = needed_file(path / f"{name}-captions.npy", what="the numbers of the captions' words")
    captions = open_array(captions_file)
    if captions.ndim != 2 or captions.dtype.kind not in "iu":
        raise ValueError(f"{captions_file}: rows of whole numbers were expected, and {captions.dtype} of shape {captions.shape} was found")
    lengths_file = needed_file(path / f"{name}-captions-len.npy", what="the lengths of the captions")
    lengths = np.asarray(open_array(lengths_file))
    if lengths.ndim not in (1, 2) or len(lengths) != len(captions) or lengths.dtype.kind not in "iuf":
        raise ValueError(
            f"{lengths_file}: the lengths of {len(captions)} captions were expected, and {lengths.dtype} of shape {lengths.shape} was found"
        )
    lengths = (lengths if lengths.ndim == 1 else lengths[:, -1]).astype(np.int64)
    images_of_file = needed_file(path / f"{name}-cap2im.pkl", what="the image of each caption")
    image_of = read_pickle(images_of_file)
    try:
        if not isinstance(image_of, Mapping) or len(image_of) != len(captions):
            raise TypeError
        rows = np.array([image_of.get(caption, -1) for caption in range(len(captions))], np.int64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{images_of_file}: a dictionary with the image of each of {len(captions)} captions was expected") from None
    if len(rows) and (rows.min() < 0 or rows.max() >= len(images)):
        raise ValueError(f"{images_of_file}: names images that {image_file.name} does not hold ({len(images)} images)")
    if np.max(captions, initial=0) >= len(words) or np.min(captions, initial=0) < 0:
        strange = np.max(captions) if np.max(captions) >= len(words) else np.min(captions)
        raise ValueError(f"{captions_file}: word number {strange}, and the dictionary ends with {len(words) - 1}")
    if lengths.max(initial=0) > captions.shape[1] or lengths.min(initial=0) < 0:
        raise ValueError(f"{lengths_file}: lengths up to {lengths.max()} of captions that have {captions.shape[1]} words at most")
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(len(images) + 1))
    white = _white(images)

    def make(row: int, id: str) -> CaptionedImage:
        mine = order[starts[row] : starts[row + 1]]
        texts = tuple(" ".join(words[number] for number in captions[c, : lengths[c]]) for c in mine)
        return CaptionedImage(id, ArrayImage(image_file, row, white), texts)

    files = (image_file, captions_file, lengths_file, images_of_file)
    return LazyRecords(range(len(images)), name, make, " ".join(ImageFile(file).state for file in files))


def _read_digits(file: Path) -> Source:
    """Read MNIST in HDF5: datasets train, validation, test of 784 numbers a digit, and train_labels, ... beside them."""
    keys = open_hdf5(file)
    source = Source({})
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for split in splits:
        if split in keys and f"{split}_labels" in keys:
            source.splits[split] = _digit_records(file, split)
    if not source.splits:
        raise ValueError(f"{file}: train and train_labels were expected, and {', '.join(sorted(keys)) or 'nothing'} was found")
    return source


def _digit_records(file: Path, split: Split) -> LazyRecords:
    images = open_array(file, split)
    labels = np.asarray(open_array(file, f"{split}_labels")).astype(np.int64).reshape(-1)
    if len(labels) != len(images) or labels.max(initial=0) > 9 or labels.min(initial=0) < 0:
        raise ValueError(
            f"{file}: {len(images)} digits in {split} with {len(labels)} labels from {labels.min(initial=0)} to {labels.max(initial=0)}"
        )
    white = _white(images)

    def make(row: int, id: str) -> CaptionedImage:
        label = int(labels[row])
        return CaptionedImage(id, ArrayImage(file, row, white, 1, split), (f"the digit {NUMBER_WORDS[label]} .",), label)

    return LazyRecords(range(len(images)), split, make, ImageFile(file).state)
