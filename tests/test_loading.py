"""Model folders: config, vocabulary and weights are compared before a network takes memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cap2im import loading
from cap2im.blueprint import bounded_parameters
from cap2im.checkpoint import read_config, read_weights, write_model
from cap2im.loading import require_canvases
from cap2im.pipeline import Pipeline
from cap2im.registry import MODELS
from tests.limits import GIB, run_limited
from tests.tiny import tiny_encoder, tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def changed(tiny: Path, folder: Path, weights: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    """Write the tiny model with another config, whose checksums are right."""
    config = read_config(tiny)
    kept = {name: value for name, value in config.items() if name not in ("sha256", "format")}
    folder.mkdir()
    write_model(folder, read_weights(tiny, config) if weights is None else weights, json.loads(json.dumps(kept | changes)))
    return folder


def sizes(tiny: Path, **changes: Any) -> dict[str, Any]:
    return read_config(tiny)["model"] | changes


HUGE = {
    "units": {"generative_units": 100_000},
    "overflow": {"inference_units": 10**9},
    "words": {"vocabulary_size": 10**8},
    "read patch": {"read_patch": 100_000},
    "blank canvas": {"side": 1024, "glimpses": 1024},
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_sizes_take_no_memory(tiny, tmp_path, name):
    folder = changed(tiny, tmp_path / "m", model=sizes(tiny, **HUGE[name]))
    with pytest.raises(ValueError, match=r"m: (config and weights do not fit|draws 1,024 canvases)") as error:
        Pipeline.load(str(folder))
    assert "\n" not in str(error.value)


def test_many_blocks_are_not_built(tiny, tmp_path):
    """A billion residual blocks would take memory even as empty modules."""
    folder = changed(tiny, tmp_path / "m", kind="attngan", model={"text": {"vocabulary_size": 22}, "residuals": 10**9})
    with pytest.raises(ValueError, match="the config asks for a network of more parameters than the weights hold"):
        Pipeline.load(str(folder))


def test_draw_refuses_a_huge_model_in_bounds(tiny, tmp_path):
    changed(tiny, tmp_path / "m", model=sizes(tiny, generative_units=30_000, inference_units=30_000))
    end = run_limited("draw", "the digit 3", "--model", "m", cwd=tmp_path)
    assert (end.status, len(end.err.splitlines())) == (2, 1)
    assert "config and weights do not fit" in end.err
    assert end.peak < 2 * GIB
    assert end.cpu < 30


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "model is a list": ({"model": [1]}, "model: Input should be a valid dictionary"),
    "size is a list": ({"model": {"latent": [[[]]]}}, "latent: Input should be a valid integer"),
    "unknown size": ({"model": {"latents": 3}}, "latents: Extra inputs are not permitted"),
    "kind is a list": ({"kind": ["draw"]}, "kind: Input should be a valid string"),
    "another kind": ({"kind": "x" * 500}, "is a model of kind 'xxx.*…; expected draw, vae, lapgan, attngan"),
    "data is a list": ({"data": []}, "data: Input should be a valid dictionary"),
    "no vocabulary": ({"vocabulary": None}, "has no vocabulary"),
    "vocabulary is a list": ({"vocabulary": [1]}, "vocabulary: Input should be a valid dictionary"),
    "words are numbers": ({"vocabulary": {"words": list(range(100_000))}}, "vocabulary.words: 0 is no word"),
    "words are text": ({"vocabulary": {"words": "a"}}, "vocabulary: words: Input should be a valid tuple"),
    "aliases are lists": ({"vocabulary": {"words": ["a"], "aliases": {"b": []}}}, r"vocabulary.aliases: \[\] is no word"),
    "too few words": ({"vocabulary": {"words": ["a"]}}, "22 word vectors for 1 words"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_config_is_one_line(tiny, tmp_path, name):
    changes, message = MALFORMED[name]
    with pytest.raises(ValueError, match=message) as error:
        Pipeline.load(str(changed(tiny, tmp_path / "m", **changes)))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_other_weights_are_named(tiny, tmp_path):
    weights = read_weights(tiny, read_config(tiny))
    first, second, *_ = weights
    cases = {
        "without": ({name: value for name, value in weights.items() if name != first}, f"without {first}"),
        "surplus": (weights | {"more": torch.zeros(1)}, "surplus more"),
        "shape": (weights | {first: torch.zeros(3, 4, 5)}, rf"{first} has shape \[3, 4, 5\] in the weights"),
        "type": (weights | {second: weights[second].long()}, f"{second} is of another type than the config says"),
    }
    for name, (other, message) in cases.items():
        with pytest.raises(ValueError, match=message):
            Pipeline.load(str(changed(tiny, tmp_path / name, other)))


def test_half_precision_weights_are_loaded(tiny, tmp_path):
    weights = {name: value.half() for name, value in read_weights(tiny, read_config(tiny)).items()}
    model = Pipeline.load(str(changed(tiny, tmp_path / "m", weights))).model
    assert all(value.dtype == torch.float32 and torch.equal(value, weights[name].float()) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("what", ["fifo", "folder", "device"])
def test_special_files_are_refused(tiny, tmp_path, name, what):
    path = changed(tiny, tmp_path / "m") / name
    path.unlink()
    {"fifo": os.mkfifo, "folder": Path.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[what](path)
    with pytest.raises((ValueError, OSError)) as error:
        Pipeline.load(str(path.parent))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [kind for kind, spec in MODELS.items() if spec.draws])
def test_every_kind_is_built_on_the_meta_device(kind):
    config = MODELS[kind].config_class()
    with torch.device("meta"):
        network = MODELS[kind].network_class(config)
    assert all(value.is_meta for value in network.state_dict().values())


def test_bound_of_parameters_ends_with_its_block():
    with pytest.raises(ValueError, match="more parameters than the weights hold"), bounded_parameters(0, 0):
        torch.nn.Linear(2000, 2000)
    torch.nn.Linear(2000, 2000)


def test_canvases_are_bounded():
    require_canvases(Path("m"), 64, 256, 3)
    with pytest.raises(ValueError, match="m: draws 1,024 canvases of 1,024 x 1,024 pixels in 1 colour, 1,073,741,824 numbers a picture"):
        require_canvases(Path("m"), 1024, 1024, 1)


def test_many_canvases_have_smaller_batches(tiny, monkeypatch):
    pipeline = Pipeline.load(str(tiny))
    assert pipeline.batch_size == 100
    monkeypatch.setattr("cap2im.pipeline.MOST_CANVAS_VALUES", 3 * 60 * 60 * 7)
    assert pipeline.batch_size == 7
    assert loading.MOST_CANVAS_VALUES >= 64 * 256 * 256 * 3, "far more than any recipe draws"


def sentence_model(tiny: Path, folder: Path, encoder: str) -> Path:
    """Write a model that is conditioned on sentences, and whose config names an encoder."""
    config = sizes(tiny, conditioning="sentence", sentence_features=6)
    network = MODELS["draw"].network_class(MODELS["draw"].config_class.model_validate(config))
    return changed(tiny, folder, network.state_dict(), model=config, data={"sentence_encoder": encoder})


def test_names_in_a_config_are_not_downloaded(tiny, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "cap2im")
    asked: list[dict[str, Any]] = []

    def snapshot(repository, **options):
        asked.append(options)
        raise ValueError("not in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    folder = sentence_model(tiny, tmp_path / "m", "owner/name")
    with pytest.raises(ValueError, match=r"has no encoder of them: put one into .*it was trained with 'owner/name'"):
        Pipeline.load(str(folder))
    assert not asked
    (folder / "training.json").write_text("{}")
    with pytest.raises(ValueError, match="owner/name: not on this machine, and names in a config are not downloaded"):
        Pipeline.load(str(folder))
    assert [options["local_files_only"] for options in asked] == [True]
    assert "looking for" not in caplog.text


def test_only_checkpoints_use_an_encoder_elsewhere(tiny, tmp_path):
    encoder = tiny_encoder(tmp_path / "encoder", 6)
    folder = sentence_model(tiny, tmp_path / "m", str(encoder))
    with pytest.raises(ValueError, match="has no encoder of them"):
        Pipeline.load(str(folder))
    (folder / "training.json").write_text("{}")
    assert Pipeline.load(str(folder)).encoder is not None
    (folder / "training.json").unlink()
    tiny_encoder(folder / "sentence-encoder", 6)
    assert Pipeline.load(str(folder)).encoder is not None
