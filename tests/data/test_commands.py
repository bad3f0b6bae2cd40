"""Test the output and the exit status of `cap2im prepare` and `cap2im check`."""

from __future__ import annotations

import contextlib
import json
import sys
import typing

import pytest
import typer

from cap2im import cli
from tests.data import sources


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `cap2im ARGUMENTS` in an empty folder; answers exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cap2im", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


def test_prepare_and_check(run, tmp_path):
    sources.coco(tmp_path / "coco")
    code, out, _ = run("prepare", "coco", "coco", "--out", "data", "--side", "8", "--fit", "crop", "--captions", "5", "--workers", "1")
    assert code == 0
    assert "train: 3 images with 15 captions, validation: 2 images with 10 captions" in out
    assert "written to data" in out
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert (manifest["side"], manifest["fit"], manifest["captions"]) == (8, "crop", 5)
    code, out, _ = run("check", "data", "--workers", "1")
    assert code == 0
    assert "data: prepared" in out
    assert out.rstrip().endswith("fine")
    assert run("prepare", "coco", "coco", "--out", "data", "--side", "8", "--fit", "crop", "--captions", "5", "--resume")[0] == 0


@pytest.mark.parametrize(("kind", "make"), [("birds", sources.birds), ("attngan", sources.attngan), ("released", sources.released)])
def test_published_files_are_prepared(run, tmp_path, kind, make):
    make(tmp_path / "there")
    code, _, err = run("prepare", kind, "there", "--out", "data", "--workers", "1")
    assert code == 0, err
    vocabulary = json.loads((tmp_path / "data" / "vocabulary.json").read_text())
    expected = {"attngan": ["<end>", "bird", "plane", "a", "red"], "released": ["<no word 0>", "UNK", "a", "dog", "red", ".", "bus"]}
    assert vocabulary["words"] == expected.get(kind, vocabulary["words"])
    assert run("check", "data", "--workers", "1")[0] == 0


def test_check_lists_ten_of_a_kind_or_all(run, tmp_path):
    sources.pairs(tmp_path / "photos", 15)
    for number in range(12):
        (tmp_path / "photos" / f"p{number}.txt").unlink()
    code, out, _ = run("check", "photos", "--workers", "1")
    assert code == 1
    assert "image without captions: 12 (data is lost)" in out
    assert out.count("there is no p") == 10
    assert "and 2 more; --all lists them" in out
    assert "data would be lost" in out
    assert run("check", "photos", "--workers", "1", "--all")[1].count("there is no p") == 12


def test_check_reads_captions_as_prepare_would(run, tmp_path):
    sources.folder(tmp_path / "photos", [{"file_name": "a.jpg", "text": ["猫 犬", "a \ud83d", "a cat"]}])
    code, out, _ = run("check", "photos", "--workers", "1", "--tokens", "attngan")
    assert code == 1
    assert "caption without words: 1 (data is lost)" in out
    assert "wrong encoding: 1 (data is lost)" in out


def test_warnings_do_not_fail_the_check(run, tmp_path):
    sources.coco(tmp_path / "coco")
    code, out, _ = run("check", "coco", "--workers", "1")
    assert code == 0
    assert "image without annotation: 1 (a warning)" in out
    assert "fine, with warnings" in out


def test_a_table_with_its_options(run, tmp_path):
    sources.pairs(tmp_path / "photos", 6)
    rows = "".join(
        f"p{n}.jpg\ta dog, {n}\tbrown {n}\t{split}\n" for n, split in enumerate(("train", "train", "train", "train", "val", "test"))
    )
    sources.write(tmp_path / "list.tsv", "where\twhat\tcolour\tpart\n" + rows)
    options = ("--images", "photos", "--caption-column", "what", "--caption-column", "colour", "--split-column", "part", "--workers", "1")
    code, out, err = run("prepare", "table", "list.tsv", "--out", "data", *options)
    assert code == 0, err
    assert "train: 4 images with 8 captions, validation: 1 image with 2 captions, test: 1 image with 2 captions" in out
    assert "no validation images" not in err
    assert run("check", "list.tsv", *options)[0] == 0


def test_a_missing_validation_split_is_reported(run, tmp_path):
    sources.pairs(tmp_path / "photos", 20)
    hint = "no validation images, which train needs: prepare with --validation 0.1"
    assert hint in run("check", "photos", "--workers", "1")[1]
    assert hint in run("prepare", "pairs", "photos", "--out", "a", "--workers", "1")[2]
    assert hint in run("check", "a", "--workers", "1")[1]
    assert (
        "--validation 0.0001 holds out none"
        in run("prepare", "pairs", "photos", "--out", "b", "--validation", "0.0001", "--workers", "1")[2]
    )
    code, out, err = run("prepare", "pairs", "photos", "--out", "c", "--validation", "0.3", "--test", "0.3", "--workers", "1")
    assert (code, "no validation images" in err) == (0, False)
    assert "validation: " in out
    assert "test: " in out


def test_check_reports_a_dataset_without_training_data(run, tmp_path):
    sources.pairs(tmp_path / "photos" / "val", 2)
    code, out, _ = run("check", "photos", "--workers", "1")
    assert code == 1
    assert "no training images: 1 (data is lost)" in out
    assert run("prepare", "pairs", "photos", "--out", "data", "--workers", "1")[0] == 2


def test_a_tilde_is_the_home_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sources.pairs(tmp_path / "home" / "photos", 3)
    assert run("prepare", "pairs", "~/photos", "--out=~/zz", "--workers", "1")[0] == 0
    assert (tmp_path / "home" / "zz" / "manifest.json").is_file()
    assert run("check", "~/zz", "--workers", "1")[0] == 0
    assert run("check", "~/photos", "--workers", "1")[0] == 0
    sources.write(tmp_path / "home" / "list.csv", "file,text\np0.jpg,a dog\np1.jpg,a cat\np2.jpg,a cow\n")
    assert run("prepare", "table", "~/list.csv", "--images", "~/photos", "--out", "~/zz2", "--workers", "1")[0] == 0
    assert not (tmp_path / "~").exists()


PATHS = {
    "out",
    "run",
    "runs",
    "store",
    "data",
    "model",
    "models",
    "sharpen",
    "file",
    "folder",
    "path",
    "captions",
    "dictionary",
    "text_encoder",
}
PATHS |= {"api_key_file", "start_from", "recipe", "shortlist_model", "inception", "damsm", "images"}
NO_PATHS = {("draw", "captions"), ("prepare", "captions"), ("evaluate", "images"), ("compare", "images")}


def test_every_option_that_names_a_path_expands_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    seen = set()
    for command in (each for family in cli.app.registered_groups for each in family.typer_instance.registered_commands):
        for name, hint in typing.get_type_hints(command.callback, include_extras=True).items():
            if name in PATHS and (command.callback.__name__, name) not in NO_PATHS:
                seen.add(name)
                with contextlib.suppress(typer.BadParameter):  # there is no such file
                    assert str(hint.__metadata__[0].parser("~/x")) == "/home/somebody/x", (command.callback, name)
    assert seen == PATHS


BAD = [
    (["prepare", "coco", "gone", "--out", "data"], "gone: no such file or folder"),
    (["prepare", "coco", "empty", "--out", "data"], "empty: no annotations/captions_train2017.json"),
    (["prepare", "cocoa", "empty", "--out", "data"], "'cocoa' is not one of"),
    (["prepare", "pairs", "photos", "--out", "photos"], "photos: this folder is not empty"),
    (["prepare", "pairs", "photos", "--out", "photos/p0.txt"], "photos/p0.txt: is a file"),
    (["prepare", "pairs", "photos", "--out", "data", "--side", "3"], "Invalid value for '--side'"),
    (["prepare", "pairs", "photos", "--out", "data", "--validation", "1.5"], "Invalid value for '--validation'"),
    (["prepare", "pairs", "photos/p0.txt", "--out", "data"], "is a file, and pairs needs a folder"),
    (["prepare", "pairs", "photos", "--out", "data", "--minimum-count", "99"], "no word is left"),
    (["prepare", "huggingface", "./gone.parquet", "--out", "data"], "no such file or folder"),
    (["prepare", "huggingface", "./gone", "--out", "data"], "./gone: no such file or folder"),
    (["prepare", "pairs", "photos", "--out", "data", "--image-column", "x"], "--image-column x: a source of kind pairs has no columns"),
    (
        ["prepare", "attngan", "birds", "--out", "data", "--words", "5"],
        "--minimum-count and --words: this source has its own vocabulary",
    ),
    (["prepare", "attngan", "birds", "--out", "data", "--tokens", "released"], "--tokens released: this source has its own vocabulary"),
    (["check", "photos", "--caption-column", "x"], "--caption-column x: a source of kind pairs has no columns"),
    (
        ["prepare", "pairs", "photos", "--out", "data", "--images", "x"],
        "--images x: a source of kind pairs has its pictures in its own folder",
    ),
    (["prepare", "pairs", "photos", "--out", "data", "--split-column", "x"], "--split-column x: a source of kind pairs has no columns"),
    (
        ["prepare", "table", "photos/p0.txt", "--out", "data"],
        "photos/p0.txt: none of its rows can be used; the first problem: unusable entry: ",
    ),
    (["prepare", "table", "photos", "--out", "data"], "photos: no table of pictures and captions"),
    (["prepare", "pairs", "photos", "--out", "data", "--validation", "0.5", "--test", "0.5"], "at most 0.9 together"),
    (["check", "gone"], "gone: no such file or folder"),
    (["check", "photo"], "photo: no such file or folder; there is photos"),
    (["check", "empty"], "cannot tell what kind"),
    (["check", "photos", "--kind", "coco"], "no annotations/captions_train2017.json"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_ends_in_one_line(run, tmp_path, arguments, message):
    sources.pairs(tmp_path / "photos", 2)
    sources.attngan(tmp_path / "birds")
    (tmp_path / "empty").mkdir()
    code, out, err = run(*arguments, *(() if "--side" in arguments else ("--workers", "1")))
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("cap2im: ")
    assert message in last
    assert "Traceback" not in err


def test_preparing_explains_a_missing_library(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    code, _, err = run("prepare", "pairs", ".", "--out", "data")
    assert code == 2
    assert 'pip install "cap2im[train]"' in err
