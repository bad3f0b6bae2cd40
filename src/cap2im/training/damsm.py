"""Training the matching model of AttnGAN (DAMSM): one flat loop.

Source: AttnGAN (arXiv:1711.10485), section 3.2; rates, clipping and batches are the released program's.

What the released program does differently: it forgets Adam's moments after every epoch.

Where several processes share a batch, the losses are those of the whole batch: every image has all captions to choose from. (The batch
statistics of the small image encoder are those of each one's own share; those of Inception stand still.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from cap2im.metrics.r_precision import OTHERS, fewest_wrong, matching_codes, own_caption_first, rate
from cap2im.models.damsm import DAMSM, Gammas, InceptionEncoder, damsm_losses
from cap2im.models.precision import autocast
from cap2im.randomness import generator
from cap2im.training.data import require_same_material, training_material
from cap2im.training.run import BatchesAhead, RunLog, joined, make_accelerator, prepare_processor, stop_if_not_finite
from cap2im.training.state import DrawingTrainee, resume_state

CANVASES_OF_A_CAPTION = 5  # that the finished model is measured on


def learning_rate(train: DAMSMTraining, step: int, steps_per_epoch: int) -> float:
    """The rate of the update that follows `step` updates."""
    rate = max(train.final_learning_rate, train.learning_rate * train.rate_decay ** (step // steps_per_epoch))
    return rate * min(1.0, (step + 1) / (train.warmup_steps + 1))


class MatchingTrainee(DrawingTrainee):
    """A matching model in training; what is frozen of it does not move."""

    recipe: DAMSMRecipe
    model: DAMSM

    def __init__(self, recipe: DAMSMRecipe, vocabulary: Vocabulary, about_data: Mapping[str, Any], command: str) -> None:
        torch.manual_seed(recipe.train.seed)
        model = DAMSM(recipe.model)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(learning, lr=recipe.train.learning_rate, betas=(0.5, 0.999))
        super().__init__(recipe, model, optimizer, command, 0.0, vocabulary, about_data)
        self.measures: dict[str, Any] = {}  # of the finished model, JSON-ready

    def config(self) -> dict[str, Any]:
        """What a folder of this network says of it, and how well it matches once that was measured."""
        return super().config() | self.measures

    def begin_with_inception(self) -> None:
        """Fills the frozen network with its published weights; see `load_inception` for the errors."""
        assert isinstance(self.model.image, InceptionEncoder)
        published, self.origin["inception"] = load_inception("imagenet", self.recipe.train.inception, classifies=False)
        self.model.image.network.load_state_dict(published.state_dict())


def train(
    recipe: DAMSMRecipe,
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
    """Trains a matching model and writes its weights to RUN/model.

    Args:
        recipe: what to train.
        run: folder for checkpoints, log and the result.
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
        ValueError: of `resume_state`, missing or damaged data or Inception weights, a batch that the processes cannot share, a loss that
            is not finite.
    """
    prepare_processor()
    settings = recipe.train
    gammas = Gammas(*settings.gammas)
    accelerator = make_accelerator(device, settings.batch_size)
    with accelerator.main_process_first():  # what is prepared once for all lies in a cache then
        material = training_material(recipe, data, stream=stream, processes=accelerator.num_processes)
    assert isinstance(material.recipe, DAMSMRecipe)
    recipe, batches, validation = material.recipe, material.batches, material.validation
    settings = recipe.train
    checkpoint = resume_state(run, recipe, resume)
    if checkpoint is not None:
        require_same_material(checkpoint, material, run)

    trainee = MatchingTrainee(recipe, material.vocabulary, material.about, command)
    model = trainee.model
    if checkpoint is not None:
        trainee.restore(checkpoint, accelerator)
    elif recipe.model.image_encoder == "inception":
        with accelerator.main_process_first():
            trainee.begin_with_inception()
    model.train()
    prepared = trainee.prepare(accelerator)

    mine = slice(accelerator.process_index, None, accelerator.num_processes)  # this process's rows of a batch
    total = settings.total(batches.steps_per_epoch)
    ahead = BatchesAhead(batches, mine, range(trainee.step, total), workers if material.slow else 0)

    with RunLog(run, recipe, trainee.step, total, accelerator, batches.steps_per_epoch, {"data": data, "stream": stream}) as log:
        while (step := trainee.step) < total:
            current_rate = learning_rate(settings, step, batches.steps_per_epoch)
            for group in trainee.optimizer.param_groups:
                group["lr"] = current_rate
            batch = ahead.next().to(accelerator.device)
            tokens, mask = equally_long(batch.tokens, batch.mask, accelerator)
            with autocast(accelerator.device, settings.precision):
                image, text = prepared(2 * batch.images - 1, tokens, mask)
            losses = damsm_losses(image, text, batch.classes, gammas, lambda part: joined(part, accelerator))
            loss = torch.stack(list(losses.values())).sum()
            terms = accelerator.reduce(torch.stack([loss, *losses.values()]).detach(), "mean").tolist()
            stop_if_not_finite("loss", terms[0], step)
            trainee.optimizer.zero_grad()
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.text.parameters(), settings.clip_norm)
            stop_if_not_finite("the gradient's norm", float(norm), step)
            trainee.optimizer.step()
            trainee.step = step = step + 1
            log.advance(f"loss {terms[0]:.2f}")
            if step % settings.log_every == 0:
                named = {"train/loss": terms[0]} | {f"train/{name}": value for name, value in zip(losses, terms[1:], strict=True)}
                named |= {"train/learning_rate": current_rate, "train/waiting": ahead.waiting, "train/text_gradient": float(norm)}
                log.scalars(step, named)
            if step % settings.validate_every == 0 or step == total:
                scores = validate(model.eval(), validation, settings.batch_size, gammas).scores
                model.train()
                log.scalars(step, scores)
                log.say(f"step {step}: validation loss {scores['validation/loss']:.3f}, R-precision {scores['validation/r_precision']:.1%}")
            if (stop := log.stopping) or step % settings.checkpoint_every == 0 or step == total:
                trainee.save(run, accelerator)
            if stop:
                raise KeyboardInterrupt
    result = run / "model"
    trainee.round()
    if accelerator.is_main_process:
        judged = validate(model.eval(), validation, settings.batch_size, gammas)
        precision = judged.r_precision
        if isinstance(recipe.data, DigitsData):
            precision = digits_r_precision(model, recipe.data, material.vocabulary, data)
        trainee.measures["r_precision"] = precision
        trainee.hand_out(result, judged.scores | trainee.measures, card, None)
    accelerator.wait_for_everyone()
    del prepared  # what shares gradients must be gone before the processes part, or one of them may abort at its exit
    accelerator.free_memory()
    accelerator.end_training()
    return result


def equally_long(tokens: Tensor, mask: Tensor, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Captions [b, L] with as much padding as the longest of all processes' needs (a collective call)."""
    if accelerator.num_processes == 1:
        return tokens, mask
    missing = int(accelerator.gather(torch.tensor([tokens.shape[1]], device=tokens.device)).max()) - tokens.shape[1]
    return F.pad(tokens, (0, missing)), F.pad(mask, (0, missing))


class Judged(NamedTuple):
    """What a matching model says of the validation pairs: mean loss, and the codes that R-precision compares."""

    loss: float
    codes: Tensor  # [N, E] of the images
    sentences: Tensor  # [N, E]
    classes: Tensor | None  # [N]

    @property
    def r_precision(self) -> dict[str, Any]:
        """Among as many wrong captions as every pair has, 99 at most; JSON-ready."""
        others = min(OTHERS, fewest_wrong(len(self.codes), self.classes))
        return {"others": others, "validation": rate(own_caption_first(self.codes, self.sentences, self.classes, others=others))}

    @property
    def scores(self) -> dict[str, float]:
        """What the log tells."""
        return {"validation/loss": self.loss, "validation/r_precision": self.r_precision["validation"]["rate"]}


@torch.no_grad()
def validate(model: DAMSM, batch: Batch, batch_size: int, gammas: Gammas) -> Judged:
    """Judges the validation pairs, in batches as training has them; the same in every process."""
    device = next(model.parameters()).device
    total, codes, sentences = 0.0, [], []
    for start in range(0, len(batch), batch_size):
        part = batch[start : start + batch_size].to(device)
        image, text = model(2 * part.images - 1, part.tokens, part.mask)
        total += float(torch.stack(list(damsm_losses(image, text, part.classes, gammas).values())).sum()) * len(part)
        codes.append(image.code.cpu())
        sentences.append(text.sentence.cpu())
    return Judged(total / len(batch), torch.cat(codes), torch.cat(sentences), batch.classes)


def digits_r_precision(model: DAMSM, settings: DigitsData, vocabulary: Vocabulary, data: str | Path | None) -> dict[str, Any]:
    """R-precision on canvases of digits that validate, of all 440 captions by whether training shows them; JSON-ready."""
    held_out = HeldOut.from_seed(settings.held_out_seed, settings.variant)
    digits = load_digits(settings.source, "validation", None if data is None else Path(data))
    wanted = [configuration for configuration in held_out.configurations() for _ in range(CANVASES_OF_A_CAPTION)]
    layouts = torch.tensor([configuration.layout for configuration in wanted])
    places = torch.tensor([(*configuration.digits, -1)[:2] for configuration in wanted])
    canvases = CanvasMaker(digits, held_out, settings.variant).render(layouts, places, generator("matched canvases"))
    codes = matching_codes(model, canvases.images.float() / 255, *caption_tokens(canvases, vocabulary))
    first = own_caption_first(*codes, canvases.scenes())
    seen = torch.tensor([configuration.seen for configuration in wanted])
    return {"others": OTHERS, "seen": rate(first[seen]), "held_out": rate(first[~seen])}
