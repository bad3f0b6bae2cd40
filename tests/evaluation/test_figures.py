"""The figures of the paper: which captions they show, and that they show what was drawn."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.mnist import scikit_learn_digits
from cap2im.data.mnist_captions import ALIASES, LAYOUTS, WORDS, CanvasMaker, HeldOut
from cap2im.data.vocabulary import Vocabulary
from cap2im.evaluation.figure_captions import BACKGROUND_FLIPS, PAPER, PHOTOGRAPHS, FigureCaptions, figure_captions, shared_captions
from cap2im.evaluation.figures import comparison_figure, figure_folder, nearest_training_images, write_figures
from cap2im.loading import ModelConfig
from cap2im.models.aligndraw import DRAW
from cap2im.models.lapgan import Sharpener, SharpenerConfig
from cap2im.pipeline import Pipeline
from cap2im.randomness import generator
from cap2im.rendering.figure import Figure
from cap2im.sharpening import Sharpening
from tests.prepared import prepared_dataset
from tests.real_data import data_folder
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(str(tiny_model(tmp_path_factory.mktemp("figures") / "tiny")))


def test_digit_models_draw_hidden_captions_as_novel_scenes(pipeline):
    chosen = figure_captions(pipeline)
    held_out = HeldOut(tuple(tuple(hidden) for hidden in pipeline.config.data["held_out"]))
    hidden = {c.caption for c in held_out.configurations() if not c.seen}
    assert len(chosen.novel) == 8
    assert hidden.issuperset(chosen.novel)
    assert not chosen.unknown


def test_models_without_held_out_data_have_no_figure_1_and_6(pipeline, tmp_path):
    """`variant = "released"` may hide nothing."""
    nothing = [[10] * len(layout.places) for layout in LAYOUTS]
    config = pipeline.config.model_copy(update={"data": {**pipeline.config.data, "held_out": nothing}})
    open_model = dataclasses.replace(pipeline, config=config)
    assert figure_captions(open_model).novel == ()
    few = FigureCaptions((), (("the digit one is at the top left of the image",),), ())
    assert [path.name[:8] for path in write_figures(open_model, tmp_path / "out", few)] == ["figure-3"]


def test_models_of_own_data_share_several_captions(pipeline, monkeypatch):
    shown = [f"the digit {digit} is at the top left of the image ." for digit in ("one", "two", "three")]
    own = dataclasses.replace(pipeline, config=pipeline.config.model_copy(update={"data": {"source": "captions", "shown": shown}}))
    texts, pictures = [], []
    monkeypatch.setattr(Figure, "text", lambda self, x, y, text, *_: texts.append(text))
    monkeypatch.setattr(Figure, "paste", lambda self, picture, x, y: pictures.append((x, y)))
    comparison_figure([own, dataclasses.replace(own, name="other")], seed=0)
    written = " ".join(" ".join(texts).split())
    for number, caption in zip(("one", "two", "three"), shown, strict=True):
        assert f"the digit {number}" in written, caption
    assert {own.name, "other"} <= set(texts)
    assert len(pictures) == 6
    assert len({x for x, _ in pictures}) == 3


def test_user_captions_are_flips_and_must_be_known(pipeline):
    groups = [["the digit one is at the top left of the image", "the digit two is at the top left of the image"]]
    chosen = figure_captions(pipeline, groups)
    assert chosen.flips == chosen.attended == (tuple(groups[0]),)
    assert chosen.novel == ()
    with pytest.raises(ValueError, match="zebra"):
        figure_captions(pipeline, [["a zebra"]])


@pytest.mark.parametrize("unknown", [[], ["the digit 3 is at the zebra"]])
def test_a_model_of_own_data_draws_captions_of_it(pipeline, tmp_path, unknown):
    """Neither digits nor the paper's captions; those with unknown words are left out."""
    shown = [*unknown, "the digit one is", "the digit two is ."]
    own = dataclasses.replace(pipeline, config=pipeline.config.model_copy(update={"data": {"source": "captions", "shown": shown}}))
    chosen = figure_captions(own)
    assert chosen.examples == ("the digit one is", "the digit two is")
    assert (chosen.novel, chosen.flips) == ((), ())
    assert chosen.unknown == PAPER.captions
    files = write_figures(own, tmp_path / "out", chosen, nearest=lambda pictures: pictures)
    assert [path.name for path in files] == [
        "captions-of-its-data.png",
        "figure-4-nearest-training-images.png",
        "figure-5-attended-words.png",
    ]


def of_photographs(pipeline: Pipeline, captions: Sequence[str]) -> Pipeline:
    """Return a pipeline whose vocabulary and data are captions of photographs."""
    data = {"source": "captions", "shown": [captions[0]]}
    return dataclasses.replace(pipeline, vocabulary=Vocabulary.build(captions), config=ModelConfig(kind="draw", data=data))


def test_a_model_of_the_papers_words_draws_its_captions(pipeline):
    known = FigureCaptions(flips=PAPER.flips[:1], attended=PAPER.attended)
    chosen = figure_captions(of_photographs(pipeline, [*known.captions, PHOTOGRAPHS.novel[0]]))
    assert chosen.flips == PAPER.flips[:1]
    assert chosen.attended == PAPER.attended
    assert "a stop sign is flying in blue skies ." in chosen.unknown


def test_a_model_of_photographs_draws_scenes_in_their_words(pipeline):
    chosen = figure_captions(of_photographs(pipeline, [*PHOTOGRAPHS.captions, PAPER.novel[0]]))
    assert (chosen.novel, chosen.flips, chosen.attended) == (PHOTOGRAPHS.novel, PHOTOGRAPHS.flips, PHOTOGRAPHS.attended)
    assert (chosen.examples, chosen.unknown) == (("a skier is on the beach",), ())
    assert ("a brown dog runs on the grass .", "a black dog runs on the grass .", "a white dog runs on the grass .") in chosen.flips


def test_captions_with_unknown_words_leave_their_group(pipeline):
    """A group of which one caption is left is no flip."""
    one_less = of_photographs(
        pipeline, [caption for caption in PHOTOGRAPHS.captions if not {"snow", "brown", "black"} & set(caption.split())]
    )
    chosen = figure_captions(one_less)
    assert chosen.flips[1] == tuple(caption for caption in BACKGROUND_FLIPS[0] if "snow" not in caption)
    assert not any("white dog" in caption for group in chosen.flips for caption in group)
    assert chosen.unknown == tuple(caption for caption in PHOTOGRAPHS.captions if {"snow", "brown", "black"} & set(caption.split()))


def test_models_that_read_no_words_draw_by_their_vocabulary(pipeline):
    """They accept any caption, and a table compares them with models of the same data."""
    words = of_photographs(pipeline, PHOTOGRAPHS.captions)
    blind = dataclasses.replace(words, model=DRAW(words.model.config.model_copy(update={"conditioning": "none"})))
    assert figure_captions(blind) == figure_captions(words)
    assert shared_captions([words, blind]) == [group[0] for group in PHOTOGRAPHS.flips]


SCENES = ("skier beach", "surfer desert", "motorcycle ocean", "bus beach", "horse roof", "surfer field", "bed snow", "pink dog")


def test_no_caption_of_flickr8k_describes_a_novel_scene():
    text = (data_folder() / "flickr8k" / "Flickr8k_text" / "Flickr8k.token.txt").read_text("utf-8").lower()
    captions = [re.sub("[^a-z]+", " ", line.partition("\t")[2]) for line in text.splitlines()]
    assert len(captions) > 40_000
    for scene, novel in zip(SCENES, PHOTOGRAPHS.novel, strict=True):
        first, second = scene.split()
        assert re.search(rf"\b{first}\b.*\b{second}\b", novel)
        same = [caption for caption in captions if re.search(rf"\b{first}s?\b", caption) and re.search(rf"\b{second}s?\b", caption)]
        assert not [caption for caption in same if scene != "pink dog" or scene in caption], scene


def test_figures_of_another_model_are_not_overwritten(pipeline, tmp_path):
    few = FigureCaptions((), (("the digit one is at the top left of the image",),), ())
    (first, *_) = write_figures(pipeline, tmp_path / "out", few)
    before = first.read_bytes()
    assert figure_folder(pipeline.name, tmp_path / "out") == tmp_path / "out"
    other = figure_folder("other", tmp_path / "out")
    assert other == tmp_path / "out-other"
    write_figures(dataclasses.replace(pipeline, name="third"), other, few)
    assert figure_folder("other", tmp_path / "out") == tmp_path / "out-other-2"
    assert first.read_bytes() == before


def blackening() -> Sharpening:
    """Return a sharpener that makes every picture black."""
    config = SharpenerConfig(side=60, colours=1, conditioning="mean", vocabulary_size=len(WORDS), language_units=4, features=(4, 4))
    sharpener = Sharpener(config).eval().requires_grad_(False)
    sharpener.sharpen = lambda images, _: 0 * images
    return Sharpening("blackening", sharpener, "0" * 64, Vocabulary(words=WORDS, aliases=ALIASES))


def test_every_figure_that_the_model_can_have_is_written(pipeline, tmp_path):
    searched = []

    def nearest(pictures):
        searched.append(pictures)
        return 255 - pictures

    sharp = dataclasses.replace(pipeline, sharpening=blackening())
    files = write_figures(sharp, tmp_path / "out", figure_captions(pipeline), nearest=nearest)
    numbers = [path.name[:8] for path in files]
    assert numbers == ["figure-1", "figure-3", "figure-4", "figure-5", "figure-6", "figure-7"]
    for path in files:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, path
    with Image.open(files[-1]) as picture:  # black canvases below
        rows = np.asarray(picture.convert("L")).mean(axis=1)
    assert rows[: len(rows) // 2].mean() > 20 + rows[len(rows) // 2 :].mean()
    assert [group.shape for group in searched] == [(4, 60, 60, 1)] * 3
    one = FigureCaptions((), (("the digit one is at the top left of the image",),), ())
    assert [path.name[:8] for path in write_figures(pipeline, tmp_path / "less", one)] == ["figure-3", "figure-6"]


def test_a_training_image_is_nearest_to_itself(pipeline):
    nearest = nearest_training_images(pipeline, None)
    settings = pipeline.config.data
    held_out = HeldOut(tuple(tuple(hidden) for hidden in settings["held_out"]))
    shown = CanvasMaker(scikit_learn_digits("train"), held_out).make(settings["samples_per_epoch"], generator("canvases", 0, 0)).images
    pictures = shown[[3, 17]].permute(0, 2, 3, 1).numpy()
    noisy = np.clip(pictures.astype(int) + np.random.default_rng(0).integers(-9, 10, pictures.shape), 0, 255).astype(np.uint8)
    assert (nearest(noisy) == pictures).all()


def test_figure_4_of_captioned_images_requires_their_dataset(pipeline):
    other = dataclasses.replace(pipeline, config=pipeline.config.model_copy(update={"data": {"shown": []}}))
    with pytest.raises(ValueError, match="give its prepared dataset with --data"):
        nearest_training_images(other, None)


def test_training_images_are_cropped_to_the_side_of_drawings(pipeline, tmp_path):
    """As models of larger pictures are trained on them."""
    dataset = prepared_dataset(tmp_path / "data", side=76)
    other = dataclasses.replace(pipeline, config=pipeline.config.model_copy(update={"data": {"shown": []}}))
    images = CaptionedImages(PreparedDataset.open(dataset), "train").pixels([0, 7], 1, 60).permute(0, 2, 3, 1).numpy()
    assert (nearest_training_images(other, dataset)(images) == images).all()


def test_nothing_to_draw_is_one_line(pipeline, tmp_path):
    with pytest.raises(ValueError, match="no captions to draw; give some with --captions"):
        write_figures(pipeline, tmp_path / "out", FigureCaptions((), (), ()))
