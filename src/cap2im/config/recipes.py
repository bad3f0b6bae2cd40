"""Recipes of the built-in kinds: one class a kind, with the defaults of its paper or release.

`cap2im.registry` names the recipe class of each kind. The recipe of a new model may live in any module.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, field_validator, model_validator

from cap2im.config.sections import (
    BatchSize,
    CaptionsData,
    CheckpointEvery,
    DigitsData,
    DrawingData,
    EMADecay,
    Epochs,
    Gammas,
    PairBatchSize,
    PicturesData,
    ScenesData,
    Section,
    SentencesData,
    Training,
    Updates,
    ValidateEvery,
    Warmup,
)
from cap2im.models.aligndraw import DRAWConfig
from cap2im.models.attngan import AttnGANConfig
from cap2im.models.composition_reader import CompositionReaderConfig
from cap2im.models.damsm import DAMSMConfig
from cap2im.models.digit_reader import DigitReaderConfig
from cap2im.models.lapgan import LAPGANConfig, SharpenerConfig
from cap2im.models.scene_reader import SceneReaderConfig
from cap2im.models.skipthoughts import SkipThoughtsConfig
from cap2im.models.vae import VAEConfig
from cap2im.models.vgg import VGGConfig


class Recipe(Section):
    """A recipe of any kind. Subclasses add the sections `model` and `train`.

    Attributes:
        paper: name of the recipe that follows the paper or the release; None if there is none.
    """

    paper: ClassVar[str | None] = None
    kind: str = Field(description="kind of model, a key of cap2im.registry")
    name: str = Field("", description="name of the model, for its card; by default the name of the run folder")
    description: str = Field(description="what the recipe trains, for cap2im list")

    if TYPE_CHECKING:  # declared in subclasses, with the types of each kind; not every kind has `data`
        data: Any
        model: Any
        train: Any

    def paper_recipe(self) -> str | None:
        """Return the name of the recipe that follows the paper, or the release, for this kind and data."""
        return self.paper


class DrawingRecipe(Recipe):
    """A model of captioned images, on captioned digits, on captioned scenes or on a prepared dataset."""

    data: DrawingData = DigitsData()

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        needs_encoder = self.model.conditioning == "sentence"
        if isinstance(self.data, CaptionsData):
            if needs_encoder and not self.data.sentence_encoder:
                raise ValueError("conditioning sentence needs data.sentence_encoder, a folder or OWNER/NAME on the Hugging Face hub")
            return self
        if needs_encoder:
            raise ValueError("conditioning sentence needs a prepared dataset (data.source captions)")
        if isinstance(self.data, PicturesData):
            return self
        if self.train.batch_size > self.data.samples_per_epoch:
            raise ValueError(f"train.batch_size {self.train.batch_size} is more than data.samples_per_epoch {self.data.samples_per_epoch}")
        required = {"side": 60, "colours": 1, "vocabulary_size": 22}  # of captioned digits
        rendered = "captioned digits"
        if isinstance(self.data, ScenesData):
            required, rendered = {"colours": 3}, "captioned scenes"
            if self.train.updates and self.data.one_thing_until >= self.train.updates:
                raise ValueError(f"data.one_thing_until {self.data.one_thing_until} must be below train.updates {self.train.updates}")
        sizes = {key: (getattr(self.model, key), value) for key, value in required.items()}
        if wrong := [f"model.{key} is {size}, {value} is needed" for key, (size, value) in sizes.items() if size != value]:
            raise ValueError(f"{rendered} do not fit: {', '.join(wrong)}")
        return self


# ---- likelihood models


class VariationalTraining(Training):
    """Training on the variational lower bound. The defaults are alignDRAW's for MNIST with captions (appendix B)."""

    epochs: Epochs = 150
    optimizer: Literal["rmsprop", "adam"] = Field("rmsprop", description="RMSprop as released, or Adam")
    learning_rate: float = Field(1e-3, gt=0, description="highest learning rate")
    schedule: Literal["step", "cosine"] = Field("step", description="how the learning rate falls to final_learning_rate")
    drop_epoch: int = Field(110, ge=0, description='epoch from which "step" uses final_learning_rate')
    warmup_steps: Warmup = 0
    final_learning_rate: float = Field(1e-4, gt=0, description="learning rate at the end")
    clip_norm: float = Field(10.0, gt=0, description="largest norm of the gradient")
    clip: Literal["global", "tensor"] = Field("global", description='"tensor" clips each parameter tensor by itself, as released')
    kl_weights: tuple[tuple[NonNegativeInt, NonNegativeFloat], ...] = Field(
        ((0, 1.0),), description="(update, weight of the KL in the loss) pairs, linear between them; weight 1 is the lower bound"
    )
    ema_decay: EMADecay = 0.0

    @field_validator("kl_weights")
    @classmethod
    def _check_ascending(cls, knots: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        steps = [step for step, _ in knots]
        if not knots or steps[0] != 0 or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError("steps must begin at 0 and rise")
        return knots


class VariationalRecipe(DrawingRecipe):
    """A model with a variational lower bound. Subclasses give the section `model` its type, a `DrawingConfig`."""

    model: Any
    train: VariationalTraining = VariationalTraining()


class DRAWTraining(VariationalTraining):
    """Training of alignDRAW and its relatives."""

    align_noise_updates: tuple[NonNegativeInt, NonNegativeInt] | None = Field(
        None, description="first update with model.align_noise, and the first one without it again; none: all updates have it"
    )


class DRAWRecipe(VariationalRecipe):
    """alignDRAW, noalignDRAW, skipthoughtDRAW or DRAW."""

    model: DRAWConfig = DRAWConfig()
    train: DRAWTraining = DRAWTraining()

    @model_validator(mode="after")
    def _check_align_noise(self) -> Self:
        if (updates := self.train.align_noise_updates) is None:
            return self
        if updates[0] >= updates[1]:
            raise ValueError(f"train.align_noise_updates must rise, got {updates[0]} and {updates[1]}")
        if self.model.conditioning != "align":
            raise ValueError("train.align_noise_updates needs conditioning align")
        return self

    @model_validator(mode="after")
    def _check_clip(self) -> Self:
        if self.train.clip == "tensor" and self.model.conditioning not in ("align", "none"):
            raise ValueError("train.clip tensor clips the tensors of the authors' programs, which have conditioning align or none")
        return self

    def paper_recipe(self) -> str:
        """Return the name of the paper's recipe for this conditioning, data and canvas."""
        if isinstance(self.data, DigitsData):
            return "aligndraw-mnist-paper"
        network = {"align": "aligndraw", "mean": "noaligndraw", "sentence": "skipthoughtdraw", "none": "draw"}[self.model.conditioning]
        return f"{network}-coco-{'56' if self.model.side == 56 else 'paper'}"


class VAERecipe(VariationalRecipe):
    """The fully connected or the convolutional variational autoencoder."""

    model: VAEConfig = VAEConfig()

    @model_validator(mode="after")
    def _check_clip(self) -> Self:
        if self.train.clip != "global":
            raise ValueError(f"train.clip is {self.train.clip}, which is for the authors' DRAWs; a VAE has global")
        return self


# ---- adversarial models


class GANTraining(Training):
    """Training of generators against discriminators. The defaults are LAPGAN's, for each level (Denton et al., section 3)."""

    epochs: Epochs = 25
    batch_size: BatchSize = 128
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="SGD with momentum, or Adam")
    learning_rate: float = Field(0.02, gt=0, description="learning rate in the first epoch")
    rate_decay: float = Field(4e-5, ge=0, description="each epoch divides the learning rate by 1 + this")
    momentum: float = Field(0.5, ge=0, lt=1, description="momentum in the first epoch; beta_1 of Adam")
    momentum_rise: float = Field(0.0008, ge=0, description="added to the momentum each epoch")
    highest_momentum: float = Field(0.8, ge=0, lt=1, description="where the momentum stops rising")
    discriminator_units: int = Field(600, ge=1, description="units of the coarse discriminator's two hidden layers")
    discriminator_features: int = Field(128, ge=1, description="maps of the fine discriminator's two convolutions")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout in the fine discriminator")
    coarse_dropout: float = Field(0.5, ge=0, lt=1, description="dropout in the coarse discriminator")
    coarse_noise: float = Field(0.0, ge=0, description="standard deviation of the noise on images for the coarse discriminator")
    coarse_penalty: float = Field(0.0, ge=0, description="gamma of the R1 gradient penalty of the coarse discriminator")
    mismatch_weight: float = Field(0.0, ge=0, description="weight of real coarse images with another image's caption as fakes")
    fine_every: int = Field(1, ge=1, description="updates of the coarse level for one of the fine level, which costs more and needs fewer")
    ema_decay: EMADecay = 0.0

    @model_validator(mode="after")
    def _check_momentum(self) -> Self:
        if self.momentum > self.highest_momentum:
            raise ValueError(f"momentum {self.momentum} is more than highest_momentum {self.highest_momentum}")
        return self


class GANRecipe(DrawingRecipe):
    """A LAPGAN or a sharpener."""

    model: LAPGANConfig | SharpenerConfig
    train: GANTraining = GANTraining()


class LAPGANRecipe(GANRecipe):
    """LAPGAN on a pyramid of two levels."""

    paper: ClassVar[str | None] = "lapgan-coco"
    model: LAPGANConfig = LAPGANConfig()


class SharpenerRecipe(GANRecipe):
    """The fine level of that pyramid, which sharpens the pictures of other models."""

    paper: ClassVar[str | None] = "sharpener-coco"
    model: SharpenerConfig = SharpenerConfig()

    @model_validator(mode="after")
    def _check_no_coarse_level(self) -> Self:
        if self.train.fine_every > 1 or self.train.coarse_penalty or self.train.mismatch_weight:
            keys = "train.fine_every, train.coarse_penalty and train.mismatch_weight"
            raise ValueError(f"{keys} are for a LAPGAN; a sharpener has no coarse level")
        return self


class DAMSMTraining(Training):
    """Training of DAMSM. The defaults are AttnGAN's as released, where only two layers of the image encoder are trained."""

    epochs: Epochs = 600
    batch_size: PairBatchSize = 48
    inception: str = Field("", description="file of torchvision's Inception weights; by default the cache, else a verified download")
    learning_rate: float = Field(2e-3, gt=0, description="learning rate of Adam in the first epoch")
    rate_decay: float = Field(0.98, gt=0, le=1, description="each epoch multiplies the learning rate by this")
    final_learning_rate: float = Field(2e-4, gt=0, description="lowest learning rate")
    warmup_steps: Warmup = 0
    clip_norm: float = Field(0.25, gt=0, description="largest norm of the text encoder's gradient")
    gammas: Gammas = (4.0, 5.0, 10.0)


class DAMSMRecipe(DrawingRecipe):
    """The text-image matching model that guides AttnGAN."""

    paper: ClassVar[str | None] = "damsm-coco"
    model: DAMSMConfig = DAMSMConfig()
    train: DAMSMTraining = DAMSMTraining()

    @model_validator(mode="after")
    def _check_inception(self) -> Self:
        if self.train.inception and self.model.image_encoder != "inception":
            raise ValueError(f"train.inception is for model.image_encoder inception; this one is {self.model.image_encoder}")
        return self


class AttnGANTraining(Training):
    """Training of AttnGAN against discriminators and DAMSM. The defaults are the release's for COCO."""

    epochs: Epochs = 120
    batch_size: PairBatchSize = 14
    damsm: str = Field("", description="DAMSM: a run or another folder, or OWNER/NAME on the Hugging Face hub")
    generator_rate: float = Field(2e-4, gt=0, description="learning rate of the generator's Adam")
    discriminator_rate: float = Field(2e-4, gt=0, description="learning rate of the discriminators' Adam")
    momentum: float = Field(0.5, ge=0, lt=1, description="beta_1 of Adam; beta_2 is 0.999")
    discriminator_width: int = Field(96, ge=1, description="maps of the discriminators' first layer")
    spectral_norm: bool = Field(False, description="spectral norm in the discriminators in place of batch normalisation")
    image_noise: float = Field(0.0, ge=0, description="standard deviation of the noise on images, in -1..1, for the discriminators")
    matching_weight: float = Field(50.0, ge=0, description="lambda of equation 3: weight of the matching losses")
    gammas: Gammas = (4.0, 5.0, 10.0)
    kl_weight: float = Field(1.0, ge=0, description="weight of the conditioning augmentation's KL")
    ema_decay: EMADecay = 0.999
    recompute: bool = Field(
        False, description="recompute activations of the generator's large stages in the backward pass: less memory, more time"
    )
    validate_every: ValidateEvery = 1000
    checkpoint_every: CheckpointEvery = 1000


class AttnGANRecipe(DrawingRecipe):
    """AttnGAN or AttnDCGAN. The text encoder, and with it `model.text`, comes from DAMSM."""

    paper: ClassVar[str | None] = "attngan-coco"
    model: AttnGANConfig = AttnGANConfig()
    train: AttnGANTraining = AttnGANTraining()


# ---- models that do not draw


class DigitReaderTraining(Training):
    """How the digit reader of caption accuracy is trained. The defaults trained the bundled one."""

    updates: Updates = 5500
    batch_size: PairBatchSize = 80
    windows: int = Field(3, ge=1, le=8, description="windows of a canvas: first those with something at their place, then random others")
    learning_rate: float = Field(3e-3, gt=0, description="the highest; it rises over a twentieth of the updates and falls as a half cosine")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    validation_samples: int = Field(5, ge=1, description="real canvases for each caption")


class DigitReaderRecipe(Recipe):
    """The network that reads digits for caption accuracy."""

    model: DigitReaderConfig = DigitReaderConfig()
    train: DigitReaderTraining = DigitReaderTraining()


class CompositionReaderTraining(Training):
    """How the composition reader of compositional accuracy is trained."""

    updates: Updates = 3000
    batch_size: PairBatchSize = 80
    windows: int = Field(3, ge=1, le=5, description="windows of a picture: that of the middle, then mostly those that hold something")
    learning_rate: float = Field(3e-3, gt=0, description="highest learning rate; it falls as a half cosine")
    warmup_steps: Warmup = 250
    weight_decay: float = Field(0.02, ge=0, description="of AdamW")
    validation_samples: int = Field(300, ge=1, description="real scenes of each style of drawing")


class CompositionReaderRecipe(Recipe):
    """The network that reads things and backgrounds for compositional accuracy, on prepared cut-outs."""

    model: CompositionReaderConfig = CompositionReaderConfig()
    train: CompositionReaderTraining = CompositionReaderTraining()


class SceneReaderTraining(Training):
    """How the scene reader of scene accuracy is trained."""

    epochs: Epochs = 20
    batch_size: PairBatchSize = 50
    learning_rate: float = Field(3e-3, gt=0, description="highest learning rate; it falls as a half cosine")
    warmup_steps: Warmup = 100
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")
    crop: int = Field(4, ge=0, le=16, description="pixels that an image is shifted by at most; the edges are filled by reflection")
    flip: bool = Field(True, description="mirror half of the images left to right")
    blur: float = Field(2.5, ge=0, le=8, description="half of the images are blurred by up to this many pixels (standard deviation)")


class SceneReaderRecipe(Recipe):
    """The network that reads visual words for scene accuracy, on a prepared dataset."""

    model: SceneReaderConfig = SceneReaderConfig()
    train: SceneReaderTraining = SceneReaderTraining()


class SkipThoughtsTraining(Training):
    """Training of skip-thoughts. Batch size, optimizer and clipping are the paper's (section 3)."""

    epochs: Epochs = 1
    batch_size: BatchSize = 128
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam")
    warmup_steps: Warmup = 0
    clip_norm: float = Field(10.0, gt=0, description="largest norm of the gradient of each encoder with its decoders")
    validate_every: ValidateEvery = 1000
    checkpoint_every: CheckpointEvery = 1000


class SkipThoughtsRecipe(Recipe):
    """uni-skip, bi-skip or combine-skip, on any sentences."""

    paper: ClassVar[str | None] = "skipthoughts"

    data: SentencesData = SentencesData()
    model: SkipThoughtsConfig = SkipThoughtsConfig()
    train: SkipThoughtsTraining = SkipThoughtsTraining()


class ClassifierTraining(Training):
    """Training of a classifier. Batch size, weight decay and momentum are those of the page that published the network."""

    epochs: Epochs = 300
    batch_size: PairBatchSize = 128
    learning_rate: float = Field(
        0.1, gt=0, description="highest learning rate; it falls as a half cosine. The page starts at 1 and halves it every 25 epochs"
    )
    warmup_steps: Warmup = 0
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay of SGD")
    crop: int = Field(4, ge=0, le=16, description="pixels of padding before a random crop; 0 on the page")
    flip: bool = Field(True, description="mirror half of the images left to right")


class ClassifierRecipe(Recipe):
    """The VGG-like network, on a prepared dataset whose images have classes."""

    paper: ClassVar[str | None] = "vgg-cifar"
    model: VGGConfig = VGGConfig()
    train: ClassifierTraining = ClassifierTraining()
