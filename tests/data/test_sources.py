"""Every kind of source in a tiny original layout: splits, records, captions, and what is told of its faults."""

from __future__ import annotations

import json
import os

import pytest

from cap2im.data.class_folders import class_caption
from cap2im.data.image_preparation import prepare_image
from cap2im.data.records import is_held_out, usable_captions
from cap2im.data.sources import guess_kind
from tests.data import sources
from tests.real_data import data_folder


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def found(source):
    return {(problem.kind, problem.file.split("/")[-1]) for problem in source.problems}


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_is_what_its_annotations_say(tmp_path, year):
    source = read("coco", sources.coco(tmp_path, year))
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 3, "validation": 2}
    record = source.splits["train"][1]
    assert record.id.endswith("000000000002")
    assert len(record.captions) == 6
    assert usable_captions(record, 5)[0] == [f"Caption {k} of a picture, number 2." for k in range(5)]
    assert found(source) == {("image without annotation", "000000000009.jpg")}
    assert guess_kind(str(tmp_path)) == "coco"


def test_coco_tells_missing_images_and_stray_captions(tmp_path):
    sources.coco(tmp_path)
    (tmp_path / "train2017" / "000000000002.jpg").unlink()
    file = tmp_path / "annotations" / "captions_val2017.json"
    document = json.loads(file.read_text())
    document["annotations"].append({"id": 1, "image_id": 77, "caption": "of nothing"})
    file.write_text(json.dumps(document))
    source = read("coco", tmp_path)
    assert ("caption without image", "000000000002.jpg") in found(source)
    assert ("caption without image", "captions_val2017.json") in found(source)
    assert len(source.splits["train"]) == 2


def test_coco_of_one_file_and_of_two_years(tmp_path):
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


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_folder_with_metadata_of_each_format(tmp_path, ending):
    rows = [
        {"file_name": "a.jpg", "text": 'a "cat", on a chair'},
        {"file_name": "sub/b.png", "text": "größer als ein Hund"},
        {"file_name": "a.jpg", "text": "the same cat"},
    ]
    for number, name in enumerate(("a.jpg", "sub/b.png")):
        sources.save(tmp_path / name, number)
    if ending == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    elif ending == "csv":
        lines = ["file_name,text", 'a.jpg,"a ""cat"", on a chair"', "sub/b.png,größer als ein Hund", "a.jpg,the same cat"]
        (tmp_path / "metadata.csv").write_text("\n".join(lines), "utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    source = read("folder", tmp_path)
    assert source.problems == []
    assert {record.id: record.captions for record in source.splits["train"]} == {
        "a.jpg": ('a "cat", on a chair', "the same cat"),
        "sub/b.png": ("größer als ein Hund",),
    }
    assert guess_kind(str(tmp_path)) == "folder"


def test_folder_splits_lists_and_classes(tmp_path):
    sources.folder(tmp_path / "train", [{"file_name": "a.jpg", "captions": ["one", "two"], "class_id": 7}])
    sources.folder(tmp_path / "val", [{"file_name": "b.jpg", "captions": ["three"]}])
    sources.folder(tmp_path / "test", [{"file_name": "c.jpg", "captions": "four"}])
    source = read("folder", tmp_path)
    assert {split: [r.captions for r in records] for split, records in source.splits.items()} == {
        "train": [("one", "two")],
        "validation": [("three",)],
        "test": [("four",)],
    }
    assert [source.splits[split][0].class_id for split in ("train", "validation")] == [7, -1]


def test_folder_tells_what_is_wrong(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "fine"}])
    with open(tmp_path / "metadata.jsonl", "ab") as file:
        file.write(b'{"file_name": "gone.jpg", "text": "of nothing"}\n{"file_name": \n')
        file.write(b'{"file_name": "deep.jpg", "text": "misplaced"}\n{"file_name": "a.jpg", "text": "\xff\xfe"}\n')
        file.write(b'{"file_name": "a.jpg", "text": 3}\n')
    sources.save(tmp_path / "images" / "deep.jpg", 8)
    sources.save(tmp_path / "stray.jpg", 9)
    source = read("folder", tmp_path)
    assert len(source.splits["train"]) == 1
    assert found(source) == {
        ("caption without image", "metadata.jsonl, line 2"),
        ("unusable entry", "metadata.jsonl, line 3"),
        ("misplaced metadata file", "metadata.jsonl"),
        ("wrong encoding", "metadata.jsonl, line 5"),
        ("unusable entry", "metadata.jsonl, line 6"),
        ("image without captions", "stray.jpg"),
        ("image without captions", "deep.jpg"),
    }
    (misplaced,) = [problem for problem in source.problems if problem.kind.startswith("misplaced")]
    assert "line 4: file_name 'deep.jpg' is not relative to this folder: write 'images/deep.jpg'" in misplaced.detail


@pytest.mark.parametrize("name", ["metadata.json1", "meta_data.jsonl", "metadata.jsonl.txt"])
def test_misspelt_metadata_is_named(tmp_path, name):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "fine"}], name)
    assert guess_kind(str(tmp_path)) == "folder"
    with pytest.raises(ValueError, match=rf"no metadata.jsonl.*{name}: its name should be metadata.jsonl"):
        read("folder", tmp_path)


def test_pairs(tmp_path):
    sources.pairs(tmp_path / "train", 3)
    sources.pairs(tmp_path / "test", 1)
    (tmp_path / "train" / "p1.txt").write_bytes("\ufeffwith a mark\n".encode() + "caf\u00e9\n".encode("latin-1"))
    (tmp_path / "train" / "p2.txt").rename(tmp_path / "train" / "lonely.txt")
    source = read("pairs", tmp_path)
    assert {record.id: record.captions for record in source.splits["train"]} == {
        "train/p0": ("a picture of the number 0", "another one, 0"),
        "train/p1": ("with a mark",),
    }
    assert len(source.splits["test"]) == 1
    assert found(source) == {
        ("wrong encoding", "p1.txt, line 2"),
        ("image without captions", "p2.jpg"),
        ("caption without image", "lonely.txt"),
    }
    assert guess_kind(str(tmp_path)) == "pairs"


def test_held_out_share(tmp_path):
    sources.pairs(tmp_path, 40)
    source = read("pairs", tmp_path, validation=0.25)
    before = {record.id for record in source.splits["validation"]}
    assert 4 <= len(before) <= 16
    assert len(source.splits["train"]) + len(before) == 40
    sources.pairs(tmp_path, 50)
    assert before <= {record.id for record in read("pairs", tmp_path, validation=0.25).splits["validation"]}
    assert sum(is_held_out(str(number), 0.1) for number in range(10_000)) == pytest.approx(1000, abs=100)


def test_captions_are_tidied_and_the_useless_ones_told(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["  two\n words ", "", "?!", "word " * 201]}])
    captions, problems = usable_captions(read("folder", tmp_path).splits["train"][0])
    assert captions == ["two words"]
    assert sorted(problem.kind for problem in problems) == ["empty caption", "empty caption", "over-long caption"]


def test_line_breaks_in_csv_cells_are_spaces(tmp_path):
    for number in range(2):
        sources.save(tmp_path / f"a{number}.png", number)
    (tmp_path / "metadata.csv").write_text('file_name,text\na0.png,"a cat\nsits on\r\ngrass"\na1.png,a dog\n')
    records = read("folder", tmp_path).splits["train"]
    assert [usable_captions(record)[0] for record in records] == [["a cat sits on grass"], ["a dog"]]


@pytest.mark.parametrize(("rows", "reason"), [(3, "unexpected end of data"), (6000, "field larger than field limit")])
def test_an_unclosed_quote_in_csv_swallows_nothing(tmp_path, rows, reason):
    sources.save(tmp_path / "a.png", 1)
    text = "file_name,text\na.png,fine\n" + 'a.png,"a cat\n' + "a.png,a red bus on the street\n" * rows
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"metadata.csv: not CSV after line 2: {reason}.*; is a quote not closed\?$"):
        read("folder", tmp_path)


def test_commas_without_quotes_in_csv_are_told(tmp_path):
    for number in range(2):
        sources.save(tmp_path / f"a{number}.png", number)
    (tmp_path / "metadata.csv").write_text("file_name,text\na0.png,a cat, on grass\na1.png,a dog\n")
    source = read("folder", tmp_path)
    assert [record.captions for record in source.splits["train"]] == [("a dog",)]
    assert ("unusable entry", "metadata.csv, line 2") in found(source)


@pytest.mark.parametrize("line", ["[" * 200_000, '{"file_name": "a.jpg", "text": ' + "9" * 5000 + "}"])
def test_json_that_no_parser_takes_is_told(tmp_path, line):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "fine"}])
    with open(tmp_path / "metadata.jsonl", "a", encoding="utf-8") as file:
        file.write(line)
    assert found(read("folder", tmp_path)) == {("unusable entry", "metadata.jsonl, line 2")}


@pytest.mark.parametrize("caption", [None, ["a", "b"], 3])
def test_coco_captions_that_are_no_text_are_told(tmp_path, caption):
    sources.coco(tmp_path)
    file = tmp_path / "annotations" / "captions_train2017.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["caption"] = caption
    file.write_text(json.dumps(document))
    source = read("coco", tmp_path)
    assert ("unusable entry", "captions_train2017.json") in found(source)
    assert [len(record.captions) for record in source.splits["train"]] == [5, 6, 6]


def test_half_characters_are_told(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["a cat \ud83d on", "a cat"]}])  # written as \ud83d
    captions, problems = usable_captions(read("folder", tmp_path).splits["train"][0])
    assert captions == ["a cat"]
    assert [(problem.kind, "\\ud83d" in problem.detail) for problem in problems] == [("wrong encoding", True)]
    str(problems[0]).encode()


def test_file_names_that_are_not_utf8_are_told(tmp_path):
    sources.pairs(tmp_path, 1)
    for ending in ("jpg", "txt"):
        (tmp_path / f"p0.{ending}").rename(os.fsdecode(bytes(tmp_path) + b"/caf\xe9." + ending.encode()))
    sources.pairs(tmp_path, 1)
    source = read("pairs", tmp_path, validation=0.5)
    assert [record.id for records in source.splits.values() for record in records] == ["p0"]
    assert found(source) == {("wrong encoding", "caf\\udce9.jpg")}


def test_captions_without_a_word_for_the_tokenizer_are_told(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["猫 犬", "a cat"]}])
    (record,) = read("folder", tmp_path).splits["train"]
    assert usable_captions(record) == (["猫 犬", "a cat"], [])
    captions, problems = usable_captions(record, tokens="attngan")
    assert captions == ["a cat"]
    assert [problem.kind for problem in problems] == ["caption without words"]


# COCO's entries


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


@pytest.mark.parametrize("entry", [7, {}, {"file_name": "b.png"}, {"id": None, "file_name": "b.png"}, {"id": [1], "file_name": "b.png"}])
def test_one_bad_image_of_coco_is_skipped(tmp_path, entry):
    coco_of(tmp_path, [{"id": 1, "file_name": "a.png"}, entry], [caption(1)])
    (tmp_path / "train2017" / "b.png").unlink(missing_ok=True)
    source = read("coco", tmp_path)
    assert [record.captions for record in source.splits["train"]] == [("a dog",)]
    assert found(source) == {("unusable entry", "captions_train2017.json")}


@pytest.mark.parametrize("name", ["/etc/passwd.png", "../../x.png", "http://example.org/a.png"])
def test_coco_names_stay_in_their_folder(tmp_path, name):
    coco_of(tmp_path, [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": name}], [caption(1), caption(2)])
    source = read("coco", tmp_path)
    assert len(source.splits["train"]) == 1
    (problem,) = source.problems
    assert problem.kind == "picture outside the folder"
    assert name in problem.detail
    assert "its 1 captions are lost" in problem.detail


def test_two_images_of_one_id_are_told_with_both_names(tmp_path):
    images = [{"id": 1, "file_name": "a/1.png"}, {"id": 1, "file_name": "b/1.png"}, {"id": 2, "file_name": "a/2.png"}]
    source = read("coco", coco_of(tmp_path, images, [caption(1), caption(1), caption(2)]))
    assert [record.id for record in source.splits["train"]] == ["2"]
    (problem,) = [problem for problem in source.problems if problem.kind == "duplicate id"]
    assert "'a/1.png' and 'b/1.png' have one id, 1" in problem.detail
    assert "2 captions" in problem.detail


@pytest.mark.parametrize(("listed", "annotated"), [("1", 1), (1, "1")])
def test_ids_of_two_types_are_told_and_matched(tmp_path, listed, annotated):
    source = read("coco", coco_of(tmp_path, [{"id": listed, "file_name": "a.png"}], [caption(annotated)]))
    assert source.splits["train"][0].captions == ("a dog",)
    assert [(problem.kind, "the types differ" in problem.detail) for problem in source.problems] == [("ids of two types", True)]


def test_ids_are_unique_where_files_share_a_stem(tmp_path):
    names = ["left/0.png", "right/0.png", "right/1.png"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    source = read("coco", coco_of(tmp_path, images, [caption(number) for number in range(3)]))
    assert [record.id for record in source.splits["train"]] == ["left/0", "right/0", "1"]


def test_coco_reads_backslashes_and_whole_numbers_with_a_point(tmp_path):
    source = read("coco", coco_of(tmp_path, [{"id": 1.0, "file_name": "birds\\a.png"}], [caption(1)]))
    assert source.splits["train"][0].captions == ("a dog",)
    assert source.problems == []


def test_annotations_of_boxes_are_no_captions(tmp_path):
    coco_of(tmp_path, [{"id": 1, "file_name": "a.png"}], [{"image_id": 1, "bbox": [1, 2, 3, 4]}])
    with pytest.raises(ValueError, match=r"not COCO's captions.*annotations\[0\]: caption: Field required"):
        read("coco", tmp_path)


# Pairs


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_captions_are_decoded_by_their_byte_order_mark(tmp_path, encoding):
    sources.save(tmp_path / "a.jpg", 1)
    sources.write(tmp_path / "a.txt", "a café\r\na dog\n".encode(encoding))
    source = read("pairs", tmp_path)
    assert source.splits["train"][0].captions == ("a café", "a dog")
    assert source.problems == []


def test_utf16_without_a_mark_is_refused_by_name(tmp_path):
    sources.pairs(tmp_path, 2)
    sources.write(tmp_path / "p1.txt", "a dog runs".encode("utf-16-le"))
    source = read("pairs", tmp_path)
    assert [record.captions for record in source.splits["train"]][1:] == [()]
    assert found(source) == {("wrong encoding", "p1.txt")}


@pytest.mark.parametrize(
    ("picture", "text"), [("a.png", "a.TXT"), ("a.png", "a.caption"), ("IMG.PNG", "img.txt"), ("é.png", "e\u0301.txt")]
)
def test_text_files_of_other_spellings_are_read(tmp_path, picture, text):
    sources.save(tmp_path / picture, 1)
    sources.write(tmp_path / text, "a dog")
    assert guess_kind(str(tmp_path)) == "pairs"
    source = read("pairs", tmp_path)
    assert (source.splits["train"][0].captions, source.problems) == (("a dog",), [])


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.1 0.2",
        '{"caption": "a dog"}',
        "['a dog']",
        "a.jpg,a dog",
        "1234_ab.jpg#0\ta dog",
        "image 1.png| 0| a dog",
        "<?xml version='1.0'?>",
    ],
)
def test_data_beside_a_picture_is_no_caption(tmp_path, line):
    sources.save(tmp_path / "a.png", 1)
    sources.write(tmp_path / "a.txt", f"a dog\n{line}\n3 dogs, 2 cats\n(a cat)\n")
    source = read("pairs", tmp_path)
    assert source.splits["train"][0].captions == ("a dog", "3 dogs, 2 cats", "(a cat)")
    assert found(source) == {("not a caption", "a.txt, line 2")}


def test_pictures_of_other_formats_are_counted(tmp_path):
    sources.pairs(tmp_path, 1)
    for name in ("b.heic", "c.SVG", "c.txt", "d.mp3"):
        sources.write(tmp_path / name, "x")
    assert found(read("pairs", tmp_path)) == {("picture format not read", "b.heic"), ("picture format not read", "c.SVG")}


def test_split_folders_one_folder_deeper_are_told(tmp_path):
    sources.pairs(tmp_path / "archive" / "train", 1)
    sources.pairs(tmp_path / "archive" / "val", 1)
    (problem,) = read("pairs", tmp_path).problems
    assert (problem.kind, problem.file) == ("misplaced split folder", str(tmp_path / "archive"))
    assert "train and val in it do not count" in problem.detail


def test_split_folders_may_be_links(tmp_path):
    sources.pairs(tmp_path / "a", 2)
    sources.pairs(tmp_path / "b", 1)
    for split, target in (("train", "a"), ("val", "b")):
        (tmp_path / "photos" / split).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / split).symlink_to(tmp_path / target)
    source = read("pairs", tmp_path / "photos")
    assert {split: [record.id for record in records] for split, records in source.splits.items()} == {
        "train": ["train/p0", "train/p1"],
        "validation": ["val/p0"],
    }


def test_parquet_beside_pairs_is_no_dataset(tmp_path):
    sources.pairs(tmp_path / "00000", 2)
    sources.write(tmp_path / "00000.parquet", b"PAR1")
    assert guess_kind(str(tmp_path)) == "pairs"


@pytest.mark.parametrize("name", ["p17 [x] 100%", "a*b?", "-dash", "~zz", "new\nline", "#1", "%41"])
def test_names_of_folders_are_no_patterns(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    sources.pairs(tmp_path / name, 1)
    sources.folder(tmp_path / name / "more", [{"file_name": "a.jpg", "text": "fine"}])
    assert len(read("pairs", name).splits["train"]) == 1
    assert read("folder", name).splits["train"][0].id == "more/a.jpg"
    assert "\n" not in str(read("folder", name).problems[0])


def test_a_missing_path_names_the_one_that_exists(tmp_path):
    sources.pairs(tmp_path / "photos", 1)
    with pytest.raises(ValueError, match=r"no such file or folder; there is .*/photos$"):
        read("pairs", tmp_path / "Photos")
    with pytest.raises(ValueError, match=r"no such file or folder; there is .*/photos$"):
        guess_kind(str(tmp_path / "photo" / "deep"))


def test_one_folder_deeper_is_hinted(tmp_path):
    sources.coco(tmp_path / "inner")
    for attempt in (lambda: guess_kind(str(tmp_path)), lambda: read("coco", tmp_path)):
        with pytest.raises(ValueError, match=r"one folder deeper, .*/inner is coco"):
            attempt()


# Tables


def table(tmp_path, text="id,where,what\n1,p0.jpg,a dog\n2,p1.jpg,a cat\n"):
    sources.pairs(tmp_path / "photos", 2)
    return sources.write(tmp_path / "list.csv", text)


def test_a_table_beside_its_pictures(tmp_path):
    options = {"images": str(tmp_path / "photos"), "caption_column": ("what", "id")}
    (a, b) = read("table", table(tmp_path), **options).splits["train"]
    assert (a.id, a.captions, b.captions) == ("p0.jpg", ("a dog", "1"), ("a cat", "2"))


def test_a_table_whose_pictures_are_elsewhere_hints_at_images(tmp_path):
    with pytest.raises(ValueError, match=r"write 'photos/p0.jpg'; or name the folder of the pictures with --images"):
        read("table", table(tmp_path), caption_column="what")


def test_splits_from_a_column(tmp_path):
    text = "file,text,split\nphotos/p0.jpg,a dog,Train\nphotos/p1.jpg,a cat,val\nphotos/p1.jpg,a cow,train\nphotos/p0.jpg,x,odd\n"
    source = read("table", table(tmp_path, text))
    assert {split: [record.captions for record in records] for split, records in source.splits.items()} == {
        "train": [("a dog",)],
        "validation": [("a cat",)],
    }
    assert found(source) == {("unusable entry", "list.csv, line 4"), ("split not used", "list.csv, line 5")}


def test_a_split_column_of_something_else_is_no_split(tmp_path):
    source = read("table", table(tmp_path, "file,text,split\nphotos/p0.jpg,a dog,7\nphotos/p1.jpg,a cat,8\n"))
    assert len(source.splits["train"]) == 2


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_columns_that_are_asked_for(tmp_path, kind):
    sources.save(tmp_path / "a.jpg", 1)
    sources.write(tmp_path / "metadata.csv", "a,b,c,d\na.jpg,one,two,test\n")
    source = read(kind, tmp_path, image_column="a", caption_column=("c", "b"), split_column="d")
    assert source.splits["test"][0].captions == ("two", "one")


def test_another_column_of_captions_is_told(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": "a dog", "caption_1": "a cat"}])
    assert found(read("folder", tmp_path)) == {("column not used", "metadata.jsonl")}


@pytest.mark.parametrize("name", ["[x] *?.parquet", "train.parquet"])
def test_captions_in_columns_and_objects_of_parquet(tmp_path, name):
    import datasets

    text = datasets.Value("string")
    features = {"image": datasets.Image(), "caption_1": text, "caption_0": text, "caption_2": datasets.Value("null")}
    rows = {"image": [sources.picture(1)], "caption_1": ["b"], "caption_0": ["a"], "caption_2": [None]}
    datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(tmp_path / "a" / name)
    assert read("huggingface", tmp_path / "a" / name).splits["train"][0].captions == ("a", "b")
    features = {"image": datasets.Image(), "sentences": [{"raw": text, "tokens": [text]}], "split": text}
    rows = {"image": [sources.picture(n) for n in range(2)], "sentences": [[{"raw": "a dog", "tokens": []}]] * 2, "split": ["train", "val"]}
    datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(tmp_path / "b" / name)
    assert guess_kind(str(tmp_path / "b" / name)) == "huggingface"
    for kind in ("huggingface", "table"):
        source = read(kind, tmp_path / "b" / name)
        assert {split: [record.captions for record in records] for split, records in source.splits.items()} == {
            "train": [("a dog",)],
            "validation": [("a dog",)],
        }


def picture_names(path, names):
    """Write a Parquet file that holds names of pictures in place of pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": name} for name in names], kind)
    pq.write_table(pa.table({"image": images, "text": ["a dog"] * len(names)}), path)


def test_file_names_in_parquet_are_beside_it_and_nowhere_else(tmp_path, monkeypatch):
    for folder in ("data", "elsewhere"):
        sources.save(tmp_path / folder / "a.jpg", 1)
    picture_names(
        tmp_path / "data" / "train.parquet", ["a.jpg", str(tmp_path / "elsewhere" / "a.jpg"), "../elsewhere/a.jpg", "b.jpg", None]
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    images = [record.image for record in read("huggingface", tmp_path / "data").splits["train"]]
    assert images[0].path == tmp_path / "data" / "a.jpg"
    reasons = [prepare_image(image, 8, "stretch", None) for image in images[1:]]
    for reason, expected in zip(reasons, ("is absolute", "leaves", "there is no", "it holds no picture"), strict=True):
        assert expected in reason


def test_parquet_files_with_other_columns_end_in_one_line(tmp_path, capfd):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("text", "caption"):
        pq.write_table(pa.table({"image": [b"x"], name: ["a dog"]}), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"datasets cannot open it \(Couldn't cast .* because column names don't match\)"):
        read("huggingface", tmp_path)
    assert "Failed to read" not in capfd.readouterr().err


def test_two_held_out_shares_do_not_overlap(tmp_path):
    sources.pairs(tmp_path, 60)
    alone = {record.id for record in read("pairs", tmp_path, validation=0.2).splits["validation"]}
    both = read("pairs", tmp_path, validation=0.2, test=0.2)
    ids = {split: {record.id for record in records} for split, records in both.splits.items()}
    assert ids["validation"] == alone
    assert ids["test"]
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 60
    with pytest.raises(ValueError, match=r"at most 0.9 together"):
        read("pairs", tmp_path, validation=0.5, test=0.5)


@pytest.mark.parametrize(
    ("kind", "option"), [("pairs", "caption_column"), ("pairs", "split_column"), ("coco", "image_column"), ("flickr8k", "image_column")]
)
def test_columns_are_refused_where_there_are_none(tmp_path, kind, option):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} x: a source of kind {kind} has no columns"):
        read(kind, tmp_path, **{option: "x"})


@pytest.mark.parametrize("name", ["./nothere", "nothere", "~/nothere", "../a/b", "here/nothere", "a/b/c", "/nothere"])
def test_a_missing_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, name):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda **_: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match=f"^{name}: no such file or folder; .*a name on the Hugging Face hub is OWNER/NAME"):
        read("huggingface", name)


def test_articles():
    assert class_caption("airplane") == "a photo of an airplane ."
    assert class_caption("truck") == "a photo of a truck ."


BAD = [
    ("coco", {}, "no annotations/captions_train2017.json"),
    ("folder", {}, "no metadata.jsonl, metadata.csv or metadata.parquet"),
    ("pairs", {}, "no image in this folder has a text file"),
    ("cifar", {}, "neither train.tar nor a folder train"),
    ("birds", {}, "images.txt: no such file"),
    ("attngan", {}, "filenames.pickle: no such file"),
    ("released", {}, "dictionary.pkl: no such file"),
    ("coco", {"captions_train2017.json": b"{"}, "captions_train2017.json: not JSON"),
    ("coco", {"captions_train2017.json": b"[]"}, "captions_train2017.json: not COCO's captions"),
    (
        "folder",
        {"metadata.jsonl": b'{"text": "no name"}'},
        r"metadata.jsonl, line 1: no column names the pictures .*; its columns: text \(text\)",
    ),
    ("table", {}, "no table of pictures and captions in this folder"),
    ("flickr8k", {}, "none of Flickr8k.token.txt, captions.txt, results.csv"),
    ("flickr8k", {"captions.txt": b"image,caption\na.jpg,a dog\n"}, "none of its 1 captions has a picture"),
    ("flickr8k", {"captions.txt": b"a dog\na cat\n"}, "no column names the pictures"),
    ("flickr8k", {"dataset_flickr8k.json": b'{"images": []}'}, "not Karpathy's JSON"),
    ("folder", {"metadata.jsonl": b'{"file_name": "a.jpg", "label": 3}'}, "no column of captions"),
    ("folder", {"metadata.jsonl": b"", "metadata.csv": b""}, "two metadata files in one folder"),
    ("folder", {"metadata.parquet": b"nonsense"}, "metadata.parquet: not a Parquet file"),
    ("cifar", {"train.tar": b"nonsense"}, "train.tar: not an uncompressed tar file"),
]


@pytest.mark.parametrize(("kind", "files", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_sources_end_in_one_line(tmp_path, kind, files, message):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read(kind, tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_nothing_cannot_be_guessed(tmp_path):
    with pytest.raises(ValueError, match=r"cannot tell what kind .* name it with --kind: coco, attngan"):
        guess_kind(str(tmp_path))
    with pytest.raises(ValueError, match="no such file or folder"):
        guess_kind(str(tmp_path / "gone"))


def test_a_table_of_another_name_is_named(tmp_path):
    sources.save(tmp_path / "a.jpg", 1)
    sources.write(tmp_path / "list.csv", "file,text\na.jpg,one\n")
    with pytest.raises(ValueError, match=r"another name is read as cap2im prepare table .*list\.csv$"):
        read("folder", tmp_path)


def test_a_word_of_any_length_is_no_caption(tmp_path):
    sources.pairs(tmp_path, 2)
    sources.write(tmp_path / "p1.txt", "x" * 10_001 + "\n" + "x" * 10_000)
    record = next(record for record in read("pairs", tmp_path).splits["train"] if record.id == "p1")
    captions, problems = usable_captions(record)
    assert [len(caption) for caption in captions] == [10_000]
    assert [(problem.kind, problem.detail[:33]) for problem in problems] == [("over-long caption", "10,001 characters, at most 10,000")]
