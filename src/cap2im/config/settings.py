"""Every key of a recipe with its value, its meaning and the paper's value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from cap2im.config.recipes import Recipe
from cap2im.config.toml import load_recipe


@dataclass(frozen=True)
class Setting:
    """A key of a recipe.

    Attributes:
        key: with its sections, as in `--set`.
        value: of the recipe; None is unset.
        meaning: of the key, with its unit.
        paper: value of the recipe that follows the paper or the release; None if there is no such recipe or it does not set the key.
    """

    key: str
    value: Any
    meaning: str
    paper: Any = None


def settings(recipe: Recipe) -> list[Setting]:
    """Return every key of a recipe with its value, its meaning and the paper's value."""
    name = recipe.paper_recipe()
    paper = {} if name is None else {key: value for key, value, _ in _explained(load_recipe(name))}
    return [Setting(key, value, meaning, paper.get(key)) for key, value, meaning in _explained(recipe)]


def _explained(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _explained(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, info.description or ""
