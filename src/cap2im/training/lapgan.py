"""Trainer of LAPGAN, and of the sharpener, its upper level.

Source: LAPGAN (Denton et al., arXiv:1506.05751), sections 2.2 to 3; alignDRAW (arXiv:1511.02793), sections 3.4, 4.1.3 and appendix B.

The levels are trained side by side and independently: the fine generator completes blurred real images, as a sharpener does. So they may
have different numbers of updates (`fine_every`). One optimizer moves all networks, because it keeps its state weight by weight and leaves
alone what has no gradient.

Shapes: B batch, C colours, A canvas side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from cap2im.config import GANRecipe, GANTraining
from cap2im.data.batch import Batch
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
from cap2im.registry import MODELS
from cap2im.training.data import TrainingData
from cap2im.training.samples import SampleGrid, drawings_grid, grid
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer

VALIDATION_BATCH = 100
SHOWN_IMAGES = 10  # of a sharpener
PENALTY_EVERY = 4  # updates; the penalty weighs as many times more then (Karras et al., arXiv:1912.04958, appendix B)


def learning_rate(train: GANTraining, epoch: int) -> float:
    """Return the learning rate of an epoch."""
    return train.learning_rate / (1 + train.rate_decay) ** epoch


def momentum(train: GANTraining, epoch: int) -> float:
    """Return the momentum of an epoch."""
    return min(train.momentum + epoch * train.momentum_rise, train.highest_momentum)


def set_schedule(optimizer: Any, train: GANTraining, epoch: int) -> None:
    """Set the learning rate and momentum of an epoch."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(train, epoch)
        if train.optimizer == "sgd":
            group["momentum"] = momentum(train, epoch)
        else:
            group["betas"] = (momentum(train, epoch), 0.999)


class Generators(nn.Module):
    """The generators as training calls them: "coarse" draws from noise, "fine" from the blurred real image."""

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
        """Return a picture [B, C, ., .] for each level.

        Args:
            images: [B, C, A, A] in 0..1.
            tokens: [B, L] word numbers.
            mask: [B, L] true for words.
            noise: [B, *noise_shape].
            vectors: [B, S] sentence vectors, or None.
            fine: whether to draw the fine level.
        """
        fake = {}
        if isinstance(self.model, LAPGAN):
            coarse_noise, plane = self.model.split_noise(noise)
            fake["coarse"] = self.model.coarse(self.model.coarse.encode(tokens, mask, vectors), coarse_noise)
        else:
            plane = noise.unsqueeze(1)
        if fine:
            blurred = blur(images)
            fake["fine"] = blurred + self.fine(blurred, self.fine.encode(tokens, mask, vectors), plane)
        return fake


class Discriminators(nn.Module):
    """A discriminator for each level."""

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
        """Return the logits [B] of the candidates, by level.

        Args:
            candidates: for each level, lists of pictures [B, C, ., .] of the same captions.
            tokens: [B, L] word numbers.
            mask: [B, L] true for words.
            vectors: [B, S] sentence vectors, or None.
            mismatched: add logits of the first coarse candidate with the caption of its neighbour in the batch. The fine level completes a
                blurred picture, and mismatched captions make it worse.
        """
        logits = {}
        for name, level in self.levels.items():
            if name not in candidates:
                continue
            assert isinstance(level, TextConditioned)
            sentence = level.encode(tokens, mask, vectors)  # [B, S]
            pictures, sentences = list(candidates[name]), [sentence] * len(candidates[name])
            if mismatched and name == "coarse":
                pictures.append(candidates[name][0])
                sentences.append(sentence.roll(1, 0))
            stacked = torch.cat(pictures)
            if name == "coarse" and self.coarse_noise and self.training:
                stacked = stacked + self.coarse_noise * torch.randn_like(stacked)
            logits[name] = level(stacked, torch.cat(sentences)).float().split(len(sentence))
        return logits


class Adversaries(nn.Module):
    """All networks in training."""

    def __init__(self, recipe: GANRecipe) -> None:
        super().__init__()
        self.generators = Generators(MODELS[recipe.kind].network_class(recipe.model))
        self.discriminators = Discriminators(recipe.model, recipe.train)


class LAPGANTrainer(Trainer):
    """Trains generators against discriminators.

    Best is the lowest squared error of sharpened validation images: the only score that does not depend on the discriminators, whose
    standard moves.
    """

    score, higher_is_better = "sharpened_error", False

    def __init__(self, recipe: GANRecipe, data: TrainingData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        train = recipe.train
        self.model = Adversaries(recipe)
        kind = torch.optim.SGD if train.optimizer == "sgd" else torch.optim.Adam
        optimizer = kind(self.model.parameters(), lr=train.learning_rate, fused=True)
        self.state = TrainState(self.model, optimizer, inference_model=self.model.generators.model, ema_decay=train.ema_decay)
        # updates without the fine level leave parameters out, whose gradients DDP would otherwise wait for
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=train.fine_every > 1)
        self.generators, self.discriminators = self.state.prepare(accelerator, self.model.generators, self.model.discriminators)

    def update(self, batch: Batch) -> Losses:
        """Make one update of the discriminators, then one of the generators."""
        train, state, model = self.recipe.train, self.state, self.model
        epoch = state.step // self.data.batches.steps_per_epoch
        set_schedule(state.optimizer, train, epoch)
        precision = autocast(self.accelerator.device, train.precision)
        captions = (batch.tokens, batch.mask, batch.vectors)
        fine = (state.step + 1) % train.fine_every == 0
        penalty = train.coarse_penalty * PENALTY_EVERY if state.step % PENALTY_EVERY == 0 else 0.0

        with precision:
            fakes = self.generators(batch.images, batch.tokens, batch.mask, batch.noise, batch.vectors, fine)
            pairs = {level: [level_target(batch.images, level), fake.detach()] for level, fake in fakes.items()}
            if penalty:
                pairs["coarse"][0].requires_grad_()
            logits = self.discriminators(pairs, *captions, mismatched=train.mismatch_weight > 0)
        discriminator_losses = {level: discriminator_loss(*each, mismatch_weight=train.mismatch_weight) for level, each in logits.items()}
        loss = torch.stack(list(discriminator_losses.values())).sum()
        if penalty:
            loss = loss + penalty / 2 * gradient_penalty(logits["coarse"][0], pairs["coarse"][0])
        self._step(model.discriminators, loss, "the discriminators' loss")

        model.discriminators.requires_grad_(False)
        with precision:
            logits = model.discriminators({level: [fake] for level, fake in fakes.items()}, *captions)
        model.discriminators.requires_grad_(True)
        generator_losses = {level: generator_loss(each) for level, (each,) in logits.items()}
        self._step(model.generators, torch.stack(list(generator_losses.values())).sum(), "the generators' loss")
        if fine:  # in between, the EMA would forget all but the last weights of the fine level
            state.update_ema()
        return {
            **{f"{level}_discriminator": loss for level, loss in discriminator_losses.items()},
            **{f"{level}_generator": loss for level, loss in generator_losses.items()},
            "learning_rate": learning_rate(train, epoch),
            "momentum": momentum(train, epoch),
        }

    def _step(self, networks: nn.Module, loss: Tensor, name: str) -> None:
        """Update the weights that a loss has gradients for: those of `networks`."""
        self.check_finite(name, loss)
        self.state.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.clip_gradient(networks.parameters(), math.inf)
        self.state.optimizer.step()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return how real and drawn images fare, means over the validation images.

        For each level LEVEL_real and LEVEL_drawn are the shares of real and drawn images that its discriminator takes for real. The mean
        squared errors of a pixel compare the blurred and the sharpened image (noise at its mean) with the real one.
        """
        validation: Batch = self.data.validation
        generators, discriminators = Generators(self.state.ema_model), self.model.discriminators.eval()
        fine = generators.fine
        names = [f"{level}_{what}" for level in discriminators.levels for what in ("real", "drawn")] + ["blurred_error", "sharpened_error"]
        sums = torch.zeros(len(names), device=self.accelerator.device, dtype=torch.float64)
        rows = validation[slice(self.accelerator.process_index, None, self.accelerator.num_processes)]
        for start in range(0, len(rows), VALIDATION_BATCH):
            part = rows[start : start + VALIDATION_BATCH].to(self.accelerator.device)
            fakes = generators(part.images, part.tokens, part.mask, part.noise, part.vectors)
            pairs = {level: [level_target(part.images, level), fake] for level, fake in fakes.items()}
            logits = discriminators(pairs, part.tokens, part.mask, part.vectors)
            blurred = blur(part.images)
            sharpened = fine.sharpen(blurred, fine.encode(part.tokens, part.mask, part.vectors))
            errors = [(images - part.images).square().mean(dim=(1, 2, 3)).sum() for images in (blurred, sharpened)]
            sums += torch.stack([(each > 0).sum() for level in discriminators.levels for each in logits[level]] + errors).double()
        discriminators.train()
        means = (self.accelerator.reduce(sums, "sum") / len(validation)).tolist()
        return dict(zip(names, means, strict=True))

    def sample_grid(self) -> SampleGrid:
        """Draw captions, or show how a sharpener sharpens."""
        model = self.state.ema_model
        if isinstance(model, LAPGAN):
            assert self.data.shown is not None
            return drawings_grid(model, self.data.shown)
        return self._sharpened_grid(model)

    @torch.no_grad()
    def _sharpened_grid(self, model: Sharpener) -> SampleGrid:
        """Return a row for each of some validation images: blurred, sharpened, real."""
        assert self.data.vocabulary is not None
        part, words = self.data.validation[:SHOWN_IMAGES].to(self.accelerator.device), self.data.vocabulary.words
        blurred = blur(part.images)
        sharpened = model.sharpen(blurred, model.encode(part.tokens, part.mask, part.vectors))
        columns = torch.stack([blurred, sharpened, part.images], dim=1).cpu()  # [B, 3, C, A, A]
        captions = tuple(" ".join(words[n] for n in row[known].tolist()) for row, known in zip(part.tokens, part.mask, strict=True))
        return SampleGrid("sharpened", captions, grid("blurred, sharpened, real", captions, columns))

    def progress(self, losses: Mapping[str, float]) -> str:
        """Return generator and discriminator loss of each level."""
        levels = [level for level in ("coarse", "fine") if f"{level}_generator" in losses]
        pairs = [f"{level} {losses[f'{level}_generator']:.2f}/{losses[f'{level}_discriminator']:.2f}" for level in levels]
        return f"G/D {', '.join(pairs)}"
