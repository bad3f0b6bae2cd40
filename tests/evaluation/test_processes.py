"""Several processes measure what one does."""

from __future__ import annotations

import json
import shutil

import pytest

from cap2im.evaluation.evaluate import evaluate
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.settings import Settings
from cap2im.pipeline import Pipeline
from tests.evaluation.models import models
from tests.inception import use_fast_extractor
from tests.processes import in_two_processes

SETTINGS = {
    "metrics": ["bound", "retrieval", "ssim", "fid", "inception-score"],
    "split": "all",
    "images": 10,
    "bound_samples": 2,
    "samples": 3,
    "candidates": 4,
    "retrieval_samples": 2,
    "seed": 1,
}
OF_DIGITS = {"samples": 1, "images": 3, "bound_samples": 2}

MEASURE = """
import json, os, sys
import pytest
from cap2im.evaluation.evaluate import evaluate
from cap2im.evaluation.settings import Settings
from cap2im.metrics.distributed import ProcessGroup
from cap2im.pipeline import Pipeline
from tests.inception import use_fast_extractor
words, digits, data, *settings, out = sys.argv[1:]
of_words, of_digits = (Settings(**json.loads(each)) for each in settings)
use_fast_extractor(pytest.MonkeyPatch().setattr)
processes = ProcessGroup.from_environment()
evaluations = [evaluate(Pipeline.load(words), of_words, data=data, processes=processes)]
evaluations += [evaluate(Pipeline.load(digits), of_digits, processes=processes)]
if processes.is_main_process:
    with open(out, "w", encoding="utf-8") as file:
        json.dump([processes.world_size, [evaluation.to_dict() for evaluation in evaluations]], file)
os._exit(0)  # as the command line ends: torch's threads can abort while the interpreter is torn down
"""


def assert_close(one: Evaluation, other: Evaluation) -> None:
    """Compare all fields, except for rounding."""
    assert [(each.title, each.n, each.protocol) for each in one.measurements] == [
        (each.title, each.n, each.protocol) for each in other.measurements
    ]
    for first, second in zip(one.measurements, other.measurements, strict=True):
        for field in ("value", "deviation", "interval"):
            expected = getattr(second, field)
            assert getattr(first, field) == (None if expected is None else pytest.approx(expected, rel=1e-5)), f"{first.title}: {field}"


@pytest.mark.slow
def test_two_processes_measure_the_same_as_one(tmp_path, monkeypatch, tiny_reader):
    use_fast_extractor(monkeypatch.setattr)
    words, digits, data, vgg = models(tmp_path)
    script, out = tmp_path / "measure.py", tmp_path / "two.json"
    script.write_text(MEASURE)
    settings, for_digits = SETTINGS | {"shortlist_model": str(vgg)}, OF_DIGITS | {"reader": tiny_reader}
    arguments = [*map(str, (words, digits, data)), json.dumps(settings), json.dumps(for_digits), str(out)]
    in_two_processes(str(script), *arguments, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    count, documents = json.loads(out.read_text())
    assert count == 2
    of_words, of_digits = map(Evaluation.from_dict, documents)
    shutil.rmtree(data / "image-statistics")  # those of two processes are not used again
    one = evaluate(Pipeline.load(str(words)), Settings(**settings), data=data)
    assert {"bound", "R@1", "SSIM", "FID", "Inception Score"} <= {each.name for each in one.measurements}
    assert_close(of_words, one)
    assert_close(of_digits, evaluate(Pipeline.load(str(digits)), Settings(**for_digits)))
