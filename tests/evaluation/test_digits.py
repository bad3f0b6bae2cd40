"""All captions of digits are drawn with seeds of their own, and scored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cap2im.data.mnist import Digits, scikit_learn_digits
from cap2im.data.mnist_captions import Configuration, HeldOut
from cap2im.evaluation.digits import canvas_scorer
from cap2im.evaluation.generated import score_drawings
from cap2im.evaluation.settings import Settings
from cap2im.loading import load_model
from cap2im.metrics.caption_accuracy import READER, caption_accuracy, real_canvases
from cap2im.models.digit_reader import DigitReader

HELD_OUT = HeldOut.from_seed(0)


@pytest.fixture(scope="module")
def reader() -> DigitReader:
    return load_model(READER, DigitReader).network


@pytest.fixture(scope="module")
def digits() -> Digits:
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits of this test")
    return scikit_learn_digits("test")


def scored(draw, reader: DigitReader, configurations: list[Configuration], **how):
    return score_drawings(draw, canvas_scorer(reader, configurations), [c.caption for c in configurations], **how)


def joint(scores, configurations: list[Configuration]) -> float:
    measurements = caption_accuracy(scores, configurations)
    return next(each.value for each in measurements if (each.group, each.name) == ("all", "joint"))


def test_a_perfect_model_has_the_rate_of_real_canvases(reader, digits):
    configurations = [c for c in HELD_OUT.configurations() for _ in range(2)]
    by_caption = {c.caption: c for c in configurations}
    requests: list[tuple[str, int]] = []

    def draw(captions: list[str], seeds: list[int]) -> Tensor:
        requests.extend(zip(captions, seeds, strict=True))
        return real_canvases(digits, [by_caption[caption] for caption in captions], seeds[0])

    done: list[int] = []
    scores = scored(draw, reader, configurations, seed=3, advance=done.append)
    assert sum(done) == len({seed for _, seed in requests}) == 880
    assert all(sum(caption == each for each, _ in requests) == 2 for caption in by_caption)
    real = real_canvases(digits, configurations, 3)
    of_real = scored(lambda captions, seeds: real[seeds[0] - 2640 : seeds[-1] - 2639], reader, configurations, seed=3)
    assert joint(scores, configurations) == pytest.approx(joint(of_real, configurations), abs=0.05)


def test_a_constant_model_is_right_for_its_own_caption(reader, digits):
    configurations = list(HELD_OUT.configurations())
    one = real_canvases(digits, [Configuration(0, (3, 7), "train")], seed=0)
    scores = scored(lambda captions, seeds: one.repeat(len(captions), 1, 1, 1), reader, configurations)
    assert joint(scores, configurations) <= 2 / 440, "its caption, and the same picture in other words"


def test_another_number_of_drawings_is_an_error(reader):
    with pytest.raises(ValueError, match="drawing 110 captions returned 1 images"):
        scored(lambda captions, seeds: torch.zeros(1, 1, 60, 60), reader, list(HELD_OUT.configurations()))
    with pytest.raises(ValueError, match="--samples 0: must be at least 1"):
        Settings(samples=0)
