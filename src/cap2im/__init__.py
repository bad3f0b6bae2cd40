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
    from cap2im.drawing import Drawing
    from cap2im.pipeline import Pipeline

__all__ = ["draw", "load"]
__version__ = version("cap2im")

DEFAULT_MODEL = "aligndraw-mnist"


def load(model: str = DEFAULT_MODEL, *, device: str = "cpu", sharpen: str | None = None) -> Pipeline:
    """A model that draws: a bundled one by name, a folder, the run of a training, or a repository of the Hugging Face hub.

    `sharpen` is a sharpener's folder, run or repository, which then finishes every picture.

    Raises:
        ValueError: there is no such model or device, or its files are damaged.
    """
    from cap2im.pipeline import Pipeline

    return Pipeline.load(model, device=device, sharpen=sharpen)


def draw(captions: str | Sequence[str], *, model: str = DEFAULT_MODEL, samples: int = 1, seed: int = 0) -> list[Drawing]:
    """Draws captions with a model: `load(model).draw(captions, samples, seed)`."""
    return load(model).draw(captions, samples=samples, seed=seed)
