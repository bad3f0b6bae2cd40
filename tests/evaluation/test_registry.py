"""A metric is a function and an entry of the registry: no other file names it."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.registry import METRICS, Metric, resolve
from cap2im.evaluation.samples import Samples
from cap2im.evaluation.settings import Settings
from tests.evaluation.models import models


def test_a_new_metric_is_evaluated_printed_and_compared(run, tmp_path, monkeypatch):
    words, _, data, _ = map(str, models(tmp_path))
    entry = Metric(about="brightness", samples="tests.evaluation.brightness:brightness", arrays=("drawings", "images"))
    monkeypatch.setitem(METRICS, "brightness", entry)
    command = ("--data", data, "--images", "6", "--metric", "brightness")
    code, out, err = run("evaluate", words, *command, "--out", "e.json")
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text()))
    drawn, real = evaluation.find("brightness"), evaluation.find("brightness", "images")
    assert (drawn.n, real.n, drawn.protocol["drawings"], drawn.protocol["split"]) == (6, 6, 6, "test")
    assert 0 < drawn.value < 1
    assert drawn.value != real.value
    assert drawn.text in out
    assert "±" not in drawn.text
    code, out, err = run("compare", words, *command)
    assert code == 0, err
    assert "| model | brightness | parameters |" in out
    assert f"| words | {drawn.text} |" in out


def test_a_new_version_of_a_metric_is_measured_again(run, tmp_path, monkeypatch):
    words, _, data, _ = map(str, models(tmp_path))
    versions = []
    for version in (1, 2):
        entry = Metric(about="brightness", version=version, samples="tests.evaluation.brightness:brightness", arrays=("drawings", "images"))
        monkeypatch.setitem(METRICS, "brightness", entry)
        code, out, err = run("compare", words, "--data", data, "--images", "6", "--metric", "brightness", "--out", "comparison")
        assert code == 0, err
        versions += re.findall(r"version (\d) of the metric", out)
    assert versions == ["1", "2"]


@pytest.mark.parametrize("name", METRICS)
def test_entries_name_functions_arrays_and_settings(name):
    metric = METRICS[name]
    for function in filter(None, (metric.captions, metric.digits, metric.samples)):
        assert callable(resolve(function))
    assert set(metric.arrays) <= {field.name for field in dataclasses.fields(Samples)}
    assert bool(metric.arrays) == bool(metric.samples)
    assert {*metric.needs, *metric.reads} <= {field.name for field in dataclasses.fields(Settings)}


def test_options_that_no_metric_reads_are_errors():
    with pytest.raises(ValueError, match="--metric speed: choose from caption-accuracy, compositional-accuracy, bound, retrieval"):
        Settings(metrics=("bound", "speed"))
    with pytest.raises(ValueError, match="--metric r-precision needs --damsm"):
        Settings(metrics=("r-precision",))
    with pytest.raises(ValueError, match="--damsm runs/damsm: no chosen metric reads it; add --metric r-precision or --metric neural-dist"):
        Settings(damsm="runs/damsm")
