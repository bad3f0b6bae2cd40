"""Files of evaluations."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from cap2im.evaluation.comparison import compare
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.store import check_evaluation_file, free_stem, keep_evaluation, kept_evaluations
from cap2im.metrics.measurement import ItemValues, Measurement

OLD = Path(__file__).parent / "version_0_1.zip"


def test_evaluations_of_other_settings_stay_in_the_file(tmp_path):
    file = tmp_path / "folder" / "e.json"

    def keep(weights: str, split: str, n: int) -> int:
        return keep_evaluation(file, Evaluation("a", weights, {"split": split}, (Measurement(name="bound", value=-1, n=n),)))

    assert [keep("0", "test", 1), keep("0", "train", 2), keep("1", "test", 3), keep("0", "test", 4)] == [0, 1, 2, 2]
    assert [each.find("bound").n for each in kept_evaluations(file)] == [4, 3, 2]
    assert json.loads(file.read_text())["results"] == [{"protocol": {}, "measurements": [{"name": "bound", "value": -1, "n": 4}]}]
    check_evaluation_file(file)


def test_every_field_survives_the_file(tmp_path):
    measurement = Measurement(
        name="R@1",
        value=0.5,
        n=7,
        interval=(0.4, 0.6),
        protocol={"split": "test", "held_out": [[1, 2]]},
        group="sharpened",
        unit="proportion",
        digits=1,
        deviation=0.1,
        chance=0.01,
        higher_is_better=None,
        detail=True,
        per_item=ItemValues(values=(1.0, 2.5, -1849.25), statistic="median"),
    )
    keep_evaluation(tmp_path / "e.json", evaluation := Evaluation("a", "0", {"metrics": "retrieval"}, (measurement,)))
    assert kept_evaluations(tmp_path / "e.json") == [evaluation]


def test_values_of_single_items_are_small_in_the_file(tmp_path):
    """Four bytes for each, in one line."""
    values = ItemValues.of(torch.linspace(-1900, -1800, 1000))
    keep_evaluation(tmp_path / "e.json", Evaluation("a", "0", {}, (Measurement(name="bound", value=-1850, n=1000, per_item=values),)))
    assert (tmp_path / "e.json").stat().st_size < 6000
    (kept,) = kept_evaluations(tmp_path / "e.json")
    assert kept.measurements[0].per_item == values


@pytest.mark.parametrize("text", ["AAA", "AAAA", "not base64", ""])
def test_damaged_values_of_single_items_are_measured_again(tmp_path, text):
    measurement = {"name": "bound", "value": -1.0, "n": 1, "per_item": {"values": text}}
    document = {"model": "a", "weights_sha256": "0", "settings": {}, "results": [{"protocol": {}, "measurements": [measurement]}]}
    (tmp_path / "e.json").write_text(json.dumps(document))
    assert kept_evaluations(tmp_path / "e.json") == []
    measurement["per_item"] = {"values": "AACAPw=="}
    (tmp_path / "e.json").write_text(json.dumps(document))
    assert kept_evaluations(tmp_path / "e.json")[0].measurements[0].per_item == ItemValues(values=(1.0,))


@pytest.mark.parametrize("content", ["{}", "[1]", '{"kind": "draw"}', "notes"])
def test_files_that_are_not_evaluations_are_kept(tmp_path, content):
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(ValueError, match="exists and is not an evaluation; choose another --out"):
        check_evaluation_file(tmp_path / "e.json")


def test_another_comparison_gets_other_names(tmp_path):
    assert free_stem(tmp_path, "comparison", {"a": 1}) == "comparison"
    (tmp_path / "comparison.json").write_text(json.dumps({"of": {"a": 1}}))
    assert free_stem(tmp_path, "comparison", {"a": 1}) == "comparison"
    assert free_stem(tmp_path, "comparison", {"a": 2}) == "comparison-2"
    (tmp_path / "comparison-2.md").write_text("someone's own")
    assert free_stem(tmp_path, "comparison", {"a": 2}) == "comparison-3"


@pytest.mark.parametrize("name", ["words", "gan", "digits"])
def test_evaluations_of_version_0_1_still_compare(tmp_path, name):
    """The files and tables in `version_0_1.zip` were written by the code of version 0.1."""
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(tmp_path)
    (old,) = kept_evaluations(tmp_path / f"{name}.json")
    expected = json.loads((tmp_path / "tables.json").read_text())[name]
    columns = {column.title: column.cells[old.model].text for column in compare([old]).columns}
    assert {frozenset(title.split(", ")): text for title, text in columns.items()} == {
        frozenset(title.split(", ")): text for title, text in expected.items()
    }
    assert keep_evaluation(tmp_path / f"{name}.json", Evaluation("new", "1", {}, ())) == 1
    assert kept_evaluations(tmp_path / f"{name}.json")[1] == old
