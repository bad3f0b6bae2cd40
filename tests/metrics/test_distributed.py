"""Several processes measure what one does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from cap2im.checkpoint import write_model
from cap2im.config import DRAWRecipe, load_recipe
from cap2im.evaluation.evaluate import evaluate
from cap2im.metrics.distributed import ProcessGroup
from cap2im.models.vgg import VGG, VGGConfig
from cap2im.pipeline import Pipeline
from cap2im.training.data import DataSource, load_training_data
from tests.inception import quick_look
from tests.prepared import COLOURS, prepared_dataset
from tests.processes import in_two_processes
from tests.tiny import tiny_model, tiny_trainer

ROOT = Path(__file__).parents[2]
SIZES = ("side=12", "glimpses=2", "inference_units=8", "generative_units=8", "latent=3", "language_units=4", "align_features=4")
PATCHES = ("read_patch=3", "write_patch=3")
HOW = {
    "split": "all",
    "images": 10,
    "bound_samples": 2,
    "samples": 3,
    "candidates": 4,
    "retrieval_samples": 2,
    "similarity": True,
    "fid": True,
    "seed": 1,
}

MEASURE = """
import json, os, sys
import pytest
from cap2im.evaluation.evaluate import evaluate
from cap2im.metrics.distributed import ProcessGroup
from cap2im.pipeline import Pipeline
from tests.inception import quick_look
words, digits, data, vgg, how, out = sys.argv[1:]
quick_look(pytest.MonkeyPatch().setattr)
processes = ProcessGroup.from_environment()
found = [evaluate(Pipeline.load(words), data=data, processes=processes, shortlist=vgg, **json.loads(how))]
found += [evaluate(Pipeline.load(digits), data=None, processes=processes, samples=1, images=3, bound_samples=2)]
if processes.is_main_process:
    with open(out, "w", encoding="utf-8") as file:
        json.dump([processes.world_size, found], file)
os._exit(0)  # as the command line ends: torch's threads can abort while the interpreter is torn down
"""


def models(folder: Path) -> tuple[Path, Path, Path, Path]:
    """A model of captioned images, one of captioned digits, a dataset, and a VGG-like network."""
    data = prepared_dataset(folder / "data", side=12, train=8, validation=4, test=7)
    recipe = load_recipe("aligndraw-cifar", [f"model.{change}" for change in SIZES + PATCHES] + ["train.batch_size=4"])
    assert isinstance(recipe, DRAWRecipe)
    trainer = tiny_trainer(recipe, load_training_data(recipe, DataSource(data)))
    words, vgg = folder / "words", folder / "vgg"
    words.mkdir()
    write_model(words, trainer.model.state_dict(), trainer.config())
    network = VGG(VGGConfig(width=1, classes=len(COLOURS)))
    vgg.mkdir()
    write_model(vgg, network.state_dict(), {"kind": "classifier", "model": network.config.model_dump()})
    return words, tiny_model(folder / "digits"), data, vgg


def close(found: object, expected: object, where: str = "") -> None:
    """Equal, but for rounding."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            close(found[key], value, f"{where}.{key}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, nan_ok=True), where
    else:
        assert found == expected, where


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path, monkeypatch):
    quick_look(monkeypatch.setattr)
    words, digits, data, vgg = models(tmp_path)
    script, out = tmp_path / "measure.py", tmp_path / "two.json"
    script.write_text(MEASURE)
    arguments = [*map(str, (words, digits, data, vgg)), json.dumps(HOW), str(out)]
    python_path, cache = f"{ROOT / 'src'}{os.pathsep}{ROOT}", str(tmp_path / "cache")
    in_two_processes(str(script), *arguments, PYTHONPATH=python_path, HF_DATASETS_CACHE=cache)
    count, (of_words, of_digits) = json.loads(out.read_text())
    assert count == 2
    shutil.rmtree(data / "image-statistics")  # that of two processes is not used again
    alone = evaluate(Pipeline.load(str(words)), data=data, shortlist=str(vgg), **HOW)
    by_themselves = {"other_splits", "likelihood", "retrieval", "similarity", "fid", "inception_score"}
    assert alone.keys() == {"model", "weights_sha256", "parameters"} | by_themselves
    close(of_words, json.loads(json.dumps(alone)))
    close(of_digits, json.loads(json.dumps(evaluate(Pipeline.load(str(digits)), data=None, samples=1, images=3, bound_samples=2))))


def test_shares_cover_everything_once():
    for items in (0, 1, 2, 7, 100):
        for count in (1, 2, 3, 8):
            runs = [ProcessGroup(index, count).shard(items) for index in range(count)]
            assert [item for run in runs for item in run] == list(range(items))
            assert max(map(len, runs)) - min(map(len, runs)) <= 1
    part = torch.rand(3)
    assert ProcessGroup().all_gather(part) is part
