"""`cap2im draw`: the files it writes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cap2im.cli.captions import read_input
from cap2im.data.workers import worker_pool
from cap2im.pipeline import Pipeline
from cap2im.rendering.folder import slug
from cap2im.rendering.parts import PARTS
from tests.evaluation.models import models
from tests.tiny import tiny_model

CAPTION = "the digit three is at the top of the digit one"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-model"))


def test_draw_writes_pictures_animation_attention_and_page(run, tmp_path, model):
    code, out, err = run("draw", CAPTION, "the digit 7 is at the top left of the image", "--model", model, "--samples", "3", "--seed", "9")
    assert (code, err) == (0, "")
    folders = sorted((tmp_path / "drawings").iterdir())
    assert [f.name for f in folders] == ["the-digit-7-is-at-the-top-left-of-the-image", CAPTION.replace(" ", "-")]
    for folder in folders:
        names = {path.name for path in folder.iterdir()}
        assert {"sample-1.png", "sample-2.png", "sample-3.png"} <= names
        assert all(any(re.fullmatch(part.names, name) for name in names) for part in PARTS.values())
        assert Image.open(folder / "sample-1.png").size == (60, 60)
        assert str(folder.relative_to(tmp_path)) in out


@pytest.mark.usefixtures("bf16")
def test_draw_json_from_file_and_standard_input(run, tmp_path, model):
    (tmp_path / "captions.txt").write_text(f"{CAPTION}\n\n  the digit 1 is on the left of the digit 2\n")
    code, out, _ = run("draw", "--captions", "captions.txt", "--model", model, "--json", "-n", "1", "-o", "a")
    assert code == 0
    written = json.loads(out)
    assert [entry["caption"] for entry in written] == [CAPTION, "the digit 1 is on the left of the digit 2"]
    assert all(Path(path).is_file() for entry in written for path in entry["files"])
    code, out, _ = run("draw", "--file", "-", "--model", model, "--json", "-n", "1", "-o", "b", stdin=f"{CAPTION}\n")
    assert [entry["caption"] for entry in json.loads(out)] == [CAPTION]
    one, two = (next((tmp_path / f).glob("the-digit-three*/sample-1.png")).read_bytes() for f in "ab")
    assert one == two
    code, out, _ = run("draw", CAPTION, "--model", model, "--json", "-n", "1", "-o", "c", "--precision", "bf16")
    assert [json.loads(out)[0]["precision"], written[0]["precision"]] == ["bf16", "fp32"]
    pages = [next((tmp_path / f).glob("the-digit-three*/drawing.html")).read_text() for f in "ac"]
    assert [" in bf16" in page for page in pages] == [False, True]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("place", ["captions.txt", "-"])
def test_draw_reads_text_with_a_byte_order_mark(run, tmp_path, model, place, encoding):
    content = f"{CAPTION}\r\n".encode(encoding)
    (tmp_path / "captions.txt").write_bytes(content)
    code, out, _ = run("draw", "--file", place, "--model", model, "--json", "-n", "1", stdin=content)
    assert (code, [entry["caption"] for entry in json.loads(out)]) == (0, [CAPTION])


@pytest.mark.parametrize("place", ["captions.txt", "-"])
@pytest.mark.parametrize(("command", "option"), [("draw", "--file"), ("figures", "--captions")])
def test_captions_in_other_encodings_are_refused(run, tmp_path, command, option, place):
    content = CAPTION.encode() + b"\ncaf\xe9\n"
    (tmp_path / "captions.txt").write_bytes(content)
    code, _, err = run(command, option, place, stdin=content)
    assert (code, err.count("\n")) == (2, 1)
    assert "line 2 is not UTF-8" in err


def test_messages_name_standard_input(run, monkeypatch):
    for text, message in (("\n", ": no captions in it"), ('{"caption": "a dog"}\n', ", line 1: expected one caption a line, and ")):
        code, _, err = run("draw", "--file", "-", stdin=text)
        assert (code, err.startswith(f"cap2im: standard input{message}")) == (2, True), err
    monkeypatch.setattr(sys, "stdin", None)  # as after `<&-`
    with pytest.raises(ValueError, match="standard input: is closed, and captions are needed"):
        read_input(Path("-"))


def test_words_without_quotes_are_one_caption(run, model):
    code, out, err = run("draw", *CAPTION.split(), "--model", model, "--json", "-n", "1")
    assert (code, [entry["caption"] for entry in json.loads(out)]) == (0, [CAPTION])
    assert err.startswith("one caption: ")


def test_draw_leaves_out_unknown_punctuation(run, model):
    code, out, _ = run("draw", f"\ufeff\u201c{CAPTION}\u201d !? (\u2014)", "--model", model, "--json", "-n", "1")
    assert (code, json.loads(out)[0]["words"]) == (0, [*CAPTION.split(), "."])


def test_captions_are_drawn_in_common_batches(run, tmp_path, model, monkeypatch):
    """And no more than one batch is in memory; a caption's files are those that it has alone, whatever process writes them."""
    captions = [f"the digit {digit} is at the top left of the image" for digit in range(7)]
    (tmp_path / "captions.txt").write_text("\n".join([*captions, captions[0].upper()]))
    monkeypatch.setattr("cap2im.models.interface.PICTURES_AT_ONCE", 4)
    monkeypatch.setattr("cap2im.cli.draw.MANY_CAPTIONS", 7)
    monkeypatch.setattr("cap2im.data.workers.available_workers", lambda: 2)
    pools: list[int] = []
    monkeypatch.setattr("cap2im.data.workers.worker_pool", lambda workers: pools.append(workers) or worker_pool(workers))
    batches: list[int] = []
    original = Pipeline._draw_batch

    def counted(self, captions, *rest):
        batches.append(len(captions))
        return original(self, captions, *rest)

    monkeypatch.setattr(Pipeline, "_draw_batch", counted)
    code, out, err = run("draw", "-f", "captions.txt", "--model", model, "-n", "2", "--seed", "3", "--only", "png", "--json")
    assert code == 0, err
    assert batches == [4, 4, 4, 2]
    written = json.loads(out)
    assert [entry["caption"] for entry in written] == [*captions, captions[0].upper()]
    assert written[0]["files"] == written[-1]["files"]
    assert run("draw", captions[5], "--model", model, "-n", "1", "--seed", "4", "--only", "png", "-o", "alone")[0] == 0
    assert pools == [2, 1]
    paths = written[5]["files"][1], next((tmp_path / "alone").glob("*/sample-1.png"))
    together, alone = (np.asarray(Image.open(path)).astype(int) for path in paths)
    assert np.abs(together - alone).max() <= 1, "rounding"
    assert together.std() > 1


@pytest.mark.parametrize(
    ("only", "files"),
    [
        (["png"], {"sample-1.png", "sample-2.png", "grid.png"}),
        (["gif"], {"drawing.gif"}),
        (["attention"], {"attention.png"}),
        (["html", "gif"], {"drawing.html", "drawing.gif"}),
    ],
)
def test_only_some_parts_of_a_drawing(run, tmp_path, model, only, files):
    arguments = [part for kind in only for part in ("--only", kind)]
    code, out, err = run("draw", CAPTION, "--model", model, "-n", "2", *arguments)
    assert (code, err) == (0, "")
    (folder,) = (tmp_path / "drawings").iterdir()
    assert {path.name for path in folder.iterdir()} == files
    code, out, _ = run("draw", CAPTION, "--model", model, "-n", "2", *arguments)
    assert "replacing an earlier drawing" in out


@pytest.mark.parametrize("part", PARTS)
def test_another_model_draws_into_another_folder(run, tmp_path, model, part):
    tiny_model(tmp_path / "Other One")
    name = CAPTION.replace(" ", "-")
    assert run("draw", CAPTION, "--model", model, "-n", "1", "--only", part)[0] == 0
    kept = {path: path.read_bytes() for path in (tmp_path / "drawings").rglob("*.*")}
    assert kept
    assert run("draw", CAPTION, "--model", "Other One", "-n", "2")[0] == 0
    assert run("draw", CAPTION, "--model", "Other One", "-n", "1")[0] == 0
    folders = sorted(path.name for path in (tmp_path / "drawings").iterdir())
    assert folders == [name, f"{name}-by-{slug('Other One')}"]
    assert {path: path.read_bytes() for path in kept} == kept


def test_files_of_others_in_a_drawings_folder_stay(run, tmp_path, model):
    folder = tmp_path / "drawings" / CAPTION.replace(" ", "-")
    folder.mkdir(parents=True)
    Image.new("L", (2, 2)).save(folder / "grid.png")
    before = (folder / "grid.png").read_bytes()
    assert run("draw", CAPTION, "--model", model, "-n", "1")[0] == 0
    assert (folder / "grid.png").read_bytes() == before
    assert len(list((tmp_path / "drawings").iterdir())) == 2


def test_no_caption_suggests_one_of_the_models_own(run, tmp_path):
    words, *_ = models(tmp_path)
    code, _, err = run("draw", "--model", str(words))
    assert code == 2
    assert err.splitlines()[-1] == f"cap2im: no caption given; try: cap2im draw 'there is a red square in the middle' --model {words}"


def test_a_new_drawing_replaces_all_files_of_the_old(run, tmp_path, model):
    run("draw", CAPTION, "--model", model, "-n", "12")
    code, out, _ = run("draw", CAPTION, CAPTION.upper(), "--model", model, "-n", "2", "--json")
    assert code == 0
    (folder,) = (tmp_path / "drawings").iterdir()
    assert sorted(path.name for path in folder.glob("sample-*")) == ["sample-1.png", "sample-2.png"]
    upper, lower = sorted(json.loads(out), key=lambda entry: entry["caption"])
    assert [upper["caption"], lower["caption"]] == [CAPTION.upper(), CAPTION], "an entry for each caption given"
    assert upper["files"] == lower["files"]
    assert upper["words"] == lower["words"]


def test_unknown_words_that_are_left_out_are_named(run, model):
    code, out, err = run("draw", CAPTION + " thre", "--model", model, "-n", "1", "--json", "--unknown", "skip")
    assert (code, err) == (0, f"left out of '{CAPTION} thre': thre\n")
    assert json.loads(out)[0]["words"][:3] == ["the", "digit", "three"]


def test_a_caption_of_another_bundled_model_names_it(run):
    code, _, err = run("draw", "a dog runs through the snow")
    assert code == 2
    assert err.splitlines()[-1].endswith("; --model aligndraw-flickr8k knows all of these words")
    code, _, err = run("draw", "a zebra runs through the snow")
    assert (code, "--model" in err) == (2, False)
    code, _, err = run("draw", "a dog runs . " * 80)
    assert (code, "--model" in err) == (2, True)
    code, _, err = run("draw", "the digit is on the left . " * 80)  # too long, and all of its words are known
    assert (code, "--model" in err) == (2, False)
