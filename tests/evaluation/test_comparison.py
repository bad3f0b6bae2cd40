"""The table of several models: numbers of different protocols never share a column."""

from __future__ import annotations

import dataclasses
import json
import statistics

import pytest

from cap2im.data.mnist_captions import WORDS
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation import comparison
from cap2im.evaluation.comparison import compare, evaluate_once
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.protocol import in_words
from cap2im.evaluation.settings import Settings
from cap2im.loading import ModelConfig
from cap2im.metrics.measurement import ItemValues, Measurement
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.pipeline import Pipeline
from tests.prepared import prepared_dataset

PROTOCOL = {"split": "test"}


def number(name: str, value: float, half_width: float | None = None, **fields: object) -> Measurement:
    interval = None if half_width is None else (value - half_width, value + half_width)
    return Measurement(**{"name": name, "value": value, "n": 100, "interval": interval, "protocol": PROTOCOL} | fields)


def evaluation(model: str, joint: float = 0.9, bound: float = -100.0, **protocol: object) -> Evaluation:
    rates = [number("joint", joint, 0.01, group=group, unit="proportion", protocol={"seed": 0}) for group in ("seen", "held out")]
    described = {"split": "test", "samples": 16} | protocol
    nats = number("bound", bound, 1.96 * 1.5, group=described["split"], unit="nats", deviation=1.5, protocol=described)
    parameters = Measurement(name="parameters", value=1000, n=1, digits=0, higher_is_better=None)
    return Evaluation(model, "0" * 64, {}, (*rates, nats, parameters))


def test_numbers_of_one_protocol_share_a_column():
    table = compare([evaluation("a", bound=-90.0), evaluation("b")])
    assert [column.title for column in table.columns] == ["joint, seen, %", "joint, held out, %", "bound, test, nats", "parameters"]
    bound = table.columns[2]
    assert {model: cell.value for model, cell in bound.cells.items()} == {"a": -90.0, "b": -100.0}
    assert bound.best == {"a"}
    assert "| a | 90.0 (89.0-91.0) | 90.0 (89.0-91.0) | **-90.00 ± 1.50** | 1,000 |" in table.markdown()


@pytest.mark.parametrize("changed", [{"samples": 1}, {"seed": 7}, {"observation": "gaussian, deviation 0.1"}])
def test_numbers_of_different_protocols_refuse_to_share_a_column(changed):
    table = compare([evaluation("a"), evaluation("b", **changed)])
    bounds = [column for column in table.columns if column.name == "bound, test, nats"]
    assert [(column.title, set(column.cells), column.best) for column in bounds] == [
        ("bound, test, nats [a]", {"a"}, frozenset()),
        ("bound, test, nats [b]", {"b"}, frozenset()),
    ]
    text = table.markdown()
    assert text.count("nats [a]") == text.count("nats [b]") == 2  # in the head, and with its protocol
    assert str(next(iter(changed.values()))) in text


def test_splits_may_have_different_columns():
    other = evaluation("b", split="validation")
    assert [column.title for column in compare([evaluation("a"), other]).columns][2:4] == ["bound, test, nats", "bound, validation, nats"]


def test_quantities_have_their_directions():
    """The paper's table 1: more recall and similarity is better, a smaller rank is."""

    def table_1(model: str, recall: float, rank: float, ssim: float) -> Evaluation:
        similarity = {"digits": 3, "deviation": 0.1}
        numbers = (
            number("R@1", recall, 0.01, unit="proportion"),
            number("median rank", rank, 5, digits=1, higher_is_better=False),
            number("SSIM", ssim, **similarity),
            number("SSIM", ssim, group="sharpened", **similarity),
        )
        return Evaluation(model, "", {}, numbers)

    table = compare([table_1("align", 0.03, 31, 0.156), table_1("vae", 0.01, 48, 0.164)])
    best = {column.title: column.best for column in table.columns}
    assert best["R@1, %"] == best["median rank"] == {"align"}
    assert best["SSIM"] == best["SSIM, sharpened"] == {"vae"}
    assert "0.164 ± 0.100" in table.markdown()


@pytest.mark.parametrize(
    ("bounds", "best"),
    [
        ((-100.0, -102.0), set()),  # the standard error is 1.5: neither can be told from the other
        ((-100.0, -103.1), {"0"}),
        ((-100.0, -102.0, -120.0), {"0", "1"}),
        ((-100.0, -100.0, -100.0), set()),
    ],
)
def test_numbers_within_the_best_interval_tie(bounds, best):
    table = compare([evaluation(str(number), bound=bound) for number, bound in enumerate(bounds)])
    assert next(column for column in table.columns if column.name == "bound, test, nats").best == best
    assert "which do not differ significantly from it" in table.markdown()


def test_a_number_without_an_interval_has_a_best():
    def measured(model: str, distance: float) -> Evaluation:
        fid = number("FID", distance, higher_is_better=False)
        return Evaluation(model, "", {}, (fid, number("Inception Score", distance, 0.62, deviation=1.0)))

    best = {column.name: column.best for column in compare([measured("a", 20.0), measured("b", 20.5)]).columns}
    assert best == {"FID": {"a"}, "Inception Score": set()}
    apart = {column.name: column.best for column in compare([measured("a", 20.0), measured("b", 20.7)]).columns}
    assert apart["Inception Score"] == {"b"}


def retrieval(model: str, ranks: list[float], **protocol: object) -> Evaluation:
    """Return R@10 and the median rank of ranks among 20 candidates."""
    hits, described = [float(rank <= 10) for rank in ranks], {"split": "test", "candidates": 20} | protocol
    common = {"n": len(ranks), "protocol": described}
    numbers = (
        Measurement(
            name="R@10", value=sum(hits) / len(hits), unit="proportion", chance=0.5, per_item=ItemValues(values=tuple(hits)), **common
        ),
        Measurement(
            name="median rank",
            value=statistics.median(ranks),
            digits=1,
            chance=10.5,
            higher_is_better=False,
            per_item=ItemValues(values=tuple(ranks), statistic="median"),
            **common,
        ),
    )
    return Evaluation(model, "", {}, numbers)


def test_models_of_one_protocol_are_compared_in_pairs():
    """Ranks that are three lower for every caption: a certain difference, though the intervals of both overlap."""
    ranks = [1.0 + 3 * (number % 6) for number in range(60)]
    table = compare([retrieval("a", ranks), retrieval("b", [rank + 3 for rank in ranks]), evaluation("gan")])
    rank = next(column for column in table.columns if column.name == "median rank")
    assert [(each.models, each.value, each.interval, each.text) for each in rank.differences] == [
        (("a", "b"), -3.0, (-3.0, -3.0), "-3.0 (-3.0 to -3.0)")
    ]
    text = table.markdown()
    assert "| difference | R@10, % | median rank |" in text
    assert [line for line in text.splitlines() if line.startswith("| a - b | ") and line.endswith(" | **-3.0 (-3.0 to -3.0)** |")]
    assert "gan - " not in text
    assert [(each["name"], each["models"], each["shown"]) for each in table.to_dict()["differences"]][1:] == [
        ("median rank", ["a", "b"], "-3.0 (-3.0 to -3.0)")
    ]


def test_a_difference_within_its_interval_is_not_bold():
    ranks = [5.0, 15.0] * 30
    table = compare([retrieval("a", ranks), retrieval("b", ranks[1:] + ranks[:1])])
    (recall, *_) = table.to_dict()["differences"]
    assert recall["value"] == 0
    assert recall["interval"][0] < 0 < recall["interval"][1]
    assert f"| a - b | {recall['shown']} | " in table.markdown()
    assert recall["shown"].startswith("0.0 (-")
    assert " to +" in recall["shown"]


def test_only_numbers_of_one_protocol_have_differences():
    table = compare([retrieval("a", [1.0, 2.0]), retrieval("b", [1.0, 2.0], seed=7)])
    assert table.to_dict()["differences"] == []
    assert "difference" not in table.markdown()


def test_values_of_other_numbers_of_items_are_an_error():
    with pytest.raises(ValueError, match="a, b: different numbers of values of one protocol; delete the files of these evaluations"):
        compare([retrieval("a", [1.0, 2.0]), retrieval("b", [1.0, 2.0, 3.0])]).markdown()


def test_chance_is_the_last_row():
    table = compare([retrieval("a", [1.0, 2.0]), evaluation("b")])
    (row,) = [line for line in table.markdown().splitlines() if line.startswith("| chance |")]
    assert [(column.title, column.chance) for column in table.columns if column.chance is not None] == [
        ("R@10, %", 0.5),
        ("median rank", 10.5),
    ]
    assert " | 50.0 | 10.5 | " in row
    assert "chance" not in compare([evaluation("a")]).markdown()


def test_details_have_no_column():
    kl = number("KL", 3.0, group="test", unit="nats", detail=True)
    one = evaluation("a")
    assert "KL" not in compare([dataclasses.replace(one, measurements=(*one.measurements, kl))]).markdown()


def test_protocols_in_words():
    protocol = {
        "data": {"sha256": "ab" * 32, "source": {"kind": "folder", "path": "/home/me/photos"}},
        "side": 32,
        "colours": 3,
        "split": "test",
        "images": 1000,
        "captions": "cd" * 32,
        "samples": 16,
        "something_new": 7,
    }
    words = in_words(protocol)
    assert words == (
        "32 x 32 pixels in 3 colours, 16 posterior samples an image, 1,000 images, captions with SHA-256 cdcdcdcdcdcd, test split, "
        "dataset photos (folder) with SHA-256 abababababab, something new 7"
    )
    assert "50 drawings a caption" in in_words(protocol | {"samples": 50, "window": 11})
    for key in protocol:
        assert in_words(protocol | {key: 9 if key != "data" else "mnist"}) != words, key


def test_a_model_of_other_data_has_a_footnote():
    foreign = {"trained_on": "digits", "measured_on": "photos", "unknown_words": 0.25}
    table = compare([evaluation("a"), evaluation("b", foreign=foreign)])
    assert [column.name for column in table.columns if "bound" in column.name] == ["bound, test, nats"]
    assert "b was trained on digits, not on photos; 25.0 % of the words are unknown to it." in table.markdown()
    assert len(table.to_dict()["notes"]) == 1


def test_a_model_without_a_number_has_a_gap():
    whole = evaluation("gan")
    adversarial = dataclasses.replace(whole, measurements=tuple(each for each in whole.measurements if each.name != "bound"))
    table = compare([adversarial, evaluation("b", joint=0.5)])
    assert "| gan | **90.0 (89.0-91.0)** | **90.0 (89.0-91.0)** | - | 1,000 |" in table.markdown()


def test_an_evaluation_is_kept_until_its_numbers_change(tmp_path, monkeypatch):
    """The same weights on another dataset or device, with other shortlists or versions, are measured again."""
    measured: list[Settings] = []

    def evaluate(pipeline: Pipeline, settings: Settings, *, data: object, **_: object) -> Evaluation:
        measured.append(settings)
        whole = evaluation("a")
        return dataclasses.replace(whole, settings=comparison.settings_words(pipeline, settings, data))

    monkeypatch.setattr(comparison, "evaluate", evaluate)
    sizes = {"glimpses": 1, "inference_units": 2, "generative_units": 2, "latent": 1, "language_units": 2, "align_features": 2}
    config = ModelConfig(kind="draw", sha256={"model.safetensors": "0" * 64})
    pipeline = Pipeline("a", DRAW(DRAWConfig(**sizes)), Vocabulary(words=WORDS), config)
    file, data, lists = tmp_path / "kept" / "a.json", prepared_dataset(tmp_path / "data", train=4), tmp_path / "lists.pkl"
    lists.write_bytes(b"one")
    settings = Settings(metrics=("retrieval",), shortlist_model=str(lists))

    def times(settings: Settings = settings) -> int:
        before = len(measured)
        evaluate_once(pipeline, file, settings, data=str(data))
        return len(measured) - before

    assert [times(), times()] == [1, 0]
    (data / "manifest.json").write_text((data / "manifest.json").read_text() + "\n")  # another dataset in the same folder
    assert [times(), times()] == [1, 0]
    lists.write_bytes(b"two")
    assert [times(), times()] == [1, 0]
    assert [times(Settings()), times(Settings())] == [1, 0], "other metrics"
    monkeypatch.setattr("cap2im.evaluation.evaluate.__version__", "99")
    assert [times(), times()] == [1, 0]
    pipeline = dataclasses.replace(pipeline, precision="bf16")
    assert [times(), times()] == [1, 0]
    pipeline = dataclasses.replace(pipeline, precision="fp32")
    assert times() == 0, "the evaluation in fp32 is still in the file"
    for damaged in ("{", "[]", ""):
        file.write_text(damaged)
        assert [times(), times()] == [1, 0], damaged


def test_json_round_trip():
    table = compare([evaluation("a"), evaluation("b")])
    stored = json.loads(json.dumps(table.to_dict()))
    assert stored["columns"][2]["values"]["b"] == {"value": -100.0, "shown": "-100.00 ± 1.50"}
    assert stored["columns"][2]["protocol"] == {"split": "test", "samples": 16}


def test_errors_of_a_comparison():
    one = evaluation("a")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([])
    with pytest.raises(ValueError, match="two evaluations are called 'a'"):
        compare([one, one])
