"""The metrics that `cap2im evaluate` and `cap2im compare` can measure, by name: an entry each.

A function is written as "module:name" and imported on first use, so that this module imports nothing. A new metric is a function in
`cap2im.metrics` and an entry here: `samples` names a pure function of arrays, and `arrays` the arrays that it is called with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

GENERATED_ARRAYS = frozenset({"seed", "drawings", "images", "codes", "sentences", "classes"})
"""Attributes of `Samples` that models of captioned digits and of captioned scenes also have."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is measured. Functions are "module:name" and return one `Measurement` or several.

    Attributes:
        about: what it measures, in the help of `cap2im evaluate`.
        version: increases whenever the same model would get another number.
        captions: function of `cap2im.evaluation.captions.CaptionInputs`, for models of captioned images.
        digits: function of `cap2im.evaluation.digits.DigitInputs`, for models of captioned digits.
        scenes: function of `cap2im.evaluation.compositions.CompositionInputs`, for models of captioned scenes.
        samples: function of `arrays`, for models of captioned images, and of captioned digits and scenes if `GENERATED_ARRAYS` has all
            arrays and `digits` or `scenes` is empty; called once, and again for sharpened drawings.
        arrays: attributes of `cap2im.evaluation.samples.Samples`, in the order of the function's arguments.
        default: whether the metric is measured unless others are named.
        needs_bound: whether the model must be a `LikelihoodModel`.
        needs_text: whether the model must be conditioned on captions.
        needs_train: whether the metric reads the training split.
        needs_images: whether the metric reads all images of the split, as those with `samples` do.
        needs: fields of `Settings` that the metric cannot do without.
        reads: further fields of `Settings` that only metrics naming them use.
    """

    about: str
    version: int = 1
    captions: str = ""
    digits: str = ""
    scenes: str = ""
    samples: str = ""
    arrays: tuple[str, ...] = ()
    default: bool = False
    needs_bound: bool = False
    needs_text: bool = False
    needs_train: bool = False
    needs_images: bool = False
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    @property
    def measures_digits(self) -> bool:
        """Whether the metric measures models of captioned digits."""
        return bool(self.digits or self._measures_generated)

    @property
    def measures_scenes(self) -> bool:
        """Whether the metric measures models of captioned scenes."""
        return bool(self.scenes or self._measures_generated)

    @property
    def _measures_generated(self) -> bool:
        return bool(self.samples and GENERATED_ARRAYS.issuperset(self.arrays))


INCEPTION = ("inception",)
DAMSM = ("damsm",)
METRICS = {
    "caption-accuracy": Metric(
        about="caption accuracy", digits="cap2im.evaluation.digits:caption_accuracy", default=True, reads=("reader",)
    ),
    "compositional-accuracy": Metric(
        about="compositional accuracy",
        scenes="cap2im.evaluation.compositions:compositional_accuracy",
        default=True,
        needs_text=True,
        reads=("reader",),
    ),
    "bound": Metric(
        about="bound",
        captions="cap2im.evaluation.captions:bound",
        digits="cap2im.evaluation.digits:bound",
        scenes="cap2im.evaluation.compositions:bound",
        default=True,
        needs_bound=True,
    ),
    "retrieval": Metric(
        about="image retrieval",
        captions="cap2im.evaluation.retrieval:retrieval",
        needs_bound=True,
        needs_text=True,
        needs_train=True,
        needs_images=True,
        needs=("shortlist_model",),
        reads=("candidates",),
    ),
    "ssim": Metric(about="SSIM and PSNR", captions="cap2im.evaluation.captions:ssim"),
    "fid": Metric(about="FID", samples="cap2im.metrics.fid:fid", arrays=("features", "real"), reads=INCEPTION),
    "inception-score": Metric(
        about="Inception Score", samples="cap2im.metrics.inception_score:inception_score", arrays=("logits", "seed"), reads=INCEPTION
    ),
    "r-precision": Metric(
        about="R-precision",
        samples="cap2im.metrics.r_precision:r_precision",
        arrays=("codes", "sentences", "classes", "seed"),
        digits="cap2im.evaluation.generated:r_precision",
        scenes="cap2im.evaluation.generated:r_precision",
        needs=DAMSM,
    ),
    "scene-accuracy": Metric(
        about="scene accuracy", captions="cap2im.evaluation.scenes:scene_accuracy", needs=("scene_reader",), needs_images=True
    ),
    "neural-distance": Metric(
        about="neural distance",
        samples="cap2im.metrics.neural_distance:neural_distance",
        arrays=("heads", "features", "sentences"),
        needs_train=True,
        needs=DAMSM,
        reads=INCEPTION,
    ),
}


# names of the measurements that training records in a model's config.json
TRAINING = ("seconds a step", "parameters")


def resolve(function: str) -> Callable[..., Any]:
    """Import a function that an entry names."""
    resolved: Callable[..., Any] = resolve_name(function)
    return resolved


def require_known(names: Sequence[str]) -> None:
    """Check names of metrics.

    Raises:
        ValueError: a name is unknown.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"--metric {unknown[0]}: choose from {', '.join(METRICS)}")
