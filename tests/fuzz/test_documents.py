"""Damaged and hostile documents give a one-line error: checkpoints, pictures, logs, evaluations, recipes, IDX files."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cap2im import checkpoint
from cap2im.checkpoint import CONFIG, TRAINING_STATE, Checkpoint, load_checkpoint, read_config, save_checkpoint
from cap2im.config import load_recipe, parse_recipe, to_toml
from cap2im.data.mnist import LARGEST_IDX, parse_idx, read_idx
from cap2im.encoder_files import read_modules
from cap2im.evaluation.comparison import compare
from cap2im.evaluation.evaluation import Evaluation
from cap2im.evaluation.image_statistics import read_statistics
from cap2im.evaluation.store import kept_evaluations
from cap2im.files import dump_json
from cap2im.generated_pairs import MANIFEST, PAIRS, read_pairs
from cap2im.generation import _start
from cap2im.training.log import _remove_later_steps
from cap2im.training.state import resume_checkpoint
from tests.fuzz.floats import FLOATS, SHARES

HOSTILE = (
    *(
        "[" * 5_000,
        '{"a":' * 5_000,
        "a." * 5_000,
        "9" * 5_000,
        "1e999",
        "NaN",
        "-1",
        "null",
        "true",
        "{}",
        "[]",
        '""',
        '"',
        "\\",
        "\n",
        "=",
    ),
    *("\0", "\u2028", "\\ud800", "é", "[x]", "[[x]]", "\x85", "'''", "#", "../", "0x7fffffffffffffffff", "1979-05-27", "kind"),
)
RAW = (b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"\x80\x00\x00\x00", *(text.encode() for text in HOSTILE))
edits = st.lists(st.tuples(SHARES, st.integers(0, 30), st.sampled_from(RAW) | st.binary(max_size=4)), max_size=4)
leaves = st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=5) | st.sampled_from(HOSTILE)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)


def edited(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Replace a few bytes at relative places by others."""
    for place, length, new in changes:
        start = int(place * len(data))
        data = data[:start] + new + data[start + length :]
    return data


@st.composite
def restructured(draw: Callable[..., Any], document: dict[str, Any]) -> dict[str, Any]:
    """Replace, add or remove a value somewhere in a JSON document."""
    copy = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        inner: Any = copy
        while True:
            keys = [*inner] if isinstance(inner, dict) else [*range(len(inner))]
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(inner[key], dict | list) or draw(st.booleans()):
                if isinstance(inner, dict) and draw(st.booleans()):
                    del inner[key]
                else:
                    inner[key] = draw(values)
                break
            inner = inner[key]
    return copy


def ends_in_one_line(read: Callable[[], object]) -> None:
    """Check that reading either succeeds or raises a short ValueError or OSError."""
    try:
        read()
    except (ValueError, OSError) as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 4_000


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    recipe = load_recipe("aligndraw-digits").model_dump()
    folder = tmp_path_factory.mktemp("run")
    state = Checkpoint(3, recipe, {"model.w": torch.ones(2)}, {"seconds": 1.5, "origin": {"command": "train"}, "groups": [{"lr": 0.1}]})
    save_checkpoint(folder, state, {"w": torch.ones(2)}, {"kind": "draw", "model": {}, "vocabulary": {"words": ["a"]}})
    return folder


PAIR = {"file": "a-c1-s1.png", "image": "a", "number": 1, "sample": 1, "seed": 7, "caption": "a red bus"}
GENERATION = {"format": "cap2im generated pictures 1", "seed": 0, "sample": None, "dataset": {"sha256": "0"}}
BOUND = {"bound": -1.0, "standard_error": 0.1, "protocol": {"split": "test", "images": 3}}
EVALUATION = {
    "model": "m",
    "likelihood": BOUND,
    "other_splits": {"train": BOUND},
    "trained": {"seconds": 3, "steps": 3, "machine": "a", "batch_size": 2},
    "parameters": 7,
    "fid": {"distance": 1.0, "protocol": {"split": "test"}},
    "retrieval": {"R@1": {"rate": 0.1, "low": 0.0, "high": 0.2}, "median_rank": {"rank": 1, "low": 1, "high": 2}, "protocol": {}},
}


@given(changes=edits, name=st.sampled_from([CONFIG, TRAINING_STATE]))
def test_damaged_documents_of_a_checkpoint(run, changes, name):
    folder = checkpoint.checkpoints(run)[0]
    before = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(edited(before, changes))
        ends_in_one_line(lambda: read_config(folder) if name == CONFIG else load_checkpoint(folder))
    finally:
        (folder / name).write_bytes(before)


@given(data=st.data(), name=st.sampled_from([CONFIG, TRAINING_STATE]))
def test_forged_documents_of_a_checkpoint(run, data, name):
    folder = checkpoint.checkpoints(run)[0]
    before = (folder / name).read_bytes()
    document = json.loads(before)
    sums = document.pop("sha256")
    forged = json.loads(dump_json(data.draw(restructured(document))))
    forged["sha256"] = sums | {name: checkpoint._own_sha256(forged)}
    try:
        (folder / name).write_text(dump_json(forged), encoding="utf-8")
        ends_in_one_line(lambda: read_config(folder) if name == CONFIG else resume_checkpoint(run, load_recipe("aligndraw-digits"), True))
    finally:
        (folder / name).write_bytes(before)


@given(changes=edits)
def test_damaged_pairs(tmp_path, changes):
    (tmp_path / PAIRS).write_bytes(edited(2 * (dump_json(PAIR, None) + "\n").encode(), changes))
    ends_in_one_line(lambda: read_pairs(tmp_path))


@given(document=restructured(PAIR))
def test_restructured_pairs_are_names_of_files(tmp_path, document):
    (tmp_path / PAIRS).write_text(dump_json(document, None), encoding="utf-8")
    ends_in_one_line(lambda: [pair for pair in read_pairs(tmp_path) if (tmp_path / pair.file).resolve().parent != tmp_path])


@given(changes=edits)
def test_damaged_manifests_of_pictures(changes):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(edited(dump_json(GENERATION).encode(), changes))
        ends_in_one_line(lambda: _start(Path(folder), dict(GENERATION), True))


@given(document=restructured(GENERATION))
def test_restructured_manifests_of_pictures(document):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_text(dump_json(document), encoding="utf-8")
        ends_in_one_line(lambda: _start(Path(folder), dict(GENERATION), True))


@given(changes=edits)
def test_damaged_logs_keep_their_whole_lines(tmp_path, changes):
    path = tmp_path / "stats.jsonl"
    path.write_bytes(edited(b"".join(b'{"step": %d, "loss": 1.5}\n' % step for step in range(1, 6)), changes))
    _remove_later_steps(path, 3)
    for line in path.read_text("utf-8").splitlines(keepends=True):
        assert json.loads(line)["step"] <= 3


NEW_EVALUATION = Evaluation.from_dict(EVALUATION).to_dict()


@given(document=restructured(EVALUATION) | restructured(NEW_EVALUATION))
def test_restructured_evaluations_are_measured_again(tmp_path, document):
    path = tmp_path / "evaluation.json"
    path.write_text(dump_json(document), encoding="utf-8")
    for kept in kept_evaluations(path):
        compare([kept]).markdown()


@given(changes=edits, document=st.sampled_from([EVALUATION, NEW_EVALUATION]))
def test_damaged_evaluations_are_measured_again(tmp_path, changes, document):
    path = tmp_path / "evaluation.json"
    path.write_bytes(edited(dump_json(document).encode(), changes))
    for kept in kept_evaluations(path):
        compare([kept]).markdown()


RECIPE = to_toml(load_recipe("aligndraw-digits")).encode()


@given(changes=edits)
def test_damaged_recipes(tmp_path, changes):
    path = tmp_path / "recipe.toml"
    path.write_bytes(edited(RECIPE, changes))
    ends_in_one_line(lambda: to_toml(load_recipe(str(path))))


@given(document=restructured(load_recipe("aligndraw-digits").model_dump(mode="json")))
def test_restructured_recipes(document):
    ends_in_one_line(lambda: to_toml(parse_recipe(document, "here")))


keys = st.sampled_from(["train", "model", "data", "seed", "train.batch_size", "model.text", "a." * 5_000, "", ".", " ", "é"])


@given(key=st.lists(keys, max_size=3).map(".".join), value=st.text(max_size=8) | st.sampled_from(HOSTILE) | values.map(str))
def test_values_of_set(key, value):
    ends_in_one_line(lambda: to_toml(load_recipe("aligndraw-digits", [f"{key}={value}"])))


@given(changes=edits)
def test_damaged_idx_files(tmp_path, changes):
    path = tmp_path / "images"
    path.write_bytes(edited(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(18), changes))
    ends_in_one_line(lambda: read_idx(path, 3))


@given(shape=st.tuples(*[st.integers(0, 2**32 - 1)] * 3), length=st.integers(0, 64))
def test_shapes_of_idx_files(shape, length):
    data = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in shape) + bytes(length)
    if math.prod(shape) == length and max(shape) <= LARGEST_IDX:
        assert parse_idx(data, "images", 3).shape == shape
    else:
        with pytest.raises(ValueError, match=r"^images: "):
            parse_idx(data, "images", 3)


@given(changes=edits)
def test_damaged_statistics_are_measured_again(tmp_path, statistics, changes):
    path = tmp_path / "a.npz"
    path.write_bytes(edited(statistics, changes))
    if found := read_statistics(path):
        assert found.scatter.shape == (len(found.mean), len(found.mean))


@pytest.fixture(scope="module")
def statistics(tmp_path_factory) -> bytes:
    import numpy as np

    path = tmp_path_factory.mktemp("statistics") / "a.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3), count=5, about="{}")
    return path.read_bytes()


@given(document=restructured({"modules": [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling", "idx": 1}]}))
def test_restructured_modules_stay_in_their_folder(tmp_path, document):
    (tmp_path / "modules.json").write_text(dump_json(document.get("modules")), encoding="utf-8")

    def read() -> None:
        assert all((tmp_path / module.path).resolve().is_relative_to(tmp_path) for module in read_modules(tmp_path))

    ends_in_one_line(read)
