"""Trainer of the matching model of AttnGAN (DAMSM).

Source: AttnGAN (arXiv:1711.10485), section 3.2; rates, clipping and batches are the released program's.

Difference: the released program forgets Adam's moments after every epoch.

With several processes, the losses are those of the whole batch: every image has all captions to choose from. (The batch statistics of the
small image encoder are those of each process's share; those of Inception are frozen.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from cap2im.config import DAMSMRecipe, DAMSMTraining, DigitsData
from cap2im.convert.inception import load_inception
from cap2im.data.batch import Batch
from cap2im.data.canvas_batches import caption_tokens
from cap2im.data.mnist import load_digits
from cap2im.data.mnist_captions import CanvasMaker, HeldOut
from cap2im.data.vocabulary import Vocabulary
from cap2im.metrics.r_precision import OTHERS, fewest_wrong, global_features, own_caption_first, rate
from cap2im.models.damsm import DAMSM, Gammas, InceptionEncoder, damsm_losses
from cap2im.models.precision import autocast
from cap2im.randomness import generator
from cap2im.training.accelerator import all_gather
from cap2im.training.data import TrainingData
from cap2im.training.schedules import set_learning_rate
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer

CANVASES_PER_CAPTION = 5  # that the finished model is measured on


def learning_rate(train: DAMSMTraining, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of the update that follows `step` updates."""
    rate = max(train.final_learning_rate, train.learning_rate * train.rate_decay ** (step // steps_per_epoch))
    return rate * min(1.0, (step + 1) / (train.warmup_steps + 1))


class DAMSMTrainer(Trainer):
    """Trains a matching model; its frozen parameters do not move. Best is the highest R-precision, which AttnGAN is measured by."""

    score, higher_is_better = "r_precision", True

    def __init__(self, recipe: DAMSMRecipe, data: TrainingData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        self.model = DAMSM(recipe.model)
        self.gammas = Gammas(*recipe.train.gammas)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.state = TrainState(self.model, torch.optim.Adam(trained, lr=recipe.train.learning_rate, betas=(0.5, 0.999)))
        self.model.train()
        (self.network,) = self.state.prepare(accelerator, self.model)
        self._r_precision: dict[str, Any] = {}  # of the last validation, JSON-ready

    def initialize(self) -> None:
        """Fill a frozen Inception with its published weights; see `load_inception` for the errors."""
        if isinstance(self.model.image, InceptionEncoder):
            published, self.state.origin["inception"] = load_inception("imagenet", self.recipe.train.inception, classifies=False)
            self.model.image.network.load_state_dict(published.state_dict())

    def update(self, batch: Batch) -> Losses:
        """Make one update by the word and sentence matching losses (equations 7 to 13)."""
        train, state, accelerator = self.recipe.train, self.state, self.accelerator
        rate = learning_rate(train, state.step, self.data.batches.steps_per_epoch)
        tokens, mask = pad_equally(batch.tokens, batch.mask, accelerator)
        with autocast(accelerator.device, train.precision):
            image, text = self.network(2 * batch.images - 1, tokens, mask)
        losses = damsm_losses(image, text, batch.classes, self.gammas, lambda shard: all_gather(shard, accelerator))
        loss = torch.stack(list(losses.values())).sum()
        self.check_finite("loss", loss)

        state.optimizer.zero_grad()
        accelerator.backward(loss)
        norm = self.clip_gradient(self.model.text.parameters(), train.clip_norm)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.step()
        return {"loss": loss, **losses, "learning_rate": rate, "text_gradient": norm}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the mean loss of batches as large as in training, and the R-precision among 99 wrong captions, or as many as exist."""
        batch: Batch = self.data.validation
        model, size, device = self.model.eval(), self.recipe.train.batch_size, self.accelerator.device
        total, codes, sentences = 0.0, [], []
        for start in range(0, len(batch), size):
            part = batch[start : start + size].to(device)
            image, text = model(2 * part.images - 1, part.tokens, part.mask)
            total += float(torch.stack(list(damsm_losses(image, text, part.classes, self.gammas).values())).sum()) * len(part)
            codes.append(image.code.cpu())  # [., E]
            sentences.append(text.sentence.cpu())
        model.train()
        others = min(OTHERS, fewest_wrong(len(batch), batch.classes))
        first = own_caption_first(torch.cat(codes), torch.cat(sentences), batch.classes, others=others)
        self._r_precision = {"others": others, "validation": rate(first).figures}
        return {"loss": total / len(batch), "r_precision": self._r_precision["validation"]["rate"]}

    def measure(self) -> dict[str, Any]:
        """Return the R-precision with its interval; on captioned digits, of seen and held-out captions."""
        assert self.data.vocabulary is not None
        if not isinstance(self.recipe.data, DigitsData):
            return {"r_precision": self._r_precision}
        measured = digits_r_precision(self.model.eval(), self.recipe.data, self.data.vocabulary, self.data.source.path)
        self.model.train()
        return {"r_precision": measured}


def pad_equally(tokens: Tensor, mask: Tensor, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Pad captions [b, L] to the longest caption of all processes (a collective call)."""
    if accelerator.num_processes == 1:
        return tokens, mask
    missing = int(accelerator.gather(torch.tensor([tokens.shape[1]], device=tokens.device)).max()) - tokens.shape[1]
    return F.pad(tokens, (0, missing)), F.pad(mask, (0, missing))


def digits_r_precision(model: DAMSM, settings: DigitsData, vocabulary: Vocabulary, data: str | Path | None) -> dict[str, Any]:
    """Return R-precision on canvases of validation digits: of captions seen in training and of those held out; JSON-ready."""
    held_out = HeldOut.from_seed(settings.held_out_seed, settings.variant, settings.validation_held_out_seed)
    digits = load_digits(settings.source, "validation", None if data is None else Path(data))
    configurations = [configuration for configuration in held_out.configurations("validation") for _ in range(CANVASES_PER_CAPTION)]
    layouts = torch.tensor([configuration.layout for configuration in configurations])
    places = torch.tensor([(*configuration.digits, -1)[:2] for configuration in configurations])
    canvases = CanvasMaker(digits, held_out, settings.variant).render(layouts, places, generator("matched canvases"))
    codes = global_features(model, canvases.images.float() / 255, *caption_tokens(canvases, vocabulary))
    first = own_caption_first(*codes, canvases.scenes())
    seen = torch.tensor([configuration.seen for configuration in configurations])
    return {"others": OTHERS, "seen": rate(first[seen]).figures, "held_out": rate(first[~seen]).figures}
