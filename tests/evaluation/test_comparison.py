"""The table of several models: numbers of different protocols never share a column."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest

from cap2im.data.mnist_captions import WORDS
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation import comparison
from cap2im.evaluation.comparison import check_evaluation_file, compare, free_stem, in_words, keep_evaluation, kept_evaluations
from cap2im.loading import ModelConfig
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.pipeline import Pipeline
from tests.prepared import prepared_dataset


def evaluation(model: str, joint: float = 0.9, bound: float = -100.0, **protocol: object) -> dict:
    rate = {"rate": joint, "low": joint - 0.01, "high": joint + 0.01}
    return {
        "model": model,
        "parameters": 1000,
        "caption_accuracy": {"protocol": {"seed": 0}, "drawings": {"seen": {"joint": rate}, "held_out": {"joint": rate}}},
        "likelihood": {"protocol": {"split": "test", "samples": 16} | protocol, "bound": bound, "standard_error": 1.5},
    }


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


def test_splits_have_columns_of_their_own():
    other = evaluation("b", split="validation")
    assert [column.title for column in compare([evaluation("a"), other]).columns][2:4] == ["bound, test, nats", "bound, validation, nats"]


def test_retrieval_and_similarity_have_their_directions():
    """The paper's table 1: more recall and similarity is better, a smaller rank is."""

    def table_1(model: str, recall: float, rank: float, ssim: float) -> dict:
        scores = {"ssim": {"mean": ssim, "deviation": 0.1}, "psnr": {"mean": 10.0, "deviation": 1.0}}
        return {
            "model": model,
            "retrieval": {
                "protocol": {"split": "test"},
                "R@1": {"rate": recall, "low": recall - 0.01, "high": recall + 0.01},
                "median_rank": {"rank": rank, "low": rank - 5, "high": rank + 5},
            },
            "similarity": {"protocol": {"split": "test"}, **scores, "sharpened": scores},
        }

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
    assert "they cannot be told from it" in table.markdown()


def test_fid_has_no_interval_and_a_best():
    def measured(model: str, distance: float) -> dict:
        protocol = {"split": "test", "drawings": 100, "parts": 10}
        score = {"protocol": protocol, "mean": distance, "deviation": 1.0}
        return {"model": model, "fid": {"protocol": protocol, "distance": distance}, "inception_score": score}

    best = {column.name: column.best for column in compare([measured("a", 20.0), measured("b", 20.5)]).columns}
    assert best == {"FID": {"a"}, "Inception Score": set()}
    apart = {column.name: column.best for column in compare([measured("a", 20.0), measured("b", 20.7)]).columns}
    assert apart["Inception Score"] == {"b"}, "the interval is of the mean over 10 parts"


def test_protocols_are_told_in_words():
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
    told = in_words(protocol)
    assert told == (
        "32 x 32 pixels in 3 colours, 16 posterior samples an image, 1,000 images, captions with SHA-256 cdcdcdcdcdcd, test split, "
        "dataset photos (folder) with SHA-256 abababababab, something new 7"
    )
    assert "50 drawings a caption" in in_words(protocol | {"samples": 50, "window": 11})
    for key in protocol:
        assert in_words(protocol | {key: 9 if key != "data" else "mnist"}) != told, key


def test_a_foreign_model_shares_columns_and_has_a_footnote():
    foreign = {"trained_on": "digits", "measured_on": "photos", "unknown_words": 0.25}
    table = compare([evaluation("a"), evaluation("b", foreign=foreign)])
    assert [column.name for column in table.columns if "bound" in column.name] == ["bound, test, nats"]
    assert "b was trained on digits, not on photos; it does not know 25.0 % of the words." in table.markdown()
    assert len(table.to_dict()["notes"]) == 1


def test_a_model_without_a_number_has_a_gap():
    adversarial = evaluation("gan")
    del adversarial["likelihood"]
    assert (
        "| gan | **90.0 (89.0-91.0)** | **90.0 (89.0-91.0)** | - | 1,000 |" in compare([adversarial, evaluation("b", joint=0.5)]).markdown()
    )


def test_an_evaluation_is_kept_until_something_changes_its_numbers(tmp_path, monkeypatch):
    """The same weights on another dataset or device, by another network of shortlists or version, are measured again."""
    measured: list[dict] = []

    def evaluate(_: object, **asked: object) -> dict:
        measured.append(asked)
        return evaluation("a") | {"weights_sha256": "0" * 64}

    monkeypatch.setattr(comparison, "evaluate", evaluate)
    sizes = {"glimpses": 1, "inference_units": 2, "generative_units": 2, "latent": 1, "language_units": 2, "align_features": 2}
    config = ModelConfig(kind="draw", sha256={"model.safetensors": "0" * 64})
    pipeline = Pipeline("a", DRAW(DRAWConfig(**sizes)), Vocabulary(words=WORDS), config)
    file, data, lists = tmp_path / "kept" / "a.json", prepared_dataset(tmp_path / "data", train=4), tmp_path / "lists.pkl"
    lists.write_bytes(b"one")

    def times() -> int:
        before = len(measured)
        comparison.evaluated(pipeline, file, data=str(data), shortlist=str(lists), seed=0)
        return len(measured) - before

    assert [times(), times()] == [1, 0]
    (data / "manifest.json").write_text((data / "manifest.json").read_text() + "\n")  # another dataset in the same folder
    assert [times(), times()] == [1, 0]
    lists.write_bytes(b"two")
    assert [times(), times()] == [1, 0]
    monkeypatch.setattr("cap2im.evaluation.comparison.__version__", "99")
    assert [times(), times()] == [1, 0]
    pipeline = dataclasses.replace(pipeline, precision="bf16")
    assert [times(), times()] == [1, 0]
    pipeline = dataclasses.replace(pipeline, precision="fp32")
    assert times() == 0, "the evaluation in fp32 is still there"
    for damaged in ("{", "[]", ""):
        file.write_text(damaged)
        assert [times(), times()] == [1, 0], damaged


def test_evaluations_of_other_protocols_stay_in_the_file(tmp_path):
    file = tmp_path / "folder" / "e.json"
    base = {"model": "a", "weights_sha256": "0"}
    assert keep_evaluation(file, {**base, "asked": {"split": "test"}, "n": 1}) == 0
    assert keep_evaluation(file, {**base, "asked": {"split": "train"}, "n": 2}) == 1
    assert keep_evaluation(file, {**base, "weights_sha256": "1", "asked": {"split": "test"}, "n": 3}) == 2
    assert keep_evaluation(file, {**base, "asked": {"split": "test"}, "n": 4}) == 2
    assert [each["n"] for each in kept_evaluations(file)] == [4, 3, 2]
    assert json.loads(file.read_text())["n"] == 4
    check_evaluation_file(file)


@pytest.mark.parametrize("content", ["{}", "[1]", '{"kind": "draw"}', "notes"])
def test_a_file_that_is_no_evaluation_is_left_alone(tmp_path, content):
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(ValueError, match="is no evaluation; it is left as it is"):
        check_evaluation_file(tmp_path / "e.json")


def test_another_comparison_gets_other_names(tmp_path):
    assert free_stem(tmp_path, "comparison", {"a": 1}) == "comparison"
    (tmp_path / "comparison.json").write_text(json.dumps({"of": {"a": 1}}))
    assert free_stem(tmp_path, "comparison", {"a": 1}) == "comparison"
    assert free_stem(tmp_path, "comparison", {"a": 2}) == "comparison-2"
    (tmp_path / "comparison-2.md").write_text("someone's own")
    assert free_stem(tmp_path, "comparison", {"a": 2}) == "comparison-3"


def test_json_round_trip():
    table = compare([evaluation("a"), evaluation("b")])
    stored = json.loads(json.dumps(table.to_dict()))
    assert stored["columns"][2]["values"]["b"] == {"value": -100.0, "shown": "-100.00 ± 1.50"}
    assert stored["columns"][2]["protocol"] == {"split": "test", "samples": 16}


def test_refuses_what_is_no_comparison():
    one = evaluation("a")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([])
    with pytest.raises(ValueError, match="two evaluations are called 'a'"):
        compare([one, copy.deepcopy(one)])
    with pytest.raises(ValueError, match="without a model's name"):
        compare([{"likelihood": one["likelihood"]}])
