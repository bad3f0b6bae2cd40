"""Edited, damaged and foreign result files give a one-line error and never write outside of the folder."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from cap2im.evaluation.comparison import compare
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.store import check_evaluation_file, keep_evaluation, kept_evaluations
from cap2im.generated_pairs import GENERATED, MANIFEST, PAIRS, REAL, read_pairs, sample_pairs
from cap2im.rendering.folder import drawing_folder, drawing_model
from tests.fuzz.floats import FLOATS

LEAVES = st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=8)
KEYS = st.sampled_from(
    [
        "model",
        "others",
        "likelihood",
        "protocol",
        "split",
        "bound",
        "fid",
        "asked",
        "weights_sha256",
        "trained",
        "R@1",
        "settings",
        "results",
        "measurements",
        "value",
    ]
)
DOCUMENTS = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=5))
FILES = DOCUMENTS.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=60) | st.just(b"[" * 100_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@hypothesis.given(FILES)
def test_any_file_of_evaluations(folder, content):
    file = folder / "e.json"
    file.write_bytes(content)
    for kept in kept_evaluations(file):
        assert isinstance(kept, Evaluation)
        assert compare([kept]).markdown()
    problem = ""
    try:
        check_evaluation_file(file)
    except ValueError as error:
        problem = str(error)
    if problem:
        assert "is not an evaluation" in problem
        return
    keep_evaluation(file, Evaluation("a", "new", {}, ()))
    assert kept_evaluations(file)[0].weights_sha256 == "new"


PAIR = st.fixed_dictionaries(
    {"file": st.text(max_size=6) | st.sampled_from(["../x.png", "a/b.png", "/etc/passwd", "a.png", ""]), "image": st.text(max_size=6)},
    optional={"number": LEAVES, "sample": LEAVES, "seed": LEAVES, "caption": LEAVES},
)


@hypothesis.given(st.lists(PAIR | DOCUMENTS, max_size=3).map(lambda lines: "\n".join(map(json.dumps, lines)).encode()) | FILES)
def test_any_list_of_pairs(folder, content):
    (folder / PAIRS).write_bytes(content)
    pairs, problem = [], ""
    try:
        pairs = read_pairs(folder)
    except ValueError as error:
        problem = str(error)
    assert "\n" not in problem
    for pair in pairs:
        assert (folder / "x" / pair.file).resolve().parent == (folder / "x").resolve()


def test_pairs_cannot_copy_files_from_elsewhere(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    source = tmp_path / "source"
    for name in (GENERATED, REAL):
        (source / name).mkdir(parents=True)
    whole = {"file": "../../secret.png", "image": "../../secret", "number": 1, "sample": 1, "seed": 0, "caption": "a"}
    (source / PAIRS).write_text(json.dumps(whole))
    (source / MANIFEST).write_text("{}")
    with pytest.raises(ValueError, match=r"line 1: file: must be a file name without folders, got '../../secret.png'"):
        sample_pairs(source, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@hypothesis.given(st.sampled_from(["sample-1.png", "grid.png", "drawing.gif", "drawing.html", "maps-1.png"]), FILES)
def test_any_file_in_the_place_of_a_drawing(folder, name, content):
    out = folder / "drawings"
    there: Path = out / "a-cat"
    there.mkdir(parents=True, exist_ok=True)
    for old in there.iterdir():
        old.unlink()
    (there / name).write_bytes(content)
    assert isinstance(drawing_model(there), str)
    assert drawing_folder("a cat", "model", out) == out / "a-cat-by-model"


@hypothesis.given(st.text(max_size=10))
def test_a_models_name_is_read_back_from_a_page(folder, name):
    there = folder / "page" / "a-cat"
    there.mkdir(parents=True, exist_ok=True)
    (there / "drawing.html").write_text(json.dumps({"caption": "a", "model": name}, separators=(",", ":")), "utf-8")
    assert drawing_model(there) == name
