"""Plot the curves of runs side by side, from their `stats.jsonl`.

python examples/curves.py runs/one runs/two --out curves.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

SMOOTHED = 20  # logged updates of the moving mean


def curve(run: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and values that a run logged under a name."""
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text("utf-8").splitlines()]
    steps, values = zip(*((line["step"], line[name]) for line in lines if name in line), strict=True)
    return np.array(steps), np.array(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    arguments = parser.parse_args()
    figure, (bounds, kls) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for run in arguments.runs:
        steps, values = curve(run, "train/bound")
        smooth = np.convolve(values, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
        (line,) = bounds.plot(steps[SMOOTHED - 1 :], smooth, linewidth=0.8, alpha=0.5)
        bounds.plot(*curve(run, "validation/bound"), color=line.get_color(), label=run.name)
        kls.plot(*curve(run, "validation/kl"), color=line.get_color())
    bounds.set(xlabel="updates", ylabel="bound, nats an image", title="training (thin) and validation")
    bounds.set_ylim(np.quantile(values, 0.1), None)
    kls.set(xlabel="updates", ylabel="KL, nats", title="validation", ylim=(0, None))
    bounds.legend()
    figure.savefig(arguments.out, dpi=100)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
