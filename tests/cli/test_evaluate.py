"""`cap2im evaluate`."""

from __future__ import annotations

import json
from unittest.mock import Mock

import pytest

from cap2im.evaluation.evaluation import Evaluation
from tests.evaluation.models import models
from tests.real_data import data_folder
from tests.tiny import tiny_model

CAPTION = "the digit three is at the top of the digit one"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-model"))


def test_evaluations_of_other_protocols_are_kept(run, tmp_path, monkeypatch):
    words, _, data, _ = map(str, models(tmp_path))
    measure = ("evaluate", words, "--data", data, "--images", "4", "--bound-samples", "1")
    file = tmp_path / "evaluation-words.json"
    for arguments, others in (((), 0), (("--seed", "1"), 1), (("--metric", "ssim", "--samples", "1"), 2), (("--seed", "1"), 2)):
        code, out, err = run(*measure, *arguments)
        assert code == 0, err
        assert (f"beside {others} of other weights or settings" in out) == (others > 0)
        assert len(json.loads(file.read_text()).get("others", [])) == others
    with monkeypatch.context() as patch:  # a measurement is kept before it is printed, perhaps to a reader that has ended
        patch.setattr("cap2im.cli.evaluate.print_evaluation", Mock(side_effect=KeyboardInterrupt))
        assert run(*measure, "--seed", "2")[0] == 130
    assert len(json.loads(file.read_text())["others"]) == 3
    (tmp_path / "mine.json").write_text('{"precious": 1}')
    code, _, err = run(*measure, "--out", "mine.json")
    assert (code, err.splitlines()[-1]) == (2, "cap2im: mine.json: exists and is not an evaluation; choose another --out")
    assert (tmp_path / "mine.json").read_text() == '{"precious": 1}'


def test_evaluate_on_mnist(run, tmp_path):
    folder = data_folder() / "mnist"
    code, out, err = run(
        "evaluate", "aligndraw-mnist", "--data", str(folder), "--samples", "1", "--bound-samples", "1", "--images", "50", "--out", "e.json"
    )
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text()))
    assert evaluation.find("joint", "all, real").value >= 0.97
    assert evaluation.find("joint", "seen").value >= 0.9, "the bundled model draws what captions say"
    assert evaluation.find("joint", "held out").value >= 0.75, "and most of what training did not show"
    assert -400 < evaluation.find("bound", "test").value < 0
    assert "seen, real" in out
