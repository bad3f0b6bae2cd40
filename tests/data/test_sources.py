"""Test the registry of sources: guessing kinds, options and missing paths."""

from __future__ import annotations

import pytest

from cap2im.data.sources import guess_kind
from tests.data import sources


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def caption(id, text="a dog"):
    return {"id": 1, "image_id": id, "caption": text}


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


@pytest.mark.parametrize(
    ("kind", "option"), [("pairs", "caption_column"), ("pairs", "split_column"), ("coco", "image_column"), ("flickr8k", "image_column")]
)
def test_column_options_need_a_kind_with_columns(tmp_path, kind, option):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} x: a source of kind {kind} has no columns"):
        read(kind, tmp_path, **{option: "x"})


@pytest.mark.parametrize("name", ["./nothere", "nothere", "~/nothere", "../a/b", "here/nothere", "a/b/c", "/nothere"])
def test_missing_paths_are_not_requested_from_the_hub(tmp_path, monkeypatch, name):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda **_: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match=f"^{name}: no such file or folder; .*a name on the Hugging Face hub is OWNER/NAME"):
        read("huggingface", name)


@pytest.mark.parametrize(("kind", "files", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_sources_end_in_one_line(tmp_path, kind, files, message):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read(kind, tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_folder_has_no_kind(tmp_path):
    with pytest.raises(ValueError, match=r"cannot tell what kind .* name it with --kind: coco, attngan, .*, cutouts$"):
        guess_kind(str(tmp_path))
    with pytest.raises(ValueError, match="no such file or folder"):
        guess_kind(str(tmp_path / "gone"))
