"""Recipes: everything that decides what a training gives, as strictly checked TOML.

A recipe lies in `cap2im/recipes/NAME.toml` or anywhere else; `--set a.b=c` changes single values. Unknown keys are errors.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from cap2im.data.vocabulary import LONGEST_CAPTION
from cap2im.files import decode_text, read_bytes, shortened
from cap2im.models.aligndraw import DRAWConfig
from cap2im.models.attngan import AttnGANConfig
from cap2im.models.damsm import DAMSMConfig
from cap2im.models.digit_reader import DigitReaderConfig
from cap2im.models.lapgan import LAPGANConfig, SharpenerConfig
from cap2im.models.precision import Precision
from cap2im.models.skipthoughts import SkipThoughtsConfig
from cap2im.models.vae import VAEConfig
from cap2im.models.vgg import VGGConfig

LARGEST_RECIPE = 2**15  # bytes; ours have 3,000 at most, and tomllib takes quadratic time for dotted keys
MOST_NESTED = 32  # tables and lists
MOST_PROBLEMS = 10  # in one message
TOO_DEEP = f"tables and lists are nested more than {MOST_NESTED} deep"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DigitsData(Section):
    """MNIST with captions (alignDRAW, appendix A)."""

    source: Literal["mnist", "digits"] = Field("mnist", description='"mnist", or "digits": the 1,797 digits inside scikit-learn')
    held_out_seed: int = Field(0, ge=0, lt=2**63, description="chooses the configurations that training never shows")
    samples_per_epoch: int = Field(10_000, ge=1, description="canvases of an epoch; each epoch makes new ones")
    validation_samples: int = Field(1_000, ge=1, description="canvases to validate on")
    variant: Literal["paper", "released"] = Field("paper", description='"released" lets digits overlap')

    @classmethod
    def of_model(cls, about: Mapping[str, Any]) -> DigitsData:
        """Of what a model folder says of its data, which is more."""
        return cls.model_validate({key: value for key, value in about.items() if key in cls.model_fields})


class CaptionsData(Section):
    """Captioned images of a dataset that `cap2im prepare` made."""

    source: Literal["captions"] = Field(description="every caption of every image once an epoch")
    shortest: int = Field(1, ge=1, description="words of the shortest caption to train on; 7 in the release")
    longest: int = Field(LONGEST_CAPTION, ge=1, description="words of the longest caption to train on; 29 in the release")
    equal_lengths: bool = Field(False, description="batches of captions of one length, as released; else of nearly one length")
    sentence_encoder: str = Field("", description="for model.conditioning sentence: a folder, or OWNER/NAME on the Hugging Face hub")
    validation_samples: int = Field(1_000, ge=1, description="most captions to validate on")

    @model_validator(mode="after")
    def _range(self) -> CaptionsData:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is more than longest {self.longest}")
        return self


class PicturesData(Section):
    """Images of a dataset that `cap2im prepare` made, each once an epoch with a random one of its captions. The defaults are AttnGAN's."""

    source: Literal["pictures"] = Field(description="every image once an epoch, with a random one of its captions")
    words: int = Field(18, ge=1, description="most words of a caption; a longer one keeps a random choice. 12 for COCO, 18 for birds")
    enlarge: float = Field(
        76 / 64, ge=1, le=4, description="shorter side of the image, in sides of the random square that is cut out of it"
    )
    flip: bool = Field(True, description="mirror half of the images, left to right")
    validation_samples: int = Field(500, ge=1, description="most images to validate on; they are kept in memory")


_DATA = ("digits", "captions", "pictures")


def _data_kind(value: Any) -> str:
    source = value.get("source") if isinstance(value, Mapping) else getattr(value, "source", None)
    return str(source) if source in _DATA else "digits"


# fields that several trainings have, with other defaults
Seed = Annotated[int, Field(ge=0, lt=2**63, description="of the first weights, the order of the data and the noise")]
Epochs = Annotated[PositiveInt | None, Field(description="passes over the training data; give epochs or updates")]
Updates = Annotated[
    NonNegativeInt | None, Field(description="updates of the weights; 0 chooses 20 epochs, at least 2,000 and at most 20,000")
]
BatchSize = Annotated[int, Field(ge=1, description="examples of an update, over all processes")]
PairBatchSize = Annotated[int, Field(ge=2, description="examples of an update, over all processes")]
LogEvery = Annotated[int, Field(ge=1, description="updates between two lines of stats.jsonl and points of TensorBoard")]
ValidateEvery = Annotated[
    int, Field(ge=0, description="updates between two validations with sample grids; 0 chooses a twentieth of all updates")
]
CheckpointEvery = Annotated[int, Field(ge=0, description="updates between two checkpoints; 0 is validate_every")]
PrecisionKey = Annotated[Precision, Field(description='"bf16" multiplies in half precision where the machine does so by itself')]
Warmup = Annotated[int, Field(ge=0, description="updates over which the learning rate rises linearly from 0")]
EMADecay = Annotated[
    float, Field(ge=0, lt=1, description="of the moving average of weights, which validates and draws; warmed up. 0 is no average")
]
Gammas = Annotated[
    tuple[PositiveFloat, PositiveFloat, PositiveFloat],
    Field(description="gamma 1 to 3 of the matching losses; AttnGAN's paper has 5 for the first"),
]


class Training(Section):
    """What every training by epochs has: exactly one of `epochs` and `updates` says how long it is."""

    seed: Seed = 0
    epochs: Epochs = None
    updates: Updates = None
    batch_size: BatchSize = 100
    precision: PrecisionKey = "fp32"
    log_every: LogEvery = 10
    validate_every: ValidateEvery = 500
    checkpoint_every: CheckpointEvery = 500

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.updates is not None and "epochs" not in self.model_fields_set:
            object.__setattr__(self, "epochs", None)  # the default gives way; sections are frozen for everyone else
        if (self.epochs is None) == (self.updates is None):
            raise ValueError(f"give exactly one of epochs and updates, got epochs {self.epochs} and updates {self.updates}")
        return self

    def total(self, steps_per_epoch: int) -> int:
        """Return the number of updates of the whole training."""
        if self.epochs is not None:
            return self.epochs * steps_per_epoch
        return self.updates or min(max(20 * steps_per_epoch, 2_000), 20_000)

    def planned(self, steps_per_epoch: int) -> Self:
        """Return a copy in which every 0 that means "choose" is replaced by the number chosen for the data."""
        total = self.total(steps_per_epoch)
        validate_every = self.validate_every or min(max(total // 20, 50), 1_000)
        length = {} if self.updates is None else {"updates": total}
        cadence = {"validate_every": validate_every, "checkpoint_every": self.checkpoint_every or validate_every}
        return self.model_copy(update=length | cadence)


class BoundTraining(Training):
    """How a model with a variational bound is trained. The defaults are alignDRAW's for MNIST with captions (appendix B)."""

    epochs: Epochs = 150
    optimizer: Literal["rmsprop", "adam"] = Field("rmsprop", description="RMSprop as released, or Adam")
    learning_rate: float = Field(1e-3, gt=0, description="the highest")
    schedule: Literal["step", "cosine"] = Field("step", description="how the learning rate falls to final_learning_rate")
    drop_epoch: int = Field(110, ge=0, description='epoch from which "step" has final_learning_rate')
    warmup_steps: Warmup = 0
    final_learning_rate: float = Field(1e-4, gt=0, description="the learning rate at the end")
    clip_norm: float = Field(10.0, gt=0, description="largest norm of the gradient")
    clip: Literal["global", "tensor"] = Field("global", description='"tensor" clips each parameter tensor by itself, as released')
    kl_weights: tuple[tuple[NonNegativeInt, NonNegativeFloat], ...] = Field(
        ((0, 1.0),), description="(update, weight of the KL in the loss), linear between; weight 1 is the bound"
    )
    ema_decay: EMADecay = 0.0

    @field_validator("kl_weights")
    @classmethod
    def _ascending(cls, knots: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        steps = [step for step, _ in knots]
        if not knots or steps[0] != 0 or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError("steps must begin at 0 and rise")
        return knots


class GANTraining(Training):
    """How generators are trained against discriminators. The defaults are LAPGAN's (Denton et al., section 3); of each level on its own."""

    epochs: Epochs = 25
    batch_size: BatchSize = 128
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="SGD with momentum, or Adam")
    learning_rate: float = Field(0.02, gt=0, description="in the first epoch")
    rate_decay: float = Field(4e-5, ge=0, description="each epoch divides the learning rate by 1 + this")
    momentum: float = Field(0.5, ge=0, lt=1, description="in the first epoch; Adam's beta_1")
    momentum_rise: float = Field(0.0008, ge=0, description="added to the momentum each epoch")
    highest_momentum: float = Field(0.8, ge=0, lt=1, description="where the momentum stops rising")
    discriminator_units: int = Field(600, ge=1, description="units of the coarse discriminator's two hidden layers")
    discriminator_features: int = Field(128, ge=1, description="maps of the fine discriminator's two convolutions")
    dropout: float = Field(0.5, ge=0, lt=1, description="in the fine discriminator")
    coarse_dropout: float = Field(0.5, ge=0, lt=1, description="in the coarse discriminator")
    coarse_noise: float = Field(0.0, ge=0, description="standard deviation of the noise on images for the coarse discriminator")
    coarse_penalty: float = Field(0.0, ge=0, description="gamma of the R1 gradient penalty of the coarse discriminator")
    mismatch_weight: float = Field(0.0, ge=0, description="weight of real images with another image's caption as fakes")
    fine_every: int = Field(1, ge=1, description="updates of the coarse level for one of the fine level, which costs more and needs fewer")
    ema_decay: EMADecay = 0.0

    @model_validator(mode="after")
    def _rises(self) -> GANTraining:
        if self.momentum > self.highest_momentum:
            raise ValueError(f"momentum {self.momentum} is more than highest_momentum {self.highest_momentum}")
        return self


class MatchingTraining(Training):
    """How a matching model is trained. The defaults are AttnGAN's, as released; there only two layers of its image encoder learn."""

    epochs: Epochs = 600
    batch_size: PairBatchSize = 48
    inception: str = Field("", description="file of torchvision's Inception weights; empty is the cache, or else a verified download")
    learning_rate: float = Field(2e-3, gt=0, description="of Adam")
    rate_decay: float = Field(0.98, gt=0, le=1, description="each epoch multiplies the learning rate by this")
    final_learning_rate: float = Field(2e-4, gt=0, description="the lowest learning rate")
    warmup_steps: Warmup = 0
    clip_norm: float = Field(0.25, gt=0, description="largest norm of the text encoder's gradient")
    gammas: Gammas = (4.0, 5.0, 10.0)


class AttnGANTraining(Training):
    """How AttnGAN's generator is trained against its discriminators and a matching model. The defaults are the release's for COCO."""

    epochs: Epochs = 120
    batch_size: PairBatchSize = 14
    damsm: str = Field("", description="the matching model: a run or another folder, or OWNER/NAME on the Hugging Face hub")
    generator_rate: float = Field(2e-4, gt=0, description="learning rate of the generator, of Adam")
    discriminator_rate: float = Field(2e-4, gt=0, description="learning rate of the discriminators, of Adam")
    momentum: float = Field(0.5, ge=0, lt=1, description="Adam's beta_1; beta_2 is 0.999")
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


class DrawingRecipe(Section):
    """A model of captioned images, on captioned digits or on a prepared dataset: what all of them share."""

    kind: str = Field(description="which network, and so which training")
    name: str = Field("", description="of the model, for its card; the run folder's name if empty")
    description: str = Field(description="what the recipe trains, for cap2im list")
    data: Annotated[
        Annotated[DigitsData, Tag("digits")] | Annotated[CaptionsData, Tag("captions")] | Annotated[PicturesData, Tag("pictures")],
        Discriminator(_data_kind),
    ] = DigitsData()
    model: DRAWConfig | VAEConfig | LAPGANConfig | SharpenerConfig | DAMSMConfig | AttnGANConfig
    train: BoundTraining | GANTraining | MatchingTraining | AttnGANTraining

    @model_validator(mode="after")
    def _fits(self) -> DrawingRecipe:
        wants_encoder = self.model.conditioning == "sentence"
        if isinstance(self.data, CaptionsData):
            if wants_encoder and not self.data.sentence_encoder:
                raise ValueError("conditioning sentence needs data.sentence_encoder, a folder or OWNER/NAME on the Hugging Face hub")
            return self
        if wants_encoder:
            raise ValueError("conditioning sentence needs a prepared dataset (data.source captions)")
        if isinstance(self.data, PicturesData):
            return self
        if self.train.batch_size > self.data.samples_per_epoch:
            raise ValueError(f"train.batch_size {self.train.batch_size} is more than data.samples_per_epoch {self.data.samples_per_epoch}")
        fixed = {"side": 60, "colours": 1, "vocabulary_size": 22}  # what captioned digits are
        if wrong := {key: value for key, value in fixed.items() if getattr(self.model, key) != value}:
            told = ", ".join(f"model.{key} is {getattr(self.model, key)}, {value} is needed" for key, value in wrong.items())
            raise ValueError(f"captioned digits do not fit: {told}")
        return self


class BoundRecipe(DrawingRecipe):
    """A model with a variational bound."""

    model: DRAWConfig | VAEConfig
    train: BoundTraining = BoundTraining()


class DRAWRecipe(BoundRecipe):
    """alignDRAW, noalignDRAW, skipthoughtDRAW or DRAW."""

    kind: Literal["draw"] = Field(description="which network, and so which training")
    model: DRAWConfig = DRAWConfig()

    @model_validator(mode="after")
    def _clips(self) -> DRAWRecipe:
        if self.train.clip == "tensor" and self.model.conditioning not in ("align", "none"):
            raise ValueError("train.clip tensor clips the tensors of the authors' programs, which have conditioning align or none")
        return self


class VAERecipe(BoundRecipe):
    """The fully connected or the convolutional variational autoencoder."""

    kind: Literal["vae"] = Field(description="which network, and so which training")
    model: VAEConfig = VAEConfig()

    @model_validator(mode="after")
    def _clips(self) -> VAERecipe:
        if self.train.clip != "global":
            raise ValueError(f"train.clip is {self.train.clip}, which is for the authors' DRAWs; a VAE has global")
        return self


class GANRecipe(DrawingRecipe):
    """What is trained against discriminators: a LAPGAN, or a sharpener."""

    model: LAPGANConfig | SharpenerConfig
    train: GANTraining = GANTraining()


class LAPGANRecipe(GANRecipe):
    """LAPGAN on a pyramid of two levels."""

    kind: Literal["lapgan"] = Field(description="which network, and so which training")
    model: LAPGANConfig = LAPGANConfig()


class SharpenerRecipe(GANRecipe):
    """The upper level of that pyramid alone, which sharpens what others draw."""

    kind: Literal["sharpener"] = Field(description="which network, and so which training")
    model: SharpenerConfig = SharpenerConfig()

    @model_validator(mode="after")
    def _is_fine(self) -> SharpenerRecipe:
        if self.train.fine_every > 1 or self.train.coarse_penalty:
            raise ValueError("train.fine_every and train.coarse_penalty are for a LAPGAN; a sharpener has no coarse level")
        return self


class DAMSMRecipe(DrawingRecipe):
    """The matching model that AttnGAN learns from."""

    kind: Literal["damsm"] = Field(description="which network, and so which training")
    model: DAMSMConfig = DAMSMConfig()
    train: MatchingTraining = MatchingTraining()

    @model_validator(mode="after")
    def _wants_inception(self) -> DAMSMRecipe:
        if self.train.inception and self.model.image_encoder != "inception":
            raise ValueError(f"train.inception is for model.image_encoder inception; this one is {self.model.image_encoder}")
        return self


class AttnGANRecipe(DrawingRecipe):
    """AttnGAN or AttnDCGAN. Their text encoder, and with it `model.text`, is the matching model's."""

    kind: Literal["attngan"] = Field(description="which network, and so which training")
    model: AttnGANConfig = AttnGANConfig()
    train: AttnGANTraining = AttnGANTraining()


class ReaderTraining(Section):
    """How the reader of caption accuracy is trained. The defaults made the bundled one."""

    seed: Seed = 0
    steps: int = Field(5500, ge=1, description="updates of the weights")
    canvases: int = Field(80, ge=8, description="canvases of an update")
    windows: int = Field(3, ge=1, le=8, description="windows of a canvas: first those with something at their place, then random others")
    learning_rate: float = Field(3e-3, gt=0, description="the highest; it rises over a twentieth of the steps and falls as a half cosine")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    validation_samples: int = Field(5, ge=1, description="real canvases for each of the 440 captions")


class ReaderRecipe(Section):
    """The network that reads digits for caption accuracy."""

    kind: Literal["reader"] = Field(description="which network, and so which training")
    name: str = Field("", description="of the model, for its card; the run folder's name if empty")
    description: str = Field(description="what the recipe trains, for cap2im list")
    model: DigitReaderConfig = DigitReaderConfig()
    train: ReaderTraining = ReaderTraining()


class SentencesData(Section):
    """Sentences with their neighbours: those before and after in a text, or the other captions of an image."""

    vocabulary_size: int = Field(20_000, ge=3, description="most frequent words, <eos> and UNK included")
    longest: int = Field(30, ge=1, description="words of a sentence; the rest is cut off")
    validation_share: float = Field(0.02, gt=0, lt=1, description="the last sentences, where a prepared dataset has none for validation")
    validation_samples: int = Field(2_000, ge=1, description="most triples to validate on")


class SkipThoughtsTraining(Training):
    """How skip-thoughts are trained. Batch size, optimizer and clipping are the paper's (section 3)."""

    epochs: Epochs = 1
    batch_size: BatchSize = 128
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    warmup_steps: Warmup = 0
    clip_norm: float = Field(10.0, gt=0, description="largest norm of the gradient of each encoder with its decoders")
    validate_every: ValidateEvery = 1000
    checkpoint_every: CheckpointEvery = 1000


class SkipThoughtsRecipe(Section):
    """uni-skip, bi-skip or combine-skip, on any sentences."""

    kind: Literal["skipthoughts"] = Field(description="which network, and so which training")
    name: str = Field("", description="of the model, for its card; the run folder's name if empty")
    description: str = Field(description="what the recipe trains, for cap2im list")
    data: SentencesData = SentencesData()
    model: SkipThoughtsConfig = SkipThoughtsConfig()
    train: SkipThoughtsTraining = SkipThoughtsTraining()


class ClassifierTraining(Training):
    """How a classifier is trained. Batch size, weight decay and momentum are those of the page that published the network."""

    epochs: Epochs = 300
    batch_size: PairBatchSize = 128
    learning_rate: float = Field(
        0.1, gt=0, description="the highest; it falls as a half cosine. The page starts at 1 and halves it every 25 epochs"
    )
    warmup_steps: Warmup = 0
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="of SGD")
    crop: int = Field(4, ge=0, le=16, description="pixels of padding, of which a random crop takes the image; 0 on the page")
    flip: bool = Field(True, description="mirror half of the images, left to right")


class ClassifierRecipe(Section):
    """The VGG-like network, on a prepared dataset whose images have classes."""

    kind: Literal["classifier"] = Field(description="which network, and so which training")
    name: str = Field("", description="of the model, for its card; the run folder's name if empty")
    description: str = Field(description="what the recipe trains, for cap2im list")
    model: VGGConfig = VGGConfig()
    train: ClassifierTraining = ClassifierTraining()


Recipe = (
    DRAWRecipe
    | VAERecipe
    | LAPGANRecipe
    | SharpenerRecipe
    | DAMSMRecipe
    | AttnGANRecipe
    | ReaderRecipe
    | SkipThoughtsRecipe
    | ClassifierRecipe
)
_RECIPES: dict[str, type[Section]] = {
    "draw": DRAWRecipe,
    "vae": VAERecipe,
    "lapgan": LAPGANRecipe,
    "sharpener": SharpenerRecipe,
    "damsm": DAMSMRecipe,
    "attngan": AttnGANRecipe,
    "reader": ReaderRecipe,
    "skipthoughts": SkipThoughtsRecipe,
    "classifier": ClassifierRecipe,
}
_RECIPE: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="kind")])


def recipe_names() -> list[str]:
    """The recipes inside the package."""
    return sorted(path.name.removesuffix(".toml") for path in resources.files("cap2im.recipes").iterdir() if path.name.endswith(".toml"))


def load_recipe(name: str, changes: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Return the recipe of a name or of a TOML file, with changes applied.

    Args:
        name: one of `recipe_names`, or a file.
        changes: `"train.batch_size=64"`, or `{"train.batch_size": 64}`.

    Raises:
        ValueError: there is no such recipe, it is damaged, or it has unknown keys or values out of range; the problems in one message.
    """
    if name in recipe_names():
        text, where = resources.files("cap2im.recipes").joinpath(f"{name}.toml").read_text("utf-8"), name
    elif Path(name).exists() and not Path(name).is_dir():
        text, where = decode_text(read_bytes(Path(name), LARGEST_RECIPE), name), name
    else:
        raise ValueError(
            f"unknown recipe {shortened(repr(name))}{_did_you_mean(name, recipe_names())}; "
            f"recipes: {', '.join(recipe_names())}; or a TOML file"
        )
    return parse_recipe(changed(_parse_toml(text, where), changes), where)


def _parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the table of a TOML document.

    Raises:
        ValueError: it is damaged or nested too deeply; the message begins with `where`.
    """
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{where}: {TOO_DEEP}") from None
    except ValueError as error:  # also of an integer of too many digits
        raise ValueError(f"{where}: not valid TOML: {shortened(str(error), 200)}") from None
    _refuse_nesting(table, where)
    return table


def _refuse_nesting(value: Any, where: str) -> None:
    """Raise ValueError where tables and lists are nested so deeply that no recipe needs it, and recursion would fail."""
    level = [value]
    for _ in range(MOST_NESTED):
        level = [each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer)]
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return
    raise ValueError(f"{where}: {TOO_DEEP}")


def parse_recipe(table: Mapping[str, Any], where: str) -> Recipe:
    """Return the recipe of a table.

    Raises:
        ValueError: unknown keys or values out of range; the message names `where` and the first problems.
    """
    _refuse_nesting(table, where)
    errors, strict = _errors(table), _errors(table, strict=True)
    if any(_confuses(e) for e in strict):
        places = [e["loc"] for e in errors]
        errors = [e for e in strict if _confuses(e) or e["loc"] in places]
    if errors:
        problems = [_problem(e, _RECIPES.get(str(table.get("kind")))) for e in errors[:MOST_PROBLEMS]]
        if len(errors) > MOST_PROBLEMS:
            problems.append(f"and {len(errors) - MOST_PROBLEMS:,} problems more")
        raise ValueError(f"recipe {where}: {'; '.join(problems)}")
    return _RECIPE.validate_python(table)


def _errors(table: Mapping[str, Any], *, strict: bool = False) -> list[Any]:
    """What pydantic says of a table. Only `strict` tells booleans from numbers; it takes lists for tuples in JSON alone."""
    try:
        _RECIPE.validate_json(json.dumps(table, default=str), strict=True) if strict else _RECIPE.validate_python(table)
    except ValidationError as error:
        return error.errors()
    return []


def _confuses(error: Any) -> bool:
    """Whether it tells of a boolean where a number is wanted, or of a number where a boolean is."""
    if error["type"] == "bool_type":
        return isinstance(error["input"], int | float)
    return error["type"] in ("int_type", "float_type") and isinstance(error["input"], bool)


def changed(table: Mapping[str, Any], changes: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a recipe with changes applied, see `load_recipe`. New epochs replace old updates, and the other way round."""
    result = copy.deepcopy(dict(table))
    pairs = list(changes.items()) if isinstance(changes, Mapping) else [_key_and_value(change) for change in changes]
    keys = {key for key, _ in pairs}
    for key, other in (("epochs", "updates"), ("updates", "epochs")):
        if f"train.{key}" in keys and f"train.{other}" not in keys and isinstance(result.get("train"), dict):
            result["train"].pop(other, None)
    for key, value in pairs:
        _set(result, key, value)
    return result


def _key_and_value(change: str) -> tuple[str, Any]:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set {shortened(repr(change))}: expected KEY=VALUE, e.g. train.batch_size=64")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except RecursionError:
        raise ValueError(f"--set {shortened(repr(change))}: {TOO_DEEP}") from None
    except ValueError:
        value = text.strip()  # a bare word is a string
    return key.strip(), value


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    if len(sections) >= MOST_NESTED:
        raise ValueError(f"--set {shortened(repr(key))}: {TOO_DEEP}")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ValueError(f"--set {shortened(f'{key}={value}')!r}: {shortened(section)} is a value, not a section")
    table[last] = value


def _keys(section: type[BaseModel], chosen: Sequence[str], prefix: str = "") -> Iterator[str]:
    """The keys of a section and of those inside of it; of sections to choose from, those of the `chosen` tags."""
    for name, info in section.model_fields.items():
        annotated = [arg for arg in get_args(info.annotation) if get_origin(arg) is Annotated]
        choices = {arg.__metadata__[0].tag: arg.__origin__ for arg in annotated if isinstance(arg.__metadata__[0], Tag)}
        inner = next((choices[tag] for tag in chosen if tag in choices), info.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, chosen, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _sections(keys: Iterable[str]) -> list[str]:
    """The sections that keys are in, and those around them."""
    paths = [key.split(".")[:-1] for key in keys]
    return list(dict.fromkeys(".".join(path[: depth + 1]) for path in paths for depth in range(len(path))))


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _problem(error: Any, recipe: type[BaseModel] | None) -> str:
    if error["type"].startswith("union_tag"):
        got = f"got {shortened(repr(error['input']['kind']))}" if "kind" in error["input"] else "missing"
        return f"kind: {got}, allowed: {', '.join(_RECIPES)}"
    location = [str(part) for part in error["loc"]]
    tags = []  # pydantic tells which of the alternatives it took
    if location and location[0] in _RECIPES:
        tags.append(location.pop(0))
    if location[:1] == ["data"] and location[1:2] and location[1] in _DATA:
        tags.append(location.pop(1))
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = list(_keys(recipe, tags)) if recipe else []
        section = key.removesuffix(location[-1])
        if recipe and isinstance(error["input"], dict):
            known = [name for name in _sections(_keys(recipe, [*tags, *_DATA])) if name.startswith(section)] or known
        names = {k.rpartition(".")[2]: k for k in known}
        similar = difflib.get_close_matches(location[-1], names, n=2, cutoff=0.6)
        near = (
            f" (did you mean {' or '.join(names[n] for n in similar)}?)"
            if similar
            else f"; keys there: {', '.join(k for k in known if k.startswith(section)) or ', '.join(known)}"
        )
        return f"unknown key {shortened(key, 200)}{near}"
    got = "" if isinstance(error.get("input"), dict) else f", got {shortened(repr(error.get('input')))}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{shortened(key, 200)}: {message}{got}" if key else message


# what may change when a run is resumed: how long it goes on, how often it validates, saves and logs, and what it is called
CHANGEABLE = {
    "name",
    "description",
    "train.epochs",
    "train.updates",
    "train.log_every",
    "train.validate_every",
    "train.checkpoint_every",
}


def differences(old: BaseModel, new: BaseModel) -> list[str]:
    """Return `key: old -> new` for every value in which two recipes differ, but for those that a resumed run may change."""
    before, after = dict(_flat(old.model_dump())), dict(_flat(new.model_dump()))
    differing = [key for key in before | after if before.get(key) != after.get(key) and key not in CHANGEABLE]
    return [f"{key}: {shortened(repr(before.get(key)), 200)} -> {shortened(repr(after.get(key)), 200)}" for key in differing]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_toml(recipe: BaseModel) -> str:
    """Return the whole recipe as TOML, defaults included; what the data decides is left out where the recipe does not say it."""
    return tomli_w.dumps(_stated(recipe))


DECIDED_BY_DATA = ("side", "vocabulary_size")  # of a model of a prepared dataset


def _stated(section: BaseModel) -> dict[str, Any]:
    table = section.model_dump(exclude_none=True)
    for name, value in section:
        if isinstance(value, BaseModel):
            table[name] = _stated(value)
        elif name in DECIDED_BY_DATA and name not in section.model_fields_set:
            del table[name]
    return table


@dataclass(frozen=True)
class Setting:
    """A key of a recipe.

    Attributes:
        key: with its sections, as `--set` takes it.
        value: of the recipe; None is unset.
        meaning: of the key, with its unit.
        paper: value of the recipe that follows the paper or the release; None where there is no such recipe or it does not set the key.
    """

    key: str
    value: Any
    meaning: str
    paper: Any = None


def setting_keys() -> list[str]:
    """Return the keys of all kinds of recipes, with their sections."""
    return list(dict.fromkeys(key for kind in _RECIPES.values() for key in _keys(kind, [*_DATA])))


def paper_recipe(recipe: Recipe) -> str | None:
    """Return the name of the recipe that follows the paper, or the release, for a recipe's kind of network and data."""
    if isinstance(recipe, DRAWRecipe):
        if isinstance(recipe.data, DigitsData):
            return "aligndraw-mnist-paper"
        network = {"align": "aligndraw", "mean": "noaligndraw", "sentence": "skipthoughtdraw", "none": "draw"}[recipe.model.conditioning]
        return f"{network}-coco-{'56' if recipe.model.side == 56 else 'paper'}"
    released = {"lapgan": "lapgan-coco", "sharpener": "sharpener-coco", "damsm": "damsm-coco", "attngan": "attngan-coco"}
    return (released | {"skipthoughts": "skipthoughts", "classifier": "vgg-cifar"}).get(recipe.kind)


def settings(recipe: Recipe) -> list[Setting]:
    """Return every key of a recipe with its value, its meaning and the paper's value."""
    name = paper_recipe(recipe)
    paper = {} if name is None else {key: value for key, value, _ in _explained(load_recipe(name))}
    return [Setting(key, value, meaning, paper.get(key)) for key, value, meaning in _explained(recipe)]


def _explained(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _explained(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, info.description or ""
