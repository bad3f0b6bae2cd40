"""Training the digit reader: golden losses, exact resume, a folder that loads, and what its canvases show."""

from __future__ import annotations

import re

import pytest
import torch

from cap2im.checkpoint import checkpoints, load_checkpoint
from cap2im.config import DigitReaderRecipe, parse_recipe
from cap2im.data.mnist import Digits, scikit_learn_digits
from cap2im.data.mnist_captions import PLACES
from cap2im.loading import load_model
from cap2im.models.digit_reader import NO_DIGIT, DigitReader
from cap2im.training import digit_reader
from cap2im.training.digit_canvases import FAR, NEAR, UNLABELLED, CanvasMix, _breadth, erase, scribbles
from cap2im.training.digit_reader import DigitReaderTrainer
from cap2im.training.dispatch import train
from tests.training.golden import golden_losses, logged_losses
from tests.training.stopping import stop_at
from tests.training.test_variational import stats


def recipe(channels: int = 4, **train: float) -> DigitReaderRecipe:
    settings = {"updates": 10, "batch_size": 8, "validation_samples": 1, "seed": 3, "log_every": 1, "checkpoint_every": 4, **train}
    made = parse_recipe({"kind": "reader", "description": "A test", "model": {"channels": channels}, "train": settings}, "test")
    assert isinstance(made, DigitReaderRecipe)
    return made


@pytest.fixture(scope="module")
def digits() -> Digits:
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits of this test")
    return scikit_learn_digits("train")


@pytest.fixture
def small_mnist(digits, monkeypatch):
    """scikit-learn's digits in place of MNIST."""
    monkeypatch.setattr(digit_reader, "load_mnist", lambda split, path: digits)


@pytest.mark.usefixtures("small_mnist")
def test_losses_are_golden_and_resume_is_bit_exact(tmp_path, monkeypatch):
    train(recipe(), tmp_path / "whole", device="cpu")
    assert logged_losses("reader", tmp_path / "whole") == golden_losses("reader")
    with monkeypatch.context() as patch:
        stop_at(patch, DigitReaderTrainer, 5)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), tmp_path / "broken", device="cpu")
    assert load_checkpoint(checkpoints(tmp_path / "broken")[-1]).step == 6
    torch.manual_seed(99)
    train(recipe(), tmp_path / "broken", device="cpu", resume=True)
    whole, broken = (load_checkpoint(checkpoints(tmp_path / name)[-1]).tensors for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
    assert (
        load_model(tmp_path / "whole" / "model", DigitReader).network.digest()
        == load_model(tmp_path / "broken" / "model", DigitReader).network.digest()
    )


@pytest.mark.usefixtures("small_mnist")
def test_training_learns_and_writes_a_card(tmp_path):
    folder = train(
        recipe(8, updates=150, batch_size=40, validate_every=75, seed=0), tmp_path / "run", device="cpu", command="cap2im train it"
    )
    assert stats(tmp_path / "run", "train/loss")[-1]["train/loss"] < 1.5  # 2.4 at the start
    assert stats(tmp_path / "run", "validation/digits")[-1]["validation/digits"] > 0.5  # 0.02 by chance
    card = (folder / "README.md").read_text()
    assert f"| digest | `{load_model(folder, DigitReader).network.digest()}` |" in card
    assert "| command | `cap2im train it` |" in card
    assert re.search(r"read exactly \| [0-9.]+% \(95 % interval", card)


def test_labels_follow_the_distance_from_the_place(digits):
    mix = CanvasMix(digits)
    top_left, low, high = list(PLACES).index("top left"), PLACES["top left"].columns[0], PLACES["top left"].columns[1]
    present = torch.tensor([[True, False, False]])

    def label(column: int, thing: int = 7) -> int:
        offsets = torch.tensor([[[1, column], [0, 0], [0, 0]]])
        return int(mix.place_labels(torch.tensor([[thing, 0, 0]]), offsets, present)[0][0, top_left])

    assert [label(c) for c in range(low, high + NEAR + 1)] == [7] * (high - low + NEAR + 1)
    assert {label(c) for c in range(high + NEAR + 1, high + FAR)} == {UNLABELLED}
    assert {label(c) for c in range(high + FAR, 33)} == {NO_DIGIT}
    assert {label(c, NO_DIGIT) for c in range(33)} == {NO_DIGIT}  # what is no digit is none wherever it is


def test_digits_that_run_into_each_other_have_no_label(digits):
    mix = CanvasMix(digits)
    names = list(PLACES)
    offsets = torch.tensor([[[1, 2], [6, 8], [31, 30]]])
    labels, shown = mix.place_labels(torch.tensor([[7, 8, 9]]), offsets, torch.ones(1, 3, dtype=torch.bool))
    assert labels[0, names.index("top left")] == UNLABELLED
    assert labels[0, names.index("bottom right")] == 9
    assert labels[0, names.index("bottom left")] == NO_DIGIT
    assert shown[0].nonzero().flatten().tolist() == [names.index("top left"), names.index("bottom right")]


def test_canvases_of_the_mix(digits):
    generator = torch.Generator().manual_seed(0)
    mix = CanvasMix(digits)
    for count in [1] * 20:  # few enough to have none of some kind
        assert mix.make(count, generator)[0].shape == (count, 1, 60, 60)
    images, labels, shown = mix.make(400, generator)
    assert images.shape == (400, 1, 60, 60)
    assert images.min() >= 0
    assert images.max() <= 1
    values = set(labels.unique().tolist())
    assert values == {UNLABELLED, NO_DIGIT, *range(10)}
    assert (shown | (labels == NO_DIGIT) | (labels == UNLABELLED)).all()  # a digit only where a thing is
    assert 0.6 < ((labels >= 0) & (labels < NO_DIGIT)).sum() / len(images) < 1.4  # digits of a canvas


def test_other_values_are_not_digits():
    generator = torch.Generator().manual_seed(0)
    whole = torch.rand(50, 28, 28, generator=generator)
    kept = erase(whole, generator).sum(dim=(1, 2)) / whole.sum(dim=(1, 2))
    assert kept.min() > 0.24
    assert kept.max() < 0.46
    stick, square = torch.zeros(2, 1, 28, 28)
    stick[0, 4:24, 13:15] = 1
    square[0, 4:24, 4:24] = 1
    assert _breadth(torch.stack([stick[0], stick[0].T, square[0]])).tolist() == pytest.approx([0.5, 0.5, (399 / 12) ** 0.5])
    drawn = scribbles(50, generator)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert (drawn.sum(dim=(1, 2)) > 5).float().mean() > 0.9
