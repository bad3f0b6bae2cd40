"""Measure alignDRAW's training step and sampling beside the machine's matrix product and a plain program.

    python -m benchmarks.speed [--recipe aligndraw-coco-paper] [--device cuda] [--compile] [--threads 2]

Prints the tables of benchmarks/README.md for the network of a recipe and batches of 100.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from benchmarks import plain
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from cap2im.config import load_recipe
from cap2im.data.batch import Batch
from cap2im.data.canvas_batches import caption_tokens
from cap2im.data.mnist import scikit_learn_digits
from cap2im.data.mnist_captions import ALIASES, WORDS, CanvasMaker, HeldOut
from cap2im.data.vocabulary import Vocabulary
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.precision import Precision, supports_bf16
from cap2im.randomness import generator

BATCH = 100
COCO_WORDS = 25_323
EPOCH = 10_000  # canvases
SIDE = 2048  # of the matrices whose product is the machine's rate
PARTS = {  # operator -> part of a step that its time counts for
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::linear": "matrix products",
    "aten::bmm": "filter banks and attention (batched products)",
    "aten::mv": "filter banks and attention (batched products)",
    "aten::addmv_": "filter banks and attention (batched products)",
    "aten::copy_": "copies and concatenations",
    "aten::cat": "copies and concatenations",
    "aten::stack": "copies and concatenations",
}


class Clock:
    """Measures the seconds of a function on any device, as the median of several runs."""

    def __init__(self, device: torch.device, runs: int, now: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.runs, self.now = device, runs, now

    def seconds(self, function: Callable[[], object], repeat: int = 1) -> float:
        """Return the seconds of one call, after a call that is not measured."""
        function()
        times = []
        for _ in range(self.runs):
            self._wait()
            start = self.now()
            for _ in range(repeat):
                function()
            self._wait()
            times.append((self.now() - start) / repeat)
        return statistics.median(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def multiply_rate(clock: Clock, dtype: torch.dtype = torch.float32) -> float:
    """Return the GFLOP/s of a square matrix product."""
    a, b = (torch.randn(SIDE, SIDE, device=clock.device).to(dtype) for _ in range(2))
    return 2 * SIDE**3 / clock.seconds(lambda: a @ b, repeat=4) / 1e9


def precisions_of(device: torch.device) -> list[Precision]:
    """Return the precisions that a device supports natively; emulated ones would take minutes a row."""
    return ["fp32", "bf16"] if supports_bf16(device) else ["fp32"]


def multiply_rates(clock: Clock) -> str:
    """Return the GFLOP/s of a square matrix product in each precision, as text."""
    types: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return ", ".join(f"{name} {multiply_rate(clock, types[name]):.0f} GFLOP/s" for name in precisions_of(clock.device))


def some_batch(config: DRAWConfig, size: int = BATCH) -> Batch:
    """Return captioned digits for networks of MNIST with captions, else noise and captions of 12 random words, COCO's median."""
    noise = torch.randn(size, config.glimpses, config.latent, generator=generator("noise"))
    if config.vocabulary_size == len(WORDS):
        canvases = CanvasMaker(scikit_learn_digits("train"), HeldOut.from_seed(0)).make(size, generator("benchmark"))
        return Batch(canvases.images.float() / 255, *caption_tokens(canvases, Vocabulary(words=WORDS, aliases=ALIASES)), noise)
    random = generator("benchmark")
    images = torch.rand(size, config.colours, config.side, config.side, generator=random)
    tokens = torch.randint(config.vocabulary_size, (size, 12), generator=random)
    vectors = torch.randn(size, config.sentence_features, generator=random) if config.conditioning == "sentence" else None
    return Batch(images, tokens, torch.ones_like(tokens, dtype=torch.bool), noise, vectors)


def bound(model: DRAW, batch: Batch) -> Tensor:
    """Return the lower bound [B] of each image."""
    value: Tensor = model(batch.images, batch.tokens, batch.mask, batch.noise, batch.vectors).value
    return value


def training_step(model: DRAW, device: torch.device, precision: str, bound: Callable[[DRAW, Batch], Tensor] = bound) -> Callable[[], None]:
    """Return an update on one batch: forward, backward, clipping, RMSprop."""
    from cap2im.training.optimizers import RMSprop

    batch = some_batch(model.config).to(device)
    optimizer = RMSprop(model.parameters())

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            value = bound(model, batch)
        optimizer.zero_grad()
        (-value.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    return step


def sampling(model: DRAW, device: torch.device, images: int = BATCH) -> Callable[[], None]:
    """Return a function that samples images in one batch."""
    batch = some_batch(model.config, images).to(device)

    @torch.inference_mode()
    def draw() -> None:
        for _ in model.sample_steps(model.encode(batch.tokens, batch.mask, batch.vectors), batch.noise):
            pass

    return draw


def plain_sampling(model: DRAW, device: torch.device, images: int = BATCH) -> Callable[[], None]:
    """Return a function that samples images in one batch by the plain program."""
    batch = some_batch(model.config, images).to(device)

    @torch.inference_mode()
    def draw() -> None:
        plain.draw(model, batch)

    return draw


def check_plain(model: DRAW, device: torch.device) -> None:
    """Check that the plain program returns the same bounds."""
    batch = some_batch(model.config).to(device)
    with torch.no_grad():
        torch.testing.assert_close(plain.bound(model, batch), bound(model, batch), rtol=1e-4, atol=0)


def parts_of(step: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Return the shares of a step's time by part."""
    activity = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activity) as recorded:
        step()
    shares: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a kernel, whose time counts for its operator
        duration = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        shares[PARTS.get(event.key, "elementwise and the rest")] += duration
    total = sum(shares.values())
    return {name: value / total for name, value in sorted(shares.items(), key=lambda item: -item[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="aligndraw-mnist-paper")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also measure compiled steps; compiling takes minutes")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    clock = Clock(device, arguments.runs)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{arguments.threads} threads, {platform.machine()}"
    print(f"{name}; torch {torch.__version__}, cap2im on Python {platform.python_version()}; median of {arguments.runs} runs\n")

    config = load_recipe(arguments.recipe).model
    if arguments.recipe != parser.get_default("recipe") and config.reads_words:
        config = config.model_copy(update={"vocabulary_size": COCO_WORDS})
    precisions = precisions_of(device)
    print(f"Matrix multiply {SIDE}^3: {multiply_rates(clock)}\n")
    model = DRAW(config).to(device)
    with FlopCounterMode(display=False) as counter:
        training_step(model, device, "fp32")()
    step_work = counter.get_total_flops() / 1e9
    with FlopCounterMode(display=False) as counter:
        sampling(model, device).__wrapped__()  # type: ignore[attr-defined]  # the counter needs gradients
    draw_work = counter.get_total_flops() / 1e9
    print(f"A training step is {step_work:.1f} GFLOP, sampling 100 images {draw_work:.1f}.\n")

    check_plain(model, device)

    print("| what | precision | seconds | GFLOP/s | share of the fp32 multiply rate | times as fast as the plain program |")
    print("| --- | --- | --- | --- | --- | --- |")
    plain_seconds: dict[float, float] = {}  # of the plain program, by work

    def row(label: str, precision: str, function: Callable[[], None], work: float) -> None:
        before = multiply_rate(clock)
        seconds = clock.seconds(function)
        rate = (before + multiply_rate(clock)) / 2
        faster = plain_seconds.setdefault(work, seconds) / seconds
        print(f"| {label} | {precision} | {seconds:.3g} | {work / seconds:.0f} | {work / seconds / rate:.0%} | {faster:.1f} |", flush=True)

    row("the plain program's training step", "fp32", training_step(model, device, "fp32", plain.bound), step_work)
    row("the plain program's sampling of 100 images", "fp32", plain_sampling(model, device), draw_work)
    row("the plain program's sampling of one image", "fp32", plain_sampling(model, device, 1), draw_work / BATCH)
    for precision in precisions:
        row("training step, batch 100", precision, training_step(model, device, precision), step_work)
    row("sampling 100 images", "fp32", sampling(model, device), draw_work)
    row("sampling one image", "fp32", sampling(model, device, 1), draw_work / BATCH)
    if arguments.compile:
        compiled = DRAW(config).to(device)
        compiled.compile_steps()
        for precision in precisions:
            row("training step, --compile", precision, training_step(compiled, device, precision), step_work)

    print(f"\n| where a training step's time goes | {' | '.join(precisions)} |\n| --- |{' --- |' * len(precisions)}")
    parts = [parts_of(training_step(model, device, precision), device) for precision in precisions]
    for part in parts[0]:
        print(f"| {part} | {' | '.join(f'{shares.get(part, 0.0):.0%}' for shares in parts)} |")

    if arguments.recipe != parser.get_default("recipe"):
        return
    maker = CanvasMaker(scikit_learn_digits("train"), HeldOut.from_seed(0))
    epoch = clock.seconds(lambda: maker.make(EPOCH, generator("epoch")))
    step_seconds = clock.seconds(training_step(model, device, "fp32"))
    steps = EPOCH // BATCH
    print(f"\nMaking {EPOCH:,} canvases: {epoch:.2f} s, {epoch / steps / step_seconds:.1%} of the time of their {steps} training steps.")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cap2im", "draw", "the digit three is at the top of the digit one", "--out", folder]
        seconds = clock.seconds(lambda: subprocess.run(command, check=True, capture_output=True))
    print(f"cap2im draw, from process start to files: {seconds:.1f} s")


if __name__ == "__main__":
    main()
