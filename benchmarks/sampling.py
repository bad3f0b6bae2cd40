"""Measure drawing with compiled steps beside drawing without, for bundled models.

    python -m benchmarks.sampling [--model aligndraw-scenes] [--threads 1] [--pictures 1 100]

Encodes captions and draws their finished pictures. Calls of both alternate; seconds are processor time, medians of `--runs` calls.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from cap2im.pipeline import Pipeline


def processor_seconds(function: Callable[[], object]) -> float:
    """Return the processor seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["aligndraw-scenes", "aligndraw-mnist"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 2, 5, 64, 100])
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # as the server does
    print(f"{arguments.threads} threads, {platform.machine()}; torch {torch.__version__}; seed 0\n")
    print("| model | pictures | ms | compiled, ms | compiled / plain | largest difference, grey levels |")
    print("| --- | --- | --- | --- | --- | --- |")
    compiling = []
    for name in arguments.model:
        plain, compiled = Pipeline.load(name), Pipeline.load(name)
        compiling.append(f"{name} {processor_seconds(lambda: compiled.compile(64)):.0f} s")  # noqa: B023
        for count in arguments.pictures:
            prompts = plain.prompts((plain.examples * count)[:count])
            calls = [lambda each=each: each.images(prompts, range(count)) for each in (plain, compiled)]  # noqa: B023
            drawn = [each.drawings(prompts, range(count)) for each in (plain, compiled)]
            difference = max(np.abs(one.canvases.astype(int) - other.canvases).max() for one, other in zip(*drawn, strict=True))
            rounds = [[processor_seconds(call) for call in calls] for _ in range(arguments.runs)]
            before, after = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
            print(f"| {name} | {count} | {before:.1f} | {after:.1f} | {after / before:.2f} | {difference} |", flush=True)
    print(f"\nCompiling took {', '.join(compiling)} of processor time.")


if __name__ == "__main__":
    main()
