"""Training a LAPGAN, or a sharpener, the upper level of one, against discriminators: one flat loop.

Source: LAPGAN (Denton et al., arXiv:1506.05751), sections 2.2 to 3; alignDRAW (arXiv:1511.02793), sections 3.4, 4.1.3 and appendix B.

The levels learn side by side and neither from the other: the fine generator completes real images that were blurred, as a sharpener does.
So they need not have equally many updates (`fine_every`).
One optimizer moves all networks: it keeps its state weight by weight and leaves alone what has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cap2im.config import GANRecipe, GANTraining
from cap2im.data.batch import Batch
from cap2im.data.vocabulary import Vocabulary
from cap2im.models.lapgan import (
    LAPGAN,
    CoarseDiscriminator,
    FineDiscriminator,
    LAPGANConfig,
    Sharpener,
    SharpenerConfig,
    TextConditioned,
    blur,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    level_target,
)
from cap2im.models.precision import autocast
from cap2im.training.data import require_same_material, training_material
from cap2im.training.run import BatchesAhead, RunLog, make_accelerator, prepare_processor, stop_if_not_finite
from cap2im.training.samples import FIRST_GRID, grid, shown_drawings
from cap2im.training.state import DrawingTrainee, resume_state

VALIDATION_BATCH = 100
SHOWN_IMAGES = 10  # that a sharpener shows
PENALTY_EVERY = 4  # updates; the penalty weighs as many times more then (Karras et al., arXiv:1912.04958, appendix B)


def learning_rate(train: GANTraining, epoch: int) -> float:
    """The rate of an epoch's updates."""
    return train.learning_rate / (1 + train.rate_decay) ** epoch


def momentum(train: GANTraining, epoch: int) -> float:
    """The momentum of an epoch's updates."""
    return min(train.momentum + epoch * train.momentum_rise, train.highest_momentum)


def schedule(optimizer: Any, train: GANTraining, epoch: int) -> None:
    """Sets an epoch's rate and momentum."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(train, epoch)
        if train.optimizer == "sgd":
            group["momentum"] = momentum(train, epoch)
        else:
            group["betas"] = (momentum(train, epoch), 0.999)


class Generators(nn.Module):
    """What training makes of images: a picture for each level, "coarse" from noise alone, "fine" from the blurred image."""

    def __init__(self, model: LAPGAN | Sharpener) -> None:
        super().__init__()
        self.model = model

    @property
    def fine(self) -> Sharpener:
        """The upper level."""
        return self.model.fine if isinstance(self.model, LAPGAN) else self.model

    def forward(
        self, images: Tensor, tokens: Tensor, mask: Tensor, noise: Tensor, vectors: Tensor | None = None, fine: bool = True
    ) -> dict[str, Tensor]:
        """Pictures by level, of images [B, C, A, A], captions as `encode` takes them, noise [B, *noise_shape]; `fine`: that level too."""
        drawn = {}
        if isinstance(self.model, LAPGAN):
            coarse_noise, plane = self.model.split(noise)
            drawn["coarse"] = self.model.coarse(self.model.coarse.encode(tokens, mask, vectors), coarse_noise)
        else:
            plane = noise.unsqueeze(1)
        if fine:
            rough = blur(images)
            drawn["fine"] = rough + self.fine(rough, self.fine.encode(tokens, mask, vectors), plane)
        return drawn


class Discriminators(nn.Module):
    """One for each level."""

    def __init__(self, config: LAPGANConfig | SharpenerConfig, train: GANTraining) -> None:
        super().__init__()
        levels: dict[str, nn.Module] = {"fine": FineDiscriminator(config, train.discriminator_features, train.dropout)}
        if isinstance(config, LAPGANConfig):
            levels["coarse"] = CoarseDiscriminator(config, train.discriminator_units, train.coarse_dropout)
        self.levels = nn.ModuleDict(levels)
        self.coarse_noise = train.coarse_noise

    def forward(
        self, candidates: Mapping[str, list[Tensor]], tokens: Tensor, mask: Tensor, vectors: Tensor | None = None, mismatched: bool = False
    ) -> dict[str, tuple[Tensor, ...]]:
        """Logits [B] by level, of the candidates of some levels: lists of pictures [B, C, ., .] of the same captions.

        `mismatched` adds the logits of the first candidate with the caption of its neighbour in the batch.
        """
        logits = {}
        for name, level in self.levels.items():
            if name not in candidates:
                continue
            assert isinstance(level, TextConditioned)
            sentence = level.encode(tokens, mask, vectors)  # [B, S]
            given, sentences = list(candidates[name]), [sentence] * len(candidates[name])
            if mismatched:
                given.append(candidates[name][0])
                sentences.append(sentence.roll(1, 0))
            pictures = torch.cat(given)
            if name == "coarse" and self.coarse_noise and self.training:
                pictures = pictures + self.coarse_noise * torch.randn_like(pictures)
            logits[name] = level(pictures, torch.cat(sentences)).float().split(len(sentence))
        return logits


class Adversaries(nn.Module):
    """All networks in training."""

    def __init__(self, recipe: GANRecipe) -> None:
        super().__init__()
        model = LAPGAN(recipe.model) if isinstance(recipe.model, LAPGANConfig) else Sharpener(recipe.model)
        self.generators = Generators(model)
        self.discriminators = Discriminators(recipe.model, recipe.train)


class GANTrainee(DrawingTrainee):
    """Generators and discriminators in training; what is handed out are the generators."""

    recipe: GANRecipe
    model: Adversaries

    def __init__(self, recipe: GANRecipe, vocabulary: Vocabulary, about_data: Mapping[str, Any], command: str) -> None:
        torch.manual_seed(recipe.train.seed)
        model, settings = Adversaries(recipe), recipe.train
        kind = torch.optim.SGD if settings.optimizer == "sgd" else torch.optim.Adam
        optimizer = kind(model.parameters(), lr=settings.learning_rate, fused=True)
        super().__init__(recipe, model, optimizer, command, settings.ema_decay, vocabulary, about_data)

    @property
    def learned(self) -> LAPGAN | Sharpener:
        """The generators."""
        return self.model.generators.model

    @property
    def published(self) -> LAPGAN | Sharpener:
        """The generators that validate and draw."""
        network = super().published
        assert isinstance(network, LAPGAN | Sharpener)
        return network

    def prepare(self, accelerator: Accelerator) -> tuple[Any, Any]:
        """Moves to the device; answers generators and discriminators to call, which share gradients among the processes."""
        prepared = accelerator.prepare(self.model.generators), accelerator.prepare(self.model.discriminators)
        self.optimizer = accelerator.prepare(self.optimizer)
        if self.average is not None:
            self.average.to(accelerator.device)
        return prepared

    def update(self, networks: nn.Module, loss: Tensor, accelerator: Accelerator) -> None:
        """Moves the weights that a loss has gradients for: those of `networks`."""
        self.optimizer.zero_grad()
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(networks.parameters(), math.inf)
        stop_if_not_finite("the gradient's norm", float(norm), self.step)
        self.optimizer.step()


def train(
    recipe: GANRecipe,
    run: Path,
    *,
    data: str | Path | None = None,
    stream: bool = False,
    resume: bool = False,
    device: Literal["auto", "cpu"] = "auto",
    workers: int = 2,
    command: str = "",
    card: Callable[[dict[str, Any]], str] = lambda _: "",
) -> Path:
    """Trains a LAPGAN or a sharpener and writes its generators to RUN/model.

    Args:
        recipe: what to train.
        run: folder for checkpoints, log, pictures and the result.
        data: folder of MNIST's files (None for the cache or a download), or a prepared dataset.
        stream: read a prepared dataset shard by shard, wherever it lies.
        resume: go on from the run's last checkpoint.
        device: "cpu", or "auto" for whatever Accelerate finds.
        workers: processes that read images ahead; captioned digits are made at once and need none.
        command: what was typed, for the card; a resumed run keeps its first.
        card: makes the model card's text of the final figures.

    Returns:
        the folder of the finished model.

    Raises:
        ValueError: of `resume_state`, missing or damaged data, a batch that the processes cannot share, a loss that is not finite.
    """
    prepare_processor()
    settings = recipe.train
    accelerator = make_accelerator(device, settings.batch_size, skips=settings.fine_every > 1)
    with accelerator.main_process_first():  # what is prepared once for all lies in a cache then
        material = training_material(recipe, data, stream=stream, processes=accelerator.num_processes)
    recipe, batches, validation = cast(GANRecipe, material.recipe), material.batches, material.validation
    settings = recipe.train
    checkpoint = resume_state(run, recipe, resume)
    if checkpoint is not None:
        require_same_material(checkpoint, material, run)
    trainee = GANTrainee(recipe, material.vocabulary, material.about, command)
    if checkpoint is not None:
        trainee.restore(checkpoint, accelerator)
    generators, discriminators = trainee.prepare(accelerator)
    model = trainee.model

    mine = slice(accelerator.process_index, None, accelerator.num_processes)  # this process's rows of a batch
    total = settings.total(batches.steps_per_epoch)
    ahead = BatchesAhead(batches, mine, range(trainee.step, total), workers if material.slow else 0)

    with RunLog(run, recipe, trainee.step, total, accelerator, batches.steps_per_epoch, {"data": data, "stream": stream}) as log:
        while (step := trainee.step) < total:
            schedule(trainee.optimizer, settings, step // batches.steps_per_epoch)
            batch = ahead.next().to(accelerator.device)
            captions = (batch.tokens, batch.mask, batch.vectors)
            fine = (step + 1) % settings.fine_every == 0
            penalty = settings.coarse_penalty * PENALTY_EVERY if step % PENALTY_EVERY == 0 else 0.0
            with autocast(accelerator.device, settings.precision):
                drawn = generators(batch.images, batch.tokens, batch.mask, batch.noise, batch.vectors, fine)
                pairs = {name: [level_target(batch.images, name), picture.detach()] for name, picture in drawn.items()}
                if penalty:
                    pairs["coarse"][0].requires_grad_()
                verdicts = discriminators(pairs, *captions, mismatched=settings.mismatch_weight > 0)
            refusals = {name: discriminator_loss(*logits, mismatch_weight=settings.mismatch_weight) for name, logits in verdicts.items()}
            loss = torch.stack(list(refusals.values())).sum()
            if penalty:
                loss = loss + penalty / 2 * gradient_penalty(verdicts["coarse"][0], pairs["coarse"][0])
            stop_if_not_finite("the discriminators' loss", float(accelerator.reduce(loss.detach(), "mean")), step)
            trainee.update(model.discriminators, loss, accelerator)

            model.discriminators.requires_grad_(False)
            with autocast(accelerator.device, settings.precision):
                verdicts = model.discriminators({name: [picture] for name, picture in drawn.items()}, *captions)
            model.discriminators.requires_grad_(True)
            deceptions = {name: generator_loss(logits) for name, (logits,) in verdicts.items()}
            loss = torch.stack(list(deceptions.values())).sum()
            stop_if_not_finite("the generators' loss", float(accelerator.reduce(loss.detach(), "mean")), step)
            trainee.update(model.generators, loss, accelerator)
            if trainee.average is not None and fine:  # in between, the average would forget all but the fine level's last weights
                trainee.average.update_parameters(trainee.learned)
            trainee.step = step = step + 1
            losses = {f"train/{name}_discriminator": value.detach() for name, value in refusals.items()}
            losses |= {f"train/{name}_generator": value.detach() for name, value in deceptions.items()}
            told = dict(zip(losses, accelerator.reduce(torch.stack(list(losses.values())), "mean").tolist(), strict=True))
            log.advance("G/D " + ", ".join(f"{n} {told[f'train/{n}_generator']:.2f}/{told[f'train/{n}_discriminator']:.2f}" for n in drawn))
            if step % settings.log_every == 0:
                epoch = (step - 1) // batches.steps_per_epoch
                rates = {"train/learning_rate": learning_rate(settings, epoch), "train/momentum": momentum(settings, epoch)}
                log.scalars(step, told | rates | {"train/waiting": ahead.waiting})
            validates = step % settings.validate_every == 0 or step == total
            if validates or step == FIRST_GRID:
                if isinstance(trainee.published, LAPGAN):
                    log.samples(step, "drawings", shown_drawings(trainee.published, material.shown), material.shown.captions)
                else:
                    texts, pixels = shown_sharpening(trainee.published, validation[:SHOWN_IMAGES], material.vocabulary)
                    log.samples(step, "sharpened", pixels, texts)
            if validates:
                scores = validate(trainee, validation, accelerator)
                log.scalars(step, scores)
                log.say(f"step {step}: validation {in_words(scores)}")
            if (stop := log.stopping) or step % settings.checkpoint_every == 0 or step == total:
                trainee.save(run, accelerator)
            if stop:
                raise KeyboardInterrupt
    result = run / "model"
    trainee.round()
    figures = validate(trainee, validation, accelerator)
    if accelerator.is_main_process:
        trainee.hand_out(result, figures, card, material.encoder_folder)
    accelerator.wait_for_everyone()
    del generators, discriminators  # what shares gradients must be gone before the processes part, or one of them may abort at its exit
    accelerator.free_memory()
    accelerator.end_training()
    return result


@torch.no_grad()
def validate(trainee: GANTrainee, batch: Batch, accelerator: Accelerator) -> dict[str, float]:
    """How the contest stands on validation images, by the generators that are handed out; every process takes its share.

    Of each level the share of real images and of drawn ones that are taken for real; and what the sharpener, noise at its mean, does to the
    distance of blurred images from the real ones, in mean squared errors of a pixel.
    """
    generators, discriminators = Generators(trainee.published), trainee.model.discriminators
    fine = generators.fine
    discriminators.eval()
    names = [f"{name}_{what}" for name in discriminators.levels for what in ("real", "drawn")] + ["blurred_error", "sharpened_error"]
    sums = torch.zeros(len(names), device=accelerator.device, dtype=torch.float64)
    rows = batch[slice(accelerator.process_index, None, accelerator.num_processes)]
    for start in range(0, len(rows), VALIDATION_BATCH):
        part = rows[start : start + VALIDATION_BATCH].to(accelerator.device)
        drawn = generators(part.images, part.tokens, part.mask, part.noise, part.vectors)
        pairs = {name: [level_target(part.images, name), picture] for name, picture in drawn.items()}
        verdicts = discriminators(pairs, part.tokens, part.mask, part.vectors)
        rough = blur(part.images)
        sharp = fine.sharpen(rough, fine.encode(part.tokens, part.mask, part.vectors))
        errors = [(images - part.images).square().mean(dim=(1, 2, 3)).sum() for images in (rough, sharp)]
        sums += torch.stack([(logits > 0).sum() for name in discriminators.levels for logits in verdicts[name]] + errors).double()
    discriminators.train()
    means = (accelerator.reduce(sums, "sum") / len(batch)).tolist()
    return {f"validation/{name}": mean for name, mean in zip(names, means, strict=True)}


def in_words(scores: Mapping[str, float]) -> str:
    """What `validate` answers, for people to read."""
    taken = [f"{name.removeprefix('validation/').replace('_', ' ')} {value:.0%}" for name, value in scores.items() if "error" not in name]
    errors = f"squared error {scores['validation/blurred_error']:.5f} blurred, {scores['validation/sharpened_error']:.5f} sharpened"
    return f"taken for real: {', '.join(taken)}; {errors}"


@torch.no_grad()
def shown_sharpening(model: Sharpener, batch: Batch, vocabulary: Vocabulary) -> tuple[list[str], np.ndarray]:
    """Return the captions of a batch, and a grid [H, W, 3] uint8 with a row an image: blurred, sharpened, and as it is."""
    device = next(model.parameters()).device
    part = batch.to(device)
    rough = blur(part.images)
    sharp = model.sharpen(rough, model.encode(part.tokens, part.mask, part.vectors))
    columns = torch.stack([rough, sharp, part.images], dim=1).cpu()  # [B, 3, C, A, A]
    captions = [" ".join(vocabulary.words[n] for n in row[known].tolist()) for row, known in zip(batch.tokens, batch.mask, strict=True)]
    return captions, grid("blurred, sharpened, real", captions, columns)
