"""Measure the caption accuracy and the speed of exported models of captioned digits, drawn by onnxruntime.

    python -m benchmarks.exported FOLDER... [--samples 1] [--seed 0] [--threads 1]

Draws all 440 captions with each folder of `cap2im export MODEL --format onnx`, from the same seeds. Torch only reads the digits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from cap2im.data.mnist_captions import LAYOUTS, HeldOut
from cap2im.evaluation.digits import canvas_scorer
from cap2im.evaluation.generated import score_drawings
from cap2im.export.onnx_drawing import OnnxDrawer
from cap2im.loading import load_model
from cap2im.metrics.caption_accuracy import READER, caption_accuracy
from cap2im.models.digit_reader import DigitReader

ALL = HeldOut(((),) * len(LAYOUTS))


def row(folder: Path, samples: int, seed: int) -> str:
    """Return a folder's row of the table."""
    drawer, spent = OnnxDrawer.load(folder), [0.0]
    configurations = [each for each in ALL.configurations() for _ in range(samples)]

    def draw(captions: list[str], seeds: list[int]) -> Tensor:
        start = time.process_time()
        drawings = drawer.draw(captions, seed=seeds)
        spent[0] += time.process_time() - start
        return torch.stack([torch.from_numpy(each.canvases[-1]).movedim(-1, 0) for each in drawings]) / 255

    scorer = canvas_scorer(load_model(READER, DigitReader).network, configurations)
    scores = score_drawings(draw, scorer, [each.caption for each in configurations], seed=seed)
    assert scores is not None
    joint = next(each for each in caption_accuracy(scores, configurations) if (each.name, each.group) == ("joint", "all"))
    assert joint.interval is not None
    low, high = joint.interval
    size = sum((folder / name).stat().st_size for name in drawer.about.sha256) / 1e6
    milliseconds = 1000 * spent[0] / len(configurations)
    return f"| {drawer.label} | {size:.1f} | {100 * joint.value:.1f} ({100 * low:.1f} to {100 * high:.1f}) | {milliseconds:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    captions = len(list(ALL.configurations()))
    print(f"onnxruntime {onnxruntime.__version__}; {captions} captions, {arguments.samples} drawings each, seed {arguments.seed}\n")
    print("| weights | graphs, MB | joint, % (95 % interval) | ms of the processor a picture |\n| --- | --- | --- | --- |")
    for folder in arguments.folders:
        print(row(folder, arguments.samples, arguments.seed), flush=True)


if __name__ == "__main__":
    main()
