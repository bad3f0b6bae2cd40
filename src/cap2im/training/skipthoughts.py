"""Training skip-thoughts on sentences and their neighbours: one flat loop.

Source: Kiros et al., Skip-Thought Vectors (arXiv:1506.06726), sections 2.1 and 3. uni-skip and bi-skip learn side by side from the same
triples, and neither from the other: each has its own word vectors, decoders and clipping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from cap2im.checkpoint import read_config, whole_folder, write_model
from cap2im.config import SkipThoughtsRecipe, SkipThoughtsTraining
from cap2im.data.sentence_batches import SentenceGroups, SentenceSource, TripleBatch, TripleBatches, sentence_vocabulary, spread_triples
from cap2im.data.vocabulary import Vocabulary
from cap2im.models.precision import autocast
from cap2im.models.skipthoughts import SkipThoughts, SkipThoughtsObjective
from cap2im.training.run import RunLog, make_accelerator, prepare_processor, stop_if_not_finite
from cap2im.training.state import Trainee, resume_state

VALIDATION_BATCH = 128


def learning_rate(train: SkipThoughtsTraining, step: int) -> float:
    """The rate of the update that follows `step` updates."""
    return train.learning_rate * min(1.0, (step + 1) / max(1, train.warmup_steps))


class SkipThoughtsTrainee(Trainee):
    """Skip-thoughts in training; what is handed out are the encoders without the decoders."""

    recipe: SkipThoughtsRecipe
    model: SkipThoughtsObjective

    def __init__(self, recipe: SkipThoughtsRecipe, vocabulary: Vocabulary, sentences: SentenceGroups, command: str) -> None:
        torch.manual_seed(recipe.train.seed)
        model = SkipThoughtsObjective(recipe.model, len(vocabulary))
        super().__init__(recipe, model, torch.optim.Adam(model.parameters(), lr=recipe.train.learning_rate), command)
        self.vocabulary, self.sentences = vocabulary, {"sentences": len(sentences), "sha256": sentences.sha256}

    @property
    def published(self) -> SkipThoughts:
        """The encoders."""
        return self.model.skipthoughts

    def config(self) -> dict[str, Any]:
        """What a folder of the encoders says of them."""
        return {
            "kind": "skipthoughts",
            "description": self.recipe.description,
            "parameters": sum(p.numel() for p in self.published.parameters()),
            "model": self.recipe.model.model_dump(),
            "vocabulary": self.vocabulary.model_dump(),
            "data": self.sentences,
            **self.origin,
        }


def train(
    recipe: SkipThoughtsRecipe,
    run: Path,
    *,
    data: str | Path,
    resume: bool = False,
    device: Literal["auto", "cpu"] = "auto",
    command: str = "",
    card: Callable[[dict[str, Any]], str] = lambda _: "",
) -> Path:
    """Trains skip-thoughts and writes the encoders to RUN/model.

    Args:
        recipe: what to train.
        run: folder for checkpoints, log and the result.
        data: a text, a token file or a prepared dataset; see `SentenceSource`.
        resume: go on from the run's last checkpoint.
        device: "cpu", or "auto" for whatever Accelerate finds.
        command: what was typed, for the card; a resumed run keeps its first.
        card: makes the model card's text of the final figures.

    Returns:
        the folder of the finished model.

    Raises:
        ValueError: of `resume_state`, missing or damaged data, other data than the run began with, a loss that is not finite.
    """
    prepare_processor()
    settings = recipe.train
    accelerator = make_accelerator(device, settings.batch_size)
    checkpoint = resume_state(run, recipe, resume)
    source = SentenceSource.open(Path(data), recipe.data.validation_share)
    vocabulary = sentence_vocabulary((s for group in source.groups("train") for s in group), recipe.data.vocabulary_size)
    sentences, held_out = (
        SentenceGroups.of(source.groups(part), vocabulary, longest=recipe.data.longest, ordered=source.ordered)
        for part in ("train", "validation")
    )
    try:
        batches = TripleBatches(sentences, settings.batch_size, settings.seed)
    except ValueError as error:
        raise ValueError(f"{data}: {error}") from None
    validation = spread_triples(held_out, recipe.data.validation_samples, VALIDATION_BATCH)
    if not validation:
        raise ValueError(
            f"{data}: none of the {len(held_out)} sentences for validation has neighbours; give data.validation_share a larger value"
        )

    recipe = recipe.model_copy(update={"train": settings.planned(batches.steps_per_epoch)})
    settings = recipe.train
    trainee = SkipThoughtsTrainee(recipe, vocabulary, sentences, command)
    model, names = trainee.model, list(trainee.published.encoders)
    if checkpoint is not None:
        if read_config(checkpoint).get("data") != trainee.sentences:
            raise ValueError(f"{data}: not the sentences that {run} was begun with")
        trainee.restore(checkpoint, accelerator)
    prepared = trainee.prepare(accelerator)

    mine = slice(accelerator.process_index, None, accelerator.num_processes)  # this process's rows of a batch
    total = settings.total(batches.steps_per_epoch)

    with RunLog(run, recipe, trainee.step, total, accelerator, batches.steps_per_epoch, {"data": data}) as log:
        while (step := trainee.step) < total:
            for group in trainee.optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            batch = batches.at(step)
            words = told_words(batch)
            batch = batch[mine].to(accelerator.device)
            with autocast(accelerator.device, settings.precision):
                nats = prepared(batch.tokens, batch.mask)  # [B, encoders]
            loss = nats.sum(dim=1).mean()
            means = accelerator.reduce(nats.detach().mean(dim=0), "mean").tolist()
            stop_if_not_finite("loss", sum(means), step)
            trainee.optimizer.zero_grad()
            accelerator.backward(loss)
            for learner in model.parameter_groups():
                stop_if_not_finite("the gradient's norm", float(accelerator.clip_grad_norm_(learner, settings.clip_norm)), step)
            trainee.optimizer.step()
            trainee.step = step = step + 1
            shown = perplexities("train", names, [mean * settings.batch_size for mean in means], words)
            log.advance(in_words(shown))
            if step % settings.log_every == 0:
                log.scalars(step, {"train/loss": sum(means), **shown, "train/learning_rate": learning_rate(settings, step - 1)})
            if step % settings.validate_every == 0 or step == total:
                scores = validate(model, validation, accelerator)
                log.scalars(step, scores)
                log.say(f"step {step}: validation {in_words(scores)}")
            if (stop := log.stopping) or step % settings.checkpoint_every == 0 or step == total:
                trainee.save(run, accelerator)
            if stop:
                raise KeyboardInterrupt
    result = run / "model"
    figures: dict[str, Any] = validate(model, validation, accelerator) | trainee.origin
    if accelerator.is_main_process:
        config = trainee.config()
        figures |= {"steps": trainee.step, "seconds": round(trainee.seconds), **{k: config[k] for k in ("parameters", "data")}}
        with whole_folder(result) as folder:
            write_model(folder, trainee.published.state_dict(), config, card(figures))
    accelerator.wait_for_everyone()
    del prepared  # what shares gradients must be gone before the processes part, or one of them may abort at its exit
    accelerator.free_memory()
    accelerator.end_training()
    return result


def told_words(batch: TripleBatch) -> int:
    """The words that the decoders tell of a batch: those of both neighbours, and the end of each."""
    return int(batch.mask[0::2].sum()) + 2 * len(batch)


def perplexities(part: str, names: Sequence[str], nats: Sequence[float], words: int) -> dict[str, float]:
    """exp(nats a word) of each encoder, `PART/perplexity_NAME`."""
    return {f"{part}/perplexity_{name}": math.exp(min(value / words, 700.0)) for name, value in zip(names, nats, strict=True)}


def in_words(scores: dict[str, float]) -> str:
    """Perplexities for people to read."""
    return "perplexity " + ", ".join(f"{name.rpartition('_')[2]} {value:.4g}" for name, value in scores.items())


@torch.no_grad()
def validate(model: SkipThoughtsObjective, batches: Sequence[TripleBatch], accelerator: Accelerator) -> dict[str, float]:
    """The perplexity of each encoder's decoders on the words of neighbours; every process takes its share."""
    names = list(model.skipthoughts.encoders)
    nats = torch.zeros(len(names), device=accelerator.device, dtype=torch.float64)
    for batch in batches[accelerator.process_index :: accelerator.num_processes]:
        here = batch.to(accelerator.device)
        nats += model(here.tokens, here.mask).sum(dim=0).double()
    return perplexities("validation", names, accelerator.reduce(nats, "sum").tolist(), sum(told_words(batch) for batch in batches))
