"""Test batches of images with one caption: order, captions, words, crops and flips by step; pyramids; matching pairs."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from cap2im.data.caption_batches import CaptionBatches
from cap2im.data.captioned_images import CaptionedImages, NumberedCaptions
from cap2im.data.dataset import PreparedDataset
from cap2im.data.image_batches import ImageBatches, pyramid
from cap2im.data.mnist_captions import LAYOUTS, CaptionedCanvases
from cap2im.data.vocabulary import Vocabulary
from tests.prepared import COLOURS, prepared_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> PreparedDataset:
    return PreparedDataset.open(prepared_dataset(tmp_path_factory.mktemp("squares") / "prepared"))


def pairs(dataset, **changes) -> ImageBatches:
    how = {"side": 8, "colours": 3, "batch_size": 6, "seed": 0} | changes
    return ImageBatches(CaptionedImages(dataset, "train"), dataset.vocabulary, (2, 3), **how)


def epoch(made: ImageBatches, number: int = 0):
    return [made.at(number * made.steps_per_epoch + step) for step in range(made.steps_per_epoch)]


def captions_of(dataset, batch) -> list[str]:
    rows = zip(batch.tokens.tolist(), batch.mask.tolist(), strict=True)
    return [" ".join(dataset.vocabulary.words[n] for n, there in zip(*row, strict=True) if there) for row in rows]


def test_an_epoch_has_each_image_once_with_its_caption(dataset):
    made = pairs(dataset)
    images = CaptionedImages(dataset, "train")
    own = {tuple(p.flatten().tolist()): images.captions[2 * i : 2 * i + 2] for i, p in enumerate(images.pixels(range(24), 3))}
    drawn = Counter()
    for number in range(40):
        met = set()
        for batch in epoch(made, number):
            assert batch.images.shape == (6, 3, 8, 8)
            assert batch.noise.shape == (6, 2, 3)
            for pixels, caption in zip((batch.images * 255).round().int(), captions_of(dataset, batch), strict=True):
                key = tuple(pixels.flatten().tolist())
                met.add(key)
                drawn[key, own[key].index(caption)] += 1
        assert len(met) == 24
    assert len(drawn) == 48
    assert all(8 <= count <= 32 for count in drawn.values()), "both captions of an image are drawn, about equally often"


def test_batches_depend_on_seed_and_step_only(dataset):
    how = {"side": 6, "enlarge": 1.4, "flip": True, "words": 3}
    one, two, other = pairs(dataset, **how), pairs(dataset, **how), pairs(dataset, seed=1, **how)
    one.at(0)
    names = [field.name for field in dataclasses.fields(one.at(0)) if field.name != "vectors"]
    for name in names:
        assert torch.equal(getattr(one.at(5), name), getattr(two.at(5), name)), name
    assert not torch.equal(one.at(5).images, other.at(5).images)
    assert not torch.equal(one.at(1).images, one.at(1 + one.steps_per_epoch).images)
    whole, parts = one.at(2), [one.at(2, slice(i, None, 2)) for i in range(2)]
    for i, part in enumerate(parts):
        assert captions_of(dataset, part) == captions_of(dataset, whole)[i::2]
        for name in ("images", "noise", "classes"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[i::2]), name


def test_long_captions_keep_random_words_in_order(dataset):
    made = pairs(dataset, words=4)
    whole = {caption: dataset.vocabulary.split(caption) for caption in made.captions}
    kept = Counter()
    for number in range(30):
        for batch in epoch(made, number):
            assert batch.tokens.shape[1] <= 4
            for caption, matched in zip(captions_of(dataset, batch), batch.mask.sum(dim=1).tolist(), strict=True):
                said = caption.split()
                assert any(len(words) == matched or len(words) > matched == 4 for words in whole.values())
                assert any(is_part(said, words) for words in whole.values()), said
                if "drawn" in said or "sees" in said:
                    kept.update(said)
    long = max(whole.values(), key=len)
    assert len(long) == 10
    assert {"one", "sees", "that", "here", "a", "square", "was", "drawn", "."} <= set(kept), "every word has its turn"


def is_part(some: list[str], words: list[str]) -> bool:
    rest = iter(words)
    return all(word in rest for word in some)


def test_squares_are_cut_from_everywhere_and_half_of_them_turned(tmp_path):
    dataset = PreparedDataset.open(prepared_dataset(tmp_path / "prepared", side=12, train=4))
    pixels = CaptionedImages(dataset, "train").pixels(range(4), 3)  # 12 pixels are 1.5 sides of the square
    made = pairs(dataset, side=8, enlarge=1.5, flip=True, batch_size=4)
    squares = {}
    for image in pixels:
        for top, left in np.ndindex(5, 5):
            square = image[:, top : top + 8, left : left + 8]
            squares |= {levels(square): (top, left, False), levels(square.flip(2)): (top, left, True)}
    found = Counter(squares[levels(cut * 255)] for step in range(60) for cut in made.at(step).images)
    assert len(found) == 50, "all places, straight and turned"
    assert 90 <= sum(count for (_, _, turned), count in found.items() if turned) <= 150  # of 240
    straight = pairs(dataset, side=8, enlarge=1.5, batch_size=4)
    assert not any(squares[levels(cut * 255)][2] for step in range(10) for cut in straight.at(step).images)


def levels(image: torch.Tensor) -> tuple[int, ...]:
    return tuple(image.float().round().int().flatten().tolist())


def test_images_of_any_size_are_resized_and_cropped(dataset, monkeypatch):
    wide = torch.arange(10 * 20, dtype=torch.uint8).view(1, 10, 20).expand(3, -1, -1)
    monkeypatch.setattr(CaptionedImages, "pictures", lambda self, rows, colours, side: [wide for _ in rows])
    cut = (pairs(dataset, side=10).fixed(1).images[0] * 255).round().to(torch.uint8)
    assert torch.equal(cut, wide[:, :, 5:15]), "the middle"
    columns = {int(cut[0, 0, 0] * 255) for step in range(16) for cut in pairs(dataset, side=10).at(step).images}
    assert columns == set(range(11))
    monkeypatch.undo()
    large = pairs(dataset, side=20).at(0).images
    assert large.shape == (6, 3, 20, 20)
    colours = {tuple((image[:, 10, 10] * 255).round().int().tolist()) for image in large}
    assert all(min(np.abs(np.subtract(colour, each)).max() for each in COLOURS.values()) <= 3 for colour in colours)


def test_fixed_pairs_are_evenly_spaced_and_constant(dataset):
    one, two = pairs(dataset, flip=True).fixed(5), pairs(dataset, flip=True, seed=3, batch_size=2).fixed(5)
    for name in ("images", "tokens", "mask", "noise", "classes"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert torch.equal((one.images * 255).round().to(torch.uint8), CaptionedImages(dataset, "train").pixels([0, 5, 11, 17, 23], 3))
    assert len(pairs(dataset).fixed(1000)) == 24


def test_images_of_one_class_match_and_without_classes_none_do(dataset):
    images = CaptionedImages(dataset, "train")
    assert images.matches.tolist() == images.classes.tolist()
    for batch in (pairs(dataset).at(1), CaptionBatches(images, dataset.vocabulary, (2, 3), colours=3, batch_size=6).at(1)):
        middles = [list(COLOURS.values()).index(tuple((image[:, 4, 4] * 255).round().int().tolist())) for image in batch.images]
        assert batch.classes.tolist() == middles
    table = images._rows.remove_columns("class_id").add_column("class_id", [-1, 2] * 12)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("datasets.load_dataset", lambda *_, **__: table)
        mixed = CaptionedImages(dataset, "train")
    assert mixed.matches[1::2].tolist() == [2] * 12
    assert len(set(mixed.matches[::2].tolist()) - {2}) == 12


def test_images_without_known_words_are_left_out(dataset):
    images, few = CaptionedImages(dataset, "train"), Vocabulary(words=("<end>", "red", "square", "blue"), tokens="attngan")
    numbered = NumberedCaptions(images.captions, few)
    assert numbered.lengths.tolist() == [len(few.numbered(caption)) for caption in images.captions]
    assert [numbered[i] for i in range(48)] == [few.numbered(caption) for caption in images.captions]
    made = ImageBatches(images, few, (1, 4), side=8, colours=3, batch_size=3)
    for step in range(made.steps_per_epoch):
        assert made.at(step).mask.any(dim=1).all(), "no caption is empty"
    colours = Vocabulary(words=("<end>", "red"), tokens="attngan")
    assert ImageBatches(images, colours, (1, 4), side=8, colours=3, batch_size=3).steps_per_epoch == 2
    with pytest.raises(ValueError, match=r"prepared, train: the vocabulary of 2 words has none of its captions' words$"):
        ImageBatches(images, Vocabulary(words=("<end>", "zebra"), tokens="attngan"), (1, 4), side=8, colours=3, batch_size=3)
    with pytest.raises(
        ValueError, match=r"prepared, train: 6 images do not fill a batch of 7; a smaller batch may: --set train\.batch_size=16$"
    ):
        ImageBatches(images, colours, (1, 4), side=8, colours=3, batch_size=7)


def test_a_pyramid_keeps_means_and_even_colours():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    small, middle, large = pyramid(images, (8, 16, 32))
    assert (small.shape, middle.shape) == ((2, 3, 8, 8), (2, 3, 16, 16))
    assert torch.equal(large, images)
    for reduced in (small, middle):
        assert reduced.mean(dim=(2, 3)) == pytest.approx(images.mean(dim=(2, 3)).numpy(), abs=0.02)
        assert reduced.std() < 0.5 * images.std(), "antialiased: noise is averaged, not picked"
    assert pyramid(torch.full((1, 1, 30, 30), 0.25), (7,))[0] == pytest.approx(0.25)


def test_equal_scenes_match_under_any_caption():
    """3 left of 1 and 1 right of 3 are one canvas; 1 left of 3 is another."""
    every = [(layout, *digits) for layout, kind in enumerate(LAYOUTS) for digits in np.ndindex(*(10,) * len(kind.places))]
    rows = torch.tensor([[*row, -1][:3] for row in every])
    made = CaptionedCanvases(torch.zeros(len(rows), 1, 60, 60), rows[:, 0], rows[:, 1:])
    shown = [tuple(sorted(zip(LAYOUTS[layout].places, digits, strict=True))) for layout, *digits in every]
    assert len(shown) == 440
    scenes = made.scenes().tolist()
    assert len(set(shown)) == len(set(scenes)) == 240
    assert len(set(zip(shown, scenes, strict=True))) == 240
