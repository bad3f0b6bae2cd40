"""Measure how fast captions rank their shortlists, beside the machine's matrix product.

    python -m benchmarks.retrieval [--threads 1] [--captions 100 200 400] [--candidates 100]

The network of aligndraw-coco-paper with random weights, random 32 x 32 images and captions of 12 random words. The work is counted over one
batch of pairs. Time is linear in the captions, so that of 1,000 is extrapolated.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch
from benchmarks.speed import COCO_WORDS, Clock, multiply_rate
from torch.utils.flop_counter import FlopCounterMode

from cap2im.config import load_recipe
from cap2im.metrics.retrieval import PAIRS_AT_ONCE, likelihood_ratios
from cap2im.models.aligndraw import DRAW
from cap2im.models.text import sentences_as_text
from cap2im.randomness import generator

WORDS = 12  # of a caption: COCO's median
IMAGES = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--captions", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    device, random = torch.device(arguments.device), generator("benchmark")
    clock = Clock(device, runs=3)
    print(f"{arguments.threads} threads, {platform.machine()}; torch {torch.__version__}; batches of {PAIRS_AT_ONCE} pairs\n")

    config = load_recipe("aligndraw-coco-paper").model.model_copy(update={"vocabulary_size": COCO_WORDS})
    model = DRAW(config).eval().to(device)
    most = max(arguments.captions)
    images = torch.randint(256, (IMAGES, 3, config.side, config.side), generator=random, dtype=torch.uint8)
    tokens = torch.randint(COCO_WORDS, (most, WORDS), generator=random)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mean = torch.randn(config.text_features, generator=random)
    shortlists = torch.stack([torch.randperm(len(images), generator=random)[: arguments.candidates] for _ in range(most)])

    pairs = torch.zeros(PAIRS_AT_ONCE, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:  # which needs gradients
        text = model.encode(tokens[:1].to(device), mask[:1].to(device))
        assert text is not None
        model.bound(
            images[pairs].to(device).float() / 255, text[pairs.to(device)], torch.randn(PAIRS_AT_ONCE, *model.noise_shape, device=device)
        )
    of_pair = counter.get_total_flops() / PAIRS_AT_ONCE / 1e9
    with FlopCounterMode(display=False) as counter:  # which needs gradients
        alike = sentences_as_text(mean.to(device).expand(PAIRS_AT_ONCE, -1))
        model.bound(images[pairs].to(device).float() / 255, alike, torch.randn(PAIRS_AT_ONCE, *model.noise_shape, device=device))
    of_mean = counter.get_total_flops() / PAIRS_AT_ONCE / 1e9

    print("| captions | bounds | seconds | seconds a caption | GFLOP/s | share of the fp32 multiply rate |")
    print("| --- | --- | --- | --- | --- | --- |")
    for captions in arguments.captions:
        lists = shortlists[:captions]
        before, start = multiply_rate(clock), time.perf_counter()
        likelihood_ratios(model, images, tokens[:captions], mask[:captions], None, mean, lists, samples=1, seed=0)
        seconds = time.perf_counter() - start
        multiply = (before + multiply_rate(clock)) / 2
        different = len(lists.unique())
        rate = (lists.numel() * of_pair + different * of_mean) / seconds
        bounds = f"{lists.numel():,} + {different:,}"
        print(f"| {captions:,} | {bounds} | {seconds:.1f} | {seconds / captions:.3f} | {rate:.0f} | {rate / multiply:.0%} |", flush=True)
    print(f"\n1,000 captions, extrapolated from {captions}: {1000 * seconds / captions / 60:.1f} minutes")


if __name__ == "__main__":
    main()
