"""The table of several models: numbers of different protocols never share a column."""

from __future__ import annotations

import copy
import json

import pytest

from cap2im.metrics.comparison import compare


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
    assert [column.title for column in table.columns] == ["joint, seen, %", "joint, held out, %", "bound, nats", "parameters"]
    bound = table.columns[2]
    assert {model: cell.value for model, cell in bound.cells.items()} == {"a": -90.0, "b": -100.0}
    assert bound.best == {"a"}
    assert "| a | **90.0 (89.0-91.0)** | **90.0 (89.0-91.0)** | **-90.00 ± 1.50** | 1,000 |" in table.markdown()


@pytest.mark.parametrize("changed", [{"samples": 1}, {"split": "validation"}, {"observation": "gaussian, deviation 0.1"}])
def test_numbers_of_different_protocols_refuse_to_share_a_column(changed):
    table = compare([evaluation("a"), evaluation("b", **changed)])
    bounds = [column for column in table.columns if column.name == "bound, nats"]
    assert [(column.title, set(column.cells), column.best) for column in bounds] == [
        ("bound, nats [a]", {"a"}, frozenset()),
        ("bound, nats [b]", {"b"}, frozenset()),
    ]
    text = table.markdown()
    assert text.count("bound, nats [a]") == text.count("bound, nats [b]") == 2  # in the head, and with its protocol
    assert str(next(iter(changed.values()))) in text


def test_a_model_without_a_number_has_a_gap():
    adversarial = evaluation("gan")
    del adversarial["likelihood"]
    assert (
        "| gan | **90.0 (89.0-91.0)** | **90.0 (89.0-91.0)** | - | 1,000 |" in compare([adversarial, evaluation("b", joint=0.5)]).markdown()
    )


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
