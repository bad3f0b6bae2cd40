"""The authors' own files, made here in their original layouts: what they say is what is read, and nothing in a pickle is executed."""

from __future__ import annotations

import json
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest

from cap2im.data.birds import square_around
from cap2im.data.image_resizing import resize_image
from cap2im.data.sources import guess_kind
from cap2im.data.vocabulary import words_in_order
from tests.data import sources
from tests.real_data import data_folder


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def test_pickles_here_are_what_python_2_wrote():
    value = [["a", "b"], {"a": 1, "b": -7}, [[1, 2], []]]
    assert pickle.loads(sources.python_2(value)) == value


def test_square_around_a_bird_is_attngans():
    cases = json.loads((data_folder() / "parity" / "attngan" / "bbox.json").read_text())
    assert len(cases) > 10
    for case in cases:
        left, upper, right, lower = square_around(tuple(case["bbox"]))
        clipped = [max(0, left), max(0, upper), min(case["width"], right), min(case["height"], lower)]
        assert clipped == case["crop"]


def test_birds(tmp_path):
    source = read("birds", sources.birds(tmp_path))
    assert source.problems == []
    assert {split: [record.id for record in records] for split, records in source.splits.items()} == {
        "train": [sources.BIRDS[0], sources.BIRDS[2]],
        "test": [sources.BIRDS[1], sources.BIRDS[3]],
    }
    record = source.splits["test"][1]
    assert (record.class_id, len(record.captions), record.captions[9]) == (2, 10, "this bird is white, 9.")
    with record.image.open() as image:
        pixels = np.asarray(resize_image(image, 31, "stretch", record.box), float)[..., 0]
    # cut out are columns 0..465 and rows 0..375, of which the bird has 60..385 and 27..331
    assert pixels.mean() / 255 == pytest.approx(325 * 304 / (465 * 375), abs=0.01)
    assert guess_kind(str(tmp_path)) == "birds"
    assert len(read("birds", tmp_path / "CUB_200_2011").splits["train"]) == 2


def test_birds_of_attngans_file_names(tmp_path):
    sources.birds(tmp_path)
    sources.write(tmp_path / "train" / "filenames.pickle", sources.python_2([*sources.BIRDS[:2], "003.Gone/Gone_0001"]))
    sources.write(tmp_path / "test" / "filenames.pickle", sources.python_2(sources.BIRDS[2:]))
    (tmp_path / "text" / f"{sources.BIRDS[3]}.txt").unlink()
    source = read("birds", tmp_path)
    assert {split: [record.id for record in records] for split, records in source.splits.items()} == {
        "train": list(sources.BIRDS[:2]),
        "test": [sources.BIRDS[2]],
    }
    assert [problem.kind for problem in source.problems] == ["caption without image", "image without captions"]


def test_attngan(tmp_path):
    source = read("attngan", sources.attngan(tmp_path))
    train = source.splits["train"]
    assert [record.captions for record in train] == [("a bird", "a red bird"), ("a plane", "a red plane"), ("bird", "plane")]
    assert [record.class_id for record in train] == [10, 20, 30]
    assert source.splits["test"][0].captions == ("a red bird", "a bird")
    assert source.vocabulary.words == ("<end>", "bird", "plane", "a", "red")
    assert [tokens.numbers for tokens in source.vocabulary.encode(train[0].captions)] == [(3, 1), (3, 4, 1)]
    assert guess_kind(str(tmp_path)) == "attngan"


def test_attngan_refuses_what_does_not_belong_together(tmp_path):
    sources.attngan(tmp_path)
    sources.write(tmp_path / "test" / "class_info.pickle", sources.python_2([1, 2]))
    with pytest.raises(ValueError, match=r"class_info.pickle: 2 classes of 1 images"):
        read("attngan", tmp_path)
    sources.write(tmp_path / "train" / "filenames.pickle", sources.python_2(["COCO_1", "COCO_2", "COCO_3", "COCO_4"]))
    with pytest.raises(ValueError, match=r"train images .* 6 captions of 4 images"):
        read("attngan", tmp_path)
    (tmp_path / "images" / "COCO_4.jpg").unlink()
    sources.attngan(tmp_path)
    (tmp_path / "images" / "COCO_2.jpg").unlink()
    assert [problem.kind for problem in read("attngan", tmp_path).problems] == ["caption without image"]


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("kind", ["attngan", "released"])
def test_pickles_are_not_executed(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    file = {"attngan": "captions.pickle", "released": "dictionary.pkl"}[kind]
    getattr(sources, kind)(tmp_path)
    (tmp_path / file).write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match=rf"{file}: refused: it asks for (posix|nt)\.system"):
        read(kind, tmp_path)
    assert not (tmp_path / "executed").exists()


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


def test_attngan_of_another_form(tmp_path):
    by_number = {number: word for word, number in sources.ATTNGAN_WORDS.items()}
    one = [[3], [3]]
    for train, test in ((5, one), (one, 6), ([[-1]] * 6, one), ([7] * 6, one)):
        sources.attngan(tmp_path)
        (tmp_path / "captions.pickle").write_bytes(pickle.dumps([train, test, by_number, sources.ATTNGAN_WORDS], protocol=2))
        with pytest.raises(ValueError, match=r"captions.pickle: (\[train captions|a caption of COCO_1 is no list of numbers)"):
            read("attngan", tmp_path)
    sources.attngan(tmp_path)
    for classes in (7, [None] * 3):
        (tmp_path / "train" / "class_info.pickle").write_bytes(pickle.dumps(classes, protocol=2))
        with pytest.raises(ValueError, match=r"class_info.pickle: a list of class numbers was expected"):
            read("attngan", tmp_path)


def test_hdf5_without_its_library(tmp_path, monkeypatch):
    sources.write(tmp_path / "mnist.h5", b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"mnist.h5: HDF5 needs more than the core; .*\[legacy\]"):
        read("released", tmp_path / "mnist.h5")


def test_two_pictures_of_one_name_in_a_tar_file(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for number, folder in enumerate(("a", "b")):
            archive.add(sources.save(tmp_path / f"{number}.jpg", number), f"{folder}/cat/1.jpg")
    with pytest.raises(ValueError, match=r"train.tar: two pictures in it are cat/1.jpg"):
        read("cifar", tmp_path)


def test_words_by_number_wants_one_word_a_number(tmp_path):
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


@pytest.mark.parametrize("packed", [True, False])
def test_classes_as_captions(tmp_path, packed):
    for split, count in (("train", 20), ("test", 2)):
        for name in ("airplane", "truck"):
            for number in range(count):
                sources.save(tmp_path / split / name / f"{number:04d}.jpg", number + 50 * len(name), 32, 32)
        if packed:
            with tarfile.open(tmp_path / f"{split}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
                for file in sorted((tmp_path / split).rglob("*.jpg")):
                    archive.add(file, str(file.relative_to(tmp_path / split)))
                    file.unlink()
    source = read("cifar", tmp_path)
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 36, "validation": 4, "test": 4}
    assert {record.id for record in source.splits["validation"]} == {
        f"train/{c}/{n:04d}.jpg" for c in ("airplane", "truck") for n in (18, 19)
    }
    first, second = source.splits["train"][:2]
    assert (first.captions, first.class_id, second.captions, second.class_id) == (
        ("a photo of an airplane .",),
        0,
        ("a photo of a truck .",),
        1,
    )
    with second.image.open() as image:
        assert np.abs(np.asarray(image, float) - np.asarray(sources.picture(50 * len("truck"), 32, 32), float)).mean() < 8
    assert guess_kind(str(tmp_path)) == "cifar"


def table(root, rows, **features):
    import datasets

    text = datasets.Value("string")
    whole = datasets.Features({"image": datasets.Image(), **{name: text for name in rows if name != "image"}, **features})
    root.mkdir(parents=True, exist_ok=True)
    return datasets.Dataset.from_dict(rows, features=whole)


def test_hugging_face_parquet(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [sources.picture(n) for n in range(3)]
    several = datasets.List(datasets.Value("string"))
    rows = {"image": pictures, "sentences": [["one", "two"], ["three"], []]}
    table(tmp_path / "a", rows, sentences=several).to_parquet(tmp_path / "a" / "train-00000-of-00001.parquet")
    table(tmp_path / "a", rows, sentences=several).select([0]).to_parquet(tmp_path / "a" / "test-00000-of-00001.parquet")
    source = read("huggingface", tmp_path / "a")
    assert {split: [record.captions for record in records] for split, records in source.splits.items()} == {
        "train": [("one", "two"), ("three",), ()],
        "test": [("one", "two")],
    }
    with source.splits["train"][2].image.open() as image:
        assert np.array_equal(np.asarray(image), np.asarray(pictures[2]))
    assert guess_kind(str(tmp_path / "a")) == "huggingface"
    rows = {"image": pictures, "title": ["x"] * 3, "style": ["y"] * 3}
    file = tmp_path / "b.parquet"
    table(tmp_path, rows).to_parquet(file)
    with pytest.raises(ValueError, match=r"no column of captions .*; its columns: image \(pictures\), title \(text\), style \(text\)"):
        read("huggingface", file)
    assert read("huggingface", file, caption_column="title").splits["train"][0].captions == ("x",)
    with pytest.raises(ValueError, match=r"no column 'gone' \(--image-column\); its columns"):
        read("huggingface", file, image_column="gone")
    with pytest.raises(ValueError, match="no such file or folder"):
        read("huggingface", tmp_path / "gone")


def test_an_unreachable_hub_is_not_asked_again(monkeypatch, caplog, capfd):
    from huggingface_hub import HfApi, constants

    def unreachable(*_, **__):
        raise OSError("no network")

    caplog.set_level("INFO", "cap2im")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    with pytest.raises(ValueError, match=r"^nobody/nothing: datasets cannot open it"):
        read("huggingface", "nobody/nothing")
    assert caplog.messages == ["downloading nobody/nothing from the Hugging Face hub, or reading its cache"]
    assert capfd.readouterr().err == ""
    assert not constants.HF_HUB_OFFLINE


def test_columns_of_sentences_in_parquet_are_named(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {
        "image": [sources.picture(n) for n in range(2)],
        "text": ["x", "y"],
        "title": ["a dog on a chair", "a cat on a bed"],
        "terms": ["CC"] * 2,
    }
    table(tmp_path, rows).to_parquet(tmp_path / "x.parquet")
    problems = read("huggingface", tmp_path / "x.parquet").problems
    assert [problem.detail.split(" may")[0] for problem in problems] == ["column 'title'"]
