"""Retrieval: a model that remembers every image ranks it first, constant scores have chance, and ties gain nothing."""

from __future__ import annotations

import pickle

import pytest
import torch

from cap2im.evaluation.retrieval import read_shortlists
from cap2im.metrics.measurement import ItemValues, Measurement
from cap2im.metrics.retrieval import likelihood_ratios, mean_sentence, places, retrieval
from cap2im.metrics.shortlists import nearest_shortlists
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.interface import Bound, LikelihoodModel
from cap2im.models.text import sentences_as_text

IMAGES, SIZE = 60, 20


class Scores(LikelihoodModel):
    """A model whose captions are numbers of images, and whose bound is a function of images, numbers and noise."""

    noise_shape = (1, 3)
    observation = "bernoulli"

    def __init__(self, value) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.value = value

    def encode(self, tokens, mask, vectors=None, *, independent=False):
        return sentences_as_text(tokens[:, :1].float())

    def sample(self, text, noise):
        raise AssertionError("only the bound is used")

    def bound(self, images, text, noise):
        value = self.value(images, text.sentence[:, 0], noise)
        zeros = torch.zeros(len(images))
        return Bound(-value, zeros[:, None], zeros, images)


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    return torch.randint(256, (IMAGES, 3, 4, 4), dtype=torch.uint8)


def ratios(model, images, **how):
    torch.manual_seed(1)
    shortlists = torch.stack([torch.cat([torch.tensor([i]), torch.randperm(IMAGES)[: SIZE - 1]]) for i in range(IMAGES)])
    shortlists = torch.stack(
        [torch.cat([row[:1], row[1:][row[1:] != row[0]], torch.tensor([(row[0] + 1) % IMAGES])])[:SIZE] for row in shortlists]
    )
    tokens = torch.arange(IMAGES)[:, None]
    how = {"samples": 1, "seed": 0, **how}
    return likelihood_ratios(model, images, tokens, tokens >= 0, None, torch.tensor([-1.0]), shortlists, **how)


def measure(scores: torch.Tensor, own: torch.Tensor) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in retrieval(scores, own, seed=0)}


OWN = torch.zeros(IMAGES, dtype=torch.long)


def memory(images):
    known = images.float() / 255

    def value(shown, numbers, _):
        remembered = known[numbers.long().clamp(min=0)]
        return torch.where(numbers < 0, 0.0, -(shown - remembered).square().sum((1, 2, 3)))

    return Scores(value)


def test_a_model_that_remembers_its_images_finds_them(images):
    measured = measure(ratios(memory(images), images), OWN)
    assert measured["R@1"].value == 1.0
    rank = measured["median rank"]
    assert (rank.value, rank.interval, rank.chance, rank.higher_is_better) == (1.0, (1.0, 1.0), (SIZE + 1) / 2, False)
    assert (rank.n, rank.protocol["candidates"]) == (IMAGES, SIZE)
    assert "R@50" not in measured, "a shortlist of 20 has no first 50"


def test_a_constant_has_exactly_chance(images):
    measured = measure(ratios(Scores(lambda shown, *_: torch.ones(len(shown))), images), OWN)
    for k in (1, 5, 10):
        assert measured[f"R@{k}"].value == pytest.approx(k / SIZE) == measured[f"R@{k}"].chance
    assert measured["median rank"].value == (SIZE + 1) / 2


def test_values_of_single_captions_are_kept():
    """Three captions whose images are first, second with one tie, and last of 12."""
    scores = torch.arange(12.0, 0, -1).repeat(3, 1)
    scores[1, 2] = scores[1, 1]
    measured = measure(scores, torch.tensor([0, 1, 11]))
    assert measured["median rank"].per_item == ItemValues(values=(1.0, 2.5, 12.0), statistic="median")
    assert measured["R@10"].per_item == ItemValues(values=(1.0, 1.0, 0.0))
    scores[1, :11] = 2.0  # tied with ten others, so among the first ten in ten of eleven orders
    assert measure(scores, torch.tensor([0, 1, 11]))["R@10"].per_item.values[1] == pytest.approx(10 / 11)


def test_images_likely_under_any_caption_win_nothing(images):
    """The ratio removes the likelihood under the mean caption; the noise of both is the same."""
    bright = Scores(lambda shown, _, noise: 1000 * shown.mean((1, 2, 3)) + 50 * noise.sum((1, 2)))
    assert (ratios(bright, images) == 0).all()
    measured = measure(ratios(bright, images), OWN)
    assert measured["R@1"].value == pytest.approx(1 / SIZE)


def test_random_scores_have_chance_within_the_interval(images):
    random = torch.Generator().manual_seed(0)
    scores = torch.rand(4000, SIZE, generator=random)
    measured = measure(scores, torch.zeros(4000, dtype=torch.long))
    for k in (1, 5, 10):
        low, high = measured[f"R@{k}"].interval
        assert low < k / SIZE < high
    low, high = measured["median rank"].interval
    assert low <= (SIZE + 1) / 2 <= high


def test_wrong_captions_find_no_more_than_chance(images):
    model = memory(images)
    model.encode = lambda tokens, mask, vectors=None, *, independent=False: sentences_as_text(((tokens[:, :1] + 29) % IMAGES).float())
    assert measure(ratios(model, images), OWN)["R@1"].value < 0.15


def test_batches_do_not_change_the_ratios(images, monkeypatch):
    noisy = Scores(lambda shown, numbers, noise: numbers * shown[:, 0, 0, 0] + (noise[:, 0, 0] * numbers).sin())
    whole = ratios(noisy, images, samples=2)
    monkeypatch.setattr("cap2im.metrics.retrieval.PAIRS_AT_ONCE", 45)
    torch.testing.assert_close(ratios(noisy, images, samples=2), whole)
    assert not torch.equal(ratios(noisy, images, samples=2, seed=1), whole)


def test_a_bound_that_is_not_finite_is_an_error(images):
    with pytest.raises(ValueError, match="its bound is not finite"):
        ratios(Scores(lambda shown, numbers, _: torch.where(numbers == 7, torch.nan, 0.0)), images)


def test_places_with_ties():
    scores = torch.tensor([[3.0, 5.0, 3.0, 1.0, 3.0]])
    assert [int(part) for part in places(scores, torch.tensor([0]))] == [1, 2]
    measured = measure(scores.expand(9, -1), torch.zeros(9, dtype=torch.long))
    assert measured["R@1"].value == 0.0, "one is better"
    assert measured["median rank"].value == 3.0  # among places 2, 3, 4


def test_shortlists_are_the_nearest_of_all():
    torch.manual_seed(3)
    features = torch.randn(50, 6)
    features[7] = features[3]  # a copy
    rows = torch.tensor([3, 7, 20, 3])
    measured = nearest_shortlists(features, rows, 10)
    distances = torch.cdist(features[rows].double(), features.double())
    distances[torch.arange(4), rows] = -1
    assert torch.equal(measured, distances.argsort(dim=1, stable=True)[:, :10])
    assert measured[0, :2].tolist() == [3, 7]
    assert measured[1, :2].tolist() == [7, 3]
    with pytest.raises(ValueError, match="shortlists of 51 images out of 50"):
        nearest_shortlists(features, rows, 51)


def test_released_shortlists(tmp_path):
    path = tmp_path / "test-nns.pkl"
    captions, image_of = torch.tensor([0, 3]), torch.tensor([0, 1])  # of 4 images with 2 captions each

    def read(table):
        path.write_bytes(pickle.dumps(table, protocol=2))
        return read_shortlists(path, captions, image_of, images=4, all_captions=8).tolist()

    assert read([[0, 2], [3, 1], [2, 1], [3, 0]]) == [[0, 2], [3, 1]]  # for each image
    assert read([[i // 2, 3 - i // 2] for i in range(8)]) == [[0, 3], [1, 2]]  # for each caption
    assert read([[1, 2], [3, 2], [0, 1], [1, 0]]) == [[0, 1, 2], [1, 3, 2]]  # neighbours alone
    for table, problem in (
        ([[0, 2], [3, 1, 2], [2, 1], [3, 0]], "all of one length"),
        ([[0, 2], [3, 1], [2, 1], [3, 4]], "image numbers from 0 to 4; expected 0 to 3"),
        ([[0, 2], [3, 1]], "2 lists; expected one for each of 4 images or 8 captions"),
        ([[0, 2], [3, 2], [2, 1], [3, 0]], "the list of caption 3 lacks its own image"),
        ([[0, 0], [1, 2], [2, 1], [3, 0]], "the list of caption 0 names an image twice"),
        ([[0.5, 2.0]] * 4, "expected whole numbers"),
        ({"a": 1}, "not a list of lists"),
    ):
        with pytest.raises(ValueError, match=problem) as error:
            read(table)
        assert "\n" not in str(error.value)


def test_mean_sentence_is_that_of_all_captions():
    torch.manual_seed(0)
    sizes = {"side": 8, "glimpses": 1, "inference_units": 4, "generative_units": 4, "latent": 2, "language_units": 3, "align_features": 4}
    model = DRAW(DRAWConfig(**sizes, read_patch=2, write_patch=2, initialisation="scaled")).eval()
    one, two = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6, 7]])
    measured = mean_sentence(model, [(one, one > 0), (two, two > 0)])
    each = [model.encode(t[None], t[None] > 0).sentence[0] for t in (*one, *two)]
    torch.testing.assert_close(measured, torch.stack(each).double().mean(dim=0))
