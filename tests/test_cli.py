"""The command line: what it writes, and one line with exit status 2 for whatever is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cap2im
from cap2im.evaluation.evaluation import Evaluation
from cap2im.pipeline import Pipeline
from cap2im.rendering.folder import slug
from tests.evaluation.models import models
from tests.real_data import data_folder
from tests.tiny import CHANGES, tiny_model, tiny_recipe

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
        assert names == {"sample-1.png", "sample-2.png", "sample-3.png", "grid.png", "drawing.gif", "attention.png", "drawing.html"}
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


def test_words_without_quotes_are_one_caption(run, model):
    code, out, err = run("draw", *CAPTION.split(), "--model", model, "--json", "-n", "1")
    assert (code, [entry["caption"] for entry in json.loads(out)]) == (0, [CAPTION])
    assert err.startswith("one caption: ")


def test_draw_leaves_out_unknown_punctuation(run, model):
    code, out, _ = run("draw", f"\ufeff\u201c{CAPTION}\u201d !? (\u2014)", "--model", model, "--json", "-n", "1")
    assert (code, json.loads(out)[0]["words"]) == (0, [*CAPTION.split(), "."])


def test_captions_are_drawn_in_common_batches(run, tmp_path, model, monkeypatch):
    """And no more than one batch is in memory; a caption's pictures are those that it has alone."""
    captions = [f"the digit {digit} is at the top left of the image" for digit in range(7)]
    (tmp_path / "captions.txt").write_text("\n".join([*captions, captions[0].upper()]))
    monkeypatch.setattr("cap2im.models.interface.PICTURES_AT_ONCE", 4)
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


@pytest.mark.parametrize("part", ["png", "gif", "attention", "html"])
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
    assert err.splitlines()[-1] == f"cap2im: no caption given; try: cap2im draw 'a red square' --model {words}"


def test_drawing_again_leaves_no_stale_samples_and_one_folder_for_the_same_words(run, tmp_path, model):
    run("draw", CAPTION, "--model", model, "-n", "12")
    code, out, _ = run("draw", CAPTION, CAPTION.upper(), "--model", model, "-n", "2", "--json")
    assert code == 0
    (folder,) = (tmp_path / "drawings").iterdir()
    assert sorted(path.name for path in folder.glob("sample-*")) == ["sample-1.png", "sample-2.png"]
    upper, lower = sorted(json.loads(out), key=lambda entry: entry["caption"])
    assert [upper["caption"], lower["caption"]] == [CAPTION.upper(), CAPTION], "an entry for each caption given"
    assert upper["files"] == lower["files"]
    assert upper["words"] == lower["words"]


def test_words_that_are_left_out_are_told(run, model):
    code, out, err = run("draw", CAPTION + " thre", "--model", model, "-n", "1", "--json", "--unknown", "skip")
    assert (code, err) == (0, f"left out of '{CAPTION} thre': thre\n")
    assert json.loads(out)[0]["words"][:3] == ["the", "digit", "three"]


BAD = [
    (["draw", "the digit eleven is at the top"], r"unknown word 'eleven' (nearest known: "),
    (["draw", ""], "a caption is empty"),
    (["draw"], "no caption given"),
    (["draw", "digit " * 10_000], "10001 words; at most 200"),
    (["draw", CAPTION, "--model", "nothing"], "unknown model 'nothing'; bundled: "),
    (["draw", CAPTION, "--device", "tpu"], "no device 'tpu' on this machine; there is cpu"),
    (["draw", CAPTION, "--samples", "0"], "Invalid value for '--samples'"),
    (["draw", CAPTION, "--samples", "many"], "Invalid value for '--samples'"),
    (["draw", CAPTION, "--unknown", "guess"], "'guess' is not one of"),
    (["draw", CAPTION, "--colour"], "No such option"),
    (["draw", "--file", "nowhere.txt"], "nowhere.txt: no such file"),
    (["draw", "--file", "empty.txt"], "empty.txt: no captions in it"),
    (["draw", "--file", "latin.txt"], "latin.txt: line 1 is not UTF-8"),
    (["draw", CAPTION, "--out", "empty.txt"], "empty.txt: is a file"),
    (["train", "aligndraw-digits", "--data", "."], "--data .: aligndraw-digits takes its digits from scikit-learn"),
    (["train", "aligndraw-digits", "--from", "aligndraw-mnist", "--set", "data.held_out_seed=5", "--resume"], "give one of them"),
    (
        ["train", "aligndraw-digits", "--from", "aligndraw-mnist", "--set", "data.held_out_seed=5", "--run", "x"],
        "is of another size: its model.glimpses is 32, this training's is 16, model.inference_units is 300, this training's is 128",
    ),
    (["train", "aligndraw-mnist", "--set", "model.side=32"], "model.side is 32, 60 is needed"),
    (["train", "aligndraw-mnist", "--set", "train.learning_rate=inf"], "finite number"),
    (["evaluate", "aligndraw-mnist", "--out", "."], ".: cannot write this file: is a folder, and a file is needed"),
    (["draw", CAPTION, "--out", "/proc/nowhere"], "/proc/nowhere: "),
    (["draw", CAPTION, "--out", "empty.txt/x"], "empty.txt is a file, not a folder"),
    (["draw", CAPTION, "--only", "pdf"], "'pdf' is not one of 'png', 'gif', 'attention', 'html'"),
    (["draw", "--file", "."], ".: is a folder, and a file is needed"),
    (["evaluate", "aligndraw-mnist", "--data", "s3://a/b"], "--data s3://a/b: is a URL; aligndraw-mnist draws captioned digits"),
    (["evaluate", "--out", "empty.txt/e.json"], "empty.txt/e.json: cannot write this file"),
    (["generate", "aligndraw-mnist", "--data", "empty.txt"], "empty.txt: is a file, and the folder of a prepared dataset is needed"),
    (["generate", "aligndraw-mnist", "--data", "nowhere"], "nowhere: no such folder; a prepared dataset is needed"),
    (["generate", "aligndraw-mnist", "--data", "x", "--out", "empty.txt"], "empty.txt: is a file, and a folder is needed"),
    (["figures", "--data", "nowhere"], "nowhere: no such folder"),
    (["figures", "--out", "empty.txt"], "empty.txt: is a file, and a folder is needed"),
    (["compare", "aligndraw-mnist", "--data", "nowhere"], "nowhere: no such folder"),
    (["paint"], "No such command 'paint'"),
    (["train", "aligndraw"], "unknown recipe 'aligndraw' (did you mean "),
    (["train", "aligndraw-mnist", "--set", "train.batchsize=64"], "unknown key train.batchsize (did you mean train.batch_size?)"),
    (["train", "aligndraw-mnist", "--set", "train.learning_rate=-1"], "train.learning_rate: Input should be greater than 0, got -1"),
    (["train", "aligndraw-mnist", "--data", "nowhere"], "nowhere: no such folder"),
    (["train", "aligndraw-mnist", "--data", "."], "no train-images-idx3-ubyte and no train-images-idx3-ubyte.gz"),
    (["train", "aligndraw-digits", "--resume"], "no checkpoint to resume from"),
    (["train", "aligndraw-digits", "--run", "empty.txt"], "empty.txt"),
    (["convert", "nowhere.h5", "--out", "model"], "nowhere.h5: no such file or folder"),
    (["convert", "empty.txt"], "Missing option '--out'"),
    (["convert", "empty.txt", "--out", "model"], "empty.txt: neither an HDF5 nor a PyTorch file"),
    (["convert", "empty.txt", "--out", "."], ".: exists already; give a new or an empty folder"),
    (["convert", "latin.txt", "--out", "model", "--glimpses", "0"], "Invalid value for '--glimpses'"),
    (["train", "skipthoughts"], "skipthoughts learns from sentences: give a text, a token file or a prepared dataset with --data"),
    (["train", "skipthoughts-small", "--data", "nowhere"], "nowhere: no such file or folder"),
    (["train", "skipthoughts-small", "--data", "empty.txt"], "empty.txt: empty"),
    (["train", "skipthoughts-small", "--data", "latin.txt"], "latin.txt: line 1 is not UTF-8"),
    (
        ["train", "skipthoughts-small", "--data", "latin.txt", "--compile"],
        "skipthoughts-small: a recipe of kind 'skipthoughts' has no --compile",
    ),
    (
        ["train", "skipthoughts-small", "--set", "model.uni=0", "--set", "model.bi=0"],
        "uni and bi are both 0; at least one must be positive",
    ),
    (["evaluate", "nothing"], "unknown model 'nothing'"),
    (["evaluate", "aligndraw-mnist", "--data", "nowhere"], "nowhere: no such folder"),
    (["evaluate", "aligndraw-mnist", "--out", "no/such/file.json"], "no/such/file.json: cannot write this file: no folder no/such"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "")
def test_bad_input_is_one_line_and_status_2(run, tmp_path, arguments, message):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("cap2im: ")
    assert message in lines[0]


@pytest.mark.parametrize(("name", "message"), [("model.safetensors", "truncated or altered"), ("config.json", "damaged")])
def test_damaged_model_is_one_line(run, tmp_path, name, message):
    folder = tiny_model(tmp_path / "model")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    code, out, err = run("draw", CAPTION, "--model", str(folder))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"{name}: " in err
    assert message in err


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_unwritable_folder_is_one_line(run, tmp_path, model):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    code, _, err = run("draw", CAPTION, "--model", model, "--out", str(locked))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "locked" in err


def test_dry_run_prints_the_recipe_and_stops(run, tmp_path):
    code, out, _ = run("train", "aligndraw-mnist", "--set", "train.batch_size=64", "--dry-run")
    assert code == 0
    assert "batch_size = 64" in out
    assert not list(tmp_path.iterdir())


def test_train_resume_draw_evaluate(run, tmp_path):
    changes = [part for change in CHANGES for part in ("--set", change)]
    code, out, _ = run("train", "aligndraw-digits", "--run", "mine", "--device", "cpu", *changes)
    assert code == 0, out
    assert "model written to mine/model" in out
    card = (tmp_path / "mine" / "model" / "README.md").read_text()
    assert "cap2im train aligndraw-digits --run mine" in card
    code, _, err = run("train", "aligndraw-digits", "--run", "mine", "--device", "cpu", *changes)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "holds a run already" in err
    code, _, err = run("train", "aligndraw-digits", "--run", "mine", "--device", "cpu", "--resume", *changes, "--set", "train.seed=5")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "train.seed: 0 -> 5" in err
    assert run("draw", CAPTION, "--model", "mine", "-n", "1")[0] == 0
    code, out, err = run("evaluate", "mine", "--samples", "1", "--bound-samples", "2", "--images", "12")
    assert code == 0, err
    result = json.loads((tmp_path / "evaluation-mine.json").read_text())
    assert result["caption_accuracy"]["drawings"]["all"]["n"] == 440
    assert result["likelihood"]["protocol"]["split"] == "test"
    assert result["likelihood"]["samples"] == 2
    assert "joint" in out
    assert "nats an image" in out


@pytest.mark.parametrize("recipe", ["fc-vae-mnist", "conv-vae-mnist"])
def test_train_draw_evaluate_a_vae(run, tmp_path, recipe):
    changes = ("data.source=digits", "data.samples_per_epoch=20", "data.validation_samples=6", "train.epochs=2", "train.batch_size=4")
    changes += ("model.hidden=8", "model.maps=2", "model.latent=3", "model.language_units=4", "train.validate_every=5")
    code, out, err = run("train", recipe, "--run", "mine", "--device", "cpu", *(part for change in changes for part in ("--set", change)))
    assert code == 0, err
    assert out.endswith("model written to mine/model\n")
    assert "one posterior sample; pixels: gaussian, deviation" in (tmp_path / "mine" / "model" / "README.md").read_text()
    assert [path.name for path in sorted((tmp_path / "mine" / "samples").iterdir())] == [f"drawings-{n:08}.png" for n in (5, 10)]
    code, out, err = run("draw", CAPTION, "--model", "mine", "-n", "2", "--out", "drawn")
    assert code == 0, err
    written = {path.name for path in next((tmp_path / "drawn").iterdir()).iterdir()}
    assert written == {"sample-1.png", "sample-2.png", "grid.png", "drawing.html"}, "one glimpse, no attention"
    code, out, err = run("evaluate", "mine", "--samples", "1", "--bound-samples", "2", "--images", "12")
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "evaluation-mine.json").read_text()))
    observation = evaluation.find("bound", "test").protocol["observation"]
    assert observation.startswith("gaussian, deviation ")
    assert observation in " ".join(out.split())
    assert evaluation.find("joint", "all").n == 440


def test_evaluations_of_other_protocols_are_kept(run, tmp_path):
    words, _, data, _ = map(str, models(tmp_path))
    measure = ("evaluate", words, "--data", data, "--images", "4", "--bound-samples", "1")
    file = tmp_path / "evaluation-words.json"
    for arguments, others in (((), 0), (("--seed", "1"), 1), (("--metric", "ssim", "--samples", "1"), 2), (("--seed", "1"), 2)):
        code, out, err = run(*measure, *arguments)
        assert code == 0, err
        assert (f"beside {others} of other weights or settings" in out) == (others > 0)
        assert len(json.loads(file.read_text()).get("others", [])) == others
    (tmp_path / "mine.json").write_text('{"precious": 1}')
    code, _, err = run(*measure, "--out", "mine.json")
    assert (code, err.splitlines()[-1]) == (2, "cap2im: mine.json: exists and is not an evaluation; choose another --out")
    assert (tmp_path / "mine.json").read_text() == '{"precious": 1}'


def test_evaluate_on_mnist(run, tmp_path):
    folder = data_folder() / "mnist"
    code, out, err = run(
        "evaluate", "aligndraw-mnist", "--data", str(folder), "--samples", "1", "--bound-samples", "1", "--images", "50", "--out", "e.json"
    )
    assert code == 0, err
    evaluation = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text()))
    assert evaluation.find("joint", "all, real").value >= 0.97
    assert evaluation.find("joint", "seen").value >= 0.9, "the bundled model draws what captions say"
    assert evaluation.find("joint", "held out").value >= 0.75, "and most of what training did not show"
    assert -400 < evaluation.find("bound", "test").value < 0
    assert "seen, real" in out


def test_list(run):
    code, out, _ = run("list")
    assert code == 0
    for name in ("aligndraw-mnist-paper", "reader-mnist", "skipthoughts-small", "2,370,722"):
        assert name in out


WITHOUT_TORCH = """
import sys
from cap2im import cli
try:
    cli.main()
finally:
    assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["draw", "--help"], ["draw"], ["--version"]])
def test_what_needs_no_model_imports_no_torch(arguments):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout or done.stderr


def test_version(run):
    assert run("--version")[1].strip() == cap2im.__version__


@pytest.mark.parametrize("command", ["draw", "train", "evaluate", "convert", "list"])
def test_help_has_examples(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Example" in out
    assert f"cap2im {command}" in " ".join(out.split())


QUICK = ("--samples", "1", "--bound-samples", "1", "--images", "4")


@pytest.mark.slow
def test_compare_writes_one_table_and_measures_nothing_twice(run, tmp_path):
    tiny_model(tmp_path / "one")
    tiny_model(tmp_path / "two", "model.conditioning=mean")
    code, out, err = run("compare", "one", "two", *QUICK)
    assert (code, err.count("Traceback")) == (0, 0), err
    table = (tmp_path / "comparison" / "comparison.md").read_text()
    assert "| one | " in table
    assert "| two | " in table
    assert table.strip() in out
    stored = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert {"joint, seen, %", "joint, held out, %", "bound, test, nats", "parameters"} == {column["name"] for column in stored["columns"]}
    with Image.open(tmp_path / "comparison" / "comparison.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    kept = tmp_path / "comparison" / "evaluations" / "one.json"
    written = kept.stat().st_mtime_ns
    assert run("compare", "one", "two", *QUICK)[0] == 0
    assert kept.stat().st_mtime_ns == written
    assert run("compare", "one", "two", *QUICK, "--seed", "1")[0] == 0
    assert kept.stat().st_mtime_ns != written


def test_compare_tells_all_that_is_missing(run, tmp_path):
    tiny_model(tmp_path / "one")
    code, _, err = run("compare", "one", "nothing", "aligndraw-digits", "noaligndraw-mnist")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "unknown model 'nothing'" in err
    assert "not trained yet: aligndraw-digits, noaligndraw-mnist; add --train" in err
    assert "no model given" in run("compare")[2]
    assert "two models are called 'one'" in run("compare", "one", str(tmp_path / "one"))[2]
    assert not (tmp_path / "comparison").exists()


def test_compare_refuses_before_it_measures_trains_or_writes(run, tmp_path, monkeypatch):
    tiny_model(tmp_path / "one")
    (tmp_path / "file").write_text("")

    def too_late(*_, **__):
        raise AssertionError("measured or trained first")

    monkeypatch.setattr("cap2im.evaluation.comparison.evaluate", too_late)
    monkeypatch.setattr("cap2im.cli.compare.train", too_late)
    for arguments, problem in (
        (("one", "reader-mnist", "--train"), "reader-mnist: is a model of kind 'reader'; expected draw, vae, lapgan, attngan"),
        (("one", "noaligndraw-mnist", "--train", "--sharpen", "one"), "is a model of kind 'draw'; expected sharpener"),
        (("--preset", "mnist", "--train", "--metric", "ssim"), "aligndraw-mnist draws captioned digits, for which the metrics are"),
        (("one", "--out", "file"), "file: is a file, and a folder is needed"),
        (("one", "."), "two models are called 'one'"),
    ):
        if "." in arguments:
            monkeypatch.chdir(tmp_path / "one")
            arguments = ("../one", *arguments[1:])
        code, _, err = run("compare", *arguments)
        assert (code, problem in err.splitlines()[-1]) == (2, True), err
        assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("words", "aligndraw-cifar", "--data", "data", "--train"), "its images are 12 pixels wide, a drawing of aligndraw-cifar is 32"),
        (("words", "aligndraw-cifar", "--data", "data", "--train", "--split", "validation"), "data: has no validation images"),
        (("aligndraw-cifar", "--train"), "aligndraw-cifar draws captioned images: give a prepared dataset with --data"),
        (
            ("aligndraw-mnist-paper", "--data", "data", "--train"),
            "--data data: is a prepared dataset; aligndraw-mnist-paper draws captioned",
        ),
        (("aligndraw-mnist-paper", "--data", "nowhere", "--train"), "nowhere: no such folder"),
        (("aligndraw-cifar", "--data", "nowhere", "--train"), "nowhere: no such folder; a prepared dataset is needed"),
        (("words", "--data", "data", "--train", "--metric", "retrieval", "--shortlist-model", "nowhere"), "unknown model 'nowhere'"),
        (
            ("words", "aligndraw-cifar", "--data", "data", "--train", "--metric", "r-precision", "--damsm", "words"),
            "is a model of kind 'draw'; expected damsm",
        ),
        (("words", "--data", "data", "--out", "data/manifest.json/x"), "data/manifest.json is a file, not a folder"),
        (("aligndraw-digits", "--train", "--runs", "data/manifest.json"), "data/manifest.json: is a file, and a folder is needed"),
    ],
)
def test_compare_checks_recipes_before_it_trains(run, tmp_path, monkeypatch, arguments, problem):
    models(tmp_path)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if "validation" not in shard["file"]]
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))

    def too_late(*_, **__):
        raise AssertionError("measured or trained first")

    monkeypatch.setattr("cap2im.evaluation.comparison.evaluate", too_late)
    monkeypatch.setattr("cap2im.cli.compare.train", too_late)
    code, _, err = run("compare", *arguments)
    assert (code, problem in err.splitlines()[-1]) == (2, True), err
    assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize("missing", ["accelerate", "tensorboard"])
def test_compare_needs_what_training_needs(run, monkeypatch, missing):
    monkeypatch.setattr("cap2im.extras.find_spec", lambda name: None if name == missing else object())
    code, _, err = run("compare", "aligndraw-digits", "--train")
    assert (code, "training needs more than the core" in err) == (2, True), err


def test_compare_keeps_another_comparison(run, tmp_path):
    _, _, data, _ = models(tmp_path)
    measure = ("compare", "words", "--data", str(data), "--images", "4", "--bound-samples", "1")
    assert run(*measure)[0] == 0
    first = (tmp_path / "comparison" / "comparison.md").read_bytes()
    code, out, err = run(*measure, "--seed", "1")
    assert (code, "comparison.md is of other models or settings and is kept" in err) == (0, True)
    assert "comparison-2.md, comparison-2.json, comparison-2.png" in out
    assert run(*measure)[0] == 0
    names = {path.name for path in (tmp_path / "comparison").iterdir()}
    assert names == {"evaluations"} | {f"comparison{number}.{ending}" for number in ("", "-2") for ending in ("md", "json", "png")}
    assert (tmp_path / "comparison" / "comparison.md").read_bytes() == first


@pytest.mark.slow
def test_compare_trains_what_is_missing_if_asked_to(run, tmp_path, monkeypatch):
    """The recipe itself takes long; a tiny one takes its place, which goes on from what a killed run left."""
    tiny_model(tmp_path / "one")
    monkeypatch.setattr("cap2im.config.load_recipe", lambda name, changes: tiny_recipe("train.epochs=1"))
    code, out, err = run("compare", "one", "aligndraw-digits", *QUICK, "--train")
    assert code == 0, err
    assert (tmp_path / "runs" / "aligndraw-digits" / "model" / "config.json").is_file()
    assert "| aligndraw-digits | " in out
    assert "seconds a step" in out


def test_compare_trains_the_matching_model_before_its_attngan(run, tmp_path, monkeypatch):
    trained = []

    def fake(name, changes, **how):
        trained.append((name, changes, str(how["run"])))
        if name == "attngan-mnist":
            raise ValueError("far enough")

    monkeypatch.setattr("cap2im.cli.compare.train", fake)
    monkeypatch.setattr("cap2im.data.mnist.load_digits", lambda *_: None)  # MNIST may not be at hand
    assert "far enough" in run("compare", "attngan-mnist", "--train", "--runs", "there")[2]
    there = tmp_path / "there"
    assert trained == [
        ("damsm-mnist", [], "there/damsm-mnist"),
        ("attngan-mnist", ["train.damsm=there/damsm-mnist"], "there/attngan-mnist"),
    ]
    (there / "damsm-mnist" / "model").mkdir(parents=True)
    trained.clear()
    run("compare", "attngan-mnist", "--train", "--runs", "there")
    assert [name for name, _, _ in trained] == ["attngan-mnist"]


def test_figures(run, tmp_path, monkeypatch):
    tiny_model(tmp_path / "one")
    (tmp_path / "flips.txt").write_text("the digit 1 is at the top left of the image\nthe digit 2 is at the top left of the image\n\n")
    code, out, err = run("figures", "one", "--captions", "flips.txt", "--out", "here")
    assert code == 0, err
    names = [Path(line).name for line in out.splitlines()]
    assert names == ["figure-3-caption-flips.png", "figure-5-attended-words.png", "figure-6-seen-and-held-out.png"]
    assert all((tmp_path / "here" / name).is_file() for name in names)
    (tmp_path / "flips.txt").write_text("the digit 1 is at the top left of the image\n \t\nthe digit 2 is at the top left of the image\n")
    code, out, err = run("figures", "one", "--out", "here", "--data", "nowhere")
    assert code == 0
    assert "here: replacing the figures of one" in err
    assert "--data nowhere: ignored, one takes its digits from scikit-learn" in err
    tiny_model(tmp_path / "two")
    code, out, err = run("figures", "two", "--captions", "flips.txt", "--out", "here")
    assert (code, "here: holds figures of another model; writing to here-two" in err) == (0, True)
    assert all(line.startswith("here-two/") for line in out.splitlines())
    asked = []
    monkeypatch.setattr("cap2im.evaluation.figures.write_figures", lambda *arguments, **_: asked.append(arguments[2]) or [])
    assert run("figures", "one", "--captions", "flips.txt")[0] == 0
    assert [len(group) for group in asked[0].flips] == [1, 1], "a line of blanks is an empty one"
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert run("figures", "one", "--captions", "latin.txt")[2].startswith("cap2im: latin.txt: line 1 is not UTF-8")
    for data in ('["the digit three", "the digit four"]', "a.jpg#0\tthe digit three", "a.jpg,the digit three", "<html>"):
        (tmp_path / "data.txt").write_text(f"the digit one\n{data}\n")
        code, _, err = run("draw", "--captions", "data.txt")
        assert (code, err.startswith("cap2im: data.txt, line 2: expected one caption a line, and it ")) == (2, True)
    (tmp_path / "empty.txt").write_text("\n\n")
    code, _, err = run("figures", "one", "--captions", "empty.txt")
    assert (code, err) == (2, "cap2im: empty.txt: no captions in it\n")


def test_a_recipe_is_printed_and_explained(run):
    code, out, err = run("recipe", "aligndraw-small", "--set", "model.glimpses=5")
    assert (code, err) == (0, "")
    assert "glimpses = 5" in out
    code, out, err = run("recipe", "aligndraw-small", "--explain")
    assert (code, err) == (0, "")
    assert "model.glimpses = 8\n    T, steps of a drawing\n    aligndraw-coco-paper: 32\n" in out
    assert "train.epochs = unset\n" in out
    code, _, err = run("recipe", "aligndraw-smal")
    assert (code, "did you mean aligndraw-small" in err) == (2, True)


def test_the_package_shows_what_it_exports():
    assert dir(cap2im) == sorted(cap2im.__all__)
    assert all(hasattr(cap2im, name) for name in cap2im.__all__)


def test_what_the_readme_installs_for_training_has_the_digits():
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(requirement.startswith("scikit-learn") for requirement in extras["train"])
