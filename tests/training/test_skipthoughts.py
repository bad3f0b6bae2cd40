"""Training skip-thoughts: exact resume, equal losses on two processes, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cap2im.checkpoint import checkpoints, load_checkpoint, read_config
from cap2im.config import SkipThoughtsRecipe, load_recipe
from cap2im.sentence_encoders import load_sentence_encoder
from cap2im.training.dispatch import train
from cap2im.training.skipthoughts import SkipThoughtsTrainer
from tests.processes import in_two_processes
from tests.training.stopping import stop_at
from tests.training.test_variational import stats

CHANGES = (
    "model.uni=12",
    "model.bi=6",
    "model.embedding=8",
    "data.validation_share=0.2",
    "train.epochs=2",
    "train.batch_size=8",
    "train.warmup_steps=3",
    "train.log_every=1",
    "train.validate_every=5",
    "train.checkpoint_every=4",
)
COLOURS, BEASTS = ("red", "blue", "green", "white"), ("dog", "cat", "bird", "horse")


def tiny_recipe(*changes: str) -> SkipThoughtsRecipe:
    recipe = load_recipe("skipthoughts-small", [*CHANGES, *changes])
    assert isinstance(recipe, SkipThoughtsRecipe)
    return recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twenty images of one beast each, three captions an image: 6 updates of 8 triples an epoch."""
    path = tmp_path_factory.mktemp("sentences") / "tokens.txt"
    images = [(COLOURS[i % 4], BEASTS[i * 7 % 4]) for i in range(20)]
    lines = [
        f"{i}.jpg#{k}\t{caption}\n"
        for i, (colour, beast) in enumerate(images)
        for k, caption in enumerate((f"a {colour} {beast} .", f"the {beast} is {colour} .", f"there is one {beast} and it is {colour} ."))
    ]
    path.write_text("".join(lines))
    return path


def assert_same_run(one: Path, two: Path) -> None:
    ours, theirs = (load_checkpoint(checkpoints(run)[-1]) for run in (one, two))
    assert ours.step == theirs.step == 12
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name
    assert (one / "model" / "model.safetensors").read_bytes() == (two / "model" / "model.safetensors").read_bytes()
    for name in ("train/loss", "validation/perplexity_uni", "validation/perplexity_bi"):
        assert stats(one, name) == stats(two, name)


def test_resume_is_bit_exact(tmp_path, data, monkeypatch):
    train(tiny_recipe(), tmp_path / "whole", data=data, device="cpu")

    with monkeypatch.context() as patch:
        stop_at(patch, SkipThoughtsTrainer, 6)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe(), tmp_path / "broken", data=data, device="cpu")
    assert [path.name for path in checkpoints(tmp_path / "broken")] == ["step-00000004", "step-00000007"]
    torch.manual_seed(99)
    train(tiny_recipe(), tmp_path / "broken", data=data, device="cpu", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert [line["step"] for line in stats(tmp_path / "broken", "train/loss")] == list(range(1, 13))


def test_resume_refuses_other_sentences(tmp_path, data):
    train(tiny_recipe("train.epochs=1"), tmp_path / "run", data=data, device="cpu")
    other = tmp_path / "other.txt"
    other.write_text(data.read_text().replace("a red dog", "a dog red", 1))
    with pytest.raises(ValueError, match=r"run: started with another dataset"):
        train(tiny_recipe("train.epochs=1"), tmp_path / "run", data=other, device="cpu", resume=True)


def test_two_processes_have_the_losses_of_one(tmp_path, data):
    train(tiny_recipe("train.epochs=1"), tmp_path / "one", data=data, device="cpu")
    sets = [part for change in (*CHANGES, "train.epochs=1") for part in ("--set", change)]
    two = ("--data", str(data), "--run", str(tmp_path / "two"), "--device", "cpu")
    in_two_processes("-m", "cap2im", "train", "skipthoughts-small", *two, *sets)
    for name in ("train/loss", "train/perplexity_bi", "validation/perplexity_uni"):
        one, two = stats(tmp_path / "one", name), stats(tmp_path / "two", name)
        assert len(one) == len(two) > 0
        for a, b in zip(one, two, strict=True):
            assert b[name] == pytest.approx(a[name], rel=2e-5)


def test_it_learns_and_gives_an_encoder(tmp_path, data):
    recipe = tiny_recipe("train.epochs=30", "train.learning_rate=0.02", "train.validate_every=90", "train.checkpoint_every=1000")
    train(recipe, tmp_path, data=data, device="cpu", command="cap2im train it")
    first, *_, last = stats(tmp_path, "train/loss")
    words = 2 * (1 + (5 + 6 + 9) / 3)  # told of a triple, on average
    assert first["train/loss"] == pytest.approx(2 * words * math.log(23), rel=0.3), "all words alike at first, for two encoders"
    assert last["train/loss"] < first["train/loss"] / 2
    (perplexity,) = stats(tmp_path, "validation/perplexity_uni", "validation/perplexity_bi")[-1:]
    assert max(perplexity["validation/perplexity_uni"], perplexity["validation/perplexity_bi"]) < 4
    assert "| updates | 180 of 8 triples |" in (tmp_path / "model" / "README.md").read_text()
    config = read_config(tmp_path / "model")
    assert (config["kind"], config["command"], config["data"]["sentences"]) == ("skipthoughts", "cap2im train it", 48)
    vectors = load_sentence_encoder(str(tmp_path)).encode(["a red dog .", "the dog is red .", "a green bird ."])
    assert vectors[0] @ vectors[0] == pytest.approx(2)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2], "two captions of one thing are nearer than those of two"


def test_broken_loss_stops_before_the_update(tmp_path, data):
    recipe = tiny_recipe("train.learning_rate=1e37", "train.warmup_steps=0", "train.checkpoint_every=1")
    with pytest.raises(ValueError, match=r"(loss|the gradient's norm) is (nan|inf) at step [1-9]"):
        train(recipe, tmp_path, data=data, device="cpu")
    assert not (tmp_path / "model").exists()


def test_no_sentences_to_validate_on(tmp_path, data):
    with pytest.raises(ValueError, match=r"none of the 0 validation sentences has neighbours; increase data.validation_share"):
        train(tiny_recipe("data.validation_share=1e-9"), tmp_path, data=data, device="cpu")
