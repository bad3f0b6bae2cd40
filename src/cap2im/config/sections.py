"""Sections of recipes that several kinds share: the data, and what every training has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag, model_validator

from cap2im.data.vocabulary import LONGEST_CAPTION
from cap2im.models.precision import Precision


class Section(BaseModel):
    """A table of a recipe: frozen, without unknown keys and infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# ---- data


class DigitsData(Section):
    """MNIST with captions (alignDRAW, appendix A)."""

    source: Literal["mnist", "digits"] = Field("mnist", description='"mnist", or "digits": the 1,797 digits inside scikit-learn')
    held_out_seed: int = Field(0, ge=0, lt=2**63, description="seed that chooses the configurations hidden from training")
    validation_held_out_seed: int | None = Field(
        None, ge=0, lt=2**63, description="seed that chooses further configurations to hide, by which settings are chosen; without it, none"
    )
    samples_per_epoch: int = Field(10_000, ge=1, description="canvases per epoch; each epoch makes new ones")
    validation_samples: int = Field(1_000, ge=1, description="canvases for validation")
    variant: Literal["paper", "released"] = Field("paper", description='"released" lets digits overlap')

    @classmethod
    def from_model(cls, data: Mapping[str, Any]) -> DigitsData:
        """Return the section from the `data` entry of a model's `config.json`, which has more keys."""
        return cls.model_validate({key: value for key, value in data.items() if key in cls.model_fields})


class Augmentation(Section):
    """Random changes of training images."""

    crop: int = Field(0, ge=0, le=16, description="pixels that an image is shifted by at most; the edges are filled by reflection")
    flip: bool = Field(False, description="mirror half of the images left to right, but none whose caption says left or right")


class CaptionsData(Section):
    """Captioned images of a prepared dataset, every caption once an epoch."""

    source: Literal["captions"] = Field(description="every caption of every image once an epoch")
    shortest: int = Field(1, ge=1, description="words of the shortest caption to train on; 7 in the release")
    longest: int = Field(LONGEST_CAPTION, ge=1, description="words of the longest caption to train on; 29 in the release")
    equal_lengths: bool = Field(False, description="batches of captions of equal length, as in the release, or of similar length")
    sentence_encoder: str = Field(
        "", description="encoder for model.conditioning sentence: a folder, or OWNER/NAME on the Hugging Face hub"
    )
    validation_samples: int = Field(1_000, ge=1, description="most captions for validation")
    augment: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is more than longest {self.longest}")
        return self


class PicturesData(Section):
    """Images of a prepared dataset, each once an epoch with a random one of its captions. The defaults are AttnGAN's."""

    source: Literal["pictures"] = Field(description="every image once an epoch, with a random one of its captions")
    words: int = Field(18, ge=1, description="most words of a caption, of a longer one a random subset; 12 for COCO, 18 for birds")
    enlarge: float = Field(76 / 64, ge=1, le=4, description="size of the image before the random square crop, relative to the crop")
    flip: bool = Field(True, description="mirror half of the images left to right")
    validation_samples: int = Field(500, ge=1, description="most images for validation; they are kept in memory")


class ScenesData(Section):
    """Captioned scenes, painted from prepared cut-outs."""

    source: Literal["scenes"] = Field(description="scenes of one or two things, painted from cut-outs")
    things: tuple[str, ...] = Field((), description="names of the things in scenes; none names all things of the cut-outs")
    reading_style: str = Field("", description="style of drawing that training never shows; real scenes in it check the reader")
    held_out_seed: int = Field(0, ge=0, lt=2**63, description="seed that chooses the scenes hidden from training")
    sides: bool = Field(False, description="also show one thing at a side of a scene, as in 'a dog on the left of a blue background'")
    one_thing_until: int = Field(0, ge=0, description="updates at the start that show scenes of one thing only")
    samples_per_epoch: int = Field(10_000, ge=1, description="scenes that count as an epoch; every batch has new ones")
    validation_samples: int = Field(1_000, ge=1, description="scenes for validation")

    @model_validator(mode="after")
    def _check_things(self) -> Self:
        if len(set(self.things)) < len(self.things):
            twice = next(name for name in self.things if self.things.count(name) > 1)
            raise ValueError(f"things lists {twice!r} twice")
        return self


class SentencesData(Section):
    """Sentences with their neighbours: those before and after in a text, or the other captions of an image."""

    vocabulary_size: int = Field(20_000, ge=3, description="most frequent words, including <eos> and UNK")
    longest: int = Field(30, ge=1, description="words of a sentence; the rest is cut off")
    validation_share: float = Field(0.02, gt=0, lt=1, description="share of sentences for validation, taken from the end of a text")
    validation_samples: int = Field(2_000, ge=1, description="most triples for validation")


DRAWING_DATA = ("digits", "captions", "pictures", "scenes")


def _drawing_data(section: Any) -> str:
    source = section.get("source") if isinstance(section, Mapping) else getattr(section, "source", None)
    return str(source) if source in DRAWING_DATA else "digits"


DrawingData = Annotated[
    Annotated[DigitsData, Tag("digits")]
    | Annotated[CaptionsData, Tag("captions")]
    | Annotated[PicturesData, Tag("pictures")]
    | Annotated[ScenesData, Tag("scenes")],
    Discriminator(_drawing_data),
]

# ---- training: fields whose defaults differ between kinds

Seed = Annotated[int, Field(ge=0, lt=2**63, description="seed of the initial weights, the order of the data and the noise")]
Epochs = Annotated[PositiveInt | None, Field(description="passes over the training data; give epochs or updates")]
Updates = Annotated[
    NonNegativeInt | None, Field(description="updates of the weights; 0 chooses 20 epochs, at least 2,000 and at most 20,000 updates")
]
BatchSize = Annotated[int, Field(ge=1, description="batch size, summed over all processes")]
PairBatchSize = Annotated[int, Field(ge=2, description="batch size, summed over all processes")]
LogEvery = Annotated[int, Field(ge=1, description="updates between two entries of the log")]
ValidateEvery = Annotated[
    int, Field(ge=0, description="updates between two validations with sample grids; 0 chooses a twentieth of all updates")
]
CheckpointEvery = Annotated[int, Field(ge=0, description="updates between two checkpoints; 0 copies validate_every")]
PrecisionKey = Annotated[Precision, Field(description='"bf16" multiplies in half precision on devices with hardware support')]
Warmup = Annotated[int, Field(ge=0, description="updates over which the learning rate rises linearly from 0")]
EMADecay = Annotated[
    float, Field(ge=0, lt=1, description="decay of the moving average of weights (EMA) that validates and draws, warmed up; 0 for none")
]
Gammas = Annotated[
    tuple[PositiveFloat, PositiveFloat, PositiveFloat],
    Field(description="gamma 1 to 3 of the matching losses; the first is 5 in AttnGAN's paper"),
]


class Training(Section):
    """What every training has. Its length is either `epochs` or `updates`."""

    seed: Seed = 0
    epochs: Epochs = None
    updates: Updates = None
    batch_size: BatchSize = 100
    precision: PrecisionKey = "fp32"
    log_every: LogEvery = 10
    validate_every: ValidateEvery = 500
    checkpoint_every: CheckpointEvery = 500

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        if self.updates is not None and "epochs" not in self.model_fields_set:
            object.__setattr__(self, "epochs", None)  # `updates` replaces the default of a frozen section
        if (self.epochs is None) == (self.updates is None):
            raise ValueError(f"give exactly one of epochs and updates, got epochs {self.epochs} and updates {self.updates}")
        return self

    def total(self, steps_per_epoch: int) -> int:
        """Return the number of updates of the whole training."""
        if self.epochs is not None:
            return self.epochs * steps_per_epoch
        return self.updates or min(max(20 * steps_per_epoch, 2_000), 20_000)

    def planned(self, steps_per_epoch: int) -> Self:
        """Return a copy in which each 0 that stands for "choose" is replaced by a number that fits the data."""
        total = self.total(steps_per_epoch)
        validate_every = self.validate_every or min(max(total // 20, 50), 1_000)
        length = {} if self.updates is None else {"updates": total}
        cadence = {"validate_every": validate_every, "checkpoint_every": self.checkpoint_every or validate_every}
        return self.model_copy(update=length | cadence)
