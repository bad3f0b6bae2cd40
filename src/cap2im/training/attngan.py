"""Training an AttnGAN or an AttnDCGAN against its discriminators and a matching model: one flat loop.

Source: AttnGAN (Xu et al., arXiv:1711.10485), section 3.1, equations 3-6, and the released program, whose losses these are.

The matching model (DAMSM) and its text encoder stay as they are, in evaluation mode. The generator makes its pictures once a step; the
discriminators learn of them first, one after the other, so that activations and gradients of no two are in memory at once, and judge them
anew when they have learned. One optimizer moves all networks: it keeps its state weight by weight and leaves alone what has no gradient.

What the released program does and the paper does not say: a moving average of the generator's weights draws, and its batch statistics
are those of the weights in training. The release keeps the decay constant, as `model.variant="released"` does; with "paper" the decay is
warmed up, as in all other trainings. What the released program does differently: while the generator learns, it also computes gradients of
the discriminators, which it throws away.

Where several processes share a batch, each one's batch statistics, wrong captions and matching losses are those of its own share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from cap2im import randomness
from cap2im.checkpoint import read_config
from cap2im.config import AttnGANRecipe
from cap2im.data.batch import Batch
from cap2im.data.image_batches import pyramid
from cap2im.data.vocabulary import Vocabulary
from cap2im.loading import load_model
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.r_precision import OTHERS, fewest_wrong, own_caption_first, require_sight
from cap2im.models.attngan import AttnGAN, AttnGANConfig, GeneratorOutput, conditioning_kl, crop_margin
from cap2im.models.damsm import DAMSM, EncodedImage, Gammas, damsm_losses
from cap2im.models.discriminators import Discriminator, discriminator_loss, generator_loss
from cap2im.models.precision import autocast
from cap2im.models.text import EncodedText
from cap2im.training.data import require_same_material, training_material
from cap2im.training.run import BatchesAhead, RunLog, keep_memory, make_accelerator, prepare_processor, stop_if_not_finite
from cap2im.training.samples import FIRST_GRID, ShownCaptions, shown_drawings
from cap2im.training.state import DrawingTrainee, resume_state

VALIDATION_BATCH = 20
MOST_UNKNOWN = 0.5  # share of the captions' words; a matching model that knows less was trained on other captions
ImageEncoder = Callable[[Tensor], EncodedImage]


def initialise(network: nn.Module) -> None:
    """The release's first weights: orthogonal ones, no biases of linear layers, and normal ones around 1 for batch normalisation."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)


def real_pictures(images: Tensor, config: AttnGANConfig) -> list[Tensor]:
    """Images [B, C, A, A] in 0..1 as the discriminators see them: in -1..1, with margins, in every size that is shown."""
    framed = F.pad(images, [config.margin] * 4, mode="replicate")
    return [2 * real - 1 for real in pyramid(framed, [config.stage_sides[stage] for stage in config.shown_stages])]


def sum_of(losses: Mapping[str, Tensor]) -> Tensor:
    """All of them together."""
    return torch.stack(list(losses.values())).sum()


class Adversaries(nn.Module):
    """All networks in training, and the text encoder, which is not."""

    def __init__(self, recipe: AttnGANRecipe) -> None:
        super().__init__()
        c, settings = recipe.model, recipe.train
        self.drawing = AttnGAN(c)
        self.discriminators = nn.ModuleList(
            Discriminator(
                c.stage_sides[stage],
                settings.discriminator_width,
                c.text.features,
                c.colours,
                unconditional=c.architecture == "attngan",
                spectral_norm=settings.spectral_norm,
            )
            for stage in c.shown_stages
        )
        for network in (self.drawing.generator, self.discriminators):
            initialise(network)
        self.drawing.text.requires_grad_(False)

    def train(self, mode: bool = True) -> Adversaries:
        """The text encoder always stays in evaluation mode."""
        super().train(mode)
        self.drawing.text.eval()
        return self


class AttnGANTrainee(DrawingTrainee):
    """Generator and discriminators in training; what is handed out is the generator with its text encoder."""

    recipe: AttnGANRecipe
    model: Adversaries

    def __init__(
        self, recipe: AttnGANRecipe, text: Mapping[str, Tensor], vocabulary: Vocabulary, about: Mapping[str, Any], command: str
    ) -> None:
        torch.manual_seed(recipe.train.seed)
        model, settings = Adversaries(recipe), recipe.train
        model.drawing.text.load_state_dict(text)
        model.drawing.generator.recompute = settings.recompute
        model.train()
        groups = [
            {"params": list(model.drawing.generator.parameters()), "lr": settings.generator_rate},
            {"params": list(model.discriminators.parameters()), "lr": settings.discriminator_rate},
        ]
        optimizer = torch.optim.Adam(groups, betas=(settings.momentum, 0.999), fused=True)
        super().__init__(recipe, model, optimizer, command, settings.ema_decay, vocabulary, about)
        if self.average is not None:
            self.average.n_averaged.fill_(1)  # it starts from the first weights, as released, and not from those after an update
            self.average.eval()

    @property
    def warms_up(self) -> bool:
        """Whether the decay of the average is warmed up, which the release does not do."""
        return self.recipe.model.variant == "paper"

    @property
    def learned(self) -> AttnGAN:
        """The generator with its text encoder."""
        return self.model.drawing

    @property
    def published(self) -> AttnGAN:
        """The generator that validates and draws."""
        return cast(AttnGAN, super().published)

    def prepare(self, accelerator: Accelerator) -> tuple[nn.Module, list[nn.Module]]:
        """Moves to the device; answers generator and discriminators to call, which share gradients among the processes."""
        self.model.to(accelerator.device)
        generator = accelerator.prepare(self.model.drawing.generator)
        discriminators = [accelerator.prepare(network) for network in self.model.discriminators]
        self.optimizer = accelerator.prepare(self.optimizer)
        if self.average is not None:
            self.average.to(accelerator.device)
        return generator, discriminators

    def update(
        self,
        generator: nn.Module,
        discriminators: Sequence[nn.Module],
        reals: Sequence[Tensor],
        text: EncodedText,
        noise: Tensor,
        classes: Tensor | None,
        encode_image: ImageEncoder,
        accelerator: Accelerator,
    ) -> dict[str, Tensor]:
        """One update of every network, the discriminators first.

        Args:
            generator: to call, as `prepare` answers it, and the discriminators, one for each size.
            reals: [B, C, A, A] of each size, as `real_pictures` makes them.
            text: their captions.
            noise: [B, 1, Z + K]
            classes: [B] or None, see `Batch`.
            encode_image: the matching model's, of pictures [B, C, A, A] in -1..1 without margins.
            accelerator: the engine.

        Returns:
            the losses by name.
        """
        settings, c = self.recipe.train, self.recipe.model
        half = autocast(accelerator.device, settings.precision)
        losses = {}
        with half:
            made: GeneratorOutput = generator(text, noise)
        for stage, discriminator, real, drawn in zip(c.shown_stages, discriminators, reals, made.images, strict=True):
            with half:
                both = self._noisy(real, "real", accelerator), self._noisy(drawn.detach(), "drawn", accelerator)
                output = discriminator(*both, text.sentence)
            losses[f"discriminator_{c.stage_sides[stage]}"] = loss = discriminator_loss(output)
            self._move(loss, f"the loss of discriminator {c.stage_sides[stage]}", discriminator, accelerator)

        self.model.discriminators.requires_grad_(False)
        with half:
            judges = cast(list[Discriminator], list(self.model.discriminators))
            judged = [self._noisy(drawn, "judged", accelerator) for drawn in made.images]
            verdicts = [judge.logits(images, text.sentence) for judge, images in zip(judges, judged, strict=True)]
            image = encode_image(crop_margin(made.images[-1], c.stage_sides[-1], c))
        deceptions = {f"generator_{c.stage_sides[stage]}": generator_loss(v) for stage, v in zip(c.shown_stages, verdicts, strict=True)}
        mismatches = damsm_losses(image, text, classes, Gammas(*settings.gammas))
        kl = conditioning_kl(made.mean.to(text.sentence.dtype), made.log_variance.to(text.sentence.dtype))
        loss = sum_of(deceptions) + settings.matching_weight * sum_of(mismatches) + settings.kl_weight * kl
        self._move(loss, "the generator's loss", generator, accelerator)
        self.model.discriminators.requires_grad_(True)
        if self.average is not None:
            self.average.update_parameters(self.learned)
        self.step += 1
        return {name: loss.detach() for name, loss in (losses | deceptions | mismatches | {"kl": kl}).items()}

    def _noisy(self, images: Tensor, name: str, accelerator: Accelerator) -> Tensor:
        """Images as the discriminators see them: where paper is white to the last bit, they would else learn nothing but that."""
        settings, processes = self.recipe.train, accelerator.num_processes
        if not settings.image_noise:
            return images
        random = randomness.generator("image noise", settings.seed, self.step, images.shape[-1], name)
        noise = torch.randn(len(images) * processes, *images.shape[1:], generator=random)[accelerator.process_index :: processes]
        return images + settings.image_noise * noise.to(images)

    def _move(self, loss: Tensor, what: str, network: nn.Module, accelerator: Accelerator) -> None:
        """Moves the weights that a loss has gradients for: those of `network`."""
        stop_if_not_finite(what, float(accelerator.reduce(loss.detach(), "mean")), self.step)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(network.parameters(), math.inf)
        stop_if_not_finite(f"the norm of the gradient of {what}", float(norm), self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()


def train(
    recipe: AttnGANRecipe,
    run: Path,
    *,
    data: str | Path | None = None,
    resume: bool = False,
    device: Literal["auto", "cpu"] = "auto",
    workers: int = 2,
    command: str = "",
    card: Callable[[dict[str, Any]], str] = lambda _: "",
) -> Path:
    """Trains an AttnGAN and writes its generator, with the text encoder, to RUN/model.

    Args:
        recipe: what to train.
        run: folder for checkpoints, log, pictures and the result.
        data: folder of MNIST's files (None for the cache or a download), or a prepared dataset.
        resume: go on from the run's last checkpoint.
        device: "cpu", or "auto" for whatever Accelerate finds.
        workers: processes that read images ahead; captioned digits are made at once and need none.
        command: what was typed, for the card; a resumed run keeps its first.
        card: makes the model card's text of the final figures.

    Returns:
        the folder of the finished model.

    Raises:
        ValueError: of `resume_state`, a matching model that is missing or does not fit, missing or damaged data, a batch that the processes
            cannot share, a loss that is not finite.
    """
    prepare_processor()
    keep_memory()
    settings = recipe.train
    accelerator = make_accelerator(device, settings.batch_size)
    if settings.batch_size // accelerator.num_processes < 2:
        raise ValueError(f"train.batch_size {settings.batch_size} gives {accelerator.num_processes} processes less than 2 captions each")
    damsm, vocabulary, about_damsm = matching_model(recipe)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"text": damsm.config.text})})
    with accelerator.main_process_first():  # what is prepared once for all lies in a cache then
        material = training_material(recipe, data, processes=accelerator.num_processes, vocabulary=vocabulary)
    recipe, batches, validation = cast(AttnGANRecipe, material.recipe), material.batches, material.validation
    settings = recipe.train
    if material.unknown > MOST_UNKNOWN:
        raise ValueError(f"{settings.damsm}: does not know {material.unknown:.0%} of the words of the validation captions")
    checkpoint = resume_state(run, recipe, resume)
    if checkpoint is not None:
        require_same_material(checkpoint, material, run)
        if read_config(checkpoint)["data"]["damsm"] != about_damsm:
            raise ValueError(f"{run}: was begun with another matching model than {settings.damsm}")
    trainee = AttnGANTrainee(recipe, damsm.text.state_dict(), vocabulary, material.about | {"damsm": about_damsm}, command)
    if checkpoint is not None:
        trainee.restore(checkpoint, accelerator)
    generator, discriminators = trainee.prepare(accelerator)
    damsm.to(accelerator.device)

    mine = slice(accelerator.process_index, None, accelerator.num_processes)  # this process's rows of a batch
    total = settings.total(batches.steps_per_epoch)
    ahead = BatchesAhead(batches, mine, range(trainee.step, total), workers if material.slow else 0)

    with RunLog(run, recipe, trainee.step, total, accelerator, batches.steps_per_epoch, {"data": data}) as log:
        while trainee.step < total:
            batch = ahead.next().to(accelerator.device)
            with torch.no_grad():
                text = trainee.learned.text(batch.tokens, batch.mask)
                reals = real_pictures(batch.images, recipe.model)
            losses = trainee.update(generator, discriminators, reals, text, batch.noise, batch.classes, damsm.image, accelerator)
            step = trainee.step
            means = accelerator.reduce(torch.stack(list(losses.values())), "mean").tolist()
            told = {f"train/{name}": value for name, value in zip(losses, means, strict=True)}
            sums = [sum(told[f"train/{key}"] for key in losses if key.startswith(name)) for name in ("generator", "discriminator")]
            log.advance("G {:.2f}, D {:.2f}".format(*sums))
            if step % settings.log_every == 0:
                log.scalars(step, told | {"train/waiting": ahead.waiting})
            validates = step % settings.validate_every == 0 or step == total
            if validates or step == FIRST_GRID:
                log.samples(step, "drawings", drawn_now(trainee, material.shown), material.shown.captions)
            if validates:
                scores = validate(trainee, validation, damsm, accelerator)
                log.scalars(step, scores)
                log.say(f"step {step}: validation {in_words(scores)}")
            if (stop := log.stopping) or step % settings.checkpoint_every == 0 or step == total:
                trainee.save(run, accelerator)
            if stop:
                raise KeyboardInterrupt
    result = run / "model"
    trainee.round()
    figures: dict[str, Any] = validate(trainee, validation, damsm, accelerator)
    if accelerator.is_main_process:
        trainee.hand_out(result, figures | {"damsm": about_damsm}, card, None)
    accelerator.wait_for_everyone()
    del generator, discriminators  # what shares gradients must be gone before the processes part, or one of them may abort at its exit
    accelerator.free_memory()
    accelerator.end_training()
    return result


def matching_model(recipe: AttnGANRecipe) -> tuple[DAMSM, Vocabulary, dict[str, str]]:
    """The matching model that a recipe names, ready to judge: with its vocabulary, its name and the SHA-256 of its weights.

    Raises:
        ValueError: there is none, it sees other pictures than are drawn, or the recipe tells other sizes of its text encoder.
    """
    name, c = recipe.train.damsm, recipe.model
    if not name or (name.startswith("runs/") and not Path(name).is_dir()):  # which might be a repository's name, and is meant as a folder
        maker = Path(name).name if name else "damsm-..."
        missing = f", and {name} is not there" if name else ""
        raise ValueError(
            f"an AttnGAN learns from a matching model{missing}: cap2im train {maker} makes one, --set train.damsm=RUN names another"
        )
    loaded = load_model(name, DAMSM)
    damsm, vocabulary = loaded.network, loaded.vocabulary
    assert vocabulary is not None
    require_sight(name, damsm.config, "the recipe", c.side, c.colours)
    for key in sorted(c.text.model_fields_set) if "text" in c.model_fields_set else ():
        theirs, ours = getattr(damsm.config.text, key), getattr(c.text, key)
        if theirs != ours:
            raise ValueError(f"{name}: its text encoder has {key} {theirs}, the recipe's model.text has {ours}")
    return damsm, vocabulary, {"name": Path(name).name, "sha256": loaded.sha256}


@torch.no_grad()
def validate(trainee: AttnGANTrainee, batch: Batch, damsm: DAMSM, accelerator: Accelerator) -> dict[str, float]:
    """How the contest stands on validation images, by the generator that is handed out; every process takes its share.

    Of each size the share of real images that are likelier real ones of their captions, by its discriminator, than the drawn ones: one half
    where it cannot tell them apart. (Nothing absolute, for running statistics are mixed of both.) And the R-precision of the drawn ones, by
    the matching model that they learned from, among as many captions as are there, 100 at most.
    """
    c, discriminators = trainee.recipe.model, cast(list[Discriminator], list(trainee.model.discriminators))
    generator = trainee.published.eval()
    trainee.model.discriminators.eval()
    names = [f"told_apart_{c.stage_sides[stage]}" for stage in c.shown_stages] + ["matched"]
    sums = torch.zeros(len(names), device=accelerator.device, dtype=torch.float64)
    codes, sentences = ([torch.empty(0, c.text.features)] for _ in range(2))  # there may be fewer images than processes
    processes = ProcessGroup(accelerator.process_index, accelerator.num_processes)
    mine = processes.shard(len(batch))
    for start in mine[::VALIDATION_BATCH]:
        part = batch[start : min(start + VALIDATION_BATCH, mine.stop)].to(accelerator.device)
        text = generator.encode(part.tokens, part.mask)
        images = generator.generate(text, part.noise).images
        pairs = zip(discriminators, real_pictures(part.images, c), images, strict=True)
        for place, (judge, *both) in enumerate(pairs):
            real, drawn = (judge.logits(pictures, text.sentence).conditional for pictures in both)
            sums[place] += (real > drawn).sum()
        codes.append(damsm.image(crop_margin(images[-1], c.stage_sides[-1], c)).code.cpu())
        sentences.append(text.sentence.cpu())
    trainee.model.train()
    sums = accelerator.reduce(sums, "sum")
    others = min(OTHERS, fewest_wrong(len(batch), batch.classes))
    all_codes, all_sentences = (processes.all_gather(torch.cat(parts)) for parts in (codes, sentences))
    sums[-1] = own_caption_first(all_codes, all_sentences, batch.classes, others=others, processes=processes).sum()
    means = (sums / len(batch)).tolist()
    return {f"validation/{name}": mean for name, mean in zip(names, means, strict=True)}


def drawn_now(trainee: AttnGANTrainee, shown: ShownCaptions) -> np.ndarray:
    """A grid of fixed captions and seeds, see `shown_drawings`, by the generator that is handed out."""
    drawings = shown_drawings(trainee.published.eval(), shown)
    trainee.model.train()
    return drawings


def in_words(scores: Mapping[str, float]) -> str:
    """What `validate` answers, for people to read."""
    apart = ", ".join(f"{name.rpartition('_')[2]} px {value:.0%}" for name, value in scores.items() if "told_apart" in name)
    return f"told apart from real ones {apart}; matched with their captions {scores['validation/matched']:.0%}"
