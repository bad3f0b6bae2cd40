"""The examples run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_curves(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"step": step, "train/bound": -1000 / step} for step in range(1, 41)]
    lines += [{"step": step, "validation/bound": -900 / step, "validation/kl": 3.0 * step} for step in (20, 40)]
    (run / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, str(EXAMPLES / "curves.py"), str(run), "--out", str(tmp_path / "curves.png")]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 500
        assert len(set(picture.convert("RGB").resize((50, 20)).get_flattened_data())) > 5, "not blank"
