"""Models by name, drawings by caption and seed."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

import cap2im
from cap2im.checkpoint import read_weights, write_model
from cap2im.config import load_recipe
from cap2im.data.mnist_captions import ALIASES, WORDS
from cap2im.data.vocabulary import Vocabulary
from cap2im.loading import ModelConfig, bundled_models, display_name, find_device, find_model
from cap2im.pipeline import Pipeline
from cap2im.registry import MODELS
from cap2im.rendering.drawing import Drawings
from tests.stages import staged_pipeline
from tests.tiny import tiny_model

CAPTIONS = [
    "the digit three is at the top of the digit one",
    "the digit 7 is at the bottom left of the image .",
    "the digit 2 is on the left of the digit 2",
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Pipeline:
    return Pipeline.load(str(tiny_model(tmp_path_factory.mktemp("model"))))


def test_a_picture_does_not_depend_on_its_batch(pipeline):
    together = pipeline.draw(CAPTIONS, samples=3, seed=5)
    assert [(d.caption, d.seed) for d in together] == [(c, s) for c in CAPTIONS for s in (5, 6, 7)]
    for drawing in together:
        alone = pipeline.draw(drawing.caption, seed=drawing.seed)[0]
        # a product of another size may round the last bit differently, which can move a pixel's level by one
        assert np.abs(alone.canvases.astype(int) - drawing.canvases.astype(int)).max() <= 1
        np.testing.assert_allclose(alone.attention, drawing.attention, atol=1e-5)
        np.testing.assert_allclose(alone.boxes, drawing.boxes, atol=1e-3)


def test_drawings_record_a_random_seed(pipeline):
    one, two = (pipeline.draw(CAPTIONS[0])[0] for _ in range(2))
    assert one.seed != two.seed
    assert np.array_equal(pipeline.draw(CAPTIONS[0], seed=one.seed)[0].canvases, one.canvases)


def test_seeds_and_captions_matter(pipeline):
    images = pipeline.images(pipeline.prompts([CAPTIONS[0], CAPTIONS[0], CAPTIONS[1]]), [0, 1, 0])
    assert not torch.allclose(images[0], images[1], atol=1e-4)
    assert not torch.allclose(images[0], images[2], atol=1e-4)


def test_padding_does_not_change_a_picture(pipeline):
    short, long = "the digit 3", CAPTIONS[0]
    together, alone = pipeline.images(pipeline.prompts([short, long]), [0, 0]), pipeline.images(pipeline.prompts([short]), [0])
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)
    assert pipeline.draw([short, long])[0].attention.shape == (3, 4)  # "." is a word


def test_images_are_the_last_canvases(pipeline):
    drawing = pipeline.draw(CAPTIONS[0], seed=3)[0]
    image = pipeline.images(pipeline.prompts(CAPTIONS[:1]), [3])[0, 0].numpy()
    assert np.abs(drawing.canvases[-1, :, :, 0] - 255 * image).max() <= 0.51


@pytest.mark.parametrize("model", ["tiny", "stages"])
def test_watched_glimpses_equal_the_drawings(pipeline, model):
    drawer = pipeline if model == "tiny" else staged_pipeline(side=8)
    captions = CAPTIONS if model == "tiny" else ["a red bird", "wings", "blue bird with red wings"]
    seen = []
    drawings = drawer.drawings(drawer.prompts(captions), [4, 5, 6], watch=seen.append)
    assert len(seen) == drawings[0].glimpses == drawer.glimpses > 1
    for row, drawing in enumerate(drawings):
        assert np.array_equal([glimpses.canvases[row] for glimpses in seen], drawing.canvases)
        words = np.array([glimpses.words[row] for glimpses in seen])
        assert np.array_equal(words[:, : len(drawing.words)], drawing.attention)
        assert not words[:, len(drawing.words) :].any()
        if drawing.boxes is None:
            assert all(glimpses.boxes is None for glimpses in seen)
        else:
            np.testing.assert_allclose([glimpses.boxes[row] for glimpses in seen], drawing.boxes, atol=1e-4)
    unwatched = drawer.drawings(drawer.prompts(captions), [4, 5, 6])
    assert np.array_equal(drawings[1].canvases, unwatched[1].canvases)


def test_glimpses_are_watched_while_drawing(pipeline, monkeypatch):
    monkeypatch.setattr("cap2im.models.interface.PICTURES_AT_ONCE", 2)
    told = []
    sample_steps = pipeline.model.sample_steps

    def told_of(text, noise):
        for step in sample_steps(text, noise):
            told.append("drawn")
            yield step

    monkeypatch.setattr(pipeline.model, "sample_steps", told_of)
    pipeline.drawings(pipeline.prompts(CAPTIONS), [0, 1, 2], watch=lambda glimpses: told.append(glimpses.first))
    assert told == ["drawn", 0] * 3 + ["drawn", 2] * 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("bf16")
def test_compiled_pictures_equal_plain_ones(pipeline, precision, monkeypatch):
    # tests/serve has a server with the backend "inductor", which takes its time for each graph
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr("cap2im.pipeline.missing_compiler", lambda device: "")  # the backend "eager" needs none
    plain = dataclasses.replace(pipeline, precision=precision)
    compiled = dataclasses.replace(plain, model=copy.deepcopy(pipeline.model))
    compiled.compile(8)
    with torch.compiler.set_stance("fail_on_recompile"):
        for captions in (CAPTIONS[:1], ["3"], CAPTIONS[:2], ["the digit 3", *CAPTIONS, "3"]):
            seen, seeds = [], list(range(len(captions)))
            drawings = compiled.drawings(compiled.prompts(captions), seeds, watch=seen.append)
            assert [glimpses.canvases[0].tolist() for glimpses in seen] == drawings[0].canvases.tolist()
            for drawing, wanted in zip(drawings, plain.drawings(plain.prompts(captions), seeds), strict=True):
                assert np.abs(drawing.canvases.astype(int) - wanted.canvases).max() <= 1
                assert np.ptp(wanted.canvases[-1]) > 50


def test_what_cannot_be_compiled(pipeline, monkeypatch):
    with pytest.raises(ValueError, match=r"^--compile compiles the steps of a recurrent model; stages, of kind 'stages', has none$"):
        staged_pipeline(side=8).compile(2)

    def broken(graph, inputs):
        raise RuntimeError("file too short")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
        patch.setattr("cap2im.pipeline.missing_compiler", lambda device: "")
        with pytest.raises(ValueError, match=r"torch.compile failed: .*file too short; --no-compile draws without$"):
            dataclasses.replace(pipeline, model=copy.deepcopy(pipeline.model)).compile(2)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ValueError, match=r"^--compile needs a C\+\+ compiler \(no-such-compiler was not found\); --no-compile draws without$"
    ):
        pipeline.compile(2)


@pytest.mark.parametrize("recipe", ["aligndraw-digits", "fc-vae-mnist", "conv-vae-mnist", "lapgan-mnist", "attngan-mnist"])
@pytest.mark.usefixtures("bf16")
def test_bf16_draws_nearly_the_same(recipe):
    wanted = load_recipe(recipe)
    torch.manual_seed(0)
    model = MODELS[wanted.kind].network_class(wanted.model).eval().requires_grad_(False)
    for weights in model.parameters():
        if weights.ndim > 1:
            weights.mul_(2)  # a picture in which something can be told apart
    whole = Pipeline("m", model, Vocabulary(words=WORDS, aliases=ALIASES), ModelConfig(kind=wanted.kind))
    half = dataclasses.replace(whole, precision="bf16")
    pictures = whole.images(whole.prompts(CAPTIONS), [0, 1, 2])
    difference = (half.images(half.prompts(CAPTIONS), [0, 1, 2]) - pictures).abs()
    assert 0 < difference.max() < 0.2
    assert difference.mean() < 0.01
    seen = []
    ours, theirs = half.drawings(half.prompts(CAPTIONS), [0, 1, 2], watch=seen.append), whole.drawings(whole.prompts(CAPTIONS), [0, 1, 2])
    assert (ours[0].model, theirs[0].model) == ("m in bf16", "m")
    assert np.array_equal([glimpses.canvases[0] for glimpses in seen], ours[0].canvases)
    if ours[0].attention is not None:
        np.testing.assert_allclose(ours[0].attention, theirs[0].attention, atol=0.02)


@pytest.mark.usefixtures("without_bf16")
def test_fp32_replaces_unsupported_bf16_with_a_warning(tmp_path, caplog):
    folder = str(tiny_model(tmp_path / "m"))
    asked, whole = Pipeline.load(folder, precision="bf16"), Pipeline.load(folder)
    assert asked.precision == "fp32"
    assert caplog.messages == ["m: this machine has no native bf16 arithmetic: using fp32"]
    assert torch.equal(asked.images(asked.prompts(CAPTIONS), [0, 1, 2]), whole.images(whole.prompts(CAPTIONS), [0, 1, 2]))


def test_released_variant_draws_captions_independently(tmp_path):
    pipeline = Pipeline.load(str(tiny_model(tmp_path / "released", "model.variant=released")))
    together, alone = pipeline.images(pipeline.prompts(CAPTIONS), [0, 0, 0]), pipeline.images(pipeline.prompts(CAPTIONS[:1]), [0])
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"captions": "the digit eleven"}, "unknown word 'eleven'"),
        ({"captions": ""}, "a caption is empty"),
        ({"captions": CAPTIONS[0], "samples": 0}, "samples is 0"),
        ({"captions": CAPTIONS[0], "seed": -1}, "seed is -1"),
    ],
)
def test_invalid_arguments_are_refused(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline.draw(**arguments)


def test_unknown_words_can_be_skipped(pipeline):
    drawing = pipeline.draw("the blue digit three", unknown="skip")[0]
    assert drawing.words == ("the", "digit", "three", ".")


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_draw_their_own_examples(name):
    model = cap2im.load(name)
    assert len(model.examples) >= 5, "the page offers five"
    drawings = model.draw(model.examples[:5], samples=2, seed=0)
    assert [drawing.model for drawing in drawings] == [name] * 10
    pictures = np.stack([drawing.canvases[-1] for drawing in drawings]).astype(float)  # [10, A, A, C]
    assert pictures.std(axis=(1, 2, 3)).min() > 8, "something is on every picture"
    assert np.abs(pictures[0::2] - pictures[1::2]).mean(axis=(1, 2, 3)).min() > 2, "seeds differ"


def test_default_model_is_bundled():
    assert cap2im.DEFAULT_MODEL in bundled_models()
    assert cap2im.draw(CAPTIONS[0])[0].model == cap2im.DEFAULT_MODEL


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aligndraw-mnits", rf"unknown model 'aligndraw-mnits'; bundled: {', '.join(bundled_models())}; or a folder"),
        ("no/such/folder", "unknown model"),
        (".", "neither a model .* nor a run"),
    ],
)
def test_unknown_models(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        find_model(name)


def test_unreachable_hub(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO", "cap2im")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"no folder 'some/model' here, and it cannot be downloaded from the Hugging Face hub") as error:
        find_model("some/model")
    assert "Errno" not in str(error.value)
    assert "\n" not in str(error.value)
    assert "looking for some/model" in caplog.text


def test_only_data_files_are_downloaded_from_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    wanted = ["config.json", "model.safetensors", "README.md"]
    wanted += [f"sentence-encoder/{name}" for name in ("config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json")]
    others = ["training.safetensors", "sentence-encoder/model.bin", "sentence-encoder/code.py", "sentence-encoder/1_Dense/model.bin"]
    fetched: list[str] = []

    def snapshot(repository, *, revision, allow_patterns, ignore_patterns):
        assert revision is None
        fetched.extend(filter_repo_objects([*wanted, *others], allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert find_model("some/model") == tmp_path
    assert fetched == wanted


def test_a_model_shows_a_short_card(pipeline):
    assert repr(pipeline) == (
        f"Pipeline({pipeline.name!r}: draws 60 x 60 pixels in 1 colour, 3 glimpses; reads 22 words; parameters 10,822; "
        "runs in fp32 on cpu; try model.draw('the digit 2 is on the left of the digit 8'))"
    )
    card = dataclasses.replace(pipeline, name="<b>mine</b>", config=ModelConfig(kind="draw", description="a & b"))._repr_html_()
    assert "&lt;b&gt;mine&lt;/b&gt;" in card
    assert "a &amp; b" in card
    assert "22 words" in card
    assert len(card) < 1000


def test_examples_are_captions_of_the_models_own_data(pipeline):
    shown = ["the digit one is .", "a zebra", "the digit one is", " ", 7, "the digit two ."]
    own = dataclasses.replace(pipeline, config=ModelConfig(kind="draw", data={"source": "captions", "shown": shown}))
    assert own.examples == ["the digit one is", "the digit two"]
    assert dataclasses.replace(pipeline, config=ModelConfig(kind="draw")).examples == []
    assert len(pipeline.examples) == 8
    assert not any(pipeline.unknown_words(caption) for caption in pipeline.examples)


def test_drawings_show_their_pictures_in_a_notebook(pipeline):
    drawings = pipeline.draw(CAPTIONS, samples=6)
    assert isinstance(drawings, list)
    html = drawings._repr_html_()
    assert html.count("<figure") == html.count("data:image/png") == 18, "many stand still"
    few = drawings[5:7]
    assert few._repr_html_().count("data:image/gif") == 2, "two captions"
    assert drawings[0].caption in few._repr_html_()
    assert drawings[-1] is list(drawings)[-1]
    assert "and 42 more drawings" in Drawings(list(drawings) * 5)._repr_html_()


def test_a_caption_is_tokenised_once(pipeline, monkeypatch):
    tokenised: list[str] = []
    split = Vocabulary.split
    monkeypatch.setattr(Vocabulary, "split", lambda self, caption: tokenised.append(caption) or split(self, caption))
    pipeline.draw([*CAPTIONS, CAPTIONS[0]], samples=3, seed=0)
    assert sorted(tokenised) == sorted(CAPTIONS)


def test_pictures_are_drawn_a_batch_at_a_time(pipeline, monkeypatch):
    monkeypatch.setattr("cap2im.models.interface.PICTURES_AT_ONCE", 2)
    encoded: list[int] = []
    original = Pipeline._inputs
    monkeypatch.setattr(Pipeline, "_inputs", lambda self, captions, *rest: encoded.append(len(captions)) or original(self, captions, *rest))
    drawings = pipeline.iterate(pipeline.prompts(CAPTIONS * 100), list(range(300)))
    assert [next(drawings).seed, next(drawings).seed, next(drawings).seed] == [0, 1, 2]
    assert encoded == [2, 2]
    with pytest.raises(ValueError, match="2 seeds for 3 captions"):
        pipeline.iterate(pipeline.prompts(CAPTIONS), [0, 1])
    with pytest.raises(ValueError, match="zebra"):
        pipeline.iterate(pipeline.prompts([*CAPTIONS, "a zebra"]), [0] * 4)


def test_the_package_shows_its_public_names():
    assert dir(cap2im) == sorted(cap2im.__all__)
    assert all(getattr(cap2im, name) for name in cap2im.__all__)


def test_no_such_device():
    with pytest.raises(ValueError, match=r"no device 'tpu' on this machine; there is cpu"):
        find_device("tpu")


def test_processes_share_the_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(find_device("cuda")) == "cuda:0"
    for rank, device in (("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert str(find_device("cuda")) == device
        assert str(find_device("cuda:1")) == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"no device 'cuda' on this machine; there is cpu"):
        find_device("cuda")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(kind="reader"), "kind 'reader'; expected draw, vae, lapgan, attngan"),
        (lambda c: c["model"].update(latent=6), "config and weights do not fit"),
        (lambda c: c["model"].update(surprise=6), "config and weights do not fit.*surprise"),
        (lambda c: c["vocabulary"]["words"].append("zebra"), "22 word vectors for 23 words"),
        (lambda c: c.pop("vocabulary"), "config and weights do not fit.*vocabulary"),
    ],
)
def test_altered_config(tmp_path, change, message):
    folder = tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    change(config)
    weights = read_weights(folder, config)
    write_model(folder, weights, {k: v for k, v in config.items() if k not in ("format", "sha256")})
    with pytest.raises(ValueError, match=message):
        Pipeline.load(str(folder))


def test_a_drawing_has_a_short_repr(pipeline):
    told = repr(pipeline.draw(CAPTIONS[0], seed=4)[0])
    assert told == f"Drawing({CAPTIONS[0]!r}, seed=4, model={pipeline.name!r}, 3 glimpses of 60 x 60)"


def test_a_drawing_keeps_stages_and_attention_maps():
    short, long = staged_pipeline().draw(["a bird", "a red bird with blue wings"], seed=3)
    assert [stage.shape for stage in short.stages] == [(4, 4, 3), (8, 8, 3)]
    assert (short.stages[1] == short.canvases[-1]).all()
    assert (short.stages[0] == short.canvases[0, ::2, ::2]).all()
    np.testing.assert_allclose(short.maps[0], np.broadcast_to(np.array([1, 4])[:, None, None] / 5, (2, 4, 4)), rtol=1e-6)
    assert long.maps[0].shape == (6, 4, 4)
    alone = staged_pipeline().draw("a bird", seed=3)[0]
    assert (alone.canvases == short.canvases).all()
    assert (alone.maps[0] == short.maps[0]).all()


def test_large_pictures_have_smaller_batches():
    assert [staged_pipeline(side=side).batch_size for side in (8, 64, 128, 256, 1024)] == [100, 100, 32, 8, 1]


def test_the_model_of_a_run_has_the_name_of_the_run(tmp_path):
    for folder in ("photos/checkpoints/step-00000001", "photos/model", "alone/model"):
        (tmp_path / folder).mkdir(parents=True)
    assert [display_name(str(tmp_path / name), tmp_path / name) for name in ("photos", "photos/model", "alone/model")] == [
        "photos",
        "photos",
        "model",
    ]
