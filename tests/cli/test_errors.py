"""Bad input of every command: one line on standard error, exit status 2."""

from __future__ import annotations

import os
import sys

import pytest

from cap2im.cli.errors import exit_status
from cap2im.data.workers import worker_pool
from tests.tiny import tiny_model

CAPTION = "the digit three is at the top of the digit one"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-model"))


BAD = [
    (["draw", "the digit eleven is at the top"], r"unknown word 'eleven' (nearest known: "),
    (["draw", ""], "a caption is empty"),
    (["draw"], "no caption given"),
    (["draw", "digit " * 10_000], "10001 words; at most 200"),
    (["draw", CAPTION, "--model", "nothing"], "unknown model 'nothing'; bundled: "),
    (["draw", CAPTION, "--device", "tpu"], "no device 'tpu' on this machine; there is cpu"),
    (["draw", CAPTION, "--samples", "0"], "Invalid value for '--samples' / '-n': Input should be greater than or equal to 1, got '0'"),
    (["draw", CAPTION, "--samples", "many"], "unable to parse string as an integer, got 'many'"),
    (["draw", CAPTION, "--unknown", "guess"], "Invalid value for '--unknown': 'guess' is not one of 'error', 'skip'"),
    (["draw", CAPTION, "--colour"], "No such option"),
    (["draw", "--file", "nowhere.txt"], "nowhere.txt: no such file"),
    (["draw", "--file", "empty.txt"], "empty.txt: no captions in it"),
    (["draw", "--file", "latin.txt"], "latin.txt: line 1 is not UTF-8"),
    (["draw", CAPTION, "--out", "empty.txt"], "empty.txt: is a file"),
    (["train", "aligndraw-digits", "--data", "."], "--data .: the digits of data.source digits come from scikit-learn"),
    (["train", "aligndraw-digits", "--from", "aligndraw-mnist", "--set", "data.held_out_seed=5", "--resume"], "give one of them"),
    (
        ["train", "aligndraw-digits", "--from", "aligndraw-mnist", "--set", "data.held_out_seed=5", "--run", "x"],
        "has other sizes: its model.inference_units is 300, this training's is 128, model.generative_units is 300",
    ),
    (["train", "aligndraw-mnist", "--set", "model.side=32"], "model.side is 32, 60 is needed"),
    (["train", "aligndraw-mnist", "--set", "train.learning_rate=inf"], "finite number"),
    (["evaluate", "aligndraw-mnist", "--out", "."], ".: cannot write this file: is a folder, and a file is needed"),
    (["draw", CAPTION, "--out", "/proc/nowhere"], "/proc/nowhere: "),
    (["draw", CAPTION, "--out", "empty.txt/x"], "empty.txt is a file, not a folder"),
    (["draw", CAPTION, "--only", "pdf"], "'pdf' is not one of 'png', "),
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
    (["convert", "empty.txt", "--out", "empty.txt/x"], "empty.txt is a file, not a folder"),
    (["prepare", "pairs", "nowhere", "--out", "empty.txt/x"], "empty.txt is a file, not a folder"),
    (["convert", "empty.txt", "--out", "model"], "empty.txt: expected an HDF5 or a PyTorch file"),
    (["convert", "empty.txt", "--out", "."], ".: exists already; give a new or an empty folder"),
    (["convert", "latin.txt", "--out", "model", "--glimpses", "0"], "Invalid value for '--glimpses'"),
    (["train", "skipthoughts"], "skipthoughts: give sentences (a text, a token file, a table or a prepared dataset) with --data"),
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


def test_a_killed_worker_is_one_line(monkeypatch, capsys):
    def prepare() -> None:
        with worker_pool(2) as pool:
            list(pool.map(os._exit, [1], lambda status: (status,)))

    monkeypatch.setattr(sys, "argv", ["cap2im", "prepare"])
    assert exit_status(prepare) == 2
    hints = "lower --workers or --side; --resume continues from the last complete shard"
    assert capsys.readouterr().err == f"cap2im: a worker process was killed, perhaps out of memory: {hints}\n"
