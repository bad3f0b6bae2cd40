"""Messages about problems of recipes: the key, the value got, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from cap2im.config.keys import keys
from cap2im.config.sections import DRAWING_DATA
from cap2im.files import shortened

MAX_PROBLEMS = 10  # in one message


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return a hint that names similar words, or an empty string."""
    similar = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(similar)}?)" if similar else ""


def summary(error: ValidationError, recipe: type[BaseModel]) -> str:
    """Return the first problems of a recipe in one line."""
    errors = error.errors(include_url=False)
    problems = [_problem(each, recipe) for each in errors[:MAX_PROBLEMS]]
    if len(errors) > MAX_PROBLEMS:
        problems.append(f"and {len(errors) - MAX_PROBLEMS:,} problems more")
    return "; ".join(problems)


def _problem(error: Any, recipe: type[BaseModel]) -> str:
    if error["type"] == "json_invalid":  # JSON of lone surrogates, which stand for undecodable bytes of the command line
        return "holds text that is not UTF-8"
    location = [str(part) for part in error["loc"]]
    source = []  # the tag of the union that pydantic chose is no key
    if location[:1] == ["data"] and location[1:2] and location[1] in DRAWING_DATA:
        source.append(location.pop(1))
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return _unknown_key(location, list(keys(recipe, source)), list(keys(recipe, [*source, *DRAWING_DATA])), error["input"])
    got = "" if isinstance(error.get("input"), dict) else f", got {shortened(repr(error.get('input')))}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{shortened(key, 200)}: {message}{got}" if key else message


def _unknown_key(location: list[str], known: list[str], all_known: list[str], value: Any) -> str:
    key = ".".join(location)
    section = key.removesuffix(location[-1])
    if isinstance(value, dict):
        known = [name for name in _sections(all_known) if name.startswith(section)] or known
    names = {name.rpartition(".")[2]: name for name in known}
    if similar := difflib.get_close_matches(location[-1], names, n=2, cutoff=0.6):
        return f"unknown key {shortened(key, 200)} (did you mean {' or '.join(names[each] for each in similar)}?)"
    return f"unknown key {shortened(key, 200)}; keys there: {', '.join(k for k in known if k.startswith(section)) or ', '.join(known)}"


def _sections(names: Iterable[str]) -> list[str]:
    """Return the sections that keys are in, and those around them."""
    paths = [name.split(".")[:-1] for name in names]
    return list(dict.fromkeys(".".join(path[: depth + 1]) for path in paths for depth in range(len(path))))
