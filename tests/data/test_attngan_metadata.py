"""Test AttnGAN's metadata."""

from __future__ import annotations

import os
import pickle

import pytest

from cap2im.data.sources import guess_kind
from tests.data import sources


def read(kind, path, **options):
    return sources.read(kind, path, **options)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_test_pickles_equal_those_of_python_2():
    value = [["a", "b"], {"a": 1, "b": -7}, [[1, 2], []]]
    assert pickle.loads(sources.python_2(value)) == value


def test_attngan(tmp_path):
    source = read("attngan", sources.attngan(tmp_path))
    train = source.splits["train"]
    assert [record.captions for record in train] == [("a bird", "a red bird"), ("a plane", "a red plane"), ("bird", "plane")]
    assert [record.class_id for record in train] == [10, 20, 30]
    assert source.splits["test"][0].captions == ("a red bird", "a bird")
    assert source.vocabulary.words == ("<end>", "bird", "plane", "a", "red")
    assert [tokens.numbers for tokens in source.vocabulary.encode(train[0].captions)] == [(3, 1), (3, 4, 1)]
    assert guess_kind(str(tmp_path)) == "attngan"


def test_files_that_do_not_belong_together_are_refused(tmp_path):
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


@pytest.mark.parametrize("kind", ["attngan", "released"])
def test_pickles_are_not_executed(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    file = {"attngan": "captions.pickle", "released": "dictionary.pkl"}[kind]
    getattr(sources, kind)(tmp_path)
    (tmp_path / file).write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match=rf"{file}: refused: it asks for (posix|nt)\.system"):
        read(kind, tmp_path)
    assert not (tmp_path / "executed").exists()


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
