"""How fast AttnGAN draws and trains at COCO's width, as a share of what the machine can multiply, and what memory training takes.

    python -m benchmarks.attngan [--device cuda] [--threads 1] [--runs 5] [--batch 2] [--what sampling training]

Networks of attngan-coco with random weights: three sizes up to 256 x 256. Sampling draws 4 captions of 12 words that are encoded already. A
training step is everything but the matching model's image encoder: generator, three discriminators, losses, Adam, running average.

"plainly" is the same network and the same update, written as one first would, in the same run: every upsampling enlarges before it
convolves, channels come first, all pictures are drawn at once and normalised after every convolution, gradients are kept until they are
replaced, the generator's update also computes those of the discriminators, Adam goes tensor by tensor, and memory that is freed goes back
to the system. Each row is measured in a process of its own. With one thread, seconds are those that the processor spent on it, so that a
busy machine falsifies less.
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
from cap2im.data.vocabulary import Vocabulary
from cap2im.models import attngan
from cap2im.models.attngan import AttnGAN, conditioning_kl
from cap2im.models.damsm import EncodedImage, Gammas, damsm_losses
from cap2im.models.discriminators import discriminator_loss, generator_loss
from cap2im.models.text import EncodedText
from cap2im.randomness import generator
from cap2im.training.accelerator import make_accelerator
from cap2im.training.attngan import AttnGANData, AttnGANTrainer, real_images, total

WORDS, VOCABULARY = 12, 27_297  # of a caption; of COCO, about
PICTURES = 4
REGIONS = 17


def coco() -> AttnGANRecipe:
    """attngan-coco, with the text encoder of its matching model."""
    recipe = load_recipe("attngan-coco", [f"model.text.vocabulary_size={VOCABULARY}"])
    assert isinstance(recipe, AttnGANRecipe)
    return recipe


def some_text(count: int, features: int, device: torch.device) -> EncodedText:
    random = generator("benchmark")
    words = torch.randn(count, WORDS, features, generator=random).to(device)
    return EncodedText(
        words, torch.randn(count, features, generator=random).to(device), torch.ones(count, WORDS, dtype=torch.bool, device=device)
    )


def written_plainly() -> None:
    """From here on, what is ours in the networks is undone."""

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
    """Draws, and the work of it in GFLOP."""
    model = AttnGAN(coco().model).to(device).eval().requires_grad_(False)
    text = some_text(PICTURES, model.config.text.features, device)
    noise = torch.randn(PICTURES, *model.noise_shape, generator=generator("noise")).to(device)

    def draw() -> object:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model.sample(text, noise)

    with FlopCounterMode(display=False) as counter:
        model.sample(text, noise)
    return draw, counter.get_total_flops() / 1e9


class StandIn(nn.Module):
    """A matching model whose image encoder, which is not measured, only projects as many regions."""

    def __init__(self, text: nn.Module, features: int) -> None:
        super().__init__()
        self.text, self.regions, self.code = text, nn.Conv2d(3, features, 1), nn.Linear(3, features)

    def image(self, images: Tensor) -> EncodedImage:
        return EncodedImage(self.regions(F.adaptive_avg_pool2d(images, REGIONS)), self.code(images.mean(dim=(2, 3))))


def training(device: torch.device, precision: str, batch: int, plainly: bool, recompute: bool) -> Callable[[], object]:
    """A whole update of all networks."""
    recipe = coco()
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": precision, "recompute": recompute})})
    c, settings = recipe.model, recipe.train
    attngan_training = sys.modules[AttnGANTrainer.__module__]
    attngan_training.initialize_weights = lambda network: None  # type: ignore[attr-defined]  # orthogonal weights take minutes
    if plainly:
        attngan_training.keep_freed_memory = lambda: None  # type: ignore[attr-defined]
    damsm: Any = StandIn(AttnGAN(c).text, c.text.features).requires_grad_(False)
    data = AttnGANData(recipe, None, None, {}, Vocabulary(words=("a",)), damsm=damsm)  # type: ignore[arg-type]
    trainer = AttnGANTrainer(recipe, data, make_accelerator("cpu" if device.type == "cpu" else "auto", batch))
    generator_network, discriminators = trainer.generator, trainer.discriminators
    text = some_text(batch, c.text.features, device)
    random = generator("benchmark", 1)
    reals = real_images(torch.rand(batch, 3, c.side, c.side, generator=random).to(device), c)
    noise = torch.randn(batch, *c.noise_shape, generator=random).to(device)
    if not plainly:
        return lambda: trainer.update_networks(text, reals, noise, None)

    optimizers = [
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999), foreach=False) for network in (*discriminators, generator_network)
    ]
    average = [p.detach().clone() for p in generator_network.parameters()]

    def step() -> None:
        made = generator_network(text, noise)
        for network, optimizer, real, drawn in zip(discriminators, optimizers, reals, made.images, strict=False):
            optimizer.zero_grad(set_to_none=False)
            discriminator_loss(network(real, drawn.detach(), text.sentence)).backward()
            optimizer.step()
        optimizers[-1].zero_grad(set_to_none=False)
        verdicts = [network.logits(drawn, text.sentence) for network, drawn in zip(discriminators, made.images, strict=True)]
        loss = torch.stack([generator_loss(verdict) for verdict in verdicts]).sum()
        loss = loss + settings.matching_weight * total(damsm_losses(damsm.image(made.images[-1]), text, None, Gammas()))
        (loss + conditioning_kl(made.mean, made.log_variance)).backward()
        optimizers[-1].step()
        for mean, parameter in zip(average, generator_network.parameters(), strict=True):
            mean.mul_(0.999).add_(parameter.data, alpha=0.001)

    return step


def peak(device: torch.device) -> float:
    """GiB that this process has held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def clock_of(arguments: argparse.Namespace) -> Clock:
    """Of the processor's seconds for one thread, of everyone's for others."""
    alone = arguments.device == "cpu" and arguments.threads == 1
    return Clock(torch.device(arguments.device), arguments.runs, time.process_time if alone else time.perf_counter)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One row, in this process."""
    device = torch.device(arguments.device)
    clock = clock_of(arguments)
    if arguments.plainly:
        written_plainly()
    if arguments.one == "sampling":
        function, work = sampling(device, arguments.precision)
    else:
        function = training(device, arguments.precision, arguments.batch, arguments.plainly, arguments.recompute)
        with FlopCounterMode(display=False) as counter:
            function()
        work = counter.get_total_flops() / 1e9
    seconds = clock.seconds(function)
    return {"seconds": seconds, "work": work, "peak": peak(device), "rate": multiply_rate(clock)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2, help="of a training step")
    parser.add_argument("--what", nargs="+", default=["sampling", "training"], choices=["sampling", "training"])
    parser.add_argument("--one", choices=["sampling", "training"], help=argparse.SUPPRESS)  # one row, as JSON
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help=argparse.SUPPRESS)
    parser.add_argument("--plainly", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    device, clock = torch.device(arguments.device), clock_of(arguments)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{arguments.threads} threads, {platform.machine()}"
    print(f"{name}; torch {torch.__version__}; median of {arguments.runs} runs\n")
    precisions = precisions_of(device)
    print(f"Matrix multiply: {multiply_rates(clock)}\n")
    print("| what | precision | seconds | GFLOP | GFLOP/s | of the fp32 multiply rate after it | time, of the plain one | peak GiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    labels = {"sampling": f"sampling {PICTURES} pictures", "training": f"training step, batch {arguments.batch}"}
    for what in arguments.what:
        plain = 0.0
        rows = [(", plainly", "fp32", ["--plainly"]), *(("", precision, []) for precision in precisions)]
        rows += [(", train.recompute", precision, ["--recompute"]) for precision in precisions] if what == "training" else []
        for label, precision, more in rows:
            command = [sys.executable, "-m", "benchmarks.attngan", "--one", what, "--precision", precision, "--device", arguments.device]
            command += ["--threads", str(arguments.threads), "--runs", str(arguments.runs), "--batch", str(arguments.batch)]
            row = json.loads(subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE).stdout)
            plain = plain or row["seconds"]
            rate = row["work"] / row["seconds"]
            cells = [
                labels[what] + label,
                precision,
                f"{row['seconds']:.2f}",
                f"{row['work']:.0f}",
                f"{rate:.0f}",
                f"{rate / row['rate']:.0%}",
            ]
            cells += [f"{row['seconds'] / plain:.0%}", f"{row['peak']:.1f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
