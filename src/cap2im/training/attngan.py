"""Trainer of AttnGAN and AttnDCGAN against discriminators and a matching model (DAMSM).

Source: AttnGAN (Xu et al., arXiv:1711.10485), section 3.1, equations 3-6, and the released program, whose losses these are.

The matching model and its text encoder are frozen, in evaluation mode. The generator draws once an update. The discriminators are updated
first, one after the other, so that activations and gradients of no two are in memory at once, and judge the same images again afterwards.
One optimizer moves all networks, because it keeps its state weight by weight and leaves alone what has no gradient.

Not in the paper, but in the release: an EMA of the generator's weights draws, with the batch statistics of the weights in training. The
release keeps the EMA's decay constant, as `model.variant="released"` does; "paper" warms it up, as all other trainings do. Difference:
while the generator is updated, the release also computes gradients of the discriminators, and discards them.

With several processes, batch statistics, wrong captions and matching losses are those of each process's share of the batch.

Shapes: B batch, C colours, A canvas side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im import randomness
from cap2im.config import AttnGANRecipe
from cap2im.data.batch import Batch
from cap2im.data.image_batches import pyramid
from cap2im.data.vocabulary import Vocabulary
from cap2im.loading import load_model
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.r_precision import OTHERS, fewest_wrong, own_caption_first, require_pictures
from cap2im.models.attngan import AttnGAN, AttnGANConfig, GeneratorOutput, conditioning_kl, crop_margin
from cap2im.models.damsm import DAMSM, Gammas, damsm_losses
from cap2im.models.discriminators import Discriminator, discriminator_loss, generator_loss
from cap2im.models.precision import autocast
from cap2im.models.text import EncodedText
from cap2im.training.accelerator import keep_freed_memory
from cap2im.training.data import DataSource, TrainingData, load_training_data
from cap2im.training.samples import SampleGrid, drawings_grid
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer

VALIDATION_BATCH = 20
MOST_UNKNOWN = 0.5  # share of the captions' words; a matching model that lacks more was trained on other captions


def initialize_weights(network: nn.Module) -> None:
    """Set the release's first weights: orthogonal ones, linear biases 0, and batch normalisation's scales normal around 1."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)


def real_images(images: Tensor, config: AttnGANConfig) -> list[Tensor]:
    """Return images [B, C, A, A] in 0..1 as the discriminators see them: in -1..1, with margins, in every size that is shown."""
    framed = F.pad(images, [config.margin] * 4, mode="replicate")
    return [2 * real - 1 for real in pyramid(framed, [config.stage_sides[stage] for stage in config.shown_stages])]


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of losses."""
    return torch.stack(list(losses.values())).sum()


@dataclass(frozen=True)
class AttnGANData(TrainingData):
    """Captioned images with the matching model that reads them.

    Attributes:
        damsm: the matching model, frozen.
    """

    damsm: DAMSM = None  # type: ignore[assignment]  # always given


class Adversaries(nn.Module):
    """All networks in training, and the text encoder, which is frozen."""

    def __init__(self, recipe: AttnGANRecipe) -> None:
        super().__init__()
        c, settings = recipe.model, recipe.train
        self.drawing = AttnGAN(c)
        self.discriminators = nn.ModuleList(
            Discriminator(
                c.stage_sides[stage],
                settings.discriminator_width,
                c.text.features,
                c.colours,
                unconditional=c.architecture == "attngan",
                spectral_norm=settings.spectral_norm,
            )
            for stage in c.shown_stages
        )
        for network in (self.drawing.generator, self.discriminators):
            initialize_weights(network)
        self.drawing.text.requires_grad_(False)

    def train(self, mode: bool = True) -> Adversaries:
        """Set the mode of all networks but the text encoder, which stays in evaluation mode."""
        super().train(mode)
        self.drawing.text.eval()
        return self


class AttnGANTrainer(Trainer):
    """Trains a generator against discriminators and a matching model. Best is the highest R-precision of drawn validation images."""

    score, higher_is_better = "matched", True
    options = frozenset()

    def __init__(self, recipe: AttnGANRecipe, data: AttnGANData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        keep_freed_memory()
        train = recipe.train
        self.model, self.damsm = Adversaries(recipe), data.damsm.to(accelerator.device)
        self.model.drawing.text.load_state_dict(self.damsm.text.state_dict())
        self.model.drawing.generator.recompute = train.recompute
        self.model.train()
        groups = [
            {"params": list(self.model.drawing.generator.parameters()), "lr": train.generator_rate},
            {"params": list(self.model.discriminators.parameters()), "lr": train.discriminator_rate},
        ]
        self.state = TrainState(
            self.model,
            torch.optim.Adam(groups, betas=(train.momentum, 0.999), fused=True),
            inference_model=self.model.drawing,
            ema_decay=train.ema_decay,
            warm_up=recipe.model.variant == "paper",
        )
        if self.state.ema is not None:
            self.state.ema.n_averaged.fill_(1)  # as released, the EMA starts from the first weights and not from those after an update
            self.state.ema.eval()
        self.generator, *self.discriminators = self.state.prepare(accelerator, self.model.drawing.generator, *self.model.discriminators)

    @classmethod
    def load_data(cls, recipe: AttnGANRecipe, source: DataSource, accelerator: Accelerator) -> AttnGANData:
        """Return the captioned images that a recipe trains on, with the vocabulary of its matching model.

        Raises:
            ValueError: see `Trainer.load_data`; or the matching model is missing or does not fit.
        """
        if recipe.train.batch_size // accelerator.num_processes < 2:
            given = f"train.batch_size {recipe.train.batch_size} on {accelerator.num_processes} processes"
            raise ValueError(f"{given}: every process needs at least 2 captions")
        damsm, vocabulary, about = load_matching_model(recipe)
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"text": damsm.config.text})})
        data = load_training_data(recipe, source, accelerator.num_processes, vocabulary)
        if data.unknown_share > MOST_UNKNOWN:
            raise ValueError(f"{recipe.train.damsm}: {data.unknown_share:.0%} of the words of the validation captions are unknown to it")
        fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
        return AttnGANData(**fields | {"about": data.about | {"damsm": about}}, damsm=damsm)

    def update(self, batch: Batch) -> Losses:
        """Make one update of every network."""
        with torch.no_grad():
            text = self.model.drawing.text(batch.tokens, batch.mask)
            reals = real_images(batch.images, self.recipe.model)
        return self.update_networks(text, reals, batch.noise, batch.classes)

    def update_networks(self, text: EncodedText, reals: Sequence[Tensor], noise: Tensor, classes: Tensor | None) -> Losses:
        """Make one update of every network, the discriminators first.

        Args:
            text: the encoded captions.
            reals: images [B, C, ., .] of every size, as `real_images` returns them.
            noise: [B, 1, Z + K].
            classes: [B] or None, see `Batch`.
        """
        settings, c = self.recipe.train, self.recipe.model
        precision = autocast(self.accelerator.device, settings.precision)
        sides = [c.stage_sides[stage] for stage in c.shown_stages]
        losses = {}
        with precision:
            output: GeneratorOutput = self.generator(text, noise)
        for side, discriminator, real, fake in zip(sides, self.discriminators, reals, output.images, strict=True):
            with precision:
                logits = discriminator(self._add_noise(real, "real"), self._add_noise(fake.detach(), "drawn"), text.sentence)
            losses[f"discriminator_{side}"] = loss = discriminator_loss(logits)
            self._step(discriminator, loss, f"the loss of discriminator {side}")

        self.model.discriminators.requires_grad_(False)
        with precision:
            networks = cast(list[Discriminator], list(self.model.discriminators))
            fakes = [self._add_noise(fake, "judged") for fake in output.images]
            fake_logits = [network.logits(images, text.sentence) for network, images in zip(networks, fakes, strict=True)]
            image = self.damsm.image(crop_margin(output.images[-1], c.stage_sides[-1], c))
        generator_losses = {f"generator_{side}": generator_loss(logits) for side, logits in zip(sides, fake_logits, strict=True)}
        matching_losses = damsm_losses(image, text, classes, Gammas(*settings.gammas))
        kl = conditioning_kl(output.mean.to(text.sentence.dtype), output.log_variance.to(text.sentence.dtype))
        loss = total(generator_losses) + settings.matching_weight * total(matching_losses) + settings.kl_weight * kl  # equation 3
        self._step(self.generator, loss, "the generator's loss")
        self.model.discriminators.requires_grad_(True)
        self.state.update_ema()
        return losses | generator_losses | matching_losses | {"kl": kl}

    def _add_noise(self, images: Tensor, name: str) -> Tensor:
        """Add noise for the discriminators. Without it they learn little else than that real paper is white to the last bit."""
        settings, rank, processes = self.recipe.train, self.accelerator.process_index, self.accelerator.num_processes
        if not settings.image_noise:
            return images
        random = randomness.generator("image noise", settings.seed, self.state.step, images.shape[-1], name)
        noise = torch.randn(len(images) * processes, *images.shape[1:], generator=random)[rank::processes]
        noisy: Tensor = images + settings.image_noise * noise.to(images)
        return noisy

    def _step(self, network: nn.Module, loss: Tensor, name: str) -> None:
        """Update the weights that a loss has gradients for: those of `network`."""
        self.check_finite(name, loss)
        self.accelerator.backward(loss)
        self.clip_gradient(network.parameters(), math.inf, f"the norm of the gradient of {name}")
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return how real and drawn images fare, means over the validation images.

        `told_apart_SIDE` is the share of real images whose discriminator finds them likelier to be real than the drawn image of the same
        caption: one half if it cannot tell them apart. (Nothing absolute, because running statistics mix both.) `matched` is the
        R-precision of drawn images by the matching model of the training, among 100 captions, or as many as there are.
        """
        c, batch = self.recipe.model, self.data.validation
        discriminators = cast(list[Discriminator], list(self.model.discriminators.eval()))
        model: AttnGAN = self.state.ema_model.eval()
        names = [f"told_apart_{c.stage_sides[stage]}" for stage in c.shown_stages] + ["matched"]
        sums = torch.zeros(len(names), device=self.accelerator.device, dtype=torch.float64)
        codes, sentences = ([torch.empty(0, c.text.features)] for _ in range(2))  # a process may have no images
        processes = ProcessGroup(self.accelerator.process_index, self.accelerator.num_processes)
        shard = processes.shard(len(batch))
        for start in shard[::VALIDATION_BATCH]:
            part = batch[start : min(start + VALIDATION_BATCH, shard.stop)].to(self.accelerator.device)
            text = model.encode(part.tokens, part.mask)
            fakes = model.generate(text, part.noise).images
            for stage, (discriminator, *pair) in enumerate(zip(discriminators, real_images(part.images, c), fakes, strict=True)):
                real, fake = (discriminator.logits(images, text.sentence).conditional for images in pair)
                sums[stage] += (real > fake).sum()
            codes.append(self.damsm.image(crop_margin(fakes[-1], c.stage_sides[-1], c)).code.cpu())
            sentences.append(text.sentence.cpu())
        self.model.train()
        sums = self.accelerator.reduce(sums, "sum")
        others = min(OTHERS, fewest_wrong(len(batch), batch.classes))
        all_codes, all_sentences = (processes.all_gather(torch.cat(parts)) for parts in (codes, sentences))
        sums[-1] = own_caption_first(all_codes, all_sentences, batch.classes, others=others, processes=processes).sum()
        return dict(zip(names, (sums / len(batch)).tolist(), strict=True))

    def sample_grid(self) -> SampleGrid:
        """Draw captions of training and validation."""
        assert self.data.shown is not None
        grid = drawings_grid(self.state.ema_model.eval(), self.data.shown)
        self.model.train()
        return grid

    def progress(self, losses: Mapping[str, float]) -> str:
        """Return the sums of the generator's and the discriminators' losses."""
        sums = [sum(loss for key, loss in losses.items() if key.startswith(name)) for name in ("generator", "discriminator")]
        return "G {:.2f}, D {:.2f}".format(*sums)


def load_matching_model(recipe: AttnGANRecipe) -> tuple[DAMSM, Vocabulary, dict[str, str]]:
    """Return the matching model of a recipe, frozen, its vocabulary, and its name and the SHA-256 of its weights.

    Raises:
        ValueError: the model is missing, reads images of another size, or its text encoder has other sizes than the recipe says.
    """
    name, c = recipe.train.damsm, recipe.model
    if not name or (name.startswith("runs/") and not Path(name).is_dir()):  # which could be a repository's name, but is meant as a folder
        maker = Path(name).name if name else "damsm-..."
        missing = f", and {name} does not exist" if name else ""
        raise ValueError(
            f"an AttnGAN needs a matching model{missing}: cap2im train {maker} trains one, --set train.damsm=RUN names another"
        )
    loaded = load_model(name, DAMSM)
    damsm, vocabulary = loaded.network, loaded.vocabulary
    assert vocabulary is not None
    require_pictures(name, damsm.config, "the recipe", c.side, c.colours)
    for key in sorted(c.text.model_fields_set) if "text" in c.model_fields_set else ():
        actual, expected = getattr(damsm.config.text, key), getattr(c.text, key)
        if actual != expected:
            raise ValueError(f"{name}: its text encoder has {key} {actual}, the recipe's model.text has {expected}")
    return damsm, vocabulary, {"name": Path(name).name, "sha256": loaded.sha256}
