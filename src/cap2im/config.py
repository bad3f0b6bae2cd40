"""Recipes: everything that decides what a training gives, as strictly checked TOML.

A recipe lies in `cap2im/recipes/NAME.toml` or anywhere else; `--set a.b=c` changes single values. Unknown keys are errors.
"""

from __future__ import annotations

import difflib
import itertools
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
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
from cap2im.models.lapgan import LAPGANConfig, SharpenerConfig
from cap2im.models.precision import Precision
from cap2im.models.reader import ReaderConfig
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

    source: Literal["mnist", "digits"] = "mnist"  # "digits" are the 1,797 inside scikit-learn
    held_out_seed: int = Field(0, ge=0, lt=2**63)  # chooses the configurations that training never shows
    samples_per_epoch: int = Field(10_000, ge=1)  # freshly made; the paper's number
    validation_samples: int = Field(1_000, ge=1)
    variant: Literal["paper", "released"] = "paper"  # "released" lets digits overlap

    @classmethod
    def of_model(cls, about: Mapping[str, Any]) -> DigitsData:
        """Of what a model folder says of its data, which is more."""
        return cls.model_validate({key: value for key, value in about.items() if key in cls.model_fields})


class CaptionsData(Section):
    """Captioned images of a dataset that `cap2im prepare` made."""

    source: Literal["captions"]
    shortest: int = Field(1, ge=1)  # words of the captions to train on; the release takes 7 to 29
    longest: int = Field(LONGEST_CAPTION, ge=1)
    equal_lengths: bool = False  # a batch holds captions of one length alone, as released; else those of nearly one length
    sentence_encoder: str = ""  # for conditioning "sentence": a folder, or OWNER/NAME on the Hugging Face hub
    validation_samples: int = Field(1_000, ge=1)  # at most

    @model_validator(mode="after")
    def _range(self) -> CaptionsData:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is more than longest {self.longest}")
        return self


class PicturesData(Section):
    """Images of a dataset that `cap2im prepare` made, each once an epoch with a random one of its captions. The defaults are AttnGAN's."""

    source: Literal["pictures"]
    words: int = Field(18, ge=1)  # most words of a caption; of a longer one, a random choice of them in their order. COCO has 12, birds 18
    enlarge: float = Field(76 / 64, ge=1, le=4)  # the shorter side before a random square is cut out of it, in sides of the square
    flip: bool = True  # half of the images, left to right
    validation_samples: int = Field(500, ge=1)  # at most; they are kept in memory


_DATA = ("digits", "captions", "pictures")


def _data_kind(value: Any) -> str:
    source = value.get("source") if isinstance(value, Mapping) else getattr(value, "source", None)
    return str(source) if source in _DATA else "digits"


class BoundTraining(Section):
    """How a model with a variational bound is trained. The defaults are alignDRAW's for MNIST with captions (appendix B)."""

    seed: int = Field(0, ge=0, lt=2**63)
    epochs: int = Field(150, ge=1)
    batch_size: int = Field(100, ge=1)  # over all processes
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["step", "cosine"] = "step"
    drop_epoch: int = Field(110, ge=0)  # "step": from here on the rate is final_learning_rate
    warmup_steps: int = Field(0, ge=0)  # the rate rises linearly from 0
    final_learning_rate: float = Field(1e-4, gt=0)
    clip_norm: float = Field(10.0, gt=0)
    clip: Literal["global", "tensor"] = "global"  # "tensor": each parameter tensor by itself, as released
    kl_weights: tuple[tuple[NonNegativeInt, NonNegativeFloat], ...] = (
        (0, 1.0),
    )  # (step, weight of the KL), linear between; 1 is the bound
    ema_decay: float = Field(0.0, ge=0, lt=1)  # of the weights that validate and draw; 0 is none
    precision: Precision = "fp32"
    log_every: int = Field(10, ge=1)  # steps
    validate_every: int = Field(500, ge=1)  # steps
    checkpoint_every: int = Field(500, ge=1)  # steps

    @field_validator("kl_weights")
    @classmethod
    def _ascending(cls, knots: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        steps = [step for step, _ in knots]
        if not knots or steps[0] != 0 or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError("steps must begin at 0 and rise")
        return knots


class GANTraining(Section):
    """How generators are trained against discriminators. The defaults are LAPGAN's (Denton et al., section 3); of each level on its own."""

    seed: int = Field(0, ge=0, lt=2**63)
    epochs: int = Field(25, ge=1)
    batch_size: int = Field(128, ge=1)  # over all processes
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(0.02, gt=0)
    rate_decay: float = Field(4e-5, ge=0)  # each epoch divides the rate by 1 + this
    momentum: float = Field(0.5, ge=0, lt=1)  # at the start; Adam's beta_1
    momentum_rise: float = Field(0.0008, ge=0)  # of each epoch
    highest_momentum: float = Field(0.8, ge=0, lt=1)
    discriminator_units: int = Field(600, ge=1)  # of the coarse discriminator's two hidden layers
    discriminator_features: int = Field(128, ge=1)  # maps of the fine discriminator's two convolutions
    dropout: float = Field(0.5, ge=0, lt=1)  # in the fine discriminator
    coarse_dropout: float = Field(0.5, ge=0, lt=1)  # in the coarse discriminator
    coarse_noise: float = Field(0.0, ge=0)  # deviation of the noise on all small images that the coarse discriminator sees; LAPGAN has none
    coarse_penalty: float = Field(0.0, ge=0)  # R1's gamma, of the coarse discriminator; see `gradient_penalty`; LAPGAN has none
    mismatch_weight: float = Field(0.0, ge=0)  # of real images with another's caption, which are then to be refused too; LAPGAN has none
    fine_every: int = Field(1, ge=1)  # updates of the coarse level for one of the fine level, which costs far more and needs fewer
    ema_decay: float = Field(0.0, ge=0, lt=1)  # of the generators' weights that draw, at each update of the fine level; 0 is none
    precision: Precision = "fp32"
    log_every: int = Field(10, ge=1)  # steps
    validate_every: int = Field(500, ge=1)  # steps
    checkpoint_every: int = Field(500, ge=1)  # steps

    @model_validator(mode="after")
    def _rises(self) -> GANTraining:
        if self.momentum > self.highest_momentum:
            raise ValueError(f"momentum {self.momentum} is more than highest_momentum {self.highest_momentum}")
        return self


class MatchingTraining(Section):
    """How a matching model is trained. The defaults are AttnGAN's, as released; there only two layers of its image encoder learn."""

    seed: int = Field(0, ge=0, lt=2**63)
    epochs: int = Field(600, ge=1)
    batch_size: int = Field(48, ge=2)  # over all processes
    inception: str = ""  # file of torchvision's weights for image_encoder inception; empty is the cache, or else a verified download
    learning_rate: float = Field(2e-3, gt=0)  # of Adam
    rate_decay: float = Field(0.98, gt=0, le=1)  # each epoch multiplies the rate by this
    final_learning_rate: float = Field(2e-4, gt=0)  # no less than this
    warmup_steps: int = Field(0, ge=0)  # the rate rises linearly from 0
    clip_norm: float = Field(0.25, gt=0)  # of the text encoder's gradient; the image encoder's is not clipped
    gammas: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (4.0, 5.0, 10.0)  # the paper has 5 for the first
    precision: Precision = "fp32"
    log_every: int = Field(10, ge=1)  # steps
    validate_every: int = Field(500, ge=1)  # steps
    checkpoint_every: int = Field(500, ge=1)  # steps


class AttnGANTraining(Section):
    """How AttnGAN's generator is trained against its discriminators and a matching model. The defaults are the release's for COCO."""

    seed: int = Field(0, ge=0, lt=2**63)
    epochs: int = Field(120, ge=1)
    batch_size: int = Field(14, ge=2)  # over all processes
    damsm: str = ""  # the matching model: a run or another folder, or OWNER/NAME on the Hugging Face hub
    generator_rate: float = Field(2e-4, gt=0)  # of Adam
    discriminator_rate: float = Field(2e-4, gt=0)
    momentum: float = Field(0.5, ge=0, lt=1)  # Adam's beta_1; beta_2 is 0.999
    discriminator_width: int = Field(96, ge=1)
    spectral_norm: bool = False  # of the discriminators, in place of their batch normalisation
    image_noise: float = Field(0.0, ge=0)  # deviation of the noise on all images, in -1..1, that the discriminators see; AttnGAN has none
    matching_weight: float = Field(50.0, ge=0)  # lambda of equation 3
    gammas: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (4.0, 5.0, 10.0)  # of the matching losses; the paper has 5 for the first
    kl_weight: float = Field(1.0, ge=0)  # of the conditioning augmentation
    ema_decay: float = Field(0.999, ge=0, lt=1)  # of the generator's weights that draw; 0 is none
    precision: Precision = "fp32"
    recompute: bool = False  # the insides of the generator's large stages on the way back: less memory, more time
    log_every: int = Field(10, ge=1)  # steps
    validate_every: int = Field(1000, ge=1)  # steps
    checkpoint_every: int = Field(1000, ge=1)  # steps


class DrawingRecipe(Section):
    """A model of captioned images, on captioned digits or on a prepared dataset: what all of them share."""

    kind: str
    description: str
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

    kind: Literal["draw"]
    model: DRAWConfig = DRAWConfig()

    @model_validator(mode="after")
    def _clips(self) -> DRAWRecipe:
        if self.train.clip == "tensor" and self.model.conditioning not in ("align", "none"):
            raise ValueError("train.clip tensor clips the tensors of the authors' programs, which have conditioning align or none")
        return self


class VAERecipe(BoundRecipe):
    """The fully connected or the convolutional variational autoencoder."""

    kind: Literal["vae"]
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

    kind: Literal["lapgan"]
    model: LAPGANConfig = LAPGANConfig()


class SharpenerRecipe(GANRecipe):
    """The upper level of that pyramid alone, which sharpens what others draw."""

    kind: Literal["sharpener"]
    model: SharpenerConfig = SharpenerConfig()

    @model_validator(mode="after")
    def _is_fine(self) -> SharpenerRecipe:
        if self.train.fine_every > 1 or self.train.coarse_penalty:
            raise ValueError("train.fine_every and train.coarse_penalty are for a LAPGAN; a sharpener has no coarse level")
        return self


class DAMSMRecipe(DrawingRecipe):
    """The matching model that AttnGAN learns from."""

    kind: Literal["damsm"]
    model: DAMSMConfig = DAMSMConfig()
    train: MatchingTraining = MatchingTraining()

    @model_validator(mode="after")
    def _wants_inception(self) -> DAMSMRecipe:
        if self.train.inception and self.model.image_encoder != "inception":
            raise ValueError(f"train.inception is for model.image_encoder inception; this one is {self.model.image_encoder}")
        return self


class AttnGANRecipe(DrawingRecipe):
    """AttnGAN or AttnDCGAN. Their text encoder, and with it `model.text`, is the matching model's."""

    kind: Literal["attngan"]
    model: AttnGANConfig = AttnGANConfig()
    train: AttnGANTraining = AttnGANTraining()


class ReaderTraining(Section):
    """How the reader of caption accuracy is trained. The defaults made the bundled one."""

    seed: int = Field(0, ge=0, lt=2**63)
    steps: int = Field(5500, ge=1)
    canvases: int = Field(80, ge=8)  # of a step
    windows: int = Field(3, ge=1, le=8)  # of a canvas: first those with something at their place, then others at random
    learning_rate: float = Field(3e-3, gt=0)  # highest; it rises over a twentieth of the steps and falls as a half cosine
    weight_decay: float = Field(0.01, ge=0)
    validation_samples: int = Field(5, ge=1)  # real canvases for each of the 440 captions


class ReaderRecipe(Section):
    """The network that reads digits for caption accuracy."""

    kind: Literal["reader"]
    description: str
    model: ReaderConfig = ReaderConfig()
    train: ReaderTraining = ReaderTraining()


class SentencesData(Section):
    """Sentences with their neighbours: those before and after in a text, or the other captions of an image."""

    vocabulary_size: int = Field(20_000, ge=3)  # most frequent words, `<eos>` and `UNK` included
    longest: int = Field(30, ge=1)  # words of a sentence; what is beyond is cut off
    validation_share: float = Field(0.02, gt=0, lt=1)  # the last sentences, where a prepared dataset has none for validation
    validation_samples: int = Field(2_000, ge=1)  # triples, at most


class SkipThoughtsTraining(Section):
    """How skip-thoughts are trained. Batch size, optimizer and clipping are the paper's (section 3)."""

    seed: int = Field(0, ge=0, lt=2**63)
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(128, ge=1)  # over all processes
    learning_rate: float = Field(1e-3, gt=0)  # of Adam
    warmup_steps: int = Field(0, ge=0)  # the rate rises linearly from 0
    clip_norm: float = Field(10.0, gt=0)  # of each encoder with its decoders
    precision: Precision = "fp32"
    log_every: int = Field(10, ge=1)  # steps
    validate_every: int = Field(1000, ge=1)  # steps
    checkpoint_every: int = Field(1000, ge=1)  # steps


class SkipThoughtsRecipe(Section):
    """uni-skip, bi-skip or combine-skip, on any sentences."""

    kind: Literal["skipthoughts"]
    description: str
    data: SentencesData = SentencesData()
    model: SkipThoughtsConfig = SkipThoughtsConfig()
    train: SkipThoughtsTraining = SkipThoughtsTraining()


class ClassifierTraining(Section):
    """How a classifier is trained. Batch size, weight decay and momentum are those of the page that published the network."""

    seed: int = Field(0, ge=0, lt=2**63)
    epochs: int = Field(300, ge=1)
    batch_size: int = Field(128, ge=2)  # over all processes
    learning_rate: float = Field(0.1, gt=0)  # highest; it falls as a half cosine. The page starts at 1 and halves it every 25 epochs
    warmup_steps: int = Field(0, ge=0)  # the rate rises linearly from 0
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    crop: int = Field(4, ge=0, le=16)  # pixels of padding, of which a random crop takes the image; the page has none
    flip: bool = True  # half of the images, left to right
    precision: Precision = "fp32"
    log_every: int = Field(10, ge=1)  # steps
    validate_every: int = Field(500, ge=1)  # steps
    checkpoint_every: int = Field(500, ge=1)  # steps


class ClassifierRecipe(Section):
    """The VGG-like network, on a prepared dataset whose images have classes."""

    kind: Literal["classifier"]
    description: str
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


def load_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a name or of a TOML file, with `a.b=c` changes applied.

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
    table = _parse_toml(text, where)
    for change in changes:
        _apply(table, change)
    return parse_recipe(table, where)


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


def _apply(table: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set {shortened(repr(change))}: expected KEY=VALUE, e.g. train.batch_size=64")
    if len(keys := key.strip().split(".")) > MOST_NESTED:
        raise ValueError(f"--set {shortened(repr(change))}: {TOO_DEEP}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except RecursionError:
        raise ValueError(f"--set {shortened(repr(change))}: {TOO_DEEP}") from None
    except ValueError:
        value = text.strip()  # a bare word is a string
    *sections, last = keys
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ValueError(f"--set {shortened(repr(change))}: {shortened(section)} is a value, not a section")
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


def differences(old: BaseModel, new: BaseModel) -> list[str]:
    """Return `key: old -> new` for every value in which two recipes differ."""
    before, after = dict(_flat(old.model_dump())), dict(_flat(new.model_dump()))
    changed = [key for key in before | after if before.get(key) != after.get(key) and key != "description"]
    return [f"{key}: {shortened(repr(before.get(key)), 200)} -> {shortened(repr(after.get(key)), 200)}" for key in changed]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_toml(recipe: BaseModel) -> str:
    """The whole recipe as TOML, defaults included."""
    return tomli_w.dumps(recipe.model_dump())
