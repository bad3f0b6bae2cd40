"""Model folders, runs and datasets of version 0.1.0 still load, resume and draw the same.

`version_0_1.zip` was written by the code of commit 431fc6e: a tiny run of each kind with its checkpoint amid the training, its log and
its model; the two datasets that they learned from; and, in `expected/`, drawings and the resolved values of all recipes.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cap2im.checkpoint import read_config
from cap2im.config import load_recipe
from cap2im.pipeline import Pipeline
from cap2im.sentence_encoders import load_sentence_encoder

FOLDERS = Path(__file__).parent / "version_0_1.zip"
# run -> data option, number of the checkpoint's updates
RUNS = {
    "draw": ("squares", 9),
    "vae": ("squares", 9),
    "lapgan": ("squares", 9),
    "sharpener": ("squares", 9),
    "classifier": ("large-squares", 3),
    "damsm": (None, 9),
    "attngan": (None, 9),
    "skipthoughts": ("squares", 9),
}
RENAMED = {"train.steps": "train.updates", "train.canvases": "train.batch_size"}  # of the digit reader, which had no checkpoints
DRAWING = ("draw", "vae", "lapgan", "attngan")


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """The folder `old`, below the working folder as it was when it was written."""
    with zipfile.ZipFile(FOLDERS) as archive:
        archive.extractall(tmp_path / "old")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "old"


def losses(run: Path, after: int) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text("utf-8").splitlines()]
    return [
        {key: value for key, value in line.items() if key.startswith("train/") and key not in ("train/waiting", "train/seconds")}
        for line in lines
        if line["step"] > after and any(key.startswith("train/") for key in line)
    ]


@pytest.mark.parametrize("kind", RUNS)
def test_an_old_run_resumes_with_the_same_losses(run, old, kind, monkeypatch):
    monkeypatch.chdir(old.parent)
    data, step = RUNS[kind]
    expected = losses(old / kind, step)
    assert len(expected) > 2
    arguments = [] if data is None else ["--data", f"old/{data}"]
    status, _, error = run(
        "train", f"old/{kind}/recipe.toml", *arguments, "--run", f"old/{kind}", "--resume", "--device", "cpu", "--workers", "0"
    )
    assert status == 0, error
    found = losses(old / kind, step)
    assert [sorted(line) for line in found] == [sorted(line) for line in expected]
    for one, two in zip(found, expected, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


@pytest.mark.parametrize("kind", DRAWING)
def test_an_old_model_draws_the_same(old, kind):
    with np.load(old / "expected" / f"{kind}.npz") as file:
        expected = [file[name] for name in file.files]
    captions = json.loads((old / "expected" / "captions.json").read_text())[kind]
    canvases = [drawing.canvases for drawing in Pipeline.load(str(old / kind / "model")).draw(captions, samples=2, seed=3)]
    assert len(canvases) == len(expected)
    for one, two in zip(canvases, expected, strict=True):
        assert np.abs(one.astype(int) - two).max() <= 1  # grey levels: another processor rounds otherwise


def test_old_skipthoughts_encode(old):
    """Version 0.1 wrote another name of their kind."""
    assert read_config(old / "skipthoughts" / "model")["kind"] == "sentence-encoder"
    encoder = load_sentence_encoder(str(old / "skipthoughts"))
    vectors = encoder.encode(["a red square"])
    assert vectors.shape == (1, encoder.features)
    assert vectors.isfinite().all()


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    parts = [flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in table.items()]
    return {key: value for part in parts for key, value in part.items()}


def test_recipes_keep_their_values(old):
    stored = json.loads((old / "expected" / "recipes.json").read_text())
    changed = {}
    for name, table in stored.items():
        now, before = flat(load_recipe(name).model_dump(mode="json")), flat(table)
        if isinstance(width := before.get("model.features"), int):  # one number, which stands for both hidden layers
            before["model.features"] = [width, width]
        changed |= {f"{name}: {key}": (value, now.get(key)) for key, value in before.items() if now.get(RENAMED.get(key, key)) != value}
    improved = {
        "lapgan-mnist: train.fine_every",
        "aligndraw-mnist: model.language_window",
        "aligndraw-mnist: model.glimpses",
        "aligndraw-mnist: train.epochs",
        "aligndraw-mnist: train.kl_weights",
    }
    assert {key for key in changed if not key.endswith(": description")} == improved, changed
