"""The interface of a trainer: one training algorithm, which `Run` drives.

A new algorithm subclasses `Trainer` in a file of its own and is named in `cap2im.registry`. Required are `score`, `__init__`, `update`
and `validate`:

    class MyTrainer(Trainer):
        score, higher_is_better = "loss", False

        def __init__(self, recipe, data, accelerator):
            super().__init__(recipe, data, accelerator)  # seeds torch
            model = MyNetwork(recipe.model)
            self.state = TrainState(model, torch.optim.Adam(model.parameters()))
            (self.network,) = self.state.prepare(accelerator, model)

        def update(self, batch):
            loss = self.network(batch.images).mean()
            self.check_finite("loss", loss)
            self.state.optimizer.zero_grad()
            self.accelerator.backward(loss)
            self.state.optimizer.step()
            return {"loss": loss}

        def validate(self):
            return {"loss": ...}
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cap2im.checkpoint import SENTENCE_ENCODER, write_model
from cap2im.encoder_files import copy_encoder
from cap2im.files import atomic_folder
from cap2im.training.card import description
from cap2im.training.data import DataSource, TrainingData, load_training_data
from cap2im.training.samples import SampleGrid
from cap2im.training.state import TrainState

Losses = Mapping[str, Tensor | float]


class Trainer(ABC):
    """A network in training and the algorithm that trains it.

    Args:
        recipe: of the run, with everything that the data decides.
        data: to train on, as `load_data` returns it.
        accelerator: of the run.

    Attributes:
        score: name of the validation score by which the best model is kept.
        higher_is_better: whether a higher score is better.
        options: options of `cap2im train` that this trainer has: "stream", for which `load_data` reads streams as the inherited one does;
            "start_from" and "compile_model", for which it overrides `start_from` and `compile`.
        required_data: what --data has to name; empty if it may be left out.
        saved_dtype: type of the finished model's weights.
        state: weights, optimizer, EMA and step; set by `__init__` of a subclass.
    """

    score: ClassVar[str]
    higher_is_better: ClassVar[bool]
    options: ClassVar[frozenset[str]] = frozenset({"stream"})
    required_data: ClassVar[str] = ""
    saved_dtype: ClassVar[torch.dtype] = torch.float16
    state: TrainState

    def __init__(self, recipe: Any, data: TrainingData, accelerator: Accelerator) -> None:
        self.recipe, self.data, self.accelerator = recipe, data, accelerator
        self._unchecked: list[tuple[str, int, Tensor]] = []
        torch.manual_seed(recipe.train.seed)

    @classmethod
    def load_data(cls, recipe: Any, source: DataSource, accelerator: Accelerator) -> TrainingData:
        """Return the data that a recipe trains on; by default captioned images.

        Raises:
            ValueError: data are missing or damaged, or do not fit the recipe or the number of processes.
        """
        return load_training_data(recipe, source, accelerator.num_processes)

    @abstractmethod
    def update(self, batch: Any) -> Losses:
        """Make one update of the weights.

        Args:
            batch: this process's rows of a batch of `data.batches`, on the device.

        Returns:
            scalars by name, logged as train/NAME; of tensors, the mean over the processes.

        Raises:
            ValueError: a loss or a gradient is not finite; on a CPU the weights are then those before the update.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Return scores of `state.ema_model` on the validation data, by name, equal in all processes (a collective call)."""

    def initialize(self) -> None:  # noqa: B027  # most trainers have nothing to load
        """Load pretrained weights before the first update of a new run; nothing by default.

        Raises:
            ValueError: the weights are missing or damaged.
        """

    def start_from(self, folder: Path) -> list[str]:
        """Load the weights of a model folder before the first update, and return messages for the user.

        Raises:
            ValueError: the weights do not fit.
        """
        raise NotImplementedError

    def compile(self) -> None:
        """Compile the network.

        Raises:
            ValueError: the network has nothing to compile, or the machine cannot compile it.
        """
        raise NotImplementedError

    def gains_from_compiling(self) -> bool:
        """Return whether a whole training takes less time if the network is compiled, which `cap2im train` then does unasked."""
        return False

    def sample_grid(self) -> SampleGrid | None:
        """Return pictures that show the progress of `state.ema_model`, or None."""
        return None

    def progress(self, losses: Mapping[str, float]) -> str:
        """Return the text beside the progress bar for the losses of an update; about 36 characters are visible."""
        return f"loss {losses['loss']:.4g}"

    def measure(self) -> dict[str, Any]:
        """Return measurements of the finished model for its `config.json` and card, JSON-ready (a collective call)."""
        return {}

    def config(self) -> dict[str, Any]:
        """Return the content of `config.json` for the network in training."""
        recipe, data = self.recipe, self.data
        vocabulary = {} if data.vocabulary is None else {"vocabulary": data.vocabulary.model_dump()}
        return {
            "kind": recipe.kind,
            "description": description(recipe.description, data.about),
            "parameters": sum(p.numel() for p in self.state.inference_model.parameters()),
            "model": recipe.model.model_dump(),
            **vocabulary,
            "data": dict(data.about),
            **self.state.origin,
        }

    def save_model(self, folder: Path, measures: Mapping[str, Any], card: str = "") -> None:
        """Write the model folder of `state.ema_model`, with a copy of the sentence encoder that it needs."""
        config = self.config() | dict(measures)
        if encoder := config["data"].get("sentence_encoder"):
            config["data"]["sentence_encoder"] = Path(encoder).name
        with atomic_folder(folder) as draft:
            write_model(draft, self.state.ema_model.state_dict(), config, card, self.saved_dtype)
            if self.data.encoder_folder is not None:
                copy_encoder(self.data.encoder_folder, draft / SENTENCE_ENCODER)

    @property
    def checks_late(self) -> bool:
        """Whether the values of `check_finite` are read later: an accelerator would stand still while the program reads one."""
        return bool(self.accelerator.device.type != "cpu")

    def check_finite(self, name: str, value: Tensor) -> None:
        """Stop the training if a loss or the norm of a gradient is not finite (a collective call).

        On a CPU it stops before the update. On an accelerator the value is kept for `finish_checks`.

        Raises:
            ValueError: the value is infinite or not a number in a process.
        """
        self._unchecked.append((name, self.state.step, value.detach().float()))
        if not self.checks_late:
            self.finish_checks()

    def finish_checks(self) -> None:
        """Read the values that `check_finite` has kept (a collective call). `Run` does it before it validates or saves.

        Raises:
            ValueError: a value is infinite or not a number; the error names the first.
        """
        if not self._unchecked:
            return
        names, steps, values = zip(*self._unchecked, strict=True)
        self._unchecked = []
        means = self.accelerator.reduce(torch.stack(values), "mean").tolist()
        for name, step, mean in zip(names, steps, means, strict=True):
            if not math.isfinite(mean):
                raise ValueError(f"{name} is {mean} at step {step}; stopped before weights are saved (a lower learning rate may help)")

    def clip_gradient(self, parameters: Iterable[nn.Parameter], limit: float, name: str = "the gradient's norm") -> Tensor:
        """Clip the norm of the gradient of all parameters to `limit`, and return the norm before clipping.

        Raises:
            ValueError: the norm is not finite; see `check_finite`.
        """
        norm: Tensor = self.accelerator.clip_grad_norm_(parameters, limit)
        self.check_finite(name, norm)
        return norm
