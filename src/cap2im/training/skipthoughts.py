"""Trainer of skip-thoughts on sentences and their neighbours.

Source: Kiros et al., Skip-Thought Vectors (arXiv:1506.06726), sections 2.1 and 3. uni-skip and bi-skip are trained side by side on the same
triples and independently: each has its own word vectors, decoders and clipping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from cap2im.config import SkipThoughtsRecipe, SkipThoughtsTraining
from cap2im.data.sentence_batches import SentenceGroups, TripleBatch, TripleBatches, sentence_vocabulary, spread_triples
from cap2im.data.sentence_source import SentenceSource
from cap2im.models.precision import autocast
from cap2im.models.skipthoughts import SkipThoughtsObjective
from cap2im.training.data import DataSource, TrainingData, planned
from cap2im.training.schedules import set_learning_rate, warm_up
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer

VALIDATION_BATCH = 128


def learning_rate(train: SkipThoughtsTraining, step: int) -> float:
    """Return the learning rate of the update that follows `step` updates."""
    return warm_up(train.learning_rate, step, train.warmup_steps)


class SkipThoughtsTrainer(Trainer):
    """Trains sentence encoders with decoders of the neighbours; only the encoders are saved. Best is the lowest validation loss."""

    score, higher_is_better = "loss", False
    options = frozenset()
    required_data = "sentences (a text, a token file, a table or a prepared dataset)"
    saved_dtype = torch.float32

    def __init__(self, recipe: SkipThoughtsRecipe, data: TrainingData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        assert data.vocabulary is not None
        self.model = SkipThoughtsObjective(recipe.model, len(data.vocabulary))
        self.names = list(self.model.skipthoughts.encoders_by_name())
        optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.train.learning_rate)
        self.state = TrainState(self.model, optimizer, inference_model=self.model.skipthoughts)
        (self.network,) = self.state.prepare(accelerator, self.model)

    @classmethod
    def load_data(cls, recipe: SkipThoughtsRecipe, source: DataSource, accelerator: Accelerator) -> TrainingData:
        """Return the sentences that a recipe trains on.

        Raises:
            ValueError: sentences are missing or damaged, do not fill a batch, or none are left for validation.
        """
        path, settings = Path(str(source.path)), recipe.data
        sentences = SentenceSource.open(path, settings.validation_share)
        vocabulary = sentence_vocabulary((s for group in sentences.groups("train") for s in group), settings.vocabulary_size)
        training, held_out = (
            SentenceGroups.of(sentences.groups(part), vocabulary, longest=settings.longest, ordered=sentences.ordered)
            for part in ("train", "validation")
        )
        try:
            batches = TripleBatches(training, recipe.train.batch_size, recipe.train.seed)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        validation = spread_triples(held_out, settings.validation_samples, VALIDATION_BATCH)
        if not validation:
            raise ValueError(f"{path}: none of the {len(held_out)} validation sentences has neighbours; increase data.validation_share")
        about = {"sentences": len(training), "sha256": training.sha256}
        return TrainingData(planned(recipe, batches), batches, validation, about, vocabulary)

    def update(self, batch: TripleBatch) -> Losses:
        """Make one update by the log-likelihood of both neighbours of every sentence."""
        train, state = self.recipe.train, self.state
        rate = learning_rate(train, state.step)
        with autocast(self.accelerator.device, train.precision):
            nats = self.network(batch.tokens, batch.mask)  # [B, encoders]
        loss = nats.sum(dim=1).mean()
        self.check_finite("loss", loss)

        state.optimizer.zero_grad()
        self.accelerator.backward(loss)
        for parameters in self.model.parameter_groups():
            self.clip_gradient(parameters, train.clip_norm)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.step()
        return {"loss": loss, **self._perplexities(nats.detach().sum(dim=0), decoded_words(batch)), "learning_rate": rate}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the perplexity of each encoder's decoders on the words of neighbours, and `loss`, the sum of their logarithms."""
        batches: list[TripleBatch] = self.data.validation
        nats = torch.zeros(len(self.names), device=self.accelerator.device, dtype=torch.float64)
        words = 0
        for batch in batches[self.accelerator.process_index :: self.accelerator.num_processes]:
            part = batch.to(self.accelerator.device)
            nats += self.model(part.tokens, part.mask).sum(dim=0).double()
            words += decoded_words(batch)
        scores = self._perplexities(nats, words)
        return {**scores, "loss": sum(math.log(score) for score in scores.values())}

    def _perplexities(self, nats: Tensor, words: int) -> dict[str, float]:
        """Return exp(nats a word) of each encoder, over all processes (a collective call)."""
        counted = torch.cat([nats, torch.tensor([words], device=nats.device, dtype=nats.dtype)])
        *sums, all_words = self.accelerator.reduce(counted, "sum").tolist()
        return {f"perplexity_{name}": math.exp(min(value / all_words, 700.0)) for name, value in zip(self.names, sums, strict=True)}

    def progress(self, losses: Mapping[str, float]) -> str:
        """Return the perplexity of each encoder."""
        return "perplexity " + ", ".join(f"{name} {losses[f'perplexity_{name}']:.4g}" for name in self.names)


def decoded_words(batch: TripleBatch) -> int:
    """Return the number of words that the decoders predict: those of both neighbours, and the end of each."""
    return int(batch.mask[0::2].sum()) + 2 * len(batch)
