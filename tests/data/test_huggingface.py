"""Test datasets of the Hugging Face hub, and Parquet files."""

from __future__ import annotations

import numpy as np
import pytest

from cap2im.data.image_preparation import prepare_image
from cap2im.data.sources import guess_kind
from tests.data import sources


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def caption(id, text="a dog"):
    return {"id": 1, "image_id": id, "caption": text}


def table(root, rows, **features):
    import datasets

    text = datasets.Value("string")
    columns = datasets.Features({"image": datasets.Image(), **{name: text for name in rows if name != "image"}, **features})
    root.mkdir(parents=True, exist_ok=True)
    return datasets.Dataset.from_dict(rows, features=columns)


def picture_names(path, names):
    """Write a Parquet file that holds names of pictures in place of pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": name} for name in names], kind)
    pq.write_table(pa.table({"image": images, "text": ["a dog"] * len(names)}), path)


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


def test_file_names_in_parquet_stay_beside_it(tmp_path, monkeypatch):
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


def test_unreachable_hub_is_not_requested_again(monkeypatch, caplog, capfd):
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
