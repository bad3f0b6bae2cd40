"""Any input to `train` gives a recipe or a one-line error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cap2im.config import DRAWRecipe, load_recipe, setting_keys, settings, to_toml
from cap2im.files import read_json
from cap2im.training.dispatch import without_local_path
from cap2im.training.run import RunFile

WORDS = st.text(max_size=12)
KEYS = st.one_of(st.sampled_from(setting_keys()), WORDS, st.builds("{}.{}".format, WORDS, WORDS))
VALUES = st.one_of(
    st.sampled_from(["0", "-1", "1e400", "nan", "true", "[]", "[[0, 1.0]]", "{}", '"x"', "1979-05-27", "''", "auto"]),
    st.integers().map(str),
    WORDS,
)


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or its ValueError."""
    try:
        return call()
    except ValueError as error:
        return error


@given(st.lists(st.builds("{}={}".format, KEYS, VALUES) | WORDS, max_size=4))
def test_any_changes_make_a_recipe_or_one_sentence(changes):
    recipe = outcome(lambda: load_recipe("aligndraw-small", changes))
    if isinstance(recipe, ValueError):
        assert not isinstance(recipe, ValidationError)
        assert str(recipe)
        return
    assert all(each.meaning for each in settings(recipe))
    assert to_toml(recipe)
    if isinstance(recipe, DRAWRecipe):
        assert recipe.train.planned(3).total(3) == recipe.train.total(3) > 0


@given(st.text())
def test_any_argument_can_be_shown(argument):
    shown = without_local_path(argument)
    assert without_local_path(shown) == shown
    assert len(shown) <= len(argument)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each))


@given(
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(["data", "stream"]), JSON).map(lambda value: json.dumps(value).encode())
)
def test_any_run_json_is_read_or_refused_in_one_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "run.json"
    path.write_bytes(data)
    source = outcome(lambda: read_json(path, RunFile))
    assert isinstance(source, RunFile) or (not isinstance(source, ValidationError) and "run.json" in str(source))


@pytest.mark.parametrize("argument", ["/", "~", "file:", "../", "C:\\"])
def test_roots_have_no_last_part(argument):
    assert len(without_local_path(argument)) <= len(argument)
