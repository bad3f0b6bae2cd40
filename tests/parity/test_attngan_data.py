"""AttnGAN's own data, as its authors' program made them: tokens, word numbers, captions cut to length, a bird's box, images in three sizes.

Where ours differs on purpose, the test says so and says how.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cap2im.config import PicturesData
from cap2im.data.birds import square_around
from cap2im.data.image_batches import ImageBatches, pyramid
from cap2im.data.image_files import ImageBytes
from cap2im.data.records import CaptionedImage, usable_captions
from cap2im.data.tokenizer import split_words
from cap2im.data.vocabulary import END, Vocabulary
from cap2im.models.attngan import AttnGANConfig
from tests.real_data import data_folder

FOLDER = ("parity", "attngan")
GREY_LEVEL = 1 / 127.5  # of images in -1..1


@pytest.fixture(scope="module")
def text() -> dict[str, Any]:
    return json.loads(data_folder().joinpath(*FOLDER, "text.json").read_text("utf-8"))


def ours(image: dict[str, Any], most: int | None) -> list[list[str]]:
    """The tokens of the captions that `cap2im prepare` keeps of an image's lines."""
    record = CaptionedImage(image["image"], ImageBytes(image["image"], b""), tuple(image["lines"]))
    return [split_words(caption, "attngan") for caption in usable_captions(record, most, "attngan")[0]]


def test_tokens_are_those_of_the_release_without_empty_captions(text):
    """The release keeps a caption of foreign letters without words; it counts among the five, and breaks its encoder."""
    for image in text["train"] + text["test"]:
        theirs, all_ours = [tokens for tokens in image["tokens"] if tokens], ours(image, None)
        assert all_ours[: len(theirs)] == theirs, image["image"]
        assert ours(image, text["captions_per_image"]) == all_ours[: text["captions_per_image"]], image["image"]
        assert [] not in all_ours


def test_tokens_of_one_line():
    assert split_words("The THE the  2nd 3.5 ½ cup", "attngan") == ["the", "the", "the", "2nd", "3", "5", "cup"]


@pytest.mark.parametrize("order", ["wordtoix_first_seen_order", "wordtoix_python27_hash_order"])
def test_released_dictionaries_number_captions_as_released(text, order):
    numbers = text[order]
    assert len(numbers) == text["n_words"]
    vocabulary = Vocabulary(words=tuple(sorted(numbers, key=numbers.__getitem__)), tokens="attngan")
    assert (vocabulary.words[0], vocabulary.unknown) == (END, None)
    assert vocabulary.numbers == numbers
    for split in ("train", "test"):
        tokens = [caption for image in text[split] for caption in image["tokens"]]
        mine = [vocabulary.numbered(" ".join(caption)) for caption in tokens]
        assert mine == [[numbers[word] for word in caption] for caption in tokens]
        if order == "wordtoix_first_seen_order":
            assert mine == text[f"{split}_ids_first_seen_order"]


def test_our_vocabulary_is_of_training_captions_by_frequency(text):
    captions = [" ".join(caption) for image in text["train"] for caption in image["tokens"]]
    mine, theirs = Vocabulary.build(captions, tokens="attngan"), text["wordtoix_first_seen_order"]
    counts = Counter(word for caption in captions for word in caption.split())
    assert mine.words[0] == END
    assert counts[mine.words[1]] == max(counts.values())
    of_training = set(counts)
    assert set(mine.words) == {END} | of_training
    assert set(theirs) - set(mine.words) == {w for image in text["test"] for caption in image["tokens"] for w in caption} - of_training


class _Captions:
    """What `ImageBatches` asks of images: captions, a black image each."""

    def __init__(self, captions: list[str]) -> None:
        self.name, self.captions, self.image_of = "captions", captions, np.arange(len(captions))
        self.matches = torch.arange(len(captions))

    def __len__(self) -> int:
        return len(self.captions)

    def pictures(self, rows: list[int], colours: int, side: int) -> list[Tensor]:
        return [torch.zeros(colours, side, side, dtype=torch.uint8) for _ in rows]


def test_captions_are_cut_to_length_by_the_release_s_rule(text):
    """A caption of up to `words` words stays whole; of a longer one so many words stay, in order. Which, another generator says."""
    most, numbers = text["words_num"], text["wordtoix_first_seen_order"]
    vocabulary = Vocabulary(words=tuple(numbers), tokens="attngan")
    captions = [" ".join(tokens) for image in text["train"] for tokens in image["tokens"]]
    known = [caption for caption in captions if caption]
    made = ImageBatches(_Captions(known), vocabulary, (1, 1), side=1, colours=1, batch_size=len(known), words=most)
    drawn: dict[int, set[tuple[int, ...]]] = {row: set() for row in range(len(known))}
    for step in range(20):
        batch = made.at(step)
        for row, tokens, mask in zip(batch.classes.tolist(), batch.tokens, batch.mask, strict=True):
            drawn[row].add(tuple(tokens[mask].tolist()))
    assert text["get_caption"]
    for case in text["get_caption"]:
        whole = text["train_ids_first_seen_order"][case["caption_index"]]
        if not whole:
            continue  # the empty caption, which we never train on
        kept, length, places = drawn[known.index(captions[case["caption_index"]])], case["length"], case["kept_positions"]
        assert case["ids"] == [whole[place] for place in places] + [0] * (most - length)
        assert {len(each) for each in kept} == {length} == {min(len(whole), most)}
        if len(whole) <= most:
            assert kept == {tuple(whole)}
            continue
        assert places == sorted(set(places))
        assert len(kept) > 10, "another choice in every epoch"
        for each in kept:
            rest = iter(whole)
            assert all(number in rest for number in each)


def test_sizes_of_images_before_the_cut(text):
    (name,) = (key for key in text if key.startswith("imsize_for_base_size_"))
    base = int(name.rpartition("_")[2])
    assert text[name] == list(AttnGANConfig(first_side=base, branches=len(text[name])).stage_sides)
    enlarge = PicturesData(source="pictures").enlarge
    assert [int(side * enlarge) for side in (256, 299)] == [304, 355]  # of the generators, of the matching model


def test_a_bird_s_box_of_one_pixel_is_a_square_of_two(text):
    """The released rule, which `tests/data/test_published.py` holds to bbox.json, finds nothing there."""
    assert square_around((10, 20, 1, 1)) == (9, 19, 11, 21)
    assert square_around((10, 20, 2, 1)) == (10, 19, 12, 21)


def place_of(crop: np.ndarray, source: np.ndarray) -> tuple[int, int, int, int]:
    """Left, upper, right and lower of a crop [H, W, C] of an image."""
    height, width = crop.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(source, (height, width), axis=(0, 1))  # [y, x, C, H, W]
    ((upper, left),) = np.argwhere((windows == crop.transpose(2, 0, 1)).all(axis=(2, 3, 4)))
    return left, upper, left + width, upper + height


def test_sizes_of_an_image_are_the_releases_but_for_rounding():
    """Pillow rounds to whole levels, twice where it reduces; ours keeps fractions. The last size is not reduced at all."""
    path = data_folder().joinpath(*FOLDER, "image_pyramid.npz")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    source = arrays.pop("src")
    cases = sorted({name.rpartition("_")[0] for name in arrays})
    assert cases == ["bbox", "nobbox"]
    for name in cases:
        theirs = [torch.from_numpy(arrays.pop(f"{name}_{branch}")) for branch in range(sum(key.startswith(f"{name}_") for key in arrays))]
        levels = ((theirs[-1] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        left, upper, right, lower = place_of(levels, source)
        assert (levels.shape == source.shape) == (name == "nobbox")
        pixels = torch.from_numpy(source[upper:lower, left:right].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        for branch, (mine, their) in enumerate(zip(pyramid(pixels, [tuple(each.shape[1:]) for each in theirs]), theirs, strict=True)):
            away = (mine[0] - their).abs().max() / GREY_LEVEL
            assert away < (1e-4 if branch == len(theirs) - 1 else 1.0), (name, branch)
    assert not arrays, "every array was compared"
