"""Recipes in TOML: read, change, check and write them."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import BaseModel, ValidationError

from cap2im.config.messages import suggestion, summary
from cap2im.config.recipes import Recipe
from cap2im.files import decode_text, read_bytes, shortened
from cap2im.registry import MODELS

MAX_BYTES = 2**15  # of a recipe; the package's have at most 3,000, and tomllib takes quadratic time for dotted keys
MAX_DEPTH = 32  # of tables and lists
TOO_DEEP = f"tables and lists are nested more than {MAX_DEPTH} deep"
DECIDED_BY_DATA = ("side", "vocabulary_size")  # keys of a model that a prepared dataset decides


def recipe_names() -> list[str]:
    """Return the names of the recipes inside the package."""
    return sorted(path.name.removesuffix(".toml") for path in resources.files("cap2im.recipes").iterdir() if path.name.endswith(".toml"))


def load_recipe(name: str, changes: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Load a recipe by its name or from a TOML file, and apply changes.

    Args:
        name: one of `recipe_names`, or a file.
        changes: `"train.batch_size=64"`, or `{"train.batch_size": 64}`.

    Raises:
        ValueError: the recipe does not exist, is damaged, or has unknown keys or values out of range; one message has all problems.
    """
    if name in recipe_names():
        text = resources.files("cap2im.recipes").joinpath(f"{name}.toml").read_text("utf-8")
    elif Path(name).exists() and not Path(name).is_dir():
        text = decode_text(read_bytes(Path(name), MAX_BYTES), name)
    else:
        similar = suggestion(name, recipe_names())
        raise ValueError(f"unknown recipe {shortened(repr(name))}{similar}; cap2im list shows all; or give a TOML file")
    return parse_recipe(changed(_parse_toml(text, name), changes), name)


def parse_recipe(table: Mapping[str, Any], name: str) -> Recipe:
    """Validate a recipe.

    Args:
        table: the parsed TOML document.
        name: of the recipe, for messages.

    Raises:
        ValueError: unknown keys or values out of range; the message names the recipe and the first problems.
    """
    _check_depth(table, name)
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in MODELS:
        got = f"got {shortened(repr(kind))}" if "kind" in table else "missing"
        raise ValueError(f"recipe {name}: kind: {got}, allowed: {', '.join(MODELS)}")
    recipe_class = MODELS[kind].recipe_class
    # TOML has the types of JSON: strict validation of JSON takes a list for a tuple, but no boolean for a number
    document = json.dumps(table, default=str)
    try:
        return cast(Recipe, recipe_class.model_validate_json(document, strict=True))
    except ValidationError as error:
        raise ValueError(f"recipe {name}: {summary(error, recipe_class)}") from None


def changed(table: Mapping[str, Any], changes: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a recipe with changes applied, see `load_recipe`. New epochs replace old updates and vice versa."""
    result = copy.deepcopy(dict(table))
    pairs = list(changes.items()) if isinstance(changes, Mapping) else [_parse_change(change) for change in changes]
    keys = {key for key, _ in pairs}
    for key, other in (("epochs", "updates"), ("updates", "epochs")):
        if f"train.{key}" in keys and f"train.{other}" not in keys and isinstance(result.get("train"), dict):
            result["train"].pop(other, None)
    for key, value in pairs:
        _set(result, key, value)
    return result


def to_toml(recipe: BaseModel) -> str:
    """Return the whole recipe as TOML, with defaults; what the data decides is left out unless the recipe sets it."""
    return tomli_w.dumps(_stated(recipe))


def _stated(section: BaseModel) -> dict[str, Any]:
    table = section.model_dump(exclude_none=True)
    for name, value in section:
        if isinstance(value, BaseModel):
            table[name] = _stated(value)
        elif name in DECIDED_BY_DATA and name not in section.model_fields_set:
            del table[name]
    return table


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    """Parse a TOML document.

    Raises:
        ValueError: it is damaged or nested too deeply; the message begins with `name`.
    """
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{name}: {TOO_DEEP}") from None
    except ValueError as error:  # also of an integer of too many digits
        raise ValueError(f"{name}: not valid TOML: {shortened(str(error), 200)}") from None
    _check_depth(table, name)
    return table


def _check_depth(value: Any, name: str) -> None:
    """Check that tables and lists are not nested more deeply than any recipe needs; recursion would fail later.

    Raises:
        ValueError: they are.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer)]
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return
    raise ValueError(f"{name}: {TOO_DEEP}")


def _parse_change(change: str) -> tuple[str, Any]:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set {shortened(repr(change))}: expected KEY=VALUE, e.g. train.batch_size=64")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except RecursionError:
        raise ValueError(f"--set {shortened(repr(change))}: {TOO_DEEP}") from None
    except ValueError:
        value = _python_value(text.strip())
    return key.strip(), value


def _python_value(text: str) -> bool | float | str:
    """Return a boolean or number in Python's notation, which TOML lacks; anything else is a string without quotes."""
    if text in ("True", "False"):
        return text == "True"
    return float(text) if re.fullmatch(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", text) else text


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    if len(sections) >= MAX_DEPTH:
        raise ValueError(f"--set {shortened(repr(key))}: {TOO_DEEP}")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ValueError(f"--set {shortened(f'{key}={value}')!r}: {shortened(section)} is a value, not a section")
    table[last] = value
