"""Images from captions with attention: alignDRAW and its relatives.

    >>> import cap2im
    >>> model = cap2im.load("aligndraw-mnist")
    >>> model.draw("the digit three is at the top of the digit one", samples=4, seed=0)

Importing the package imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cap2im._version import __version__

if TYPE_CHECKING:
    from cap2im.pipeline import Pipeline
    from cap2im.rendering.drawing import Drawings

__all__ = ["DEFAULT_MODEL", "__version__", "draw", "load", "train"]

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


def train(
    recipe: str | Path,
    *,
    data: str | Path | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    name: str = "",
    device: Literal["auto", "cpu"] = "auto",
    **changes: Any,
) -> Path:
    """Train a model by a recipe, as `cap2im train` does.

        cap2im.train("aligndraw-small", data="data/photos", run="runs/photos", updates=2000, **{"model.glimpses": 16})

    Args:
        recipe: a recipe's name or a TOML file; with `resume`, a run's folder.
        data: a prepared dataset, or whatever the recipe trains on.
        run: folder of checkpoints, log and result; "runs/RECIPE" if it is None.
        resume: go on with the run from its last checkpoint.
        name: of the model, for its card; the run folder's name if empty.
        device: "cpu", or "auto" for an accelerator if there is one.
        changes: of the recipe: `KEY=VALUE` of its section "train", `**{"SECTION.KEY": VALUE}` of any.

    Returns:
        the folder of the finished model, for `load(str(folder))`.

    Raises:
        ValueError: no such recipe, a change that does not fit, missing or damaged data, a loss that is not finite.
    """
    from cap2im.config import load_recipe
    from cap2im.training import dispatch as training

    settings = {key if "." in key else f"train.{key}": value for key, value in changes.items()}
    given = {"name": name, "data": None if data is None else str(data), "device": device}
    told = {key: training.shareable(value) if isinstance(value, str) else value for key, value in (given | changes).items() if value}
    call = ", ".join([repr(training.shareable(str(recipe))), *(f"{key}={value!r}" for key, value in told.items())])
    how: dict[str, Any] = {**given, "command": f"cap2im.train({call})"}
    if resume and run is None:
        return training.resume(Path(recipe), settings, **how)
    label = Path(recipe).stem
    folder = Path("runs") / label if run is None else Path(run)
    resolved = training.named(load_recipe(str(recipe), settings), how.pop("name"))
    return training.train(resolved, folder, **how | {"name": label}, resume=resume)


def __dir__() -> list[str]:
    return sorted(__all__)
