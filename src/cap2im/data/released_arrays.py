"""Read alignDRAW's arrays as published, and MNIST in HDF5.

Source: mansimov/text2image, coco/alignDraw.py, whose pickles Python 2 wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cap2im.arrays import open_hdf5
from cap2im.data.folder_listing import needed_file
from cap2im.data.image_files import ArrayImage, ImageFile, open_array
from cap2im.data.problems import Problem
from cap2im.data.readers import Candidate, PickleReader, ReadOptions, SourceReader
from cap2im.data.records import CaptionedImage, LazyRecords, Records, Source
from cap2im.data.splits import SPLIT_NAMES, SPLITS, Split
from cap2im.data.vocabulary import UNKNOWN, Vocabulary, words_in_order


class ReleasedReader(SourceReader):
    """Reads alignDRAW's arrays, or `mnist.h5`, whose digits are captioned "the digit three .".

    The arrays: `{train,dev,test}-images-32x32.npy` (or 56x56), `-captions.npy`, `-captions-len.npy`, `-cap2im.pkl`, and `dictionary.pkl`.
    Images are rows of 3 * side * side numbers, colours first, in 0..1 or 0..255.
    """

    folder_patterns = ("*-cap2im.pkl", "mnist.h5")
    reads_files = True

    def recognises(self, candidate: Candidate) -> bool:
        """Recognise HDF5 files, too."""
        return (candidate.is_file and candidate.path.suffix.lower() == ".h5") or super().recognises(candidate)

    def read(self, path: Path, options: ReadOptions) -> Source:
        """Read arrays or digits.

        Raises:
            ValueError: files are missing, damaged, or do not belong together.
        """
        if path.is_file() or (not (path / "dictionary.pkl").exists() and (path / "mnist.h5").is_file()):
            return _read_digits(path if path.is_file() else path / "mnist.h5")
        dictionary = needed_file(path / "dictionary.pkl", content="the number of each word")
        numbers = options.read_pickle(dictionary)
        if not isinstance(numbers, Mapping):
            raise ValueError(f"{dictionary}: a dictionary word -> number was expected, and {type(numbers).__name__} was found")
        words = words_in_order(numbers, dictionary)
        splits: dict[Split, Records] = {}
        problems: list[Problem] = []
        for name in ("train", "dev", "test"):
            files = {f.stem.rsplit("x", 1)[-1]: f for f in sorted(path.glob(f"{name}-images-*x*.npy"))}
            sizes = {int(size): file for size, file in files.items() if size.isdigit()}
            fitting = [size for size in sorted(sizes) if size >= options.side]
            if fitting:
                splits[SPLIT_NAMES[name]] = _read_split(path, name, sizes[fitting[0]], words, options.read_pickle)
            elif sizes:
                detail = f"its images are smaller than {options.side} x {options.side}"
                problems.append(Problem("split not used", str(sizes[max(sizes)]), detail))
        if not splits:
            raise ValueError(f"{path}: no train-images-{options.side}x{options.side}.npy in this folder, nor larger ones")
        return Source(splits, problems, Vocabulary(words=words, unknown=UNKNOWN if UNKNOWN in words else None))


def _white(images: Any) -> float:
    """Return the value of white: 255 or 1."""
    return 255.0 if images.dtype == np.uint8 or float(np.max(images[:100], initial=0)) > 2 else 1.0


def _read_split(path: Path, name: str, image_file: Path, words: Sequence[str], read_pickle: PickleReader) -> LazyRecords:
    images = open_array(image_file)
    captions_file = needed_file(path / f"{name}-captions.npy", content="the numbers of the captions' words")
    captions = open_array(captions_file)
    if captions.ndim != 2 or captions.dtype.kind not in "iu":
        raise ValueError(f"{captions_file}: rows of whole numbers were expected, and {captions.dtype} of shape {captions.shape} was found")
    if np.max(captions, initial=0) >= len(words) or np.min(captions, initial=0) < 0:
        unknown = np.max(captions) if np.max(captions) >= len(words) else np.min(captions)
        raise ValueError(f"{captions_file}: word number {unknown}, and the dictionary ends with {len(words) - 1}")
    lengths_file = needed_file(path / f"{name}-captions-len.npy", content="the lengths of the captions")
    lengths = _read_lengths(lengths_file, captions.shape)
    images_file = needed_file(path / f"{name}-cap2im.pkl", content="the image of each caption")
    image_of = _read_image_numbers(images_file, len(captions), read_pickle)
    if len(image_of) and (image_of.min() < 0 or image_of.max() >= len(images)):
        raise ValueError(f"{images_file}: names images that {image_file.name} does not hold ({len(images)} images)")
    order = np.argsort(image_of, kind="stable")  # captions, image after image
    starts = np.searchsorted(image_of[order], np.arange(len(images) + 1))
    white = _white(images)

    def make(row: int, id: str) -> CaptionedImage:
        texts = (captions[c, : lengths[c]] for c in order[starts[row] : starts[row + 1]])
        return CaptionedImage(id, ArrayImage(image_file, row, white), tuple(" ".join(words[n] for n in text) for text in texts))

    files = (image_file, captions_file, lengths_file, images_file)
    return LazyRecords(range(len(images)), name, make, " ".join(ImageFile(file).state for file in files))


def _read_lengths(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return the length of each caption, of an array [M] or the last column of [M, K].

    Raises:
        ValueError: not the lengths of captions of this shape.
    """
    lengths = np.asarray(open_array(file))
    if lengths.ndim not in (1, 2) or len(lengths) != shape[0] or lengths.dtype.kind not in "iuf":
        raise ValueError(
            f"{file}: the lengths of {shape[0]} captions were expected, and {lengths.dtype} of shape {lengths.shape} was found"
        )
    lengths = (lengths if lengths.ndim == 1 else lengths[:, -1]).astype(np.int64)
    if lengths.max(initial=0) > shape[1] or lengths.min(initial=0) < 0:
        raise ValueError(f"{file}: lengths up to {lengths.max()} of captions that have {shape[1]} words at most")
    return lengths


def _read_image_numbers(file: Path, captions: int, read_pickle: PickleReader) -> np.ndarray:
    """Return the image number of each caption, [M].

    Raises:
        ValueError: not a dictionary of that many captions.
    """
    document = read_pickle(file)
    if isinstance(document, Mapping) and len(document) == captions:
        with suppress(TypeError, ValueError, OverflowError):
            return np.array([document.get(caption, -1) for caption in range(captions)], np.int64)
    raise ValueError(f"{file}: a dictionary with the image of each of {captions} captions was expected")


def _read_digits(file: Path) -> Source:
    """Read MNIST in HDF5: datasets train, validation, test of 784 numbers a digit, and train_labels, ... beside them."""
    keys = open_hdf5(file)
    splits = {split: _digit_records(file, split) for split in SPLITS if {split, f"{split}_labels"} <= set(keys)}
    if not splits:
        raise ValueError(f"{file}: train and train_labels were expected, and {', '.join(sorted(keys)) or 'nothing'} was found")
    return Source(splits)


def _digit_records(file: Path, split: Split) -> LazyRecords:
    from cap2im.data.mnist_captions import NUMBER_WORDS  # imports torch, which checking a dataset does without

    images = open_array(file, split)
    labels = np.asarray(open_array(file, f"{split}_labels")).astype(np.int64).reshape(-1)
    lowest, highest = labels.min(initial=0), labels.max(initial=0)
    if len(labels) != len(images) or highest > 9 or lowest < 0:
        raise ValueError(f"{file}: {len(images)} digits in {split} with {len(labels)} labels from {lowest} to {highest}")
    white = _white(images)

    def make(row: int, id: str) -> CaptionedImage:
        label = int(labels[row])
        return CaptionedImage(id, ArrayImage(file, row, white, 1, split), (f"the digit {NUMBER_WORDS[label]} .",), label)

    return LazyRecords(range(len(images)), split, make, ImageFile(file).state)
