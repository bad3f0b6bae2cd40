"""Mutated pickles, HDF5, PyTorch and safetensors files and configs are read, or refused in one line."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cap2im.arrays import open_npy, read_npz
from cap2im.blueprint import weights_header
from cap2im.checkpoint import read_config, write_model
from cap2im.convert.pickles import read_pickle
from cap2im.convert.weight_files import read_tensors
from cap2im.pipeline import Pipeline
from tests.fuzz.floats import FLOATS, SHARES
from tests.tiny import tiny_model

DOCUMENT = [{"a": [1, 70_000, 2**70], "é": (True, 1.5, b"x")}, np.arange(3), {1, "b"}, frozenset({2}), bytearray(b"y"), {(1, "a"): None}]
PICKLES = [pickle.dumps(DOCUMENT, protocol) for protocol in range(6)]
MUTATIONS = st.lists(
    st.tuples(SHARES, st.binary(min_size=0, max_size=9), st.booleans()),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, mutations: list[tuple[float, bytes, bool]]) -> bytes:
    """Return data with pieces put in, in place of what is there or before it."""
    for place, piece, replaces in mutations:
        start = int(place * len(data))
        data = data[:start] + piece + data[start + (max(1, len(piece)) if replaces else 0) :]
    return data


def read_or_refused(read, path: Path) -> None:
    message = ""
    try:
        read(path)
    except (ValueError, OSError) as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000


@given(data=st.one_of(st.tuples(st.sampled_from(PICKLES), MUTATIONS).map(lambda case: mutated(*case)), st.binary(max_size=200)))
def test_mutated_pickles(tmp_path, data):
    (tmp_path / "a.pkl").write_bytes(data)
    read_or_refused(read_pickle, tmp_path / "a.pkl")


OPERATIONS = st.sampled_from(
    [
        *(bytes([code]) for code in b"(]})\x8f\x85\x86tldeasu\x90\x91Rb\x81o201N\x94Q.\x93"),
        *(b"K\x01", b"U\x01a", b"X\x01\x00\x00\x00b", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"i8\nx\n", b"U\x02i8"),
        *(b"c__builtin__\nset\n", b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n"),
        *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n", b"cos\nsystem\n"),
    ]
)


@given(operations=st.lists(OPERATIONS, max_size=60))
def test_programs_of_pickle_operations(tmp_path, operations):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + b"".join(operations) + b".")
    read_or_refused(read_pickle, tmp_path / "a.pkl")


def pytorch(zipped: bool) -> bytes:
    file = io.BytesIO()
    state = {"module.weight": torch.ones(2, 3), "module.count": torch.tensor(3)}
    torch.save({"netG": state, "optimizer": {"param_groups": []}}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


ZIPPED, OLD = pytorch(True), pytorch(False)


@given(data=st.tuples(st.sampled_from([ZIPPED, OLD]), MUTATIONS).map(lambda case: mutated(*case)))
def test_mutated_pytorch_files(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    read_or_refused(read_tensors, tmp_path / "a.pth")


@given(mutations=MUTATIONS)
def test_mutated_headers_of_hdf5(tmp_path, mutations):
    """The library's own structures are not mutated at will: what it does with damaged ones is its own."""
    h5py = pytest.importorskip("h5py", reason="legacy files need h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.ones((2, 3), "f")
        file.create_dataset("b", data=np.ones(4), compression="gzip")
    data = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(mutated(data[:96], mutations) + data[96:])
    read_or_refused(read_tensors, tmp_path / "a.h5")


@given(mutations=MUTATIONS)
def test_mutated_numpy_files(tmp_path, mutations):
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    np.savez(tmp_path / "a.npz", a=np.ones((2, 3)), b=np.ones(2))
    for name, read in (("a.npy", open_npy), ("a.npz", lambda path: read_npz(path, ["a"]))):
        (tmp_path / name).write_bytes(mutated((tmp_path / name).read_bytes(), mutations))
        read_or_refused(read, tmp_path / name)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@given(mutations=MUTATIONS)
def test_mutated_safetensors(tiny, tmp_path, mutations):
    (tmp_path / "a.safetensors").write_bytes(mutated((tiny / "model.safetensors").read_bytes()[:3000], mutations))
    read_or_refused(weights_header, tmp_path / "a.safetensors")


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        FLOATS,
        st.text(max_size=5),
        st.sampled_from(["draw", "align"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@given(data=st.data())
def test_configs_of_any_structure(tiny, tmp_path, data):
    config = {name: value for name, value in read_config(tiny).items() if name not in ("sha256", "format")}
    for _ in range(data.draw(st.integers(1, 3))):
        sections = [config, *(config[name] for name in ("model", "vocabulary") if isinstance(config.get(name), dict))]
        section = data.draw(st.sampled_from(sections))
        section[data.draw(st.sampled_from([*section, "sentence_encoder", "more"]))] = data.draw(VALUES)
    shutil.rmtree(tmp_path / "m", ignore_errors=True)
    (tmp_path / "m").mkdir()
    config.pop("sha256", None)
    write_model(tmp_path / "m", {"a": torch.zeros(1)}, json.loads(json.dumps(config)))
    shutil.copy(tiny / "model.safetensors", tmp_path / "m")
    read_or_refused(lambda path: Pipeline.load(str(path)), tmp_path / "m")
