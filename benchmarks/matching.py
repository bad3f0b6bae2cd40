"""Measure AttnGAN's word loss for all captions at once beside a loop over captions.

    python -m benchmarks.matching [--threads 1] [--batch 48] [--features 256] [--side 17] [--words 15]

Forward and backward of both word losses, at the sizes of the released configurations: 48 images with 17 x 17 regions, captions of 15
words, 256 features. The loop does as the released program: for each caption it copies the words for every image, attends, and compares.
The work is counted over the matrix products of the loop.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable

import torch
from benchmarks.speed import Clock, multiply_rate
from torch import Tensor

from cap2im.models.damsm import Gammas, matching_losses, word_scores
from cap2im.randomness import generator


def loop_over_captions(regions: Tensor, words: Tensor, mask: Tensor, gammas: Gammas) -> Tensor:
    """Return `word_scores`, computed one caption after another."""
    values = regions.flatten(2)  # [B, E, R]
    scores = []
    for caption, is_word in zip(words, mask, strict=True):
        repeated = caption[is_word].T.repeat(len(values), 1, 1)  # [B, E, L]
        by_word = torch.bmm(values.transpose(1, 2), repeated).softmax(dim=2)  # [B, R, L]
        weights = (by_word.transpose(1, 2).contiguous() * gammas.gamma1).softmax(dim=2)  # [B, L, R]
        contexts = torch.bmm(values, weights.transpose(1, 2).contiguous())  # [B, E, L]
        cosines = torch.cosine_similarity(repeated.transpose(1, 2).contiguous(), contexts.transpose(1, 2).contiguous(), dim=2)  # [B, L]
        scores.append(gammas.gamma3 * (gammas.gamma2 * cosines).exp().sum(dim=1).log())
    return torch.stack(scores, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--side", type=int, default=17)
    parser.add_argument("--words", type=int, default=15)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # as training does
    device, random = torch.device(arguments.device), generator("benchmark")
    clock = Clock(device, arguments.runs)
    batch, features, side, longest = arguments.batch, arguments.features, arguments.side, arguments.words
    regions = torch.randn(batch, features, side, side, generator=random).to(device).requires_grad_()
    words = torch.randn(batch, longest, features, generator=random).to(device).requires_grad_()
    mask = torch.ones(batch, longest, dtype=torch.bool, device=device)
    work = 3 * 2 * 2 * batch**2 * longest * side**2 * features / 1e9  # two products, each with two more in the backward pass

    def losses(scores: Callable[[Tensor, Tensor, Tensor, Gammas], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        def both() -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                sum(matching_losses(scores(regions, words, mask, Gammas()), None), torch.zeros(())), (regions, words)
            )

        return both

    at_once, one_by_one = losses(word_scores), losses(loop_over_captions)
    for actual, expected in zip(at_once(), one_by_one(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)
    print(f"{arguments.threads} threads, {platform.machine()}; torch {torch.__version__}; {work:.1f} GFLOP\n")
    print("| word losses, forward and backward | seconds | GFLOP/s | share of the fp32 multiply rate |")
    print("| --- | --- | --- | --- |")
    seconds = {}
    for name, step in (("a caption at a time", one_by_one), ("all captions at once", at_once)):
        before = multiply_rate(clock)
        seconds[name] = clock.seconds(step)
        multiply = (before + multiply_rate(clock)) / 2
        rate = work / seconds[name]
        print(f"| {name} | {seconds[name]:.3f} | {rate:.0f} | {rate / multiply:.0%} |", flush=True)
    slow, fast = seconds.values()
    print(f"\n{slow / fast:.1f} times as fast")


if __name__ == "__main__":
    main()
