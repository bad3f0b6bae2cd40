"""The numbers of version 0.1, measured again.

`version_0_1.zip` was written by the code of version 0.1: tiny models and datasets, and their evaluations. `gan_fast.json` is of features
that `tests.inception.FastExtractor` returns.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from cap2im.evaluation.evaluate import evaluate
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.settings import Settings
from cap2im.pipeline import Pipeline
from tests.inception import use_fast_extractor

ARCHIVE = Path(__file__).parent / "version_0_1.zip"


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_equal(new: Evaluation, file: Path) -> None:
    """Compare with an old evaluation: values up to another processor's rounding, protocols except for versions."""
    expected = Evaluation.from_dict(json.loads(file.read_text("utf-8")))
    assert new.weights_sha256 == expected.weights_sha256
    for old in expected.measurements:
        measurement = new.find(old.name, old.group)
        assert measurement.value == pytest.approx(old.value, rel=1e-4, abs=1e-6), old.title
        assert (measurement.n, measurement.chance or old.chance) == (old.n, old.chance), old.title
        versions = {"torch": "", "cap2im": ""} if "torch" in old.protocol else {}
        assert measurement.protocol | versions == old.protocol | versions, old.title


def test_bound_retrieval_and_ssim_are_those_of_version_0_1(old):
    settings = Settings(
        metrics=("bound", "retrieval", "ssim"),
        split="all",
        shortlist_model="vgg",
        candidates=5,
        retrieval_samples=2,
        samples=2,
        images=6,
        bound_samples=2,
    )
    evaluation = evaluate(Pipeline.load("words", sharpen="sharp"), settings, data="data")
    assert len(evaluation.measurements) == 31
    assert_equal(evaluation, old / "words.json")


def test_metrics_of_drawings_are_those_of_version_0_1(old, monkeypatch):
    use_fast_extractor(monkeypatch.setattr)
    settings = Settings(metrics=("fid", "inception-score", "r-precision", "neural-distance"), images=140, damsm="damsm")
    assert_equal(evaluate(Pipeline.load("gan"), settings, data="squares"), old / "gan_fast.json")
