"""Recipes: strict types, the papers' values, and clear messages."""

from __future__ import annotations

import re
import tomllib
from importlib import resources

import pytest

from cap2im.config import differences, load_recipe, parse_recipe, recipe_names, settings, to_toml
from cap2im.registry import MODELS


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_toml(name):
    recipe = load_recipe(name)
    assert parse_recipe(tomllib.loads(to_toml(recipe)), name) == recipe


def test_paper_recipe_is_the_papers():
    recipe = load_recipe("aligndraw-mnist-paper")
    m, t = recipe.model, recipe.train
    assert (m.glimpses, m.inference_units, m.generative_units, m.latent, m.read_patch, m.write_patch) == (
        32,
        300,
        300,
        150,
        8,
        8,
    )  # table 2
    assert (m.side, m.colours, m.vocabulary_size, m.language_units, m.align_features) == (60, 1, 22, 128, 512)  # appendices A, B
    assert (t.epochs, t.optimizer, t.learning_rate, t.drop_epoch, t.final_learning_rate, t.clip_norm) == (
        150,
        "rmsprop",
        1e-3,
        110,
        1e-4,
        10,
    )
    assert (recipe.data.samples_per_epoch, m.variant, m.initialisation) == (10_000, "paper", "paper")
    assert (t.kl_weights, t.ema_decay, t.precision) == (((0, 1.0),), 0, "fp32"), "nothing that the paper does not have"


@pytest.mark.parametrize(
    ("model", "conditioning"), [("align", "align"), ("noalign", "mean"), ("skipthought", "sentence"), ("", "none")], ids=str
)
@pytest.mark.parametrize(("size", "side"), [("paper", 32), ("56", 56)])
def test_coco_recipes_are_the_papers(model, conditioning, size, side):
    recipe = load_recipe(f"{model}draw-coco-{size}")
    m, t = recipe.model, recipe.train
    assert (m.conditioning, m.side, m.colours, m.glimpses, m.read_patch, m.write_patch) == (conditioning, side, 3, 32, 9, 9)  # table 2
    assert (m.inference_units, m.generative_units, m.latent, m.sentence_features) == (550, 550, 275, 4800)
    assert (t.epochs, t.drop_epoch, t.learning_rate, t.final_learning_rate, t.clip_norm) == (18, 11, 1e-3, 1e-4, 10)  # appendix B
    assert (t.optimizer, t.kl_weights, t.ema_decay, t.precision) == ("rmsprop", ((0, 1.0),), 0, "fp32")
    assert (m.initialisation, m.variant, m.language_dropout, m.blank) == ("paper", "paper", 0, 0)
    assert conditioning == "none" or (recipe.data.shortest, recipe.data.longest) == (7, 29)


def test_gan_recipes_are_the_papers():
    lapgan, sharpener = (load_recipe(f"{kind}-coco") for kind in ("lapgan", "sharpener"))
    for recipe in (lapgan, sharpener):
        m, t = recipe.model, recipe.train
        assert (m.conditioning, m.sentence_features, m.side, m.colours) == ("sentence", 4800, 32, 3)
        assert (m.features, m.kernels, t.dropout) == ((128, 128), (7, 7, 5), 0.5)
        assert (t.optimizer, t.learning_rate, t.momentum, t.highest_momentum) == ("sgd", 0.02, 0.5, 0.8)
        assert (t.coarse_noise, t.mismatch_weight, t.ema_decay) == (0, 0, 0), "nothing that the paper does not have"
    assert sharpener.train.epochs == 6  # appendix B
    assert lapgan.model.fine == sharpener.model


@pytest.mark.parametrize("kind", ["lapgan", "sharpener"])
def test_gan_recipes_match_the_sizes_of_the_models_compared(kind):
    for data in ("mnist", "cifar", "coco"):
        gan, vae = load_recipe(f"{kind}-{data}").model, load_recipe(f"fc-vae-{data}").model
        assert (gan.side, gan.colours, gan.conditioning) == (vae.side, vae.colours, vae.conditioning)
    assert load_recipe(f"{kind}-mnist").data.held_out_seed == 5


def test_digit_recipes_hide_the_same_configurations():
    recipes = [load_recipe(name) for name in recipe_names() if name.endswith("-mnist") and name != "reader-mnist"]
    assert {recipe.data.held_out_seed for recipe in recipes} == {5}


@pytest.mark.parametrize("architecture", ["fully-connected", "convolutional"])
def test_vae_recipes_match_the_sizes_of_the_models_compared(architecture):
    prefix = {"fully-connected": "fc", "convolutional": "conv"}[architecture]
    for data, draw, conditioning in (
        ("mnist", "aligndraw-mnist", "mean"),
        ("coco", "skipthoughtdraw-coco-paper", "sentence"),
        ("cifar", "noaligndraw-cifar", "mean"),
    ):
        vae, draw_recipe = load_recipe(f"{prefix}-vae-{data}"), load_recipe(draw)
        assert (vae.model.architecture, vae.model.conditioning) == (architecture, conditioning)
        assert (vae.model.side, vae.model.colours) == (draw_recipe.model.side, draw_recipe.model.colours)
        assert vae.model.sentence_features == draw_recipe.model.sentence_features or conditioning == "mean"
        assert vae.data.source == draw_recipe.data.source
    assert load_recipe(f"{prefix}-vae-mnist").data.held_out_seed == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.clip=tensor", "train.clip is tensor, which is for the authors' DRAWs; a VAE has global"),
        ("model.variant=released", "unknown key model.variant; keys there: model.architecture, "),
        ("model.side=32", "captioned digits do not fit: model.side is 32, 60 is needed"),
        ("model.side=30", "side 30 is not a multiple of 4"),
        ("model.deviation=0", "model.deviation: Input should be greater than 0"),
        ("model.conditioning=align", "Input should be 'sentence', 'mean' or 'none', got 'align'"),
        ("model.conditioning=sentence", "conditioning sentence needs a prepared dataset"),
    ],
)
def test_invalid_values_of_a_vae_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("conv-vae-mnist", [change])


@pytest.mark.parametrize("recipe", ["lapgan-mnist", "sharpener-mnist"])
@pytest.mark.parametrize("kernels", ["[5, 4, 3]", "[0, 5, 3]"])
def test_kernels_of_adversaries_are_odd(recipe, kernels):
    with pytest.raises(ValueError, match=r"model\.kernels\.[01]: .*got [40]"):
        load_recipe(recipe, [f"model.kernels={kernels}"])


def test_skipthoughts_recipe_is_the_papers():
    recipe = load_recipe("skipthoughts")
    m, t = recipe.model, recipe.train
    assert (m.uni, m.bi, m.embedding, m.features, recipe.data.vocabulary_size) == (2400, 1200, 620, 4800, 20_000)
    assert (t.batch_size, t.clip_norm, t.warmup_steps, t.precision) == (128, 10, 0, "fp32")


def test_changes():
    recipe = load_recipe("aligndraw-mnist", ["train.batch_size=64", "train.optimizer=rmsprop", "data.source='digits'"])
    assert (recipe.train.batch_size, recipe.train.optimizer, recipe.data.source) == (64, "rmsprop", "digits")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.batchsize=64", "unknown key train.batchsize .did you mean train.batch_size"),
        ("batch_size=64", "did you mean train.batch_size"),
        ("train.zzz=1", "unknown key train.zzz; keys there: train.seed, train.epochs"),
        ("train.batch_size=0", "train.batch_size: Input should be greater than or equal to 1, got 0"),
        ("train.batch_size=many", "train.batch_size: Input should be a valid integer.*got 'many'"),
        ("train.optimizer=sgd", "train.optimizer: Input should be 'rmsprop' or 'adam', got 'sgd'"),
        ("train.batch_size=20000", "train.batch_size 20000 is more than data.samples_per_epoch 10000"),
        ("kind=gan", f"recipe aligndraw-mnist: kind: got 'gan', allowed: {', '.join(MODELS)}$"),
        ("train.batch_size=true", "aligndraw-mnist: train.batch_size: Input should be a valid integer, got True$"),
        ("data.samples_per_epoch=true", "aligndraw-mnist: data.samples_per_epoch: Input should be a valid integer, got True$"),
        ("train.clip_norm=true", "train.clip_norm: Input should be a valid number, got True$"),
        ("train.kl_weights=[[false, 1.0]]", "train.kl_weights.0.0: Input should be a valid integer, got False$"),
        ("trian.batch_size=3", r"unknown key trian \(did you mean train\?\)$"),
        ("dta.source=captions", r"unknown key dta \(did you mean data\?\)$"),
        ("data.zzz.x=1", "unknown key data.zzz; keys there: data.source, data.held_out_seed, "),
        ("zzz.batch_size=3", "unknown key zzz; keys there: data, model, train$"),
        ("train.kl_weights=[[5, 1.0]]", "train.kl_weights: steps must begin at 0 and rise"),
        ("train.kl_weights=[[0, -1.0]]", "greater than or equal to 0, got -1.0"),
        ("train.batch_size", "expected KEY=VALUE"),
        ("description.x=1", "description is a value, not a section"),
    ],
)
def test_refused_changes(change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("aligndraw-mnist", [change])


def test_one_message_has_several_problems():
    with pytest.raises(ValueError, match=r"batch_size.*learning_rate"):
        load_recipe("aligndraw-mnist", ["train.batch_size=0", "train.learning_rate=-1"])


def test_wrong_types_are_among_the_problems_of_one_message():
    changes = ["train.batch_size=true", "train.epochs=3.0", "train.log_every=many", "model.latent=0", "train.zzz=1"]
    with pytest.raises(ValueError, match=r"unknown key train\.zzz") as error:
        load_recipe("aligndraw-mnist", changes)
    keys = ("train.batch_size: ", "train.epochs: ", "train.log_every: ", "model.latent: ")
    assert all(key in str(error.value) for key in keys)


@pytest.mark.parametrize("value", ["0", "1", "1.0"])
def test_numbers_are_not_booleans(value):
    with pytest.raises(ValueError, match=rf"recipe vgg-cifar: train\.flip: Input should be a valid boolean, got {value}$"):
        load_recipe("vgg-cifar", [f"train.flip={value}"])


def test_set_takes_values_in_pythons_notation():
    recipe = load_recipe("vgg-cifar", ["train.flip=False", "train.momentum=.5", "train.weight_decay=1.e-3", "train.learning_rate=1"])
    assert (recipe.train.flip, recipe.train.momentum, recipe.train.weight_decay, recipe.train.learning_rate) == (False, 0.5, 1e-3, 1)
    assert (load_recipe("vgg-cifar", ["name=True story"]).name, load_recipe("vgg-cifar", ["name=.5 x"]).name) == ("True story", ".5 x")


def test_undecodable_bytes_are_refused():
    with pytest.raises(ValueError, match=r"^recipe vgg-cifar: holds text that is not UTF-8$"):
        load_recipe("vgg-cifar", ["name=caf\udce9"])


def test_unknown_sections_inside_of_sections():
    with pytest.raises(ValueError, match=r"unknown key model\.txet \(did you mean model\.text\?\)$"):
        load_recipe("damsm-mnist", ["model.txet.cell=gru"])


def test_a_recipe_without_a_kind():
    with pytest.raises(ValueError, match=rf"^recipe mine: kind: missing, allowed: {', '.join(MODELS)}$"):
        parse_recipe({"description": ""}, "mine")


def test_unknown_recipe_error_lists_recipes():
    with pytest.raises(ValueError, match=r"did you mean aligndraw-mnist.*\?\); cap2im list shows all"):
        load_recipe("aligndraw-mnits")


def test_a_toml_file_is_loaded(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(load_recipe("aligndraw-digits", ["train.epochs=1"])))
    assert load_recipe(str(path)).train.epochs == 1
    path.write_text(path.read_text().replace("batch_size = ", "batch_size = true # "))
    with pytest.raises(ValueError, match=r"mine.toml: train.batch_size: Input should be a valid integer, got True$"):
        load_recipe(str(path))
    path.write_text("kind = ")
    with pytest.raises(ValueError, match=r"mine.toml: not valid TOML"):
        load_recipe(str(path))


def test_differences():
    old, new = load_recipe("aligndraw-mnist"), load_recipe("aligndraw-mnist", ["train.batch_size=64", "model.blank=0.0"])
    assert differences(old, old) == []
    assert sorted(differences(old, new)) == ["model.blank: -10.0 -> 0.0", "train.batch_size: 50 -> 64"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a = " + b"[" * 10_000, "tables and lists are nested more than 32 deep"),
        (b"a." * 10_000 + b"b = 1", "tables and lists are nested more than 32 deep"),
        (b"a = " + b"9" * 5_000, "not valid TOML: Exceeds the limit"),
        (b"#" * 100_000, "100,000 bytes; at most 32,768 are read"),
        (b'a = "caf\xe9"', "line 1 is not UTF-8"),
        (b"\xff\xfea", "has the byte order mark of UTF-16-LE and is damaged"),
        (b"a = 1\0", "line 1 holds a NUL byte"),
        (b'kind = "draw"\n' + b"\n".join(b"a%d = 1" % number for number in range(1_000)), "and 991 problems more"),
        (b'kind = [["draw"]]', "kind: got"),
    ],
    ids=["list", "dotted key", "integer", "size", "Latin-1", "UTF-16", "NUL", "problems", "kind"],
)
def test_hostile_recipes_are_one_short_line(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_recipe(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 8_000


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path):
    text = resources.files("cap2im.recipes").joinpath("aligndraw-digits.toml").read_bytes()
    (tmp_path / "recipe.toml").write_bytes(b"\xef\xbb\xbf" + text)
    assert load_recipe(str(tmp_path / "recipe.toml")) == load_recipe("aligndraw-digits")


@pytest.mark.parametrize("change", ["a." * 5_000 + "b=1", f"train.seed={'[' * 5_000}"])
def test_values_of_set_may_not_be_nested_deeply(change):
    with pytest.raises(ValueError, match=r"^--set .*…: tables and lists are nested more than 32 deep$"):
        load_recipe("aligndraw-digits", [change])


@pytest.mark.parametrize("name", recipe_names())
def test_every_key_is_explained(name):
    recipe = load_recipe(name)
    explained = settings(recipe)
    assert [each.key for each in explained if not each.meaning] == []
    assert set(to_toml(recipe).split()) >= {each.key.rpartition(".")[2] for each in explained if each.value is not None} - {
        "side",
        "vocabulary_size",
    }


def test_settings_have_the_values_of_the_papers_recipe():
    paper = {each.key: each.paper for each in settings(load_recipe("aligndraw-small"))}
    assert (paper["model.glimpses"], paper["model.latent"], paper["train.learning_rate"], paper["train.ema_decay"]) == (32, 275, 1e-3, 0)
    meanings = {each.key: each.meaning for each in settings(load_recipe("aligndraw-small"))}
    assert meanings["train.optimizer"].endswith("(rmsprop, adam)")
    assert "(" not in meanings["data.source"] + meanings["model.conditioning"], "one value, and values that the text names"
    assert paper["model.side"] is paper["model.vocabulary_size"] is paper["description"] is None
    assert {each.paper for each in settings(load_recipe("fc-vae-cifar"))} == {None}, "the paper names no sizes of it"
    for name in recipe_names():
        assert load_recipe(name).paper_recipe() in (None, *recipe_names())


def test_a_training_has_epochs_or_updates():
    assert load_recipe("aligndraw-cifar", ["train.updates=500"]).train.total(7) == 500
    assert load_recipe("aligndraw-small", ["train.epochs=3"]).train.total(7) == 21
    for name in ("lapgan-mnist", "damsm-mnist", "attngan-mnist", "skipthoughts", "vgg-cifar"):
        recipe = load_recipe(name, ["train.updates=500"])
        assert (recipe.train.epochs, recipe.train.total(7)) == (None, 500)
        assert parse_recipe(tomllib.loads(to_toml(recipe)), name) == recipe
    assert parse_recipe({"kind": "draw", "description": "", "train": {"updates": 3}}, "x").train.epochs is None
    with pytest.raises(ValueError, match="give exactly one of epochs and updates, got epochs 3 and updates 500"):
        load_recipe("aligndraw-cifar", ["train.updates=500", "train.epochs=3"])


@pytest.mark.parametrize(("steps", "updates", "every"), [(1, 2000, 100), (25, 2000, 100), (300, 6000, 300), (10_000, 20_000, 1000)])
def test_length_and_cadence_are_chosen_for_the_data(steps, updates, every):
    train = load_recipe("aligndraw-small").train.planned(steps)
    assert (train.updates, train.validate_every, train.checkpoint_every) == (updates, every, every)
    assert train.planned(7) == train
    fixed = load_recipe("aligndraw-cifar").train
    assert fixed.planned(steps) == fixed


def test_keys_decided_by_the_data_are_not_in_the_toml():
    table = tomllib.loads(to_toml(load_recipe("aligndraw-small")))
    assert {"side", "vocabulary_size"}.isdisjoint(table["model"])
    assert "epochs" not in table["train"]


def test_a_resumed_run_may_change_its_length_and_cadence():
    old = load_recipe("aligndraw-mnist")
    new = load_recipe("aligndraw-mnist", ["train.epochs=7", "train.log_every=1", "train.validate_every=3", "train.checkpoint_every=4"])
    assert differences(old, new) == []
    assert differences(old, load_recipe("aligndraw-mnist", ["train.updates=9"])) == []
