"""Model cards: data, licence and command, without local paths."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from cap2im.config import load_recipe
from cap2im.data.dataset import PreparedDataset
from cap2im.training.card import description, licence_line, licence_row, vocabulary_row
from cap2im.training.dispatch import without_local_path
from tests.prepared import prepared_dataset


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("/home/someone/my photos", "my photos"),
        ("--data=/home/someone/photos/", "--data=photos"),
        ("train.damsm=/x/y/damsm", "train.damsm=damsm"),
        ("train.damsm='/x/y/damsm'", "train.damsm=damsm"),
        ("~/photos", "photos"),
        ("../../secret/photos", "photos"),
        ("C:\\Users\\me\\photos", "photos"),
        ("file:///home/someone/photos", "photos"),
        ("runs/photos", "runs/photos"),
        ("s3://bucket/photos", "s3://bucket/photos"),
        ("OWNER/NAME", "OWNER/NAME"),
        ("train.kl_weights=[[0, 0.1], [200, 1.0]]", "train.kl_weights=[[0, 0.1], [200, 1.0]]"),
    ],
)
def test_cards_show_the_last_part_of_local_paths(argument, shown):
    assert without_local_path(argument) == shown


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ({"kind": "folder", "path": "/home/someone/photos/"}, "photos"),
        ({"kind": "pairs", "path": "../photos"}, "photos"),
        ({"kind": "folder", "path": "C:\\Users\\me\\photos"}, "photos"),
        ({"kind": "huggingface", "path": "OWNER/NAME"}, "OWNER/NAME"),
        ({"kind": "huggingface", "path": "/home/x.parquet"}, "x.parquet"),
    ],
)
def test_cards_hide_local_paths_of_datasets(tmp_path, source, path):
    dataset = PreparedDataset.open(prepared_dataset(tmp_path / "data"))
    dataset = dataclasses.replace(dataset, manifest=dataset.manifest.model_copy(update={"source": source}))
    assert dataset.about() == {"sha256": dataset.sha256, "source": {"kind": source["kind"], "path": path}, "images": 24}


@pytest.mark.parametrize(
    ("licence", "line"),
    [
        (None, ""),
        ("CC-BY-4.0", "license: cc-by-4.0\n"),
        ("all rights: reserved", 'license: other\nlicense_name: "all rights: reserved"\n'),
        ("mit\n---\n# x", 'license: other\nlicense_name: "mit --- # x"\n'),
    ],
)
def test_the_licence_is_that_of_the_data(licence, line):
    dataset = {"source": {"kind": "folder", "path": "photos"}, "images": 3} | ({} if licence is None else {"licence": licence})
    for data in (dataset, {"source": "captions", "dataset": dataset}):
        assert licence_line(data) == line
        assert ("not known" in licence_row(data)["licence of the data"]) == (licence is None)


@pytest.mark.parametrize(
    ("changes", "data", "row"),
    [
        ([], {"minimum_count": 3}, {"vocabulary": "3,501 entries; words occur at least 3 times in the training captions"}),
        ([], {"minimum_count": 1}, {"vocabulary": "3,501 entries"}),
        ([], {}, {"vocabulary": "3,501 entries"}),
        (["model.conditioning=none"], {"minimum_count": 3}, {}),
    ],
)
def test_cards_tell_which_words_a_model_knows(changes, data, row):
    recipe = load_recipe("aligndraw-flickr8k", ["model.vocabulary_size=3501", *changes])
    assert vocabulary_row(recipe, data) == row


def test_captioned_digits_have_the_mit_licence():
    for data in ({"source": "mnist"}, {"source": "digits"}, {}):
        assert licence_line(data) == "license: mit\n"
        assert licence_row(data) == {}
        assert description("alignDRAW on digits", data) == "alignDRAW on digits"
    assert licence_line({"sentences": 5, "sha256": "x"}) == "", "texts have whatever licence they have"


def test_a_description_names_the_data():
    source = {"kind": "folder", "path": "photos"}
    assert description("a VAE", {"dataset": {"source": source, "images": 1234}}) == "a VAE, trained on photos (1,234 images)"
    assert description("a VAE", {"dataset": {"source": source, "title": "My\n| cats"}}) == "a VAE, trained on My / cats"
    assert description("a VAE", {"dataset": {"source": {"kind": "test"}}}) == "a VAE, trained on captioned images"


def test_prepare_stores_title_and_licence(run, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "photos" / "one.png")
    (tmp_path / "photos" / "one.txt").write_text("a red square\n")
    told = ("--title", "squares", "--license", "CC0-1.0", "--workers", "1")
    code, _, err = run("prepare", "pairs", "photos", "--out", "data", "--side", "8", *told)
    assert code == 0, err
    dataset = PreparedDataset.open(tmp_path / "data")
    about = dataset.about()
    assert dataset.manifest.minimum_count == 1
    assert (about["title"], about["licence"], about["images"]) == ("squares", "CC0-1.0", 1)
    card = (tmp_path / "data" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc0-1.0\n")
    assert "\n# squares\n" in card
    assert card.endswith("\nLicence: CC0-1.0.\n")
