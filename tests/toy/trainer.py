"""Training of the toy: the mean squared error between its pictures and the images."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from cap2im.config import DrawingRecipe, Training
from cap2im.config.sections import Epochs
from cap2im.data.batch import Batch
from cap2im.models.precision import autocast
from cap2im.training.data import TrainingData
from cap2im.training.state import TrainState
from cap2im.training.trainer import Losses, Trainer
from tests.toy.network import Toy, ToyConfig


class ToyTraining(Training):
    """Settings of the training, besides those of every training."""

    epochs: Epochs = 10
    learning_rate: float = Field(1e-2, gt=0, description="learning rate of Adam")


class ToyRecipe(DrawingRecipe):
    """The toy, on captioned digits or on a prepared dataset."""

    model: ToyConfig = ToyConfig()
    train: ToyTraining = ToyTraining()


class ToyTrainer(Trainer):
    """Minimises the mean squared error."""

    score, higher_is_better = "loss", False

    def __init__(self, recipe: ToyRecipe, data: TrainingData, accelerator: Accelerator) -> None:
        super().__init__(recipe, data, accelerator)
        model = Toy(recipe.model)
        self.state = TrainState(model, torch.optim.Adam(model.parameters(), lr=recipe.train.learning_rate))
        (self.network,) = self.state.prepare(accelerator, model)

    def update(self, batch: Batch) -> Losses:
        """Make one update."""
        with autocast(self.accelerator.device, self.recipe.train.precision):
            loss = self._loss(self.network, batch)
        self.check_finite("loss", loss)
        self.state.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.state.optimizer.step()
        return {"loss": loss}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the loss on the validation images."""
        return {"loss": float(self._loss(self.state.ema_model, self.data.validation.to(self.accelerator.device)))}

    @staticmethod
    def _loss(network: torch.nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(network(batch.tokens, batch.mask, batch.noise), batch.images)
