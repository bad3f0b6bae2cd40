"""Measure what each hand-written derivative and kernel is worth in a whole training step, against plain operators.

    python -m benchmarks.autograd [--cases tanh "word cosines"] [--rounds 9]

A training step is forward pass, losses, backward pass and optimizer, of the recipe named in the row, on random data. Steps with the
hand-written code and with plain operators alternate in one process, one thread; the table gives the median processor time of each, and
the median of the ratios of neighbouring steps with its quartiles. Code that wins less than 10 % of a step that users run is not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from benchmarks.speed import training_step
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from cap2im.config import load_recipe
from cap2im.models import aligndraw, convolutions, damsm, discriminators, filterbank, skipthoughts, text
from cap2im.models.aligndraw import DRAW
from cap2im.models.attngan import AttnGAN, conditioning_kl
from cap2im.models.damsm import DAMSM, EncodedImage, Gammas, damsm_losses
from cap2im.models.discriminators import Discriminator, DiscriminatorOutput, Logits, discriminator_loss, generator_loss
from cap2im.models.recurrence import Plain
from cap2im.models.skipthoughts import SkipThoughtsObjective
from cap2im.randomness import generator
from cap2im.training.run import keep_memory

Step = Callable[[], object]

# The plain versions


@contextlib.contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Replace attributes of modules and classes."""
    with contextlib.ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def plain_recurrence() -> AbstractContextManager[None]:
    return replaced((aligndraw, "Unrolled", Plain), (text, "Unrolled", Plain), (skipthoughts, "Unrolled", Plain))


def plain_tanh() -> AbstractContextManager[None]:
    return replaced((aligndraw, "tanh", torch.tanh), (text, "tanh", torch.tanh), (skipthoughts, "tanh", torch.tanh))


class GaussianRows:
    """Normalised Gaussians as a softmax, in which the floor is one more pixel."""

    @staticmethod
    def apply(means: Tensor, variance: Tensor, pixels: Tensor) -> Tensor:
        exponent = (pixels - means.unsqueeze(3)).square() * (-0.5 / variance)[:, None, None, None]
        weights = exponent.clamp(min=-80).exp()
        return weights / (weights.sum(dim=3, keepdim=True) + filterbank.ROW_SUM_FLOOR)


def plain_rows() -> AbstractContextManager[None]:
    return replaced((filterbank, "_GaussianRows", GaussianRows))


def plain_convolutions() -> AbstractContextManager[None]:
    return replaced((convolutions, "fits", lambda maps: False))


def plain_discriminator_convolution() -> AbstractContextManager[None]:
    return replaced((discriminators, "MANY_WEIGHTS", float("inf")))


def separately(network: Discriminator, real: Tensor, fake: Tensor, sentences: Tensor) -> DiscriminatorOutput:
    """Pass real, fake and mismatched pairs one after another."""
    with parametrize.cached():  # one step of spectral normalisation's power iteration, as in the joined pass
        real_maps, fake_maps = network.trunk(real.contiguous()), network.trunk(fake.contiguous())
        real_logits, fake_logits = network.read(real_maps, sentences), network.read(fake_maps, sentences)
        mismatched = network.read(real_maps[:-1], sentences[1:])
        if network.unconditional is None:
            return DiscriminatorOutput(Logits(real_logits, None), Logits(fake_logits, None), mismatched)
        unconditional = [network.unconditional(maps).flatten() for maps in (real_maps, fake_maps)]
        return DiscriminatorOutput(Logits(real_logits, unconditional[0]), Logits(fake_logits, unconditional[1]), mismatched)


def plain_discriminator_pass() -> AbstractContextManager[None]:
    return replaced((Discriminator, "forward", separately))


class WordCosines:
    """The cosines of words and their contexts, by plain operators; on a processor in the same portions."""

    @staticmethod
    def apply(values: Tensor, words: Tensor, mask: Tensor, gamma1: float) -> Tensor:
        (_, _, regions), (captions, longest, _) = values.shape, words.shape
        flat = words.flatten(0, 1)
        lengths = flat.norm(dim=1)
        padding = None if mask.all() else ~mask[:, :, None]
        at_once = len(values) if values.device.type != "cpu" else max(1, damsm.SCORES_AT_ONCE // (len(flat) * regions))

        def cosines(some: Tensor) -> Tensor:
            scores = (flat @ some).unflatten(1, (captions, longest))  # [k, N, L, R]
            if padding is not None:
                scores = scores.masked_fill(padding, -torch.inf)
            weights = (scores.softmax(dim=2) * gamma1).softmax(dim=3).flatten(1, 2)  # [k, N L, R]
            contexts = weights @ some.transpose(1, 2)  # [k, N L, E]
            return (contexts * flat).sum(dim=2) / (contexts.norm(dim=2) * lengths).clamp_min(damsm.SMALLEST_NORM)

        return torch.cat([cosines(some) for some in values.split(at_once)]).unflatten(1, (captions, longest))


def plain_word_cosines() -> AbstractContextManager[None]:
    return replaced((damsm, "_WordCosines", WordCosines))


# The training steps


def draw_step(recipe: str, precision: str, vocabulary: int | None = None) -> Step:
    config = load_recipe(recipe).model
    if vocabulary is not None:
        config = config.model_copy(update={"vocabulary_size": vocabulary})
    return training_step(DRAW(config), torch.device("cpu"), precision)


def skipthoughts_step(recipe: str, batch: int, vocabulary: int, longest: int) -> Step:
    model = SkipThoughtsObjective(load_recipe(recipe).model, vocabulary)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    tokens = torch.randint(vocabulary, (3, batch, longest), generator=generator("benchmark"))
    mask = torch.ones_like(tokens, dtype=torch.bool)

    def step() -> None:
        optimizer.zero_grad()
        model(tokens, mask).mean(dim=0).sum().backward()
        for group in model.parameter_groups():
            nn.utils.clip_grad_norm_(group, 10.0)
        optimizer.step()

    return step


def words_of(count: int, longest: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Random captions of half to all of the words."""
    random = generator("benchmark", 1)
    lengths = torch.randint(longest // 2, longest + 1, (count, 1), generator=random)
    lengths[0] = longest
    return torch.randint(1, vocabulary, (count, longest), generator=random), torch.arange(longest) < lengths


def damsm_step(recipe: str, precision: str, batch: int, longest: int, vocabulary: int) -> Step:
    settings = load_recipe(recipe, [f"model.text.vocabulary_size={vocabulary}"])
    model = DAMSM(settings.model).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], fused=True)
    side = settings.model.side
    images = torch.rand(batch, settings.model.colours, side, side, generator=generator("benchmark"))
    tokens, mask = words_of(batch, longest, vocabulary)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            image, encoded = model(2 * images - 1, tokens, mask)
        loss = torch.stack(list(damsm_losses(image, encoded, None, Gammas()).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.text.parameters(), 0.25)
        optimizer.step()

    return step


class PooledRegions(nn.Module):
    """In place of DAMSM's Inception in AttnGAN's step, which no case changes: as many regions, pooled."""

    def __init__(self, colours: int, features: int) -> None:
        super().__init__()
        self.regions, self.code = nn.Conv2d(colours, features, 1), nn.Linear(colours, features)

    def forward(self, images: Tensor) -> EncodedImage:
        return EncodedImage(self.regions(F.adaptive_avg_pool2d(images, 17)), self.code(images.mean(dim=(2, 3))))


def attngan_step(recipe: str, precision: str, batch: int, longest: int, vocabulary: int, image_encoder: str | None) -> Step:
    """All discriminators, then the generator, as `training.attngan` updates them; `image_encoder` is the recipe of the DAMSM."""
    settings = load_recipe(recipe, [f"model.text.vocabulary_size={vocabulary}"])
    c, train = settings.model, settings.train
    if image_encoder is not None:
        c = c.model_copy(update={"text": load_recipe(image_encoder).model.text.model_copy(update={"vocabulary_size": vocabulary})})
        encode_image: nn.Module = DAMSM(load_recipe(image_encoder).model).image
    else:
        encode_image = PooledRegions(c.colours, c.text.features)
    encode_image.eval().requires_grad_(False)
    model = AttnGAN(c).train()
    networks = nn.ModuleList(
        Discriminator(c.stage_sides[stage], train.discriminator_width, c.text.features, c.colours, spectral_norm=train.spectral_norm)
        for stage in c.shown_stages
    ).train()
    optimizer = torch.optim.Adam([*model.generator.parameters(), *networks.parameters()], 2e-4, (0.5, 0.999), fused=True)
    random = generator("benchmark", 2)
    reals = [torch.rand(batch, c.colours, c.stage_sides[s], c.stage_sides[s], generator=random) * 2 - 1 for s in c.shown_stages]
    noise = torch.randn(batch, *c.noise_shape, generator=random)
    with torch.no_grad():
        encoded = model.eval().encode(*words_of(batch, longest, vocabulary))
    model.train()
    half = partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bf16")

    def step() -> None:
        with half():
            output = model.generate(encoded, noise)
        for network, real, fake in zip(networks, reals, output.images, strict=True):
            with half():
                answer = network(real, fake.detach(), encoded.sentence)
            discriminator_loss(answer).backward()
            optimizer.step()
            optimizer.zero_grad()
        networks.requires_grad_(False)
        with half():
            logits = [network.logits(fake, encoded.sentence) for network, fake in zip(networks, output.images, strict=True)]
            image = encode_image(output.images[-1][..., c.margin : c.stage_sides[-1] - c.margin, c.margin : c.stage_sides[-1] - c.margin])
        losses = [generator_loss(each) for each in logits] + [
            train.matching_weight * loss for loss in damsm_losses(image, encoded, None, Gammas()).values()
        ]
        (torch.stack(losses).sum() + conditioning_kl(output.mean.float(), output.log_variance.float())).backward()
        optimizer.step()
        optimizer.zero_grad()
        networks.requires_grad_(True)

    return step


STEPS: dict[str, Callable[[], Step]] = {
    "aligndraw-mnist-paper, fp32": lambda: draw_step("aligndraw-mnist-paper", "fp32"),
    "aligndraw-mnist-paper, bf16": lambda: draw_step("aligndraw-mnist-paper", "bf16"),
    "aligndraw-coco-paper, fp32": lambda: draw_step("aligndraw-coco-paper", "fp32", 25_323),
    "aligndraw-coco-paper, bf16": lambda: draw_step("aligndraw-coco-paper", "bf16", 25_323),
    "skipthoughts-small, fp32": lambda: skipthoughts_step("skipthoughts-small", 64, 4_000, 20),
    "skipthoughts, batch 32, fp32": lambda: skipthoughts_step("skipthoughts", 32, 20_000, 20),
    "damsm-mnist, bf16": lambda: damsm_step("damsm-mnist", "bf16", 50, 12, 22),
    "damsm-coco, fp32": lambda: damsm_step("damsm-coco", "fp32", 48, 15, 27_297),
    "attngan-mnist, fp32": lambda: attngan_step("attngan-mnist", "fp32", 32, 12, 22, "damsm-mnist"),
    "attngan-mnist, bf16": lambda: attngan_step("attngan-mnist", "bf16", 32, 12, 22, "damsm-mnist"),
    "attngan-cifar, bf16": lambda: attngan_step("attngan-cifar", "bf16", 64, 12, 8_000, "damsm-cifar"),
    "attngan-coco, batch 2, fp32": lambda: attngan_step("attngan-coco", "fp32", 2, 12, 27_297, None),
    "attngan-coco, batch 14, fp32": lambda: attngan_step("attngan-coco", "fp32", 14, 12, 27_297, None),
}


@dataclass(frozen=True)
class Case:
    """A hand-written part: how to replace it, and the steps in which it works."""

    plain: Callable[[], AbstractContextManager[None]]
    steps: tuple[str, ...]


DRAW_STEPS = tuple(name for name in STEPS if name.startswith("aligndraw"))
SMALL_ATTNGAN = ("attngan-mnist, fp32", "attngan-mnist, bf16", "attngan-cifar, bf16")
LARGE_ATTNGAN = ("attngan-coco, batch 2, fp32",)
CASES = {
    "recurrence": Case(plain_recurrence, (*DRAW_STEPS, "skipthoughts-small, fp32", "skipthoughts, batch 32, fp32")),
    "tanh": Case(plain_tanh, (*DRAW_STEPS[:3], "skipthoughts-small, fp32")),
    "gaussian rows": Case(plain_rows, DRAW_STEPS[:3]),
    "convolutions": Case(plain_convolutions, ("attngan-mnist, fp32", *LARGE_ATTNGAN)),
    "discriminator convolution": Case(plain_discriminator_convolution, (*SMALL_ATTNGAN[:1], *LARGE_ATTNGAN)),
    "joined discriminator pass": Case(plain_discriminator_pass, (*SMALL_ATTNGAN, *LARGE_ATTNGAN)),
    "word cosines": Case(plain_word_cosines, ("damsm-mnist, bf16", "damsm-coco, fp32", *SMALL_ATTNGAN[1:2], *LARGE_ATTNGAN)),
}


def seconds(step: Step) -> float:
    """Processor time of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def compare(step: Step, plain: Callable[[], AbstractContextManager[None]], rounds: int) -> tuple[list[float], list[float]]:
    """Processor times with the hand-written code and with plain operators, in turns, after one step of each."""

    def plainly() -> None:
        with plain():
            step()

    step()
    plainly()
    ours, theirs = [], []
    for number in range(rounds):
        for function, times in ((step, ours), (plainly, theirs)) if number % 2 else ((plainly, theirs), (step, ours)):
            times.append(seconds(function))
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_memory()
    print(f"{platform.machine()}, 1 thread; torch {torch.__version__}; {arguments.rounds} rounds\n")
    print("| hand-written | training step | seconds | with plain operators | plain / hand-written (quartiles) |")
    print("| --- | --- | --- | --- | --- |")
    for name in STEPS:
        cases = [case for case in arguments.cases if name in CASES[case].steps and name in arguments.steps]
        if not cases:
            continue
        torch.manual_seed(0)
        step = STEPS[name]()
        for case in cases:
            ours, theirs = compare(step, CASES[case].plain, arguments.rounds)
            low, middle, high = statistics.quantiles([b / a for a, b in zip(ours, theirs, strict=True)], n=4)
            row = f"{statistics.median(ours):.3f} | {statistics.median(theirs):.3f} | {middle:.2f} ({low:.2f} to {high:.2f})"
            print(f"| {case} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
