"""Training on a prepared dataset: every conditioning, exact resume, data that do not fit, evaluation and drawing afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from cap2im.checkpoint import read_config, read_weights
from cap2im.config import load_recipe
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.evaluation.evaluate import evaluate
from cap2im.evaluation.settings import Settings
from cap2im.pipeline import Pipeline
from cap2im.training.dispatch import train
from cap2im.training.variational import VariationalTrainer
from tests.prepared import prepared_dataset
from tests.training.stopping import stop_at

CHANGES = (
    "model.side=8",
    "model.latent=3",
    "train.batch_size=8",
    "train.precision=fp32",
    "train.epochs=2",
    "train.kl_weights=[[0, 1.0]]",
    "train.warmup_steps=0",
    "train.checkpoint_every=4",
    "train.validate_every=6",
    "train.log_every=1",
)
DRAW = (
    "model.glimpses=2",
    "model.inference_units=8",
    "model.generative_units=8",
    "model.read_patch=3",
    "model.write_patch=3",
)
VAE = ("model.hidden=8",)
WORDS = ("model.language_units=4",)
SENTENCES = ("model.sentence_features=4", "data.sentence_encoder=letters")
RECIPES = {
    "aligndraw-cifar": (*DRAW, *WORDS, "model.align_features=4", "model.language_dropout=0.1"),
    "noaligndraw-cifar": (*DRAW, *WORDS),
    "skipthoughtdraw-cifar": (*DRAW, *SENTENCES),
    "draw-coco-paper": DRAW,
    "fc-vae-cifar": (*VAE, *WORDS),
    "conv-vae-cifar": (*VAE, *WORDS, "model.maps=2", "model.language_dropout=0.1", "train.ema_decay=0.5"),
    "conv-vae-coco": (*VAE, *SENTENCES, "model.maps=2", "data.shortest=1"),
}


class Letters(SentenceEncoder):
    """Counts letters, by a file that says which."""

    name, features = "letters", 4

    def __init__(self, folder: Path) -> None:
        self.letters = (folder / "letters").read_text()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.letters.encode()).hexdigest()

    def encode(self, captions):
        return torch.tensor([[float(caption.count(letter)) for letter in self.letters] for caption in captions])


@pytest.fixture(autouse=True)
def letters(monkeypatch, tmp_path):
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "letters").write_text("rgbu")
    monkeypatch.chdir(tmp_path)
    for module in ("cap2im.training.data", "cap2im.sentence_encoders"):
        monkeypatch.setattr(f"{module}.load_sentence_encoder", lambda name, **_: Letters(Path(name)))
    monkeypatch.setattr("cap2im.training.data.find_encoder", Path)
    monkeypatch.setattr("cap2im.training.trainer.copy_encoder", shutil.copytree)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepared_dataset(tmp_path_factory.mktemp("squares") / "prepared")


def recipe(name: str = "aligndraw-cifar", *changes: str):
    return load_recipe(name, [*CHANGES, *RECIPES[name], *changes])


def stats(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def run(name, folder, dataset, *changes, **how):
    return train(recipe(name, *changes), folder, data=dataset, device="cpu", **{"workers": 0, **how})


@pytest.mark.parametrize("name", RECIPES)
def test_training_measuring_and_drawing(name, dataset, tmp_path):
    model = run(name, tmp_path / "run", dataset)
    steps = [line for line in stats(tmp_path / "run") if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert all(0 <= line["train/waiting"] <= 1 for line in steps)
    assert (tmp_path / "run" / "samples" / "drawings-00000012.png").is_file()
    pipeline = Pipeline.load(str(model))
    caption = "there is a blue square in the middle"
    one, two = pipeline.draw([caption, "red"], seed=3)
    assert one.canvases.shape == (1 if "vae" in name else 2, 8, 8, 3)
    assert (one.boxes is None) == ("vae" in name)
    assert (one.attention is not None) == (name == "aligndraw-cifar")
    assert (one.canvases == two.canvases).all() == (name == "draw-coco-paper"), "the caption counts, but for plain DRAW"
    evaluation = evaluate(pipeline, Settings(split="test", bound_samples=2, images=10), data=dataset)
    bound, reconstruction, kl = (evaluation.find(name, "test") for name in ("bound", "reconstruction", "KL"))
    protocol = bound.protocol
    assert protocol["observation"] == ("gaussian, deviation 0.3" if "vae" in name else "bernoulli")
    assert (protocol["split"], protocol["images"], protocol["data"]["source"]) == ("test", 10, {"kind": "test"})
    assert bound.value == pytest.approx(-reconstruction.value - kl.value)
    if pipeline.encoder is not None:
        shutil.rmtree(tmp_path / "letters")  # the model has its own copy
        Pipeline.load(str(model)).draw("a zebra is not in the vocabulary")
    elif name != "draw-coco-paper":
        with pytest.raises(ValueError, match="unknown word 'zebra'"):
            pipeline.draw("a zebra")


@pytest.mark.parametrize("name", ["aligndraw-cifar", "conv-vae-cifar"])
def test_resume_with_workers_is_bit_exact(name, dataset, tmp_path, monkeypatch):
    whole = run(name, tmp_path / "whole", dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, VariationalTrainer, 6)
        with pytest.raises(KeyboardInterrupt):
            run(name, tmp_path / "broken", dataset, workers=2)
    again = run(name, tmp_path / "broken", dataset, workers=1, resume=True)
    one, two = (read_weights(folder, read_config(folder)) for folder in (whole, again))
    assert all(torch.equal(one[weight], two[weight]) for weight in one)
    losses = [[line["train/loss"] for line in stats(tmp_path / folder) if "train/loss" in line] for folder in ("whole", "broken")]
    assert losses[0] == losses[1]


def test_data_that_do_not_fit_are_one_error(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"trains on a prepared dataset: give its folder with --data"):
        run("aligndraw-cifar", tmp_path / "a", None)
    with pytest.raises(ValueError, match=r"its images are 8 pixels wide, the recipe's model.side is 32; prepare with --side 32"):
        run("aligndraw-cifar", tmp_path / "a", dataset, "model.side=32")
    with pytest.raises(ValueError, match=r"has 19 words, the recipe's model.vocabulary_size is 7"):
        run("aligndraw-cifar", tmp_path / "a", dataset, "model.vocabulary_size=7")
    with pytest.raises(ValueError, match=r"letters: its vectors have 4 features, the recipe's model\.sentence_features is 5"):
        run("skipthoughtdraw-cifar", tmp_path / "a", dataset, "model.sentence_features=5")
    assert not (tmp_path / "a").exists()


def test_resume_refuses_another_dataset(dataset, tmp_path):
    run("aligndraw-cifar", tmp_path / "run", dataset, "train.epochs=1")
    other = prepared_dataset(tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"source": {"kind": "elsewhere"}}))
    with pytest.raises(ValueError, match="started with another dataset"):
        run("aligndraw-cifar", tmp_path / "run", other, "train.epochs=1", resume=True)


def test_resume_refuses_another_sentence_encoder(dataset, tmp_path, letters):
    run("skipthoughtdraw-cifar", tmp_path / "run", dataset, "train.epochs=1")
    run("skipthoughtdraw-cifar", tmp_path / "run", dataset, "train.epochs=1", resume=True)
    (letters / "letters").write_text("xyzw")
    with pytest.raises(ValueError, match="started with another sentence encoder"):
        run("skipthoughtdraw-cifar", tmp_path / "run", dataset, "train.epochs=1", resume=True)


def test_a_model_is_not_measured_on_images_of_another_size(dataset, tmp_path):
    model = run("noaligndraw-cifar", tmp_path / "run", dataset, "train.epochs=1")
    larger = prepared_dataset(tmp_path / "larger", side=12, train=4)
    settings = Settings(bound_samples=1, images=4)
    with pytest.raises(ValueError, match=r"its images are 12 pixels wide, a drawing of run is 8; prepare with --side 8"):
        evaluate(Pipeline.load(str(model)), settings, data=larger)
    with pytest.raises(ValueError, match="give a prepared dataset with --data"):
        evaluate(Pipeline.load(str(model)), settings)


def test_a_vae_starts_from_a_vae_and_cannot_be_compiled(dataset, tmp_path):
    first = run("fc-vae-cifar", tmp_path / "first", dataset, "train.epochs=1")
    still = ("train.epochs=1", "train.learning_rate=1e-30", "train.final_learning_rate=1e-30")
    second = run("fc-vae-cifar", tmp_path / "second", dataset, *still, start_from=first)
    before, after = (read_weights(folder, read_config(folder)) for folder in (first, second))
    assert all(torch.equal(before[weight], after[weight]) for weight in before)
    with pytest.raises(ValueError, match=r"is a model of kind 'vae', this training's is 'draw'"):
        run("aligndraw-cifar", tmp_path / "third", dataset, start_from=first)
    with pytest.raises(ValueError, match="has other sizes"):
        run("conv-vae-cifar", tmp_path / "third", dataset, start_from=first)
    with pytest.raises(ValueError, match=r"--compile compiles the steps of a recurrent model; a model of kind 'vae' has none"):
        run("fc-vae-cifar", tmp_path / "third", dataset, compile_model=True)


def test_a_streamed_run_resumes_and_is_measured_from_shards(dataset, tmp_path, monkeypatch):
    model = run("aligndraw-cifar", tmp_path / "run", dataset, "train.epochs=1", stream=True)
    with pytest.raises(ValueError, match="started with another dataset"):
        run("aligndraw-cifar", tmp_path / "run", dataset, "train.epochs=1", resume=True)
    settings = Settings(bound_samples=2, images=6)
    local = evaluate(Pipeline.load(str(model)), settings, data=dataset)
    monkeypatch.setattr("cap2im.data.dataset.PreparedDataset.is_local", lambda *_: False)
    streamed = evaluate(Pipeline.load(str(model)), settings, data=dataset)
    assert streamed.find("bound", "test").value == pytest.approx(local.find("bound", "test").value, rel=0.05)
    with pytest.raises(ValueError, match=r"--stream takes captions of every length as they come: --set data.shortest=1"):
        run("aligndraw-cifar", tmp_path / "other", dataset, "data.shortest=5", stream=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_line_from_any_process(dataset, tmp_path, monkeypatch, workers):
    def broken(*_, **__):
        raise OSError("broken")

    monkeypatch.setattr("cap2im.data.captioned_images.Image.open", broken)
    with pytest.raises(ValueError, match=r"^[^\n]*: image (train|validation)-\d+: cannot be decoded: broken$"):
        run("aligndraw-cifar", tmp_path / "run", dataset, workers=workers)
