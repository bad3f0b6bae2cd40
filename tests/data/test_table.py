"""Test tables that name pictures."""

from __future__ import annotations

import pytest

from tests.data import sources


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def problem_files(source):
    return {(problem.kind, problem.file.split("/")[-1]) for problem in source.problems}


def table(tmp_path, text="id,where,what\n1,p0.jpg,a dog\n2,p1.jpg,a cat\n"):
    sources.pairs(tmp_path / "photos", 2)
    return sources.write(tmp_path / "list.csv", text)


def test_a_table_beside_its_pictures(tmp_path):
    options = {"images": str(tmp_path / "photos"), "caption_column": ("what", "id")}
    (a, b) = read("table", table(tmp_path), **options).splits["train"]
    assert (a.id, a.captions, b.captions) == ("p0.jpg", ("a dog", "1"), ("a cat", "2"))


def test_pictures_elsewhere_give_a_hint_to_images(tmp_path):
    with pytest.raises(ValueError, match=r"write 'photos/p0.jpg'; or name the folder of the pictures with --images"):
        read("table", table(tmp_path), caption_column="what")


def test_splits_from_a_column(tmp_path):
    text = "file,text,split\nphotos/p0.jpg,a dog,Train\nphotos/p1.jpg,a cat,val\nphotos/p1.jpg,a cow,train\nphotos/p0.jpg,x,odd\n"
    source = read("table", table(tmp_path, text))
    assert {split: [record.captions for record in records] for split, records in source.splits.items()} == {
        "train": [("a dog",)],
        "validation": [("a cat",)],
    }
    assert problem_files(source) == {("unusable entry", "list.csv, line 4"), ("split not used", "list.csv, line 5")}


def test_a_split_column_of_something_else_is_no_split(tmp_path):
    source = read("table", table(tmp_path, "file,text,split\nphotos/p0.jpg,a dog,7\nphotos/p1.jpg,a cat,8\n"))
    assert len(source.splits["train"]) == 2


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_columns_named_by_the_user(tmp_path, kind):
    sources.save(tmp_path / "a.jpg", 1)
    sources.write(tmp_path / "metadata.csv", "a,b,c,d\na.jpg,one,two,test\n")
    source = read(kind, tmp_path, image_column="a", caption_column=("c", "b"), split_column="d")
    assert source.splits["test"][0].captions == ("two", "one")


def test_a_table_of_another_name_is_named(tmp_path):
    sources.save(tmp_path / "a.jpg", 1)
    sources.write(tmp_path / "list.csv", "file,text\na.jpg,one\n")
    with pytest.raises(ValueError, match=r"another name is read as cap2im prepare table .*list\.csv$"):
        read("folder", tmp_path)
