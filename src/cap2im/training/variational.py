"""Training every model that has a variational bound on captioned images: one flat loop.

Source: alignDRAW (arXiv:1511.02793), section 3.3 and appendix B.

The data and the noise of a step are functions of the seed and the step's number (see `cap2im.randomness`), so that neither resuming nor the
number of processes changes them. (Of a streamed dataset each process has shards of its own: there the number of processes counts.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import Tensor, nn

from cap2im.checkpoint import WEIGHTS, read_config, read_weights
from cap2im.config import DRAWRecipe, VariationalRecipe, VariationalTraining
from cap2im.convert.theano import released_layout
from cap2im.data.batch import Batch
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import describe
from cap2im.models.aligndraw import DRAW
from cap2im.models.interface import LikelihoodModel
from cap2im.models.precision import autocast
from cap2im.registry import MODELS
from cap2im.training.data import require_same_material, training_material
from cap2im.training.optimizers import RMSprop, clip_blocks
from cap2im.training.run import (
    BatchesAhead,
    RunLog,
    make_accelerator,
    prepare_processor,
    stop_if_not_finite,
)
from cap2im.training.samples import FIRST_GRID, shown_drawings
from cap2im.training.state import DrawingTrainee, resume_state

VALIDATION_BATCH = 250


def learning_rate(train: VariationalTraining, step: int, steps_per_epoch: int) -> float:
    """Return the rate of the update that follows `step` updates."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    if train.schedule == "step":
        return train.learning_rate if step < train.drop_epoch * steps_per_epoch else train.final_learning_rate
    progress = (step - train.warmup_steps) / max(1, train.total(steps_per_epoch) - train.warmup_steps)
    return train.final_learning_rate + (train.learning_rate - train.final_learning_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def kl_weight(train: VariationalTraining, step: int) -> float:
    """The weight of the KL in the loss: 1 is the bound of equation 14.

    Less lets the latents say more, and details come sooner; more makes them dear, so that what the caption says is read there.
    """
    steps, weights = zip(*train.kl_weights, strict=True)
    return float(np.interp(step, steps, weights))


def _optimizer(model: LikelihoodModel, train: VariationalTraining) -> torch.optim.Optimizer:
    if train.optimizer == "rmsprop":
        return RMSprop(model.parameters(), lr=train.learning_rate)
    return torch.optim.Adam(model.parameters(), lr=train.learning_rate)


def gradient_of(parameter: Tensor) -> Tensor:
    """A parameter's gradient; every parameter takes part in the bound."""
    assert parameter.grad is not None
    return parameter.grad


def load_weights(model: LikelihoodModel, folder: Path, config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Fill a model with the weights of a folder. Words that both vocabularies have keep their weights, whatever their numbers.

    Args:
        model: to fill.
        folder: of a model.
        config: what the model in training will say of itself; kind, sizes, held-out configurations and variant have to be equal.

    Returns:
        the SHA-256 of the weights, and what to tell of the vocabularies.

    Raises:
        ValueError: they are of another kind, network, held-out configurations or variant, share no word, or are damaged.
    """
    theirs = read_config(folder)
    ours = json.loads(json.dumps(config))
    if theirs.get("kind") != ours["kind"]:
        raise ValueError(f"{folder}: is a model of kind {theirs.get('kind')!r}, this training's is {ours['kind']!r}")
    if theirs.get("data", {}).get("held_out") != ours["data"].get("held_out"):
        raise ValueError(f"{folder}: other configurations were held out; give the data.held_out_seed that it was trained with")
    if (variant := theirs.get("model", {}).get("variant")) != ours["model"].get("variant"):
        raise ValueError(f"{folder}: its model.variant is {variant!r}, this training's is {ours['model'].get('variant')!r}")
    try:
        vocabulary = Vocabulary.model_validate(theirs.get("vocabulary"))
    except ValidationError as error:
        raise ValueError(f"{folder}: damaged vocabulary: {describe(error)}") from None
    weights = {name: value.float() for name, value in read_weights(folder, theirs).items()}
    notes = []
    if vocabulary != (own := Vocabulary.model_validate(ours["vocabulary"])) and ours["model"].get("conditioning") in ("align", "mean"):
        notes.append(_carry_words_over(model, weights, vocabulary, own, folder))
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in model.state_dict().items()}:
        sizes = {key: value for key, value in theirs.get("model", {}).items() if key in ours["model"] and key != "vocabulary_size"}
        other = {key: value for key, value in sizes.items() if value != ours["model"][key]}
        told = ", ".join(f"model.{key} is {value!r}, this training's is {ours['model'][key]!r}" for key, value in other.items())
        raise ValueError(f"{folder}: is of another size: its {told or 'weights have other names or shapes'}; --set takes its sizes over")
    model.load_state_dict(weights)
    return str(theirs["sha256"][WEIGHTS]), notes


def _carry_words_over(model: LikelihoodModel, weights: dict[str, Tensor], theirs: Vocabulary, ours: Vocabulary, folder: Path) -> str:
    """Replace the word vectors in `weights` by the model's own, with those of shared words; return what was done, in words."""
    shared = [word for word in ours.words if word in theirs.numbers]
    if not shared:
        raise ValueError(f"{folder}: its vocabulary of {len(theirs):,} words has none of the {len(ours):,} words of this training")
    rows, origins = ([vocabulary.numbers[word] for word in shared] for vocabulary in (ours, theirs))
    for name, layer in model.named_modules():
        key = f"{name}.weight"
        if isinstance(layer, nn.Embedding) and len(weights.get(key, ())) == len(theirs) and layer.num_embeddings == len(ours):
            vectors = layer.weight.detach().clone()
            if vectors.shape[1:] == weights[key].shape[1:]:
                vectors[rows] = weights[key][origins]
                weights[key] = vectors
    new = len(ours) - len(shared)
    return f"{folder}: {len(shared):,} of {len(ours):,} words are known to it and keep their weights; {new:,} are new and start untrained"


class BoundTrainee(DrawingTrainee):
    """A model with a bound in training; its moving average, where there is one, draws.

    Attributes:
        notes: what to tell when the training begins.
    """

    recipe: VariationalRecipe
    model: LikelihoodModel

    def __init__(self, recipe: VariationalRecipe, vocabulary: Vocabulary, about_data: Mapping[str, Any], command: str) -> None:
        torch.manual_seed(recipe.train.seed)
        model = MODELS[recipe.kind].network_class(recipe.model)
        assert isinstance(model, LikelihoodModel)
        super().__init__(recipe, model, _optimizer(model, recipe.train), command, recipe.train.ema_decay, vocabulary, about_data)
        self.notes: list[str] = []

    @property
    def drawing_model(self) -> LikelihoodModel:
        """The network that validates and draws."""
        return cast(LikelihoodModel, self.published)

    def start_from(self, folder: Path) -> None:
        """Takes over the weights of a model folder; see `load_weights` for the errors."""
        self.origin["started_from"], self.notes = load_weights(self.model, folder, self.config())
        self.drawing_model.load_state_dict(self.model.state_dict())


def train(
    recipe: VariationalRecipe,
    run: Path,
    *,
    data: str | Path | None = None,
    stream: bool = False,
    resume: bool = False,
    start_from: Path | None = None,
    device: Literal["auto", "cpu"] = "auto",
    compile_model: bool = False,
    workers: int = 2,
    command: str = "",
    card: Callable[[dict[str, Any]], str] = lambda _: "",
) -> Path:
    """Trains a model by its bound and writes its weights to RUN/model.

    Args:
        recipe: what to train.
        run: folder for checkpoints, log, pictures and the result.
        data: folder of MNIST's files (None for the cache or a download), or a prepared dataset.
        stream: read a prepared dataset shard by shard, wherever it lies.
        resume: go on from the run's last checkpoint.
        start_from: a model folder whose weights a new run starts from.
        device: "cpu", or "auto" for whatever Accelerate finds.
        compile_model: compile the step of a DRAW; the first steps then take minutes.
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
    accelerator = make_accelerator(device, settings.batch_size)
    if compile_model and not isinstance(recipe, DRAWRecipe):
        raise ValueError(f"--compile compiles the steps of a DRAW; a model of kind {recipe.kind!r} has none")
    if isinstance(recipe, DRAWRecipe) and recipe.model.variant == "released" and accelerator.num_processes > 1:
        raise ValueError("model.variant released reads a batch's captions backwards, so the batch cannot be shared among processes")
    with accelerator.main_process_first():  # what is prepared once for all lies in a cache then
        material = training_material(recipe, data, stream=stream, processes=accelerator.num_processes)
    recipe, batches, validation = cast(VariationalRecipe, material.recipe), material.batches, material.validation
    settings = recipe.train
    checkpoint = resume_state(run, recipe, resume)
    if checkpoint is not None:
        require_same_material(checkpoint, material, run)

    trainee = BoundTrainee(recipe, material.vocabulary, material.about, command)
    model, drawing_model = trainee.model, trainee.drawing_model
    if checkpoint is not None:
        trainee.restore(checkpoint, accelerator)
    elif start_from is not None:
        trainee.start_from(start_from)
    prepared = trainee.prepare(accelerator)
    if compile_model and isinstance(model, DRAW):
        model.compile_steps()

    mine = slice(accelerator.process_index, None, accelerator.num_processes)  # this process's rows of a batch
    total = settings.total(batches.steps_per_epoch)
    ahead = BatchesAhead(batches, mine, range(trainee.step, total), workers if material.slow else 0)

    with RunLog(run, recipe, trainee.step, total, accelerator, batches.steps_per_epoch, {"data": data, "stream": stream}) as log:
        for note in trainee.notes:
            log.say(note)
        while (step := trainee.step) < total:
            weight = kl_weight(settings, step)
            for group in trainee.optimizer.param_groups:
                group["lr"] = learning_rate(settings, step, batches.steps_per_epoch)
            batch = ahead.next().to(accelerator.device)
            with autocast(accelerator.device, settings.precision):
                bound = prepared(batch.images, batch.tokens, batch.mask, batch.noise, batch.vectors)
            kl = bound.kl.sum(dim=1).mean()
            loss = bound.reconstruction.mean() + weight * kl
            terms = accelerator.reduce(torch.stack([loss, -bound.value.mean(), kl]).detach(), "mean").tolist()
            stop_if_not_finite("loss", terms[0], step)
            trainee.optimizer.zero_grad()
            accelerator.backward(loss)
            if settings.clip == "global":
                norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
            else:
                assert isinstance(model, DRAW)
                norm = clip_blocks(released_layout(model, gradient_of).values(), settings.clip_norm)
            stop_if_not_finite("the gradient's norm", float(norm), step)
            trainee.optimizer.step()
            if trainee.average is not None:
                trainee.average.update_parameters(model)
            trainee.step = step = step + 1
            log.advance(f"bound {-terms[1]:.1f} nats, KL {terms[2]:.1f}")
            if step % settings.log_every == 0:
                names = {"train/loss": terms[0], "train/bound": -terms[1], "train/kl": terms[2], "train/kl_weight": weight}
                names |= {"train/learning_rate": learning_rate(settings, step - 1, batches.steps_per_epoch), "train/waiting": ahead.waiting}
                log.scalars(step, names)
            validates = step % settings.validate_every == 0 or step == total
            if validates or step == FIRST_GRID:
                drawing_model.eval()
                log.samples(step, "drawings", shown_drawings(drawing_model, material.shown), material.shown.captions)
                model.train()
            if validates:
                drawing_model.eval()
                scores = validate(drawing_model, validation, accelerator)
                model.train()
                log.scalars(step, scores)
                log.say(f"step {step}: validation bound {scores['validation/bound']:.2f} nats, KL {scores['validation/kl']:.2f}")
            if (stop := log.stopping) or step % settings.checkpoint_every == 0 or step == total:
                trainee.save(run, accelerator)
            if stop:
                raise KeyboardInterrupt
    result = run / "model"
    trainee.round()
    figures: dict[str, Any] = validate(drawing_model.eval(), validation, accelerator)
    if accelerator.is_main_process:
        trainee.hand_out(result, figures | {"observation": drawing_model.observation}, card, material.encoder_folder)
    accelerator.wait_for_everyone()
    del prepared  # what shares gradients must be gone before the processes part, or one of them may abort at its exit
    accelerator.free_memory()
    accelerator.end_training()
    return result


@torch.no_grad()
def validate(model: LikelihoodModel, batch: Batch, accelerator: Accelerator) -> dict[str, float]:
    """Bound and KL in nats, means over the validation canvases; every process takes its share."""
    rows = batch[slice(accelerator.process_index, None, accelerator.num_processes)]
    sums = torch.zeros(2, device=accelerator.device, dtype=torch.float64)
    for start in range(0, len(rows.images), VALIDATION_BATCH):
        part = rows[start : start + VALIDATION_BATCH].to(accelerator.device)
        bound = model(part.images, part.tokens, part.mask, part.noise, part.vectors)
        sums += torch.stack([bound.value.sum(), bound.kl.sum()]).double()
    bound_mean, kl_mean = (accelerator.reduce(sums, "sum") / len(batch.images)).tolist()
    return {"validation/bound": bound_mean, "validation/kl": kl_mean}
