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


def load(model: str = DEFAULT_MODEL, *, revision: str | None = None, device: str = "cpu", sharpen: str | None = None) -> Pipeline:
    """Load a model that draws.

    Args:
        model: name of a bundled model, a model folder, a run, or OWNER/NAME on the Hugging Face hub.
        revision: of OWNER/NAME: a commit, tag or branch. Only a commit always names the same weights. `load("OWNER/NAME@REVISION")` is the
            same.
        device: cpu, cuda, cuda:1, mps.
        sharpen: a sharpener that is applied to every finished picture: a folder, a run or OWNER/NAME.

    Raises:
        ValueError: the model, the revision or the device does not exist, or files are damaged.
    """
    from cap2im.hub import is_repository
    from cap2im.pipeline import Pipeline

    if revision is not None:
        if not is_repository(pinned := f"{model}@{revision}"):
            raise ValueError(f"revision {revision!r} of {model!r}: only OWNER/NAME on the Hugging Face hub has revisions")
        model = pinned
    return Pipeline.load(model, device=device, sharpen=sharpen)


def draw(captions: str | Sequence[str], *, model: str = DEFAULT_MODEL, samples: int = 1, seed: int | None = None) -> Drawings:
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
    """Train the model of a recipe, as `cap2im train` does.

    Example:
        >>> cap2im.train("aligndraw-small", data="data/photos", updates=2000, **{"model.glimpses": 16})

    Args:
        recipe: name of a recipe, or a TOML file; with `resume`, the folder of a run.
        data: a prepared dataset, or whatever the recipe trains on.
        run: folder of checkpoints, log and result; None is "runs/RECIPE".
        resume: resume the run from its last checkpoint.
        name: name of the model for its card; empty is the name of the run's folder.
        device: "cpu", or "auto" for an accelerator if there is one.
        changes: values of the recipe: `KEY=VALUE` in its section "train", `**{"SECTION.KEY": VALUE}` in any section.

    Returns:
        the folder of the finished model, for `load(str(folder))`.

    Raises:
        ValueError: the recipe does not exist, a change does not fit, data are missing or damaged, or a loss is not finite.
    """
    from cap2im.config import load_recipe
    from cap2im.training import dispatch as training

    settings = {key if "." in key else f"train.{key}": value for key, value in changes.items()}
    arguments = {"name": name, "data": None if data is None else str(data), "device": device}
    shown = {
        key: training.without_local_path(value) if isinstance(value, str) else value
        for key, value in (arguments | changes).items()
        if value
    }
    call = ", ".join([repr(training.without_local_path(str(recipe))), *(f"{key}={value!r}" for key, value in shown.items())])
    options: dict[str, Any] = {**arguments, "command": f"cap2im.train({call})"}
    if resume and run is None:
        return training.resume(Path(recipe), settings, **options)
    recipe_name = Path(recipe).stem
    folder = Path("runs") / recipe_name if run is None else Path(run)
    named_recipe = training.with_name(load_recipe(str(recipe), settings), name)
    return training.train(named_recipe, folder, **options | {"name": recipe_name}, resume=resume)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
