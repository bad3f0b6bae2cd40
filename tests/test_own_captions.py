"""The whole way from a folder of captioned photos to a drawing, on real ones: prepare, check, train, draw, measure."""

from __future__ import annotations

import json
import math

import pytest

from cap2im.evaluation.evaluation import Evaluation
from tests.real_data import data_folder

SMALL = (
    "model.side=16",
    "model.glimpses=4",
    "model.inference_units=48",
    "model.generative_units=48",
    "model.latent=12",
    "model.language_units=16",
    "model.align_features=24",
    "model.read_patch=6",
    "model.write_patch=6",
    "train.batch_size=20",
    "train.epochs=6",
    "train.precision=fp32",
    "train.warmup_steps=20",
    "train.learning_rate=0.003",
    "train.ema_decay=0.95",
    "train.kl_weights=[[0, 1.0]]",
    "train.validate_every=40",
    "train.checkpoint_every=40",
    "train.log_every=10",
)


@pytest.mark.slow
def test_from_coco_to_a_drawing(run, tmp_path):
    coco = data_folder() / "coco-mini"
    code, _, err = run("prepare", "coco", str(coco), "--out", "prepared", "--side", "16", "--captions", "5", "--workers", "1")
    assert code == 0, err
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_text())
    assert manifest["splits"] == {"train": {"images": 80, "captions": 400}, "validation": {"images": 79, "captions": 395}}

    code, out, err = run("check", str(coco), "--kind", "coco")
    assert code == 0, err
    assert "image without annotation: 80" in out

    changes = [part for change in SMALL for part in ("--set", change)]
    code, _, err = run("train", "aligndraw-coco", "--data", "prepared", "--run", "run", "--device", "cpu", "--workers", "1", *changes)
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    bounds = [line["validation/bound"] for line in lines if "validation/bound" in line]
    assert len(bounds) == 3
    assert bounds[-1] > bounds[0] > -768 * math.log(2) - 10, "better than grey noise, and learning"

    code, out, err = run("draw", "a man on a bus", "--model", "run", "--out", "drawn", "--samples", "2", "--json")
    assert code == 0, err
    (written,) = json.loads(out)
    assert {"drawing.html", "drawing.gif", "attention.png", "grid.png", "sample-2.png"} <= {
        path.split("/")[-1] for path in written["files"]
    }

    measure = ("--split", "validation", "--images", "50", "--bound-samples", "2", "--out", "e.json")
    code, out, err = run("evaluate", "run", "--data", "prepared", *measure)
    assert code == 0, err
    assert "2 posterior samples an image, 50 images" in " ".join(out.split())
    bound = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text())).find("bound", "validation")
    assert bound.n == 50
    assert bound.value == pytest.approx(bounds[-1], abs=25)
