"""Training data: images with one caption each, and vocabularies learned elsewhere."""

from __future__ import annotations

import pytest
import torch
from pydantic import BaseModel, ConfigDict

from cap2im.config import PicturesData, VAERecipe, load_recipe, parse_recipe
from cap2im.data.dataset import PreparedDataset
from cap2im.data.image_batches import ImageBatches
from cap2im.data.vocabulary import Vocabulary
from cap2im.pipeline import Pipeline
from cap2im.training.data import DataSource, fit_to_dataset, load_training_data
from cap2im.training.dispatch import train
from cap2im.training.example_captions import typical
from cap2im.training.variational import VariationalTrainer
from tests.prepared import prepared_dataset
from tests.training.stopping import stop_at

PICTURES = {"source": "pictures", "words": 4, "enlarge": 1.25, "validation_samples": 5}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepared_dataset(tmp_path_factory.mktemp("squares") / "prepared", side=10)


def recipe(**changes) -> VAERecipe:
    model = {"conditioning": "mean", "side": 8, "colours": 3, "latent": 3, "hidden": 8, "language_units": 4} | changes.pop("model", {})
    train = {"batch_size": 8, "epochs": 2, "log_every": 1, "validate_every": 6, "checkpoint_every": 4}
    made = parse_recipe({"kind": "vae", "description": "-", "data": PICTURES, "model": model, "train": train} | changes, "here")
    assert isinstance(made, VAERecipe)
    return made


def test_any_model_trains_on_pictures_of_another_size(dataset, tmp_path):
    data = load_training_data(recipe(), DataSource(dataset))
    assert isinstance(data.batches, ImageBatches)
    assert (len(data.vocabulary), data.recipe.model.vocabulary_size) == (19, 19)
    assert data.validation.images.shape == (5, 3, 8, 8)
    assert data.validation.tokens.shape[1] <= 4
    assert data.validation.classes is not None
    assert len(data.about["shown"]) == len(data.shown.tokens) > 4
    assert {key: data.about[key] for key in PICTURES} == PICTURES

    def run(folder, **how):
        return train(recipe(), tmp_path / folder, data=dataset, device="cpu", workers=0, **how)

    whole = Pipeline.load(str(run("whole")))
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, VariationalTrainer, 5, kill=True)
        with pytest.raises(KeyboardInterrupt):
            run("broken")
    again = Pipeline.load(str(run("broken", resume=True)))
    assert all(torch.equal(one, again.model.state_dict()[name]) for name, one in whole.model.state_dict().items())


def test_pictures_that_are_enlarged_are_named(dataset, caplog):
    load_training_data(recipe(), DataSource(dataset))
    assert not caplog.messages
    load_training_data(recipe(model={"side": 16}), DataSource(dataset))
    expected = f"warning: {dataset}: its images are 10 pixels wide and are enlarged to 16; cap2im prepare --side 16 keeps their detail"
    assert caplog.messages == [expected]


def test_words_learned_elsewhere_number_the_captions(dataset):
    few = Vocabulary(words=("<end>", "square", "red", "blue", "there"), tokens="attngan")
    data = load_training_data(recipe(), DataSource(dataset), vocabulary=few)
    assert data.vocabulary == few
    assert data.recipe.model.vocabulary_size == 5
    for batch in (data.batches.at(0), data.validation):
        assert batch.mask.any(dim=1).all()
        assert batch.tokens[batch.mask].min() >= 1
        assert batch.tokens.max() <= 4
    assert data.shown.mask.any(dim=1).all()
    with pytest.raises(ValueError, match="has none of its captions' words"):
        load_training_data(recipe(), DataSource(dataset), vocabulary=Vocabulary(words=("<end>", "zebra"), tokens="attngan"))


def test_words_learned_elsewhere_number_captioned_digits_too():
    digits = load_recipe("aligndraw-digits", ["data.samples_per_epoch=20", "data.validation_samples=6", "train.batch_size=4"])
    own = load_training_data(digits, DataSource())
    turned = Vocabulary(words=own.vocabulary.words[::-1], aliases=own.vocabulary.aliases)
    other = load_training_data(digits, DataSource(), vocabulary=turned)
    assert other.vocabulary == turned
    mask = own.validation.mask
    assert torch.equal(other.validation.tokens[mask], len(turned) - 1 - own.validation.tokens[mask])
    assert torch.equal(other.validation.classes, own.validation.classes)
    assert len(set(own.batches.at(0).classes.tolist())) > 1
    with pytest.raises(ValueError, match=r"unknown word 'digit'"):
        load_training_data(digits, DataSource(), vocabulary=Vocabulary(words=("<end>", "bird"), tokens="attngan"))


class Text(BaseModel):
    vocabulary_size: int = 7


class Sizes(BaseModel):
    model_config = ConfigDict(frozen=True)

    text: Text = Text()
    side: int = 8


def test_a_text_encoder_gets_the_size_of_the_vocabulary(dataset):
    there = PreparedDataset.open(dataset)
    made = fit_to_dataset(recipe().model_copy(update={"model": Sizes()}), there, resizes=True)
    assert made.model == Sizes(text=Text(vocabulary_size=19))
    with pytest.raises(ValueError, match=r"has 19 words, the recipe's model\.text\.vocabulary_size is 6$"):
        fit_to_dataset(recipe().model_copy(update={"model": Sizes(text=Text(vocabulary_size=6))}), there, resizes=True)


def test_bad_settings_are_one_error(dataset):
    with pytest.raises(ValueError, match=r"cannot be streamed$"):
        load_training_data(recipe(), DataSource(dataset, stream=True))
    with pytest.raises(ValueError, match=r"conditioning sentence needs a prepared dataset \(data\.source captions\)$"):
        recipe(model={"conditioning": "sentence"})
    with pytest.raises(ValueError, match=r"unknown key data\.enlarged \(did you mean data\.enlarge\?\)"):
        recipe(data=PICTURES | {"enlarged": 2})
    with pytest.raises(ValueError, match=r"data\.enlarge: Input should be greater than or equal to 1, got 0\.5"):
        recipe(data=PICTURES | {"enlarge": 0.5})
    assert PicturesData(source="pictures").enlarge == 76 / 64


def test_examples_are_known_usual_and_different():
    words = Vocabulary(words=("a", ".", "dog", "the", "in", "runs", "snow", "sand", "UNK"), unknown="UNK")
    snow, again, sand = "a dog runs in the snow .", "the dog runs in a snow .", "a dog runs in the sand ."
    short, unknown = "a dog .", "a zebra runs in the snow ."
    assert typical(words, [unknown, short, sand, snow, again, snow]) == [snow, sand, short, again]
    assert typical(words, [short, sand, snow, again], 2) == [snow, sand]
    assert typical(words, [unknown, "zebras", short.replace("dog", "cat")])[0] == unknown, "nothing else to show"
