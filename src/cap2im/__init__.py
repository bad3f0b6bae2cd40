"""Images from captions with attention: alignDRAW and its relatives.

    >>> import cap2im
    >>> model = cap2im.load("aligndraw-mnist")
    >>> model.draw("the digit three is at the top of the digit one", samples=4, seed=0)

Importing the package imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cap2im.drawing import Drawings
    from cap2im.pipeline import Pipeline

__all__ = ["__version__", "draw", "load"]
__version__ = version("cap2im")

DEFAULT_MODEL = "aligndraw-mnist"


def load(model: str = DEFAULT_MODEL, *, device: str = "cpu", sharpen: str | None = None) -> Pipeline:
    """Load a model that draws.

    Args:
        model: a bundled model's name, a folder, the run of a training, or OWNER/NAME on the Hugging Face hub.
        device: cpu, cuda, cuda:1, mps.
        sharpen: a sharpener's folder, run or repository, which then finishes every picture.

    Raises:
        ValueError: there is no such model or device, or its files are damaged.
    """
    from cap2im.pipeline import Pipeline

    return Pipeline.load(model, device=device, sharpen=sharpen)


def draw(captions: str | Sequence[str], *, model: str = DEFAULT_MODEL, samples: int = 1, seed: int = 0) -> Drawings:
    """Draw captions with a model: `load(model).draw(captions, samples=samples, seed=seed)`."""
    return load(model).draw(captions, samples=samples, seed=seed)


def __dir__() -> list[str]:
    return sorted(__all__)
