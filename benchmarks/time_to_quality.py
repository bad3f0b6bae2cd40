"""Measure how long a training from scratch takes until its drawings are right.

    python -m benchmarks.time_to_quality --data mnist/ --run work/aligndraw [--recipe aligndraw-mnist] [--goal 90]

Trains a recipe of captioned digits with `cap2im train`. At each checkpoint the training is suspended, and
`cap2im evaluate --split validation` measures the caption accuracy (joint) with validation digits: of captions that training
shows, and of those that `data.validation_held_out_seed` hides. Prints a row for each checkpoint, and ends when the seen
captions pass the goal. Minutes and operations are those of the training, with its start and compilation and without the
suspended time. Exits with 1 if the training ends below the goal.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from benchmarks.speed import BATCH, training_step
from torch.utils.flop_counter import FlopCounterMode

from cap2im.checkpoint import checkpoints
from cap2im.config import VariationalRecipe, load_recipe
from cap2im.evaluation.store import kept_evaluations
from cap2im.metrics.measurement import Measurement
from cap2im.models.aligndraw import DRAW

POLL = 0.5  # seconds


def accuracy(checkpoint: Path, data: Path, samples: int) -> dict[str, Measurement]:
    """Return the measurements of a checkpoint on validation captions, by title."""
    out = checkpoint.parent.parent / "evaluations" / f"{checkpoint.name}.json"
    out.parent.mkdir(exist_ok=True)
    how = ["--metric", "caption-accuracy", "--split", "validation", "--samples", samples, "--out", out]
    command = ["evaluate", checkpoint, "--data", data, *how]
    subprocess.run([sys.executable, "-m", "cap2im", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return {each.title: each for each in kept_evaluations(out)[0].measurements}


def work_of_update(recipe: VariationalRecipe) -> float:
    """Return the operations of an update, in TFLOP."""
    with FlopCounterMode(display=False) as counter:
        training_step(DRAW(recipe.model), torch.device("cpu"), "fp32")()
    return counter.get_total_flops() / 1e12 * recipe.train.batch_size / BATCH


def measure(training: subprocess.Popen[bytes], run: Path, data: Path, goal: float, samples: int, work: float) -> bool:
    """Measure each new checkpoint of a training, print a row of it, and return whether one passed the goal.

    Args:
        training: process of `cap2im train`.
        run: its folder.
        data: folder of the MNIST files.
        goal: per cent of the seen captions.
        samples: drawings of a caption.
        work: TFLOP of an update.
    """
    start, suspended, measured = time.perf_counter(), 0.0, 0
    print("| updates | PFLOP | minutes | joint, seen, % | joint, held out, % |\n| --- | --- | --- | --- | --- |", flush=True)
    while True:
        ended = training.poll() is not None  # before the checkpoints are listed, so that the last one is not missed
        for checkpoint in checkpoints(run):
            step = int(checkpoint.name.removeprefix("step-"))
            if step <= measured:
                continue
            if not ended:
                training.send_signal(signal.SIGSTOP)
            now = time.perf_counter()
            rates, measured = accuracy(checkpoint, data, samples), step
            seen, held_out = rates["joint, seen, %"], rates["joint, held out, %"]
            minutes = (now - start - suspended) / 60
            print(f"| {step:,} | {step * work / 1000:.2f} | {minutes:.1f} | {seen.text} | {held_out.text} |", flush=True)
            suspended += time.perf_counter() - now
            if 100 * seen.value >= goal:
                return True
            if not ended:
                training.send_signal(signal.SIGCONT)
        if ended:
            return False
        time.sleep(POLL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the MNIST files")
    parser.add_argument("--run", type=Path, required=True, help="new folder for the training")
    parser.add_argument("--recipe", default="aligndraw-mnist")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change of the recipe")
    parser.add_argument("--goal", type=float, default=90.0, help="per cent of the seen captions")
    parser.add_argument("--every", type=int, default=1_000, help="updates between two measurements")
    parser.add_argument("--samples", type=int, default=3, help="drawings of a caption")
    given = parser.parse_args()
    if given.run.exists():
        parser.error(f"--run {given.run}: exists; a training from scratch needs a new folder")
    changes = [*given.changes, f"train.checkpoint_every={given.every}"]
    recipe = load_recipe(given.recipe, changes)
    command = ["train", given.recipe, "--data", given.data, "--run", given.run, *(part for change in changes for part in ("--set", change))]
    training = subprocess.Popen([sys.executable, "-m", "cap2im", *map(str, command)], stdout=subprocess.DEVNULL)
    try:
        reached = measure(training, given.run, given.data, given.goal, given.samples, work_of_update(recipe))
    finally:
        training.kill()
        training.wait()
    if training.returncode not in (0, -signal.SIGKILL):
        print(f"cap2im train ended with status {training.returncode}", file=sys.stderr)
    print(f"\n{'Reached' if reached else 'Did not reach'} {given.goal:g} % of the seen captions; {os.cpu_count()} processors.")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
