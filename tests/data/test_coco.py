"""Test COCO's annotations: records, ids and problems."""

from __future__ import annotations

import json

import pytest

from cap2im.data.records import usable_captions
from cap2im.data.sources import guess_kind
from tests.data import sources
from tests.real_data import data_folder


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def problem_files(source):
    return {(problem.kind, problem.file.split("/")[-1]) for problem in source.problems}


def coco_of(folder, images, annotations):
    """COCO's annotations, with a picture for each file name that stays in the folder."""
    for number, image in enumerate(images):
        if isinstance(image, dict) and not str(image.get("file_name", "/")).startswith(("/", "..", "http")):
            sources.save(folder / "train2017" / image["file_name"].replace("\\", "/"), number)
    document = {"images": images, "annotations": annotations}
    sources.write(folder / "annotations" / "captions_train2017.json", json.dumps(document))
    return folder


def caption(id, text="a dog"):
    return {"id": 1, "image_id": id, "caption": text}


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_annotations_define_the_records(tmp_path, year):
    source = read("coco", sources.coco(tmp_path, year))
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 3, "validation": 2}
    record = source.splits["train"][1]
    assert record.id.endswith("000000000002")
    assert len(record.captions) == 6
    assert usable_captions(record, 5)[0] == [f"Caption {k} of a picture, number 2." for k in range(5)]
    assert problem_files(source) == {("image without annotation", "000000000009.jpg")}
    assert guess_kind(str(tmp_path)) == "coco"


def test_missing_images_and_unlisted_captions_are_problems(tmp_path):
    sources.coco(tmp_path)
    (tmp_path / "train2017" / "000000000002.jpg").unlink()
    file = tmp_path / "annotations" / "captions_val2017.json"
    document = json.loads(file.read_text())
    document["annotations"].append({"id": 1, "image_id": 77, "caption": "of nothing"})
    file.write_text(json.dumps(document))
    source = read("coco", tmp_path)
    assert ("caption without image", "000000000002.jpg") in problem_files(source)
    assert ("caption without image", "captions_val2017.json") in problem_files(source)
    assert len(source.splits["train"]) == 2


def test_one_file_is_read_and_two_years_are_refused(tmp_path):
    sources.coco(tmp_path)
    source = read("coco", tmp_path / "annotations" / "captions_val2017.json")
    assert {split: len(records) for split, records in source.splits.items()} == {"validation": 2}
    sources.coco(tmp_path, "2014")
    with pytest.raises(ValueError, match=r"several annotations of one split .*captions_train2014.json.*captions_train2017.json"):
        read("coco", tmp_path)


def test_coco_mini():
    source = read("coco", data_folder() / "coco-mini")
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 80, "validation": 79}
    assert all(len(record.captions) == 5 for records in source.splits.values() for record in records)
    assert len(source.problems) == 80
    assert {problem.kind for problem in source.problems} == {"image without annotation"}


@pytest.mark.parametrize("caption", [None, ["a", "b"], 3])
def test_captions_that_are_no_text_are_problems(tmp_path, caption):
    sources.coco(tmp_path)
    file = tmp_path / "annotations" / "captions_train2017.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["caption"] = caption
    file.write_text(json.dumps(document))
    source = read("coco", tmp_path)
    assert ("unusable entry", "captions_train2017.json") in problem_files(source)
    assert [len(record.captions) for record in source.splits["train"]] == [5, 6, 6]


@pytest.mark.parametrize("entry", [7, {}, {"file_name": "b.png"}, {"id": None, "file_name": "b.png"}, {"id": [1], "file_name": "b.png"}])
def test_one_invalid_image_is_skipped(tmp_path, entry):
    coco_of(tmp_path, [{"id": 1, "file_name": "a.png"}, entry], [caption(1)])
    (tmp_path / "train2017" / "b.png").unlink(missing_ok=True)
    source = read("coco", tmp_path)
    assert [record.captions for record in source.splits["train"]] == [("a dog",)]
    assert problem_files(source) == {("unusable entry", "captions_train2017.json")}


@pytest.mark.parametrize("name", ["/etc/passwd.png", "../../x.png", "http://example.org/a.png"])
def test_names_stay_in_their_folder(tmp_path, name):
    coco_of(tmp_path, [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": name}], [caption(1), caption(2)])
    source = read("coco", tmp_path)
    assert len(source.splits["train"]) == 1
    (problem,) = source.problems
    assert problem.kind == "picture outside the folder"
    assert name in problem.detail
    assert "its 1 captions are lost" in problem.detail


def test_two_images_of_one_id_are_a_problem(tmp_path):
    images = [{"id": 1, "file_name": "a/1.png"}, {"id": 1, "file_name": "b/1.png"}, {"id": 2, "file_name": "a/2.png"}]
    source = read("coco", coco_of(tmp_path, images, [caption(1), caption(1), caption(2)]))
    assert [record.id for record in source.splits["train"]] == ["2"]
    (problem,) = [problem for problem in source.problems if problem.kind == "duplicate id"]
    assert "'a/1.png' and 'b/1.png' have one id, 1" in problem.detail
    assert "2 captions" in problem.detail


@pytest.mark.parametrize(("listed", "annotated"), [("1", 1), (1, "1")])
def test_ids_of_two_types_are_matched(tmp_path, listed, annotated):
    source = read("coco", coco_of(tmp_path, [{"id": listed, "file_name": "a.png"}], [caption(annotated)]))
    assert source.splits["train"][0].captions == ("a dog",)
    assert [(problem.kind, "the types differ" in problem.detail) for problem in source.problems] == [("ids of two types", True)]


def test_ids_are_unique_where_files_share_a_stem(tmp_path):
    names = ["left/0.png", "right/0.png", "right/1.png"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    source = read("coco", coco_of(tmp_path, images, [caption(number) for number in range(3)]))
    assert [record.id for record in source.splits["train"]] == ["left/0", "right/0", "1"]


def test_backslashes_and_ids_with_a_point_are_read(tmp_path):
    source = read("coco", coco_of(tmp_path, [{"id": 1.0, "file_name": "birds\\a.png"}], [caption(1)]))
    assert source.splits["train"][0].captions == ("a dog",)
    assert source.problems == []


def test_annotations_of_boxes_are_no_captions(tmp_path):
    coco_of(tmp_path, [{"id": 1, "file_name": "a.png"}], [{"image_id": 1, "bbox": [1, 2, 3, 4]}])
    with pytest.raises(ValueError, match=r"not COCO's captions.*annotations\[0\]: caption: Field required"):
        read("coco", tmp_path)
