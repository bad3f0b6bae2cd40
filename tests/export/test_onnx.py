"""Exported models draw what the model draws, without torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cap2im.checkpoint import write_model
from cap2im.config import load_recipe
from cap2im.data.mnist_captions import ALIASES, WORDS
from cap2im.data.vocabulary import Vocabulary
from cap2im.export.agreement import largest_difference
from cap2im.export.format import MODEL
from cap2im.export.noise import picture_noise
from cap2im.export.onnx import export_onnx
from cap2im.export.onnx_drawing import OnnxDrawer
from cap2im.export.weights import Weights, convert_weights
from cap2im.files import file_sha256
from cap2im.pipeline import Pipeline
from cap2im.randomness import picture_noise as noise_of_torch
from cap2im.registry import MODELS
from tests.tiny import tiny_model

CAPTIONS = ["the digit three at the top", "the digit 7 is left", "the digit 0"]  # short: each word is a part of the graph
WORDS_READ = 7


@pytest.mark.parametrize("shape", [(3, 16), (1, 37), (32, 150), (1, 16)])
@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**40 + 3])
def test_noise_is_that_of_torch(seed, shape):
    assert np.abs(picture_noise(seed, shape) - noise_of_torch([seed], shape)[0].numpy()).max() < 1e-5


def test_noise_of_few_numbers_is_refused():
    with pytest.raises(ValueError, match=r"\[3, 5\] has 15 numbers"):
        picture_noise(0, (3, 5))


def digit_model(folder: Path, kind: str, **sizes: Any) -> Path:
    """Write an untrained model of captioned digits."""
    spec = MODELS[kind]
    torch.manual_seed(0)
    config = spec.config_class(side=60, colours=1, vocabulary_size=len(WORDS), **sizes)
    network = spec.network_class(config)
    folder.mkdir()
    vocabulary = Vocabulary(words=WORDS, aliases=ALIASES).model_dump()
    about = {"kind": kind, "model": config.model_dump(), "vocabulary": vocabulary, "description": kind}
    write_model(folder, network.state_dict(), about)
    return folder


def attngan_model(folder: Path) -> Path:
    """Write an untrained AttnGAN of captioned digits."""
    sizes = ("condition=8", "noise=8", "width=2", "text.word_features=4", "text.features=6", f"text.vocabulary_size={len(WORDS)}")
    config = load_recipe("attngan-mnist", [f"model.{size}" for size in sizes]).model
    torch.manual_seed(0)
    network = MODELS["attngan"].network_class(config)
    folder.mkdir()
    vocabulary = Vocabulary(words=WORDS, aliases=ALIASES).model_dump()
    write_model(
        folder, network.state_dict(), {"kind": "attngan", "model": config.model_dump(), "vocabulary": vocabulary, "description": ""}
    )
    return folder


MODELS_TO_EXPORT = {
    "alignDRAW": lambda folder: tiny_model(folder, "model.latent=6"),
    "noalignDRAW": lambda folder: tiny_model(folder, "model.latent=6", "model.conditioning='mean'"),
    "DRAW": lambda folder: tiny_model(folder, "model.latent=6", "model.conditioning='none'"),
    "VAE": lambda folder: digit_model(folder, "vae", hidden=8, latent=16, language_units=4, conditioning="mean"),
    "LAPGAN": lambda folder: digit_model(
        folder, "lapgan", noise=16, generator_units=8, language_units=4, conditioning="mean", features=(2, 2)
    ),
    "AttnGAN": lambda folder: attngan_model(folder),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Pipeline, Path]]:
    """Export a model of `MODELS_TO_EXPORT`, once for all tests."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def export(name: str) -> tuple[Pipeline, Path]:
        pipeline = Pipeline.load(str(MODELS_TO_EXPORT[name](folder / f"{name}-model")))
        with torch.no_grad():  # the first glimpse differs visibly from later ones
            for key, parameter in pipeline.model.named_parameters():
                if key.startswith("start_") or key == "prior.bias":
                    parameter.normal_()
        return pipeline, export_onnx(pipeline, folder / name, words=WORDS_READ)

    return export


@pytest.mark.parametrize("name", MODELS_TO_EXPORT)
def test_exported_drawings_are_the_models(exported, name):
    pipeline, folder = exported(name)
    drawer = OnnxDrawer.load(folder)
    for one, other in zip(pipeline.draw(CAPTIONS, seed=5), drawer.draw(CAPTIONS, seed=5), strict=True):
        assert np.abs(one.canvases.astype(int) - other.canvases).max() <= 1, "grey level"
        assert one.canvases.std() > 0.3, "something was drawn"
        assert (one.words, one.caption, one.seed) == (other.words, other.caption, other.seed)
        for ours, theirs in ((one.attention, other.attention), (one.boxes, other.boxes)):
            assert (ours is None) == (theirs is None)
            assert ours is None or np.allclose(ours, theirs, atol=1e-3)
    if not drawer.about.reads_words:
        assert len(drawer.draw("a caption of unknown words")) == 1, "no caption is read"
    else:
        with pytest.raises(ValueError, match=f"has 12 words; this exported model reads {WORDS_READ}"):
            drawer.draw("the digit three is at the top of the digit one")


@pytest.mark.parametrize("name", ["alignDRAW", "LAPGAN", "AttnGAN"])
def test_smaller_weights_draw_nearly_the_same(exported, tmp_path, name):
    pipeline, folder = exported(name)
    about = json.loads((folder / MODEL).read_text("utf-8"))
    for weights, levels in ((Weights.FP16, 1), (Weights.INT8, 8)):
        smaller = shutil.copytree(folder, tmp_path / weights)
        for graph in about["sha256"]:
            convert_weights(smaller / graph, weights)
            assert (smaller / graph).read_bytes() != (folder / graph).read_bytes()
        sha256 = {graph: file_sha256(smaller / graph) for graph in about["sha256"]}
        (smaller / MODEL).write_text(json.dumps(about | {"sha256": sha256, "weights": weights}), "utf-8")
        assert largest_difference(pipeline, smaller) <= levels
        assert OnnxDrawer.load(smaller).label == f"{name}-model in {weights}"


def test_export_checks_itself(exported, monkeypatch, tmp_path, run):
    pipeline, folder = exported("VAE")
    assert largest_difference(pipeline, folder) <= 1
    monkeypatch.setattr("cap2im.export.onnx.export_onnx", lambda pipeline, out, **_: folder)
    stored = str(folder.parent / "VAE-model")  # it has other weights, see `exported`
    status, out, error = run("export", stored, "--out", str(tmp_path / "out"))
    levels = int(re.search(r"20 pictures by onnxruntime differ from those by torch by at most (\d+) grey levels of 255", out).group(1))
    assert (status, error) == (1, "this is more than the tolerance of 1\n")
    for extra, expected in ((["--tolerance", str(levels)], 0), (["--weights", "int8"], 0), (["--tolerance", str(levels - 1)], 1)):
        assert run("export", stored, "--out", str(tmp_path / "out"), *extra)[0] == expected
    status, _, error = run("export", stored, "--format", "page", "--weights", "fp16", "--out", str(tmp_path / "out"))
    assert (status, error) == (2, "cap2im: --weights and --tolerance: only for --format onnx\n")


def test_benchmark_measures_an_export(exported, monkeypatch, capsys):
    module, (_, folder) = import_module("benchmarks.exported"), exported("DRAW")
    few = [each for each in module.ALL.configurations() if len(each.digits) == 1]
    monkeypatch.setattr(module, "ALL", SimpleNamespace(configurations=lambda: few))
    monkeypatch.setattr(sys, "argv", ["exported", str(folder), "--threads", str(torch.get_num_threads())])
    module.main()
    assert re.search(r"\| DRAW-model \| 0\.\d \| \d+\.\d \(\d+\.\d to \d+\.\d\) \| \d+\.\d \|", capsys.readouterr().out)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # not installed
from cap2im.export.onnx_drawing import OnnxDrawer
drawing = OnnxDrawer.load(sys.argv[1]).draw("the digit three")[0]
drawing.save(sys.argv[2])
"""


def test_an_export_replaces_nothing(tmp_path):
    pipeline = Pipeline.load(str(MODELS_TO_EXPORT["VAE"](tmp_path / "model")))
    with pytest.raises(ValueError, match="model: exists already; give a new or an empty folder"):
        export_onnx(pipeline, tmp_path / "model")


def test_drawing_needs_no_torch(exported, tmp_path):
    _, folder = exported("VAE")
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(folder), str(tmp_path / "drawn.png")], check=True)
    assert (tmp_path / "drawn.png").exists()


def test_a_damaged_export_is_named(exported, tmp_path):
    folder = shutil.copytree(exported("VAE")[1], tmp_path / "copy")
    (folder / "text.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"text\.onnx: missing or damaged"):
        OnnxDrawer.load(folder)
    with pytest.raises(ValueError, match=r"no model\.json in it; cap2im export"):
        OnnxDrawer.load(tmp_path)
