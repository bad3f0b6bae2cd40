"""Every key of a recipe with its value, its meaning and the paper's value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cap2im.config.recipes import Recipe
from cap2im.config.toml import DECIDED_BY_DATA, load_recipe


@dataclass(frozen=True)
class Setting:
    """A key of a recipe.

    Attributes:
        key: with its sections, as in `--set`.
        value: of the recipe; None is unset.
        meaning: of the key, with its unit and its allowed values.
        paper: value of the recipe that follows the paper or the release, defaults included. None if there is no such recipe, if it leaves
            the key unset or lacks it, or if the key is a name or decided by the data.
    """

    key: str
    value: Any
    meaning: str
    paper: Any = None

    @property
    def differs(self) -> bool:
        """Whether the paper has another value."""
        return self.paper is not None and self.paper != self.value


def settings(recipe: Recipe) -> list[Setting]:
    """Return every key of a recipe with its value, its meaning and the value of `Recipe.paper_recipe`."""
    name = recipe.paper_recipe()
    paper = {} if name is None else {key: value for key, value, _ in _explained(load_recipe(name)) if not _is_own(key)}
    return [Setting(key, value, meaning, paper.get(key)) for key, value, meaning in _explained(recipe)]


def _explained(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _explained(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, _meaning(info)


def _is_own(key: str) -> bool:
    """Return whether a key has no value of the paper: a name, or a size of the model that the data decides."""
    section, _, last = key.rpartition(".")
    return key in ("name", "description") or (section.startswith("model") and last in DECIDED_BY_DATA)


def _meaning(info: FieldInfo) -> str:
    """Return the description of a field, with the values of a `Literal` type that it does not name."""
    description = info.description or ""
    values = [str(value) for value in get_args(info.annotation)] if get_origin(info.annotation) is Literal else []
    return description if len(values) < 2 or all(value in description for value in values) else f"{description} ({', '.join(values)})"
