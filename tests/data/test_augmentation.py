"""Test random shifts and mirror images of training images."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cap2im.data.augmentation import blur_images, change_images, draw_changes, names_side
from cap2im.data.caption_batches import CaptionBatches
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.randomness import generator
from tests.prepared import prepared_dataset

PIXELS = torch.arange(1, 37, dtype=torch.uint8).view(1, 1, 6, 6).expand(200, -1, -1, -1)


@pytest.mark.parametrize("padding", ["reflect", "constant"])
def test_every_shift_and_mirror_image_comes_and_nothing_else(padding):
    found = change_images(PIXELS, 1, *draw_changes(200, 1, generator("test")), padding)
    padded = F.pad(PIXELS[:1], (1,) * 4, mode=padding)[0, 0]
    views = [padded[y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    views += [view.flip(1) for view in views]
    seen = {next(i for i, view in enumerate(views) if torch.equal(view, image[0])) for image in found}
    assert len(seen) == 18


def test_without_shift_and_mirror_images_are_unchanged():
    corners, mirrored = draw_changes(200, 0, generator("test"))
    assert torch.equal(change_images(PIXELS, 0, corners, mirrored & False), PIXELS)


def test_blur_of_a_point_is_a_gaussian_and_keeps_even_images():
    point = torch.zeros(2, 3, 31, 31)
    point[:, :, 15, 15] = 1
    sharp, blurred = blur_images(point, torch.tensor([0.0, 2.0]))
    assert torch.equal(sharp, point[0])
    for profile in (blurred[0].sum(dim=0), blurred[2].sum(dim=1)):
        assert profile.sum().item() == pytest.approx(1, abs=1e-4)
        assert (profile * (torch.arange(31.0) - 15) ** 2).sum().item() == pytest.approx(4, rel=0.01)  # the variance
    even = torch.full((1, 1, 8, 8), 0.3)
    assert torch.allclose(blur_images(even, torch.tensor([3.0])), even)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("a dog on the Left .", True), ("a leftover pizza", False), ("the right-hand side", True), ("bright lights", False), ("", False)],
)
def test_captions_that_name_a_side_are_found(caption, expected):
    assert names_side(caption) is expected


def test_augmented_batches_depend_only_on_seed_and_step(tmp_path):
    dataset = PreparedDataset.open(prepared_dataset(tmp_path / "data"))

    def made(**how) -> CaptionBatches:
        return CaptionBatches(CaptionedImages(dataset, "train"), dataset.vocabulary, (2, 3), colours=3, batch_size=6, **how)

    plain, changed = made().at(3), made(crop=2, flip=True).at(3)
    assert not torch.equal(changed.images, plain.images)
    assert torch.equal(changed.tokens, plain.tokens)
    assert torch.equal(changed.noise, plain.noise)
    halves = [made(crop=2, flip=True).at(3, slice(process, None, 2)).images for process in range(2)]
    assert torch.equal(torch.stack(halves, dim=1).flatten(0, 1), changed.images)
    assert torch.equal(made(crop=2, flip=True).fixed(4).images, made().fixed(4).images)


def test_images_whose_captions_name_a_side_are_never_mirrored(tmp_path):
    dataset = PreparedDataset.open(prepared_dataset(tmp_path / "data"))
    images = CaptionedImages(dataset, "train")
    images.captions = [f"{caption} on the left" for caption in images.captions]
    how = {"colours": 3, "batch_size": 6}
    plain, flipped = (CaptionBatches(images, dataset.vocabulary, (2, 3), flip=flip, **how) for flip in (False, True))
    for step in range(3):
        assert torch.equal(flipped.at(step).images, plain.at(step).images)
