"""Models go to the Hugging Face hub and come back from it: a stand-in of the hub runs on this machine."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cap2im.checkpoint import read_config
from cap2im.hub import is_repository
from tests.hub import TOKEN, Hub, hub
from tests.tiny import tiny_encoder, tiny_model

NAME = "someone/tiny-model"
CARD = "---\nlibrary_name: cap2im\npipeline_tag: text-to-image\nlicense: mit\n---\n\n# tiny\n\n`cap2im draw CAPTION --model FOLDER`.\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A finished model with a card, and with files that must stay on this machine."""
    folder = tiny_model(tmp_path_factory.mktemp("models") / "tiny-model")
    (folder / "README.md").write_text(CARD, "utf-8")
    (folder / "training.safetensors").write_bytes(b"state")
    (folder / "evil.pkl").write_bytes(b"\x80\x04.")
    return folder


@pytest.fixture(scope="module")
def evaluation(model, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("evaluations") / "evaluation.json"
    measured = [{"name": "joint", "value": 0.75, "n": 100, "interval": [0.66, 0.82], "group": "seen", "unit": "proportion"}]
    document = {
        "format": "cap2im evaluation 2",
        "model": "tiny-model",
        "weights_sha256": read_config(model)["sha256"]["model.safetensors"],
        "settings": {},
        "results": [{"protocol": {"data": "mnist", "seed": 0}, "measurements": measured}],
    }
    file.write_text(json.dumps(document), "utf-8")
    return file


def python(code: str, server: Hub, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a hub; the libraries read these variables when they are imported."""
    variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **variables, **more}
    return subprocess.run([sys.executable, "-c", code], cwd=home, env=environment, capture_output=True, text=True, check=False)


def push(*arguments: object) -> str:
    return f"import sys; from cap2im.cli import main; sys.argv = ['cap2im', 'push', *{[str(each) for each in arguments]}]; main()"


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---")[1])


def test_dry_run_shows_files_and_card_and_uploads_nothing(run, model, evaluation, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", lambda *_, **__: pytest.fail("uploaded"))
    code, out, err = run("push", str(model), NAME, "--dry-run", "--evaluation", str(evaluation))
    assert code == 0, err
    listed = [line.split()[2] for line in out.splitlines() if " bytes  " in line]
    assert listed == ["README.md", "config.json", "model.safetensors", "samples.png"]
    assert f"{(model / 'model.safetensors').stat().st_size:,} bytes" in out
    assert "nothing was uploaded" in out
    assert f"--model {NAME}" in out
    header = metadata(out)
    assert (header["license"], header["pipeline_tag"]) == ("mit", "text-to-image")
    (entry,) = header["model-index"]
    (metric,) = entry["results"][0]["metrics"]
    assert (entry["name"], metric["type"], metric["value"], metric["name"]) == ("tiny-model", "joint", 0.75, "joint, seen")
    assert metric["args"] == {"n": 100, "interval_95": [0.66, 0.82], "protocol": "captioned digits (mnist), seed 0"}
    assert entry["results"][0]["dataset"]["name"] == "captioned digits (mnist)"


LOAD = """
import hashlib, logging, os, sys, cap2im
logging.getLogger("cap2im").setLevel(logging.INFO)
logging.getLogger("cap2im").addHandler(logging.StreamHandler())
pinned = cap2im.load(name, revision=commit)
print(pinned.name, hashlib.sha256(pinned.draw("the digit 3", seed=5)[0].canvases).hexdigest())
print(hashlib.sha256(cap2im.load(name).draw("the digit 3", seed=5)[0].canvases).hexdigest())
for wrong in ("0" * 40, "no-such-tag"):
    try:
        cap2im.load(name, revision=wrong)
    except ValueError as error:
        print(error)
from cap2im.sentence_encoders import load_sentence_encoder
print(load_sentence_encoder(f"someone/words@{encoder}").features)
os.environ["HF_TOKEN"] = "hf_wrong"
from cap2im.cli import main
sys.argv = ["cap2im", "push", model, name]
main()
"""


def test_pushed_model_is_loaded_by_its_revision(model, evaluation, tmp_path):
    with hub() as server:
        first = python(push(model, NAME, "--private", "--evaluation", evaluation), server, tmp_path)
        assert first.returncode == 0, first.stderr
        ((commit, files),) = server.commits[NAME]
        assert set(files) == {"README.md", "config.json", "model.safetensors", "samples.png"}
        assert files["model.safetensors"] == (model / "model.safetensors").read_bytes()
        assert metadata(files["README.md"].decode())["model-index"]
        with Image.open(io.BytesIO(files["samples.png"])) as picture:
            assert min(picture.size) > 200
        assert server.private == {NAME}
        assert commit in first.stdout
        uploading = first.stdout.index("uploading 4 files")
        assert uploading < first.stdout.index("commit")

        # a second commit with other weights, and an encoder
        other = tiny_model(tmp_path / "other", "model.glimpses=2")
        encoder = tiny_encoder(tmp_path / "encoder", 14)
        for folder, name in ((other, NAME), (encoder, "someone/words")):
            files = {file.name: file.read_bytes() for file in folder.iterdir()}
            server.commits.setdefault(name, [])
            lines = [
                {"key": "file", "value": {"path": each, "content": base64.b64encode(data).decode(), "encoding": "base64"}}
                for each, data in files.items()
            ]
            server.commit(name, lines)
        words = server.commits["someone/words"][0][0]
        loaded = python(f"name, commit, encoder, model = {(NAME, commit, words, str(model))!r}\n{LOAD}", server, tmp_path)
        assert loaded.returncode == 2, loaded.stderr
        pinned, newest, missing, unknown, features, *_ = loaded.stdout.splitlines()
        refused = loaded.stderr.splitlines()[-1]
        assert (
            refused == f"cap2im: {NAME}: cannot be uploaded to the Hugging Face hub: the token is not valid, or has no right to write there"
        )
        assert pinned.split()[0] == f"tiny-model@{commit}"
        assert pinned.split()[1] != newest
        assert features == "14"
        for message, revision in ((missing, "0" * 40), (unknown, "no-such-tag")):
            where = f"no folder '{NAME}@{revision}' here, and it cannot be downloaded from the Hugging Face hub"
            assert message == f"{where}: no such revision"
        assert f"looking for {NAME}@{commit} on the Hugging Face hub" in loaded.stderr
        for each in (first, loaded):
            assert "hf_" not in each.stdout + each.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("MODEL", "no-owner"), "no-owner: expected OWNER/NAME of a repository on the Hugging Face hub"),
        (("MODEL", "a/b@main"), "a/b@main: expected OWNER/NAME"),
        (("MODEL", NAME, "--evaluation", "OTHER"), "holds no evaluation of tiny-model"),
        (("CHECKPOINT", NAME), "has no model card (README.md); push a finished model, not a checkpoint"),
        (("MODEL", NAME), "not logged in to the Hugging Face hub: hf auth login stores a token, or HF_TOKEN holds one"),
    ],
)
def test_what_cannot_be_pushed_is_told_in_one_line(run, model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    other = tmp_path / "other.json"
    other.write_text("{}", "utf-8")
    places = {"MODEL": str(model), "OTHER": str(other), "CHECKPOINT": str(tiny_model(tmp_path / "checkpoint"))}
    code, _, err = run("push", *(places.get(each, each) for each in arguments))
    assert code == 2
    assert message in err.splitlines()[-1]


def test_only_repositories_have_revisions(tmp_path, monkeypatch):
    import cap2im

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^revision 'v1' of 'aligndraw-mnist': only OWNER/NAME on the Hugging Face hub has revisions$"):
        cap2im.load("aligndraw-mnist", revision="v1")
    assert is_repository("someone/model@v1.0")
    assert not is_repository("someone/model@")
    (tmp_path / "someone").mkdir()
    assert not is_repository("someone/model@v1")
