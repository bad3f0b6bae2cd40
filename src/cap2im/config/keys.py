"""The keys of recipes: list them, and compare the values of two recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, Tag

from cap2im.config.sections import DRAWING_DATA
from cap2im.files import shortened
from cap2im.registry import MODELS

# keys that may change when a run is resumed: its length, cadence and name
CHANGEABLE = {
    "name",
    "description",
    "train.epochs",
    "train.updates",
    "train.log_every",
    "train.validate_every",
    "train.checkpoint_every",
}


def keys(section: type[BaseModel], sources: Sequence[str], prefix: str = "") -> Iterator[str]:
    """Iterate over the keys of a section and of the sections inside it.

    Args:
        section: a recipe's class, or that of a section.
        sources: kinds of data to include where a section may be one of several.
        prefix: of the keys.
    """
    for name, info in section.model_fields.items():
        annotated = [arg for arg in get_args(info.annotation) if get_origin(arg) is Annotated]
        choices = {arg.__metadata__[0].tag: arg.__origin__ for arg in annotated if isinstance(arg.__metadata__[0], Tag)}
        inner = next((choices[tag] for tag in sources if tag in choices), info.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, sources, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def setting_keys() -> list[str]:
    """Return the keys of the recipes of all kinds, with their sections."""
    return list(dict.fromkeys(key for spec in MODELS.values() for key in keys(spec.recipe_class, DRAWING_DATA)))


def differences(old: BaseModel, new: BaseModel) -> list[str]:
    """Return `key: old -> new` for the values in which two recipes differ, except those that a resumed run may change."""
    before, after = dict(_flat(old.model_dump())), dict(_flat(new.model_dump()))
    differing = [key for key in before | after if before.get(key) != after.get(key) and key not in CHANGEABLE]
    return [f"{key}: {shortened(repr(before.get(key)), 200)} -> {shortened(repr(after.get(key)), 200)}" for key in differing]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
