"""The reader: what it answers, what its training shows it, and that training learns and repeats itself."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from pydantic import ValidationError

from cap2im.config import DigitReaderRecipe, parse_recipe
from cap2im.data.mnist import Digits, scikit_learn_digits
from cap2im.data.mnist_captions import LAYOUTS, PLACES, HeldOut
from cap2im.loading import load_model
from cap2im.metrics.caption_accuracy import place_windows, read_canvases, real_canvases, score
from cap2im.models.digit_reader import CLASSES, NO_DIGIT, DigitReader, DigitReaderConfig
from cap2im.training import digit_reader as training
from cap2im.training.card import reader_card
from cap2im.training.digit_reader import FAR, NEAR, UNLABELLED, CanvasMix, _breadth, erase, save_reader, scribbles, train_reader


def recipe(channels: int = 4, **train: float) -> DigitReaderRecipe:
    settings = {"steps": 3, "canvases": 8, "validation_samples": 1, **train}
    made = parse_recipe({"kind": "reader", "description": "A test", "model": {"channels": channels}, "train": settings}, "test")
    assert isinstance(made, DigitReaderRecipe)
    return made


@pytest.fixture(scope="module")
def digits() -> Digits:
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits of this test")
    return scikit_learn_digits("train")


def test_sizes():
    reader = DigitReader(DigitReaderConfig()).eval()
    assert reader(torch.rand(5, 1, 32, 32)).shape == (5, CLASSES)
    assert sum(p.numel() for p in reader.parameters()) < 100_000
    assert DigitReader(DigitReaderConfig(window=40, channels=4)).eval()(torch.rand(2, 1, 40, 40)).shape == (2, CLASSES)


@pytest.mark.parametrize("wrong", [{"window": 30}, {"window": 16}, {"channels": 0}, {"layers": 3}])
def test_config_refuses(wrong):
    with pytest.raises(ValidationError):
        DigitReaderConfig(**wrong)


def test_digest_names_the_weights():
    torch.manual_seed(0)
    first, second = DigitReader(DigitReaderConfig(channels=4)), DigitReader(DigitReaderConfig(channels=4))
    assert first.digest() != second.digest()
    second.load_state_dict(first.state_dict())
    assert first.digest() == second.digest()
    with torch.no_grad():
        second.classify.bias[3] += 1e-6
    assert first.digest() != second.digest()


def test_training_repeats_itself_and_leaves_the_global_generator_alone(digits):
    before = torch.get_rng_state()
    losses: list[float] = []
    first = train_reader(recipe(seed=3), digits, digits, progress=lambda step, total, loss: losses.append(loss))
    again = train_reader(recipe(seed=3), digits, digits)
    other = train_reader(recipe(seed=4), digits, digits)
    assert torch.equal(before, torch.get_rng_state())
    assert first.reader.digest() == again.reader.digest() != other.reader.digest()
    assert first.loss == again.loss == pytest.approx(sum(losses) / len(losses))
    assert len(losses) == 3
    assert not first.reader.training
    assert first.validation == again.validation
    assert first.validation["all"]["n"] == 440


def test_training_learns(digits):
    trained = train_reader(recipe(8, steps=150, canvases=40), digits, scikit_learn_digits("test"))
    assert trained.loss < 1.3  # 2.4 at the start
    assert trained.validation["all"]["digits"]["rate"] > 0.5  # 0.02 by chance


def test_training_stops_at_a_loss_that_is_no_number(digits):
    with pytest.raises(ValueError, match=r"the loss of step \d+ is nan"):
        train_reader(recipe(steps=50, learning_rate=1e30), digits, digits)


def test_a_run_writes_a_folder_that_loads(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(training, "mnist", lambda split, path: digits)
    card = partial(reader_card, "reader-digits", recipe())
    folder = training.train(recipe(), tmp_path / "run", command="cap2im train it", card=card)
    told = (folder / "README.md").read_text()
    assert f"| digest | `{load_model(folder, DigitReader).network.digest()}` |" in told
    assert "| command | `cap2im train it` |" in told
    assert re.search(r"exactly as asked \| [0-9.]+% \(95 % interval", told)
    with pytest.raises(ValueError, match="not empty"):
        training.train(recipe(), folder)


def test_save_and_load(tmp_path):
    torch.manual_seed(0)
    reader = DigitReader(DigitReaderConfig(channels=4)).eval()
    save_reader(reader, tmp_path / "reader")
    loaded = load_model(tmp_path / "reader", DigitReader).network
    assert loaded.digest() == reader.digest()
    images = torch.rand(3, 1, 60, 60)
    assert torch.equal(read_canvases(loaded, images), read_canvases(reader, images))


# What training shows


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


def test_what_is_no_digit():
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


def test_places_are_in_the_middle_of_their_windows(digits):
    """All layouts of real canvases lie within the windows of their places, on average in the middle."""
    held_out = HeldOut.from_seed(0)
    configurations = [c for c in held_out.configurations() if len(c.places) == 1 for _ in range(20)]
    windows = place_windows(real_canvases(digits, configurations, seed=0), 32)
    assert windows.shape == (len(configurations), 8, 1, 32, 32)
    for layout in LAYOUTS[4:]:
        place = layout.places[0]
        chosen = windows[[i for i, c in enumerate(configurations) if c.places == (place,)], list(PLACES).index(place), 0]
        ink = chosen.mean(0)
        axis = torch.arange(32.0) + 0.5
        assert (ink.sum(1) @ axis / ink.sum()).item() == pytest.approx(16, abs=0.7)
        assert (ink.sum(0) @ axis / ink.sum()).item() == pytest.approx(16, abs=0.7)


def test_an_untrained_reader_scores_about_nothing(digits):
    torch.manual_seed(0)
    configurations = list(HeldOut.from_seed(0).configurations())
    images = real_canvases(digits, configurations, seed=0)
    assert score(read_canvases(DigitReader(DigitReaderConfig()).eval(), images), images, configurations).joint.float().mean() < 0.02
