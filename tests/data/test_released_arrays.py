"""Test alignDRAW's released arrays and MNIST in HDF5."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest

from cap2im.data.sources import guess_kind
from cap2im.data.vocabulary import words_in_order
from tests.data import sources


def read(kind, path, **options):
    return sources.read(kind, path, **options)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("white", [1.0, 255])
def test_released_arrays(tmp_path, white):
    source = read("released", sources.released(tmp_path, white=white))
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 2, "validation": 1, "test": 1}
    record = source.splits["train"][1]
    assert record.captions == ("a red bus .", "a dog bus .", "a red bus .", "a dog bus .", "a red bus .")
    with record.image.open() as image:
        assert np.array_equal(np.asarray(image), np.asarray(sources.picture(1 + len("train"), 32, 32)))
    assert source.vocabulary.words == ("<no word 0>", "UNK", "a", "dog", "red", ".", "bus")
    assert source.vocabulary.unknown == "UNK"
    assert source.vocabulary.encode(record.captions)[0].numbers == (2, 4, 6, 5)
    assert guess_kind(str(tmp_path)) == "released"


def test_released_arrays_of_another_side(tmp_path):
    sources.released(tmp_path, 32)
    sources.released(tmp_path, 56)
    (tmp_path / "test-images-56x56.npy").unlink()
    assert read("released", tmp_path, side=32).splits["train"][0].image.path.name == "train-images-32x32.npy"
    source = read("released", tmp_path, side=56)
    assert source.splits["train"][0].image.path.name == "train-images-56x56.npy"
    assert sorted(source.splits) == ["train", "validation"]
    assert [(problem.kind, problem.detail) for problem in source.problems] == [("split not used", "its images are smaller than 56 x 56")]


def test_released_arrays_that_do_not_belong_together(tmp_path):
    sources.released(tmp_path)
    sources.write(tmp_path / "train-cap2im.pkl", sources.python_2({row: row for row in range(10)}))
    with pytest.raises(ValueError, match=r"train-cap2im.pkl: names images that train-images-32x32.npy does not hold \(2 images\)"):
        read("released", tmp_path)
    sources.released(tmp_path)
    np.save(tmp_path / "dev-captions.npy", np.full((5, 6), 9))
    with pytest.raises(ValueError, match=r"dev-captions.npy: word number 9, and the dictionary ends with 6"):
        read("released", tmp_path)
    np.save(tmp_path / "dev-captions.npy", np.array([Evil()] * 5), allow_pickle=True)
    with pytest.raises(ValueError, match=r"dev-captions\.npy: not a NumPy array of numbers"):
        read("released", tmp_path)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("train-captions.npy", np.ones((10, 6)), "rows of whole numbers were expected, and float64"),
        ("train-captions.npy", np.ones(10, int), "rows of whole numbers were expected, and int64 of shape"),
        ("train-captions.npy", np.full((10, 6), -1), "word number -1, and the dictionary ends with 6"),
        ("train-captions-len.npy", np.full((9, 1), 4), "the lengths of 10 captions were expected"),
        ("train-captions-len.npy", np.array(["a"] * 10), "not a NumPy array of numbers: its type is <U1"),
        ("train-cap2im.pkl", dict.fromkeys(range(10), "a"), "a dictionary with the image of each of 10 captions"),
        ("train-cap2im.pkl", None, "a dictionary with the image of each of 10 captions"),
    ],
)
def test_released_arrays_of_another_form(tmp_path, file, values, message):
    sources.released(tmp_path)
    if isinstance(values, np.ndarray):
        np.save(tmp_path / file, values)
    else:  # also None for each image
        (tmp_path / file).write_bytes(pickle.dumps(dict.fromkeys(range(10)) if values is None else values, protocol=2))
    with pytest.raises(ValueError, match=rf"{file}: {message}"):
        read("released", tmp_path)


def test_hdf5_without_its_library(tmp_path, monkeypatch):
    sources.write(tmp_path / "mnist.h5", b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"mnist.h5: HDF5 needs more than the core: .*\[legacy\]"):
        read("released", tmp_path / "mnist.h5")


def test_a_dictionary_has_one_word_a_number(tmp_path):
    with pytest.raises(ValueError, match="the words 'a' and 'b' have one number, 1"):
        words_in_order({"a": 1, "b": 1}, tmp_path)
    with pytest.raises(ValueError, match="are no vocabulary"):
        words_in_order({"a": 1_000_000}, tmp_path)
    with pytest.raises(ValueError, match="'a': 'b' was found"):
        words_in_order({"a": "b"}, tmp_path)


def test_digits_in_hdf5(tmp_path):
    import h5py

    digits = np.random.default_rng(0).integers(0, 256, (3, 784)).astype(np.uint8)
    with h5py.File(tmp_path / "mnist.h5", "w") as file:
        for split in ("train", "validation", "test"):
            file[split] = digits.astype(np.float32) / 255
            file[f"{split}_labels"] = np.array([3, 0, 9])
    for path in (tmp_path, tmp_path / "mnist.h5"):
        source = read("released", path)
        assert [record.captions for record in source.splits["validation"]] == [
            ("the digit three .",),
            ("the digit zero .",),
            ("the digit nine .",),
        ]
        with source.splits["test"][2].image.open() as image:
            assert np.array_equal(np.asarray(image), digits[2].reshape(28, 28))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"other.h5: train and train_labels were expected, and weights was found"):
        read("released", tmp_path / "other.h5")
