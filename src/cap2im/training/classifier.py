"""Training the VGG-like network on images with classes: one flat loop.

Source: http://torch.ch/blog/2015/07/30/cifar.html, which flips images, and halves its learning rate every 25 epochs; here a random crop
of the padded image comes before the flip, and the rate falls as a half cosine.

The images of a step, their crops and flips are functions of the seed and the step's number. Batch normalisation sees a process's share of
a batch: there the number of processes counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from cap2im.checkpoint import read_config, whole_folder, write_model
from cap2im.config import ClassifierRecipe, ClassifierTraining
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import Split
from cap2im.metrics.intervals import wilson
from cap2im.models.precision import autocast
from cap2im.models.vgg import SIDE, VGG
from cap2im.randomness import generator
from cap2im.training.card import description
from cap2im.training.run import RunLog, make_accelerator, prepare_processor, stop_if_not_finite
from cap2im.training.state import Trainee, resume_state

VALIDATION_BATCH = 500


def learning_rate(train: ClassifierTraining, step: int, total: int) -> float:
    """The rate of the update that follows `step` of `total` updates."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, total - train.warmup_steps)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class LabelledImages:
    """All images of a split with their classes, in memory.

    Attributes:
        pixels: [N, 3, A, A] uint8.
        classes: [N].

    Raises:
        ValueError: there is no such split, its images are not squares of `SIDE` pixels, or one of them has no class below `classes`.
    """

    def __init__(self, dataset: PreparedDataset, split: Split, classes: int) -> None:
        dataset.require_size(SIDE, "a picture of this classifier")
        images = CaptionedImages(dataset, split)
        self.classes = torch.from_numpy(images.classes.copy())
        low, high = int(self.classes.min()), int(self.classes.max())
        if low < 0 or high >= classes:
            there = f"images have classes {low} to {high}" if low >= 0 else "images have no classes"
            raise ValueError(f"{dataset.folder}: {split} {there}, 0 to {classes - 1} are needed (model.classes)")
        self.pixels = images.all_pixels(3)

    def __len__(self) -> int:
        return len(self.pixels)


def augmented(pixels: Tensor, crop: int, flip: bool, random: torch.Generator) -> Tensor:
    """Images [B, C, A, A], each a random crop of itself with `crop` black pixels around it, and half of them mirrored."""
    side = pixels.shape[-1]
    corners = torch.randint(2 * crop + 1, (len(pixels), 2, 1), generator=random)
    mirrored = torch.rand(len(pixels), 1, generator=random) < 0.5
    rows, columns = (corners + torch.arange(side)).unbind(1)  # [B, A] each
    if flip:
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(pixels, (crop,) * 4)
    return padded[torch.arange(len(pixels))[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class LabelledBatches:
    """Batches of images by number; every image comes once an epoch, but for those that fill no batch."""

    def __init__(self, images: LabelledImages, train: ClassifierTraining) -> None:
        self.images, self.train = images, train
        self.steps_per_epoch = len(images) // train.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(f"{len(images)} images do not fill a batch of {train.batch_size}; --set train.batch_size=16 may do")

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, 3, A, A] in 0..1 and classes [B] of the update that follows `step` updates."""
        epoch, index = divmod(step, self.steps_per_epoch)
        size, seed = self.train.batch_size, self.train.seed
        order = torch.randperm(len(self.images), generator=generator("images", seed, epoch))
        rows = order[index * size : (index + 1) * size]
        pixels = augmented(self.images.pixels[rows], self.train.crop, self.train.flip, generator("augmentation", seed, step))
        return pixels.float() / 255, self.images.classes[rows]


class ClassifierTrainee(Trainee):
    """A classifier in training."""

    model: VGG
    recipe: ClassifierRecipe

    def __init__(self, recipe: ClassifierRecipe, about_data: dict[str, Any], command: str) -> None:
        torch.manual_seed(recipe.train.seed)
        model, train = VGG(recipe.model), recipe.train
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(
            recipe,
            model,
            torch.optim.SGD(
                model.parameters(),
                lr=train.learning_rate,
                momentum=train.momentum,
                weight_decay=train.weight_decay,
                nesterov=bool(train.momentum),
            ),
            command,
        )
        self.about_data = about_data

    def config(self) -> dict[str, Any]:
        """What a folder of this network says of it."""
        return {
            "kind": "classifier",
            "description": description(self.recipe.description, self.about_data),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "model": self.recipe.model.model_dump(),
            "data": self.about_data,
            **self.origin,
        }


def train(
    recipe: ClassifierRecipe,
    run: Path,
    *,
    data: str | Path,
    resume: bool = False,
    device: Literal["auto", "cpu"] = "auto",
    command: str = "",
    card: Callable[[dict[str, Any]], str] = lambda _: "",
) -> Path:
    """Trains a classifier and writes its weights to RUN/model, with its accuracy on the test images where there are any.

    Args:
        recipe: what to train.
        run: folder for checkpoints, log and the result.
        data: a prepared dataset whose images have classes.
        resume: go on from the run's last checkpoint.
        device: "cpu", or "auto" for whatever Accelerate finds.
        command: what was typed, for the card; a resumed run keeps its first.
        card: makes the model card's text of the final figures.

    Returns:
        the folder of the finished model.

    Raises:
        ValueError: of `resume_state`, missing or damaged data, images without classes, a loss that is not finite.
    """
    prepare_processor()
    settings = recipe.train
    accelerator = make_accelerator(device, settings.batch_size)
    dataset = PreparedDataset.open(data)
    checkpoint = resume_state(run, recipe, resume)
    if checkpoint is not None and read_config(checkpoint)["data"]["sha256"] != dataset.sha256:
        raise ValueError(f"{run}: was begun with another dataset than this one")
    batches = LabelledBatches(LabelledImages(dataset, "train", recipe.model.classes), settings)
    validation = LabelledImages(dataset, "validation", recipe.model.classes)

    recipe = recipe.model_copy(update={"train": settings.planned(batches.steps_per_epoch)})
    settings = recipe.train
    trainee = ClassifierTrainee(recipe, dataset.about(), command)
    model = trainee.model
    if checkpoint is not None:
        trainee.restore(checkpoint, accelerator)
    prepared = trainee.prepare(accelerator)
    mine = slice(accelerator.process_index, None, accelerator.num_processes)  # this process's rows of a batch
    total = settings.total(batches.steps_per_epoch)

    with RunLog(run, recipe, trainee.step, total, accelerator, batches.steps_per_epoch, {"data": data}) as log:
        while (step := trainee.step) < total:
            rate = learning_rate(settings, step, total)
            for group in trainee.optimizer.param_groups:
                group["lr"] = rate
            images, classes = (part[mine].to(accelerator.device) for part in batches.at(step))
            with autocast(accelerator.device, settings.precision):
                logits = prepared(images)
            loss = F.cross_entropy(logits.float(), classes)
            right = (logits.argmax(dim=1) == classes).float().mean()
            terms = accelerator.reduce(torch.stack([loss, right]).detach(), "mean").tolist()
            stop_if_not_finite("loss", terms[0], step)
            trainee.optimizer.zero_grad()
            accelerator.backward(loss)
            trainee.optimizer.step()
            trainee.step = step = step + 1
            log.advance(f"loss {terms[0]:.3f}, {terms[1]:.0%} right")
            if step % settings.log_every == 0:
                log.scalars(step, {"train/loss": terms[0], "train/accuracy": terms[1], "train/learning_rate": rate})
            if step % settings.validate_every == 0 or step == total:
                right_ones = count_right(model, validation, accelerator)
                log.scalars(step, {"validation/accuracy": right_ones / len(validation)})
                log.say(f"step {step}: {right_ones / len(validation):.2%} of {len(validation):,} validation images right")
            if (stop := log.stopping) or step % settings.checkpoint_every == 0 or step == total:
                trainee.save(run, accelerator)
            if stop:
                raise KeyboardInterrupt
    result = run / "model"
    figures: dict[str, Any] = {**trainee.origin, "accuracy": accuracies(model, dataset, validation, accelerator)}
    if accelerator.is_main_process:
        config = trainee.config()
        figures |= {"steps": trainee.step, "seconds": round(trainee.seconds), **{k: config[k] for k in ("parameters", "data")}}
        with whole_folder(result) as folder:
            write_model(folder, model.state_dict(), {**config, "accuracy": figures["accuracy"]}, card(figures))
    accelerator.wait_for_everyone()
    del prepared  # what shares gradients must be gone before the processes part, or one of them may abort at its exit
    accelerator.free_memory()
    accelerator.end_training()
    return result


@torch.no_grad()
def count_right(model: VGG, images: LabelledImages, accelerator: Accelerator) -> int:
    """How many images a network classifies rightly; every process takes its share. The network is left in training mode."""
    model.eval()
    right = torch.zeros((), device=accelerator.device, dtype=torch.long)
    for start in range(VALIDATION_BATCH * accelerator.process_index, len(images), VALIDATION_BATCH * accelerator.num_processes):
        rows = slice(start, start + VALIDATION_BATCH)
        logits = model(images.pixels[rows].to(accelerator.device).float() / 255)
        right += (logits.argmax(dim=1) == images.classes[rows].to(accelerator.device)).sum()
    model.train()
    return int(accelerator.reduce(right, "sum"))


def accuracies(model: VGG, dataset: PreparedDataset, validation: LabelledImages, accelerator: Accelerator) -> dict[str, Any]:
    """The share of validation and, where there are any, test images classified rightly, with 95 % intervals; JSON-ready."""
    measured = {"validation": validation}
    if any(shard.split == "test" and shard.rows for shard in dataset.manifest.shards):
        measured["test"] = LabelledImages(dataset, "test", model.config.classes)
    found = {}
    for split, images in measured.items():
        right, n = count_right(model, images, accelerator), len(images)
        low, high = wilson(right, n)
        found[split] = {"rate": right / n, "low": low, "high": high, "n": n}
    return found
