"""The digit reader: sizes, digest and readings."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from cap2im.checkpoint import write_model
from cap2im.data.mnist import Digits, scikit_learn_digits
from cap2im.data.mnist_captions import LAYOUTS, PLACES, HeldOut
from cap2im.loading import load_model
from cap2im.metrics.caption_accuracy import place_windows, read_canvases, real_canvases, score
from cap2im.models.digit_reader import CLASSES, DigitReader, DigitReaderConfig


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


def test_save_and_load(tmp_path):
    torch.manual_seed(0)
    reader = DigitReader(DigitReaderConfig(channels=4)).eval()
    (tmp_path / "reader").mkdir()
    config = {"kind": "reader", "model": reader.config.model_dump(), "digest": reader.digest()}
    write_model(tmp_path / "reader", reader.state_dict(), config)
    loaded = load_model(tmp_path / "reader", DigitReader).network
    assert loaded.digest() == reader.digest()
    images = torch.rand(3, 1, 60, 60)
    assert torch.equal(read_canvases(loaded, images), read_canvases(reader, images))


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
