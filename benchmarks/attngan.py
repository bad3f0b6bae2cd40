"""Measure AttnGAN's sampling and training step at COCO's width, beside a plain version and the machine's matrix product.

    python -m benchmarks.attngan [--device cuda] [--threads 1] [--runs 5] [--batch 2] [--what sampling training]

Networks of attngan-coco with random weights: three sizes up to 256 x 256. Sampling generates 4 images of encoded captions of 12 words. A
training step covers everything but DAMSM's image encoder: generator, three discriminators, losses, Adam, moving average.

The plain version is the same network and update without what the package does for speed: every upsampling enlarges before it convolves,
channels come first, all images are generated at once and normalised after every convolution, the generator's update also computes gradients
of the discriminators, Adam goes tensor by tensor, and freed memory goes back to the system. Each row is measured in its own process. With
one thread, seconds are processor time.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.speed import Clock, multiply_rate, multiply_rates, precisions_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cap2im.config import AttnGANRecipe, load_recipe
from cap2im.models import attngan
from cap2im.models.attngan import AttnGAN, conditioning_kl
from cap2im.models.damsm import EncodedImage, Gammas, damsm_losses
from cap2im.models.discriminators import Discriminator, discriminator_loss, generator_loss
from cap2im.models.text import EncodedText
from cap2im.randomness import generator
from cap2im.training.accelerator import keep_freed_memory

WORDS, VOCABULARY = 12, 27_297  # words of a caption, and of COCO's vocabulary
IMAGES = 4  # of a batch to sample
REGIONS = 17


def coco_recipe() -> AttnGANRecipe:
    """Return the recipe attngan-coco with the text encoder of its DAMSM."""
    recipe = load_recipe("attngan-coco", [f"model.text.vocabulary_size={VOCABULARY}"])
    assert isinstance(recipe, AttnGANRecipe)
    return recipe


def random_text(count: int, features: int, device: torch.device) -> EncodedText:
    """Return random encoded captions without padding."""
    random = generator("benchmark")
    words, sentence = (torch.randn(*shape, generator=random).to(device) for shape in ((count, WORDS, features), (count, features)))
    return EncodedText(words, sentence, torch.ones(count, WORDS, dtype=torch.bool, device=device))


def use_plain_layers() -> None:
    """Replace the generator's layers by plain ones in this process."""

    def up(block: attngan.UpBlock, maps: Tensor) -> Tensor:
        return F.glu(block.norm(block.convolution(F.interpolate(maps, scale_factor=2.0, mode="nearest"))), dim=1)

    def first(stage: attngan.FirstStage, condition: Tensor, noise: Tensor) -> Tensor:
        seed = F.glu(stage.norm(stage.linear(torch.cat([condition, noise], dim=1))), dim=1)
        return stage.ups(seed.view(-1, stage.channels, attngan.SEED_SIDE, attngan.SEED_SIDE))

    def residual(block: attngan.ResidualBlock, maps: Tensor) -> Tensor:
        inside = F.glu(block.first_norm(block.first(maps)), dim=1)
        return maps + block.second_norm(block.second(inside))

    attngan.PLACES_AT_ONCE = sys.maxsize
    attngan.UpBlock.forward = up  # type: ignore[method-assign]
    attngan.ResidualBlock.forward = residual  # type: ignore[method-assign]
    attngan.FirstStage.forward = first  # type: ignore[method-assign]
    attngan.glu = lambda units: F.glu(units, dim=1)


def sampling(device: torch.device, precision: str) -> tuple[Callable[[], object], float]:
    """Return a function that samples, and its work in GFLOP."""
    model = AttnGAN(coco_recipe().model).to(device).eval().requires_grad_(False)
    text = random_text(IMAGES, model.config.text.features, device)
    noise = torch.randn(IMAGES, *model.noise_shape, generator=generator("noise")).to(device)

    def sample() -> object:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model.sample(text, noise)

    with FlopCounterMode(display=False) as counter:
        model.sample(text, noise)
    return sample, counter.get_total_flops() / 1e9


class PooledRegions(nn.Module):
    """A stand-in for DAMSM's image encoder with as many regions."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.regions, self.code = nn.Conv2d(3, features, 1), nn.Linear(3, features)

    def forward(self, images: Tensor) -> EncodedImage:
        """Encode images [B, 3, A, A]."""
        return EncodedImage(self.regions(F.adaptive_avg_pool2d(images, REGIONS)), self.code(images.mean(dim=(2, 3))))


def training(device: torch.device, precision: str, batch: int, *, plain: bool, recompute: bool) -> Callable[[], object]:
    """Return a function that updates all networks, as cap2im.training.attngan does."""
    recipe = coco_recipe()
    c, settings = recipe.model, recipe.train
    network = attngan.Generator(c).to(device)
    network.recompute = recompute
    discriminators = nn.ModuleList(
        Discriminator(side, settings.discriminator_width, c.text.features, c.colours) for side in c.stage_sides
    ).to(device)
    image_encoder = PooledRegions(c.text.features).to(device).requires_grad_(False)
    parameters = [*network.parameters(), *discriminators.parameters()]
    optimizer = torch.optim.Adam(parameters, 2e-4, (0.5, 0.999), foreach=False, fused=not plain)
    average = [p.detach().clone() for p in network.parameters()]
    random = generator("benchmark", 1)
    reals = [2 * torch.rand(batch, 3, side, side, generator=random).to(device) - 1 for side in c.stage_sides]
    text, noise = random_text(batch, c.text.features, device), torch.randn(batch, *c.noise_shape, generator=random).to(device)
    if not plain:
        keep_freed_memory()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = network(text, noise)
        for discriminator, real, fake in zip(discriminators, reals, output.images, strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                judged = discriminator(real, fake.detach(), text.sentence)
            discriminator_loss(judged).backward()
            optimizer.step()
            optimizer.zero_grad()
        discriminators.requires_grad_(plain)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = [d.logits(fake, text.sentence) for d, fake in zip(discriminators, output.images, strict=True)]
            image = image_encoder(output.images[-1])
        matching = torch.stack(list(damsm_losses(image, text, None, Gammas()).values())).sum()
        loss = torch.stack([generator_loss(each) for each in logits]).sum() + settings.matching_weight * matching
        (loss + conditioning_kl(output.mean.float(), output.log_variance.float())).backward()
        if plain:
            discriminators.zero_grad()
        optimizer.step()
        optimizer.zero_grad()
        discriminators.requires_grad_(True)
        torch._foreach_lerp_(average, [p.detach() for p in network.parameters()], 0.001)

    return step


def peak_memory(device: torch.device) -> float:
    """Return the GiB that this process held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def clock_of(arguments: argparse.Namespace) -> Clock:
    """Return a clock of processor time for one thread, else of wall time."""
    single = arguments.device == "cpu" and arguments.threads == 1
    return Clock(torch.device(arguments.device), arguments.runs, time.process_time if single else time.perf_counter)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one row in this process."""
    device = torch.device(arguments.device)
    clock = clock_of(arguments)
    if arguments.plain:
        use_plain_layers()
    if arguments.row == "sampling":
        function, work = sampling(device, arguments.precision)
    else:
        function = training(device, arguments.precision, arguments.batch, plain=arguments.plain, recompute=arguments.recompute)
        with FlopCounterMode(display=False) as counter:
            function()
        work = counter.get_total_flops() / 1e9
    seconds = clock.seconds(function)
    return {"seconds": seconds, "work": work, "peak": peak_memory(device), "rate": multiply_rate(clock)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2, help="batch size of a training step")
    parser.add_argument("--what", nargs="+", default=["sampling", "training"], choices=["sampling", "training"])
    parser.add_argument("--row", choices=["sampling", "training"], help=argparse.SUPPRESS)  # measure one row, print it as JSON
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    if arguments.row:
        print(json.dumps(measure(arguments)))
        return
    device, clock = torch.device(arguments.device), clock_of(arguments)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{arguments.threads} threads, {platform.machine()}"
    print(f"{name}; torch {torch.__version__}; median of {arguments.runs} runs\n")
    precisions = precisions_of(device)
    print(f"Matrix multiply: {multiply_rates(clock)}\n")
    print("| what | precision | seconds | GFLOP | GFLOP/s | share of the fp32 multiply rate | time / plain time | peak GiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    labels = {"sampling": f"sampling {IMAGES} images", "training": f"training step, batch {arguments.batch}"}
    for what in arguments.what:
        plain_seconds = 0.0
        rows = [(", plain", "fp32", ["--plain"]), *(("", precision, []) for precision in precisions)]
        rows += [(", train.recompute", precision, ["--recompute"]) for precision in precisions] if what == "training" else []
        for label, precision, options in rows:
            command = [sys.executable, "-m", "benchmarks.attngan", "--row", what, "--precision", precision, "--device", arguments.device]
            command += ["--threads", str(arguments.threads), "--runs", str(arguments.runs), "--batch", str(arguments.batch)]
            row = json.loads(subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE).stdout)
            plain_seconds = plain_seconds or row["seconds"]
            rate = row["work"] / row["seconds"]
            cells = [
                labels[what] + label,
                precision,
                f"{row['seconds']:.2f}",
                f"{row['work']:.0f}",
                f"{rate:.0f}",
                f"{rate / row['rate']:.0%}",
                f"{row['seconds'] / plain_seconds:.0%}",
                f"{row['peak']:.1f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
