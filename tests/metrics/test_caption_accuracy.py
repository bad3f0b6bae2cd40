"""Caption accuracy: each score reacts to its own kind of error, on canvases of known content."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import Tensor

from cap2im.checkpoint import write_model
from cap2im.data.mnist import Digits, load_mnist, scikit_learn_digits
from cap2im.data.mnist_captions import PLACES, Configuration, HeldOut
from cap2im.loading import BUNDLED, load_model
from cap2im.metrics.caption_accuracy import (
    FIELDS,
    READER,
    STRAY_PIXELS,
    Scores,
    caption_accuracy,
    place_windows,
    read_canvases,
    real_canvases,
    score,
    stray_pixels,
)
from cap2im.metrics.measurement import Measurement
from cap2im.models.digit_reader import NO_DIGIT, DigitReader, DigitReaderConfig
from tests.real_data import data_folder, find_data_folder

HELD_OUT = HeldOut.from_seed(0)
EIGHT = {
    layout: Configuration(layout, digits, "train") for layout, digits in enumerate([(3, 7), (4, 0), (2, 5), (6, 8), (9,), (1,), (5,), (7,)])
}


@pytest.fixture(scope="module")
def reader() -> DigitReader:
    return load_model(READER, DigitReader).network


@pytest.fixture(scope="module")
def is_mnist() -> bool:
    folder = find_data_folder()
    return folder is not None and (folder / "mnist").is_dir()


@pytest.fixture(scope="module")
def digits(is_mnist) -> Digits:
    """Test digits of MNIST; where there are none, those of scikit-learn, which test the mechanics less strictly."""
    if is_mnist:
        return load_mnist("test", find_data_folder() / "mnist")
    pytest.importorskip("sklearn", reason="neither MNIST nor scikit-learn's digits")
    return scikit_learn_digits("test")


def scored(reader: DigitReader, images: Tensor, configurations: list[Configuration]) -> Scores:
    return score(read_canvases(reader, images), images, configurations)


def rates(reader: DigitReader, images: Tensor, configurations: list[Configuration]) -> dict[str, float]:
    scores = scored(reader, images, configurations)
    return {name: getattr(scores, name).float().mean().item() for name in FIELDS}


def readings_of(configuration: Configuration, **changes: int) -> Tensor:
    """Return the probabilities [1, 8, 11] of a reader that reads the configuration, except for the named places."""
    digits_at = dict(zip(configuration.places, configuration.digits, strict=True)) | {k.replace("_", " "): v for k, v in changes.items()}
    classes = torch.tensor([digits_at.get(place, NO_DIGIT) for place in PLACES])
    return torch.nn.functional.one_hot(classes, 11).float()[None] * 0.9 + 0.01


BLANK = torch.zeros(1, 1, 60, 60)


# The definition, with made-up readings


@pytest.mark.parametrize("configuration", EIGHT.values(), ids=lambda c: c.caption)
def test_all_right(configuration):
    assert all(getattr(score(readings_of(configuration), BLANK, [configuration]), name).item() for name in FIELDS)


@pytest.mark.parametrize(
    ("changes", "digits", "places", "clean"),
    [
        ({"left": 4}, False, True, True),  # wrong digit
        ({"left": 7, "right": 3}, False, True, True),  # the two are swapped
        ({"top_left": 4}, True, True, False),  # one more
        ({"left": NO_DIGIT}, False, False, True),  # one missing; what is most probable of the rest is 0 here
        ({"left": NO_DIGIT, "top": 3}, False, False, False),  # moved
    ],
)
def test_failures_are_reported(changes, digits, places, clean):
    result = score(readings_of(EIGHT[0], **changes), BLANK, [EIGHT[0]])
    assert [getattr(result, name).item() for name in FIELDS] == [digits, places, clean, False]


def test_digits_are_a_forced_choice():
    """A digit that is less probable than nothing counts for `digits`, not for `places`."""
    readings = readings_of(EIGHT[4])
    readings[0, list(PLACES).index("top left")] = torch.tensor([0.0] * 9 + [0.4, 0.6])
    result = score(readings, BLANK, [EIGHT[4]])
    assert [getattr(result, name).item() for name in FIELDS] == [True, False, True, False]


def test_stray_ink():
    """Bright pixels outside of the captioned windows count; those inside and haze do not."""
    left_right, top_left = EIGHT[0], EIGHT[4]
    images = torch.zeros(1, 1, 60, 60)
    images[..., 16:44, 0:28] = 1
    assert stray_pixels(images, [left_right]).item() == 0
    assert stray_pixels(images, [top_left]).item() == 28 * 28 - 15 * 28  # its window ends at row 30
    images = torch.zeros(1, 1, 60, 60)
    images.view(-1)[: STRAY_PIXELS - 1] = 1
    assert score(readings_of(left_right), images, [left_right]).clean.item()
    images.view(-1)[:STRAY_PIXELS] = 1
    assert not score(readings_of(left_right), images, [left_right]).joint.item()
    assert stray_pixels(torch.full((1, 1, 60, 60), 0.3), [left_right]).item() == 0


def groups_of(scores: Scores, configurations: list[Configuration]) -> dict[tuple[str, str], Measurement]:
    return {(measurement.group, measurement.name): measurement for measurement in caption_accuracy(scores, configurations)}


def test_groups():
    configurations = list(HELD_OUT.configurations())
    right = torch.tensor([c.seen for c in configurations])
    groups = groups_of(Scores(right, right, right, right), configurations)
    assert [groups[name, "joint"].n for name in ("all", "seen", "held out")] == [440, 360, 80]
    assert [groups[name, "joint"].value for name in ("all", "seen", "held out")] == [360 / 440, 1, 0]
    assert [key for key, each in groups.items() if not each.detail] == [("seen", "joint"), ("held out", "joint")]
    layouts = ("on the left of", "at the bottom of", "at the top left", "at the bottom left")
    assert [groups[name, "digits"].n for name in layouts] == [100, 100, 10, 10]
    assert ("at the top left", "joint") not in groups_of(Scores(*[right[:1]] * 4), configurations[:1]), "of no picture"


def test_a_held_out_picture_is_seen_in_no_words():
    hidden = HeldOut(((3, 7), (7, 4), *HELD_OUT.digits[2:]))
    configurations = [c for c in hidden.configurations() if c.layout < 2]
    # The first sentence hides 3 at the left and 7 at the right, the second 7 at the right and 4 at the left: both hide 7 at the right.
    groups = groups_of(Scores(*[torch.ones(200, dtype=torch.bool)] * 4), configurations)
    assert groups["held-out pictures", "joint"].n == 2 * 10
    assert groups["held out", "joint"].n == 2 * 19


# The bundled reader


def test_real_canvases_of_test_digits(reader):
    configurations = [c for c in HELD_OUT.configurations() for _ in range(2)]
    measured = rates(reader, real_canvases(load_mnist("test", data_folder() / "mnist"), configurations, seed=1), configurations)
    assert measured["joint"] >= 0.98, measured
    assert min(measured.values()) == measured["joint"]
    assert measured["clean"] >= 0.995


def test_real_canvases_of_other_digits(reader):
    """Those of scikit-learn are 8 x 8 pixels, enlarged and blurred, unlike the reader's training data."""
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits of this test")
    configurations = list(HELD_OUT.configurations())
    measured = rates(reader, real_canvases(scikit_learn_digits("test"), configurations, seed=1), configurations)
    assert measured["joint"] >= 0.6, measured


def test_probabilities(reader, digits):
    configurations = list(EIGHT.values())
    images = real_canvases(digits, configurations, seed=0)
    together = read_canvases(reader, images)
    assert together.shape == (8, 8, 11)
    assert torch.allclose(together.sum(2), torch.ones(8, 8))
    alone = torch.cat([read_canvases(reader, image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(together, read_canvases(reader, images, batch=3), atol=1e-6)


def test_a_wrong_digit(reader, digits, is_mnist):
    captioned = list(HELD_OUT.configurations())
    drawn = [Configuration(c.layout, ((c.digits[0] + 1 + i % 9) % 10, *c.digits[1:]), c.split) for i, c in enumerate(captioned)]
    measured = rates(reader, real_canvases(digits, drawn, seed=2), captioned)
    assert measured["digits"] < 0.03
    assert measured["joint"] < 0.02
    assert measured["places"] > (0.95 if is_mnist else 0.8)
    assert measured["clean"] > 0.95


@pytest.mark.parametrize(("captioned", "drawn"), [(a, d) for a in range(4, 8) for d in range(4, 8) if a != d])
def test_a_moved_digit(reader, digits, captioned, drawn):
    configurations = [Configuration(captioned, (digit,), "train") for digit in range(10) for _ in range(5)]
    moved = [Configuration(drawn, c.digits, "train") for c in configurations]
    measured = rates(reader, real_canvases(digits, moved, seed=3), configurations)
    assert measured["places"] < 0.05
    assert measured["clean"] == 0
    assert measured["joint"] == 0


def test_a_digit_between_the_places(reader, digits):
    """In the middle of the canvas, 14 pixels from every place: no window has a digit, but stray pixels do."""
    configurations = [c for c in HELD_OUT.configurations() if len(c.places) == 1 for _ in range(5)]
    images = torch.zeros(len(configurations), 1, 60, 60)
    chosen = torch.randint(len(digits), (len(images),), generator=torch.Generator().manual_seed(0))
    images[..., 16:44, 16:44] = digits.images[chosen, None].float() / 255
    readings = read_canvases(reader, images)
    assert (readings.argmax(2) == NO_DIGIT).float().mean() > 0.97
    measured = score(readings, images, configurations)
    assert measured.clean.float().mean() < 0.2
    added = torch.maximum(images, real_canvases(digits, configurations, seed=4))
    assert scored(reader, added, configurations).joint.float().mean() < 0.1


def test_one_digit_more(reader, digits):
    """The four corners of a canvas hold a digit where the caption asks for one."""
    configurations = [c for c in HELD_OUT.configurations() if len(c.places) == 1 for _ in range(5)]
    other = [Configuration(4 + (c.layout - 4 + 1 + i % 3) % 4, c.digits, "train") for i, c in enumerate(configurations)]
    images = torch.maximum(real_canvases(digits, configurations, seed=5), real_canvases(digits, other, seed=6))
    measured = rates(reader, images, configurations)
    assert measured["clean"] < 0.02
    assert measured["joint"] < 0.02
    assert measured["places"] > 0.9


def test_one_digit_less(reader, digits):
    captioned = [c for c in HELD_OUT.configurations() if len(c.places) == 2]
    images = real_canvases(digits, captioned, seed=7)
    for image, configuration in zip(images, captioned, strict=True):
        rows, columns = PLACES[configuration.places[1]].rows, PLACES[configuration.places[1]].columns
        image[0, rows[0] : rows[1] + 28, columns[0] : columns[1] + 28] = 0
    measured = rates(reader, images, captioned)
    assert measured["places"] < 0.02
    assert measured["clean"] > 0.95
    assert measured["joint"] < 0.02


@pytest.mark.parametrize("level", [0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
def test_plain_grey_is_nothing(reader, level):
    configurations = list(EIGHT.values())
    images = torch.full((8, 1, 60, 60), level)
    assert (read_canvases(reader, images).argmax(2) == NO_DIGIT).all()
    measured = rates(reader, images, configurations)
    assert measured["places"] == measured["joint"] == 0


def test_haze_hides_no_digits_and_ghosts_are_no_digits(reader, digits, is_mnist):
    configurations = list(HELD_OUT.configurations())
    images = real_canvases(digits, configurations, seed=8)
    assert rates(reader, 0.15 + 0.85 * images, configurations)["joint"] > (0.95 if is_mnist else 0.6)
    assert rates(reader, 0.12 * images, configurations)["places"] < 0.05


def test_the_mean_digit_and_half_digits_are_no_digits(reader, digits):
    """A model that hedges, or stops half-way, must not be paid for it."""
    configurations = [c for c in HELD_OUT.configurations() if len(c.places) == 1 for _ in range(5)]
    images = real_canvases(digits, configurations, seed=9)
    mean = images.clone()
    for layout in range(4, 8):
        rows = torch.tensor([c.layout == layout for c in configurations])
        mean[rows] = images[rows].mean(dim=0, keepdim=True)
    assert rates(reader, mean, configurations)["joint"] == 0
    assert rates(reader, (mean * 2.5).clamp(0, 1), configurations)["joint"] < 0.15
    half = images.clone()
    for image, configuration in zip(half, configurations, strict=True):
        place = PLACES[configuration.places[0]]
        image[0, : place.rows[0] + 15] = 0
    assert rates(reader, half, configurations)["joint"] < 0.3


def test_shuffled_captions_are_right_by_chance(reader, digits):
    configurations = list(HELD_OUT.configurations())
    images = real_canvases(digits, configurations, seed=10)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    assert rates(reader, images[order], configurations)["joint"] < 0.02


def test_invalid_images_are_errors(reader, digits):
    with pytest.raises(ValueError, match=r"from 0\.0 to 255\.0"):
        read_canvases(reader, torch.tensor([0.0, 255.0]).repeat(1800).view(1, 1, 60, 60))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        read_canvases(reader, torch.full((1, 1, 60, 60), torch.nan))
    with pytest.raises(ValueError, match=r"shape \[1, 3, 60, 60\]"):
        read_canvases(reader, torch.zeros(1, 3, 60, 60))
    with pytest.raises(ValueError, match="uint8"):
        read_canvases(reader, torch.zeros(1, 1, 60, 60, dtype=torch.uint8))


def test_loading_refuses_other_folders(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_model(tmp_path, DigitReader)
    shutil.copytree((BUNDLED / READER), tmp_path / "other")
    stored = ((BUNDLED / READER) / "config.json").read_text()
    write_model(tmp_path / "other", load_model(READER, DigitReader).network.state_dict(), {"kind": "draw"})
    with pytest.raises(ValueError, match="kind 'draw'"):
        load_model(tmp_path / "other", DigitReader)
    (tmp_path / "other" / "config.json").write_text(stored)
    weights = bytearray(((BUNDLED / READER) / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "other" / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="truncated or altered"):
        load_model(tmp_path / "other", DigitReader)


def test_the_bundled_folder(reader):
    """Its config names the digest of its weights, and it is small enough to travel with the package."""
    stored = json.loads(((BUNDLED / READER) / "config.json").read_text())
    assert stored["digest"] == reader.digest()
    assert reader.digest() in ((BUNDLED / READER) / "README.md").read_text()
    assert ((BUNDLED / READER) / "model.safetensors").stat().st_size < 400_000
    assert reader.config == DigitReaderConfig()
    assert place_windows(BLANK, reader.config.window).shape == (1, 8, 1, 32, 32)
