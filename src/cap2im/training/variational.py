"""Trainer of the models with a variational bound.

Source: alignDRAW (arXiv:1511.02793), section 3.3 and appendix B.

Data and noise of an update are functions of the seed and the update's number (see `cap2im.randomness`), so that neither resuming nor the
number of processes changes them. A streamed dataset is shared out among the processes: there their number counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

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
from cap2im.extras import missing_compiler
from cap2im.files import describe
from cap2im.models.aligndraw import DRAW
from cap2im.models.interface import DrawingModel, LikelihoodModel
from cap2im.models.precision import autocast
from cap2im.registry import MODELS
from cap2im.training.data import DataSource, TrainingData
from cap2im.training.optimizers import RMSprop, clip_tensors
from cap2im.training.samples import SampleGrid, drawings_grid
from cap2im.training.schedules import cosine, set_learning_rate, warm_up
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer

VALIDATION_BATCH = 250
COMPILED_WORK = 6e13  # operations, twenty minutes of one core: compiling takes a minute or two, and saves a fifth


def learning_rate(train: VariationalTraining, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of the update that follows `step` updates."""
    if train.schedule == "cosine":
        return cosine(train.learning_rate, train.final_learning_rate, step, train.total(steps_per_epoch), train.warmup_steps)
    if step >= max(train.warmup_steps, train.drop_epoch * steps_per_epoch):
        return train.final_learning_rate
    return warm_up(train.learning_rate, step, train.warmup_steps)


def kl_weight(train: VariationalTraining, step: int) -> float:
    """Return the weight of the KL in the loss; 1 is the bound of equation 14.

    Below 1, latents carry more and details come sooner. Above 1, latents are penalised and the model relies on the caption.
    """
    steps, weights = zip(*train.kl_weights, strict=True)
    return float(np.interp(step, steps, weights))


class VariationalTrainer(Trainer):
    """Maximises the variational bound of captioned images. Best is the highest validation bound: what training maximises."""

    score, higher_is_better = "bound", True
    options = Trainer.options | {"start_from", "compile_model"}

    def __init__(self, recipe: VariationalRecipe, data: TrainingData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        train = recipe.train
        self.model: LikelihoodModel = MODELS[recipe.kind].network_class(recipe.model)
        optimizer = RMSprop if train.optimizer == "rmsprop" else partial(torch.optim.Adam, fused=True)
        self.state = TrainState(self.model, optimizer(self.model.parameters(), lr=train.learning_rate), ema_decay=train.ema_decay)
        (self.network,) = self.state.prepare(accelerator, self.model)

    @classmethod
    def load_data(cls, recipe: VariationalRecipe, source: DataSource, accelerator: Accelerator) -> TrainingData:
        """Return the captioned images that a recipe trains on.

        Raises:
            ValueError: see `Trainer.load_data`; or several processes share batches whose captions `variant="released"` reverses.
        """
        if getattr(recipe.model, "variant", "paper") == "released" and accelerator.num_processes > 1:
            raise ValueError("model.variant released reverses the captions of a batch, which therefore cannot be shared among processes")
        return super().load_data(recipe, source, accelerator)

    def update(self, batch: Batch) -> Losses:
        """Make one update by the loss -E[log P(x | y, z)] + w KL (equation 14 for w = 1)."""
        train, state = self.recipe.train, self.state
        if isinstance(self.recipe, DRAWRecipe) and (noisy := self.recipe.train.align_noise_updates) is not None:
            assert isinstance(self.model, DRAW)
            self.model.alignment.noise = self.recipe.model.align_noise if noisy[0] <= state.step < noisy[1] else 0.0
        rate, weight = learning_rate(train, state.step, self.data.batches.steps_per_epoch), kl_weight(train, state.step)
        with autocast(self.accelerator.device, train.precision):
            bound = self.network(batch.images, batch.tokens, batch.mask, batch.noise, batch.vectors)
        kl = bound.kl.sum(dim=1).mean()
        loss = bound.reconstruction.mean() + weight * kl
        self.check_finite("loss", loss)

        state.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if train.clip == "global":
            self.clip_gradient(self.model.parameters(), train.clip_norm)
        else:
            assert isinstance(self.model, DRAW)
            self.check_finite("the gradient's norm", clip_tensors(released_layout(self.model, _gradient).values(), train.clip_norm))
        set_learning_rate(state.optimizer, rate)
        state.optimizer.step()
        state.update_ema()
        return {"loss": loss, "bound": bound.value.mean(), "kl": kl, "kl_weight": weight, "learning_rate": rate}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return bound and KL in nats, means over the validation images."""
        validation: Batch = self.data.validation
        model = self.state.ema_model.eval()
        rows = validation[slice(self.accelerator.process_index, None, self.accelerator.num_processes)]
        sums = torch.zeros(2, device=self.accelerator.device, dtype=torch.float64)
        for start in range(0, len(rows), VALIDATION_BATCH):
            part = rows[start : start + VALIDATION_BATCH].to(self.accelerator.device)
            bound = model(part.images, part.tokens, part.mask, part.noise, part.vectors)
            sums += torch.stack([bound.value.sum(), bound.kl.sum()]).double()
        self.model.train()
        bound_mean, kl_mean = (self.accelerator.reduce(sums, "sum") / len(validation)).tolist()
        return {"bound": bound_mean, "kl": kl_mean}

    def sample_grid(self) -> SampleGrid:
        """Draw captions of training and validation."""
        assert self.data.shown is not None
        grid = drawings_grid(self.state.ema_model.eval(), self.data.shown)
        self.model.train()
        return grid

    def progress(self, losses: Mapping[str, float]) -> str:
        """Return bound and KL of an update."""
        return f"bound {losses['bound']:.1f} nats, KL {losses['kl']:.1f}"

    def measure(self) -> dict[str, Any]:
        """Return the likelihood of a pixel in words."""
        return {"observation": self.model.observation}

    def compile(self) -> None:
        """Compile the step of a recurrent model.

        Raises:
            ValueError: the model has no steps, or there is no compiler.
        """
        compile_steps = getattr(self.model, "compile_steps", None)
        if compile_steps is None:
            raise ValueError(f"--compile compiles the steps of a recurrent model; a model of kind {self.recipe.kind!r} has none")
        if missing := missing_compiler(self.accelerator.device.type):
            raise ValueError(f"--compile needs {missing}; --no-compile trains without")
        compile_steps()

    def gains_from_compiling(self) -> bool:
        """Return whether a recurrent model is trained for twenty minutes or more on a CPU that can compile it."""
        if not isinstance(self.model, DRAW) or self.accelerator.device.type != "cpu":
            return False
        train, weights = self.recipe.train, sum(layer.weight.numel() for layer in self.model.modules() if isinstance(layer, nn.Linear))
        work = 6 * weights * self.model.config.glimpses * train.batch_size * train.total(self.data.batches.steps_per_epoch)
        return work >= COMPILED_WORK and not missing_compiler(self.accelerator.device.type)

    def start_from(self, folder: Path) -> list[str]:
        """Load the weights of a model folder; see `load_matching_weights` for the errors."""
        self.state.origin["started_from"], messages = load_matching_weights(self.model, folder, self.config())
        self.state.ema_model.load_state_dict(self.model.state_dict())
        return messages


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # every parameter takes part in the bound
    return parameter.grad


def load_matching_weights(model: DrawingModel, folder: Path, config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Fill a model with the weights of a folder. Words of both vocabularies keep their weights, whatever their numbers.

    Args:
        model: to fill.
        folder: of a model.
        config: `config.json` of the model in training; kind, sizes, held-out configurations and variant must be equal.

    Returns:
        the SHA-256 of the weights, and messages about the vocabularies.

    Raises:
        ValueError: the folder is of another kind, network, held-out configurations or variant, shares no word, or is damaged.
    """
    source = read_config(folder)
    target = json.loads(json.dumps(config))
    if source.get("kind") != target["kind"]:
        raise ValueError(f"{folder}: is a model of kind {source.get('kind')!r}, this training's is {target['kind']!r}")
    if _hidden(source.get("data", {}), target["data"]) != _hidden(target["data"], source.get("data", {})):
        raise ValueError(f"{folder}: other configurations were held out; set data.held_out_seed to the one that it was trained with")
    if (variant := source.get("model", {}).get("variant")) != target["model"].get("variant"):
        raise ValueError(f"{folder}: its model.variant is {variant!r}, this training's is {target['model'].get('variant')!r}")
    try:
        vocabulary = Vocabulary.model_validate(source.get("vocabulary"))
    except ValidationError as error:
        raise ValueError(f"{folder}: damaged vocabulary: {describe(error)}") from None
    weights = {name: value.float() for name, value in read_weights(folder, source).items()}
    messages = []
    if vocabulary != (own := Vocabulary.model_validate(target["vocabulary"])) and model.config.reads_words:
        messages.append(_map_word_vectors(model, weights, vocabulary, own, folder))
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in model.state_dict().items()}:
        sizes = {key: value for key, value in target["model"].items() if not isinstance(value, float) and key != "vocabulary_size"}
        its = source.get("model", {})
        other = [f"model.{key} is {its[key]!r}, this training's is {v!r}" for key, v in sizes.items() if its.get(key, v) != v]
        raise ValueError(
            f"{folder}: has other sizes: its {', '.join(other) or 'weights have other names or shapes'}; give the same sizes with --set"
        )
    model.load_state_dict(weights)
    return str(source["sha256"][WEIGHTS]), messages


def _hidden(data: Mapping[str, Any], other: Mapping[str, Any]) -> Any:
    """Return what decides the configurations hidden from a training, to compare it with that of another; scenes of other things differ."""
    same_scenes = "scenes" in data and data["scenes"] == other.get("scenes")
    return data.get("held_out"), data.get("held_out_seed") if same_scenes else None


def _map_word_vectors(model: nn.Module, weights: dict[str, Tensor], source: Vocabulary, target: Vocabulary, folder: Path) -> str:
    """Replace word vectors in `weights` by the model's own, with those of shared words; return a message about it."""
    shared = [word for word in target.words if word in source.numbers]
    if not shared:
        raise ValueError(f"{folder}: its vocabulary of {len(source):,} words has none of the {len(target):,} words of this training")
    rows, origins = ([vocabulary.numbers[word] for word in shared] for vocabulary in (target, source))
    for name, layer in model.named_modules():
        key = f"{name}.weight"
        if isinstance(layer, nn.Embedding) and len(weights.get(key, ())) == len(source) and layer.num_embeddings == len(target):
            vectors = layer.weight.detach().cpu().clone()
            if vectors.shape[1:] == weights[key].shape[1:]:
                vectors[rows] = weights[key][origins]
                weights[key] = vectors
    new = len(target) - len(shared)
    return f"{folder}: {len(shared):,} of {len(target):,} words have weights there and keep them; {new:,} words start untrained"
