"""R-precision: its conventions, and folders that hold no DAMSM."""

from __future__ import annotations

import pytest
import torch

from cap2im.checkpoint import write_model
from cap2im.data.vocabulary import Vocabulary
from cap2im.loading import load_model
from cap2im.metrics.distributed import ProcessGroup
from cap2im.metrics.r_precision import global_features, own_caption_first, r_precision
from cap2im.models.attngan_text import TextEncoderConfig
from cap2im.models.damsm import DAMSM, DAMSMConfig
from cap2im.randomness import generator

CONFIG = DAMSMConfig(text=TextEncoderConfig(vocabulary_size=4, word_features=3, features=6), image_encoder="small", side=16, width=2)


def vectors(count: int, features: int = 16, name: str = "codes") -> torch.Tensor:
    return torch.randn(count, features, generator=generator(name))


def test_a_perfect_encoder_gets_100_percent():
    sentences = vectors(150)
    assert own_caption_first(sentences, sentences).eq(1).all()
    measured = r_precision(3 * sentences, 0.1 * sentences)  # a cosine sees no lengths
    assert (measured.value, measured.n, measured.chance, measured.unit) == (1.0, 150, 0.01, "proportion")
    assert 0.97 < measured.interval[0] < measured.interval[1] == 1.0


def test_shuffled_pairs_get_one_percent():
    codes = vectors(2000)
    measured = r_precision(codes, codes.roll(1, 0))
    assert measured.interval[0] < 0.01 < measured.interval[1]
    assert measured.value < 0.02


def test_captions_that_tie_share_the_first_place():
    same = torch.ones(120, 4)
    assert own_caption_first(vectors(120, 4), same).tolist() == pytest.approx([0.01] * 120)
    halves = torch.eye(2).repeat(60, 1)  # every other caption is the same
    first = own_caption_first(halves, halves, torch.arange(120) % 2, others=50)
    assert first.eq(1).all()  # those are no wrong ones


def test_better_codes_score_higher():
    sentences, noise = vectors(400), vectors(400, name="noise")
    rates = [r_precision(sentences + share * noise, sentences).value for share in (0.5, 1.0, 2.0, 8.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9 > 0.3 > rates[-1]


def test_fewer_others_are_easier_and_the_seed_chooses_them():
    sentences = vectors(300)
    codes = sentences + vectors(300, name="noise")
    assert r_precision(codes, sentences, others=9).value > r_precision(codes, sentences).value
    assert not torch.equal(own_caption_first(codes, sentences, seed=1), own_caption_first(codes, sentences))
    assert torch.equal(own_caption_first(codes, sentences, seed=1), own_caption_first(codes, sentences, seed=1))


def test_processes_do_not_change_the_result():
    codes, sentences = vectors(160), vectors(160, name="sentences")
    sentences += codes
    whole = own_caption_first(codes, sentences)
    assert 0 < whole.mean() < 1

    class Half(ProcessGroup):
        def all_gather(self, shard):
            return shard

    parts = [own_caption_first(codes, sentences, processes=Half(index, 2)) for index in (0, 1)]
    assert torch.equal(torch.cat(parts), whole)


def test_too_few_wrong_captions():
    with pytest.raises(ValueError, match="R-precision among 100 captions: of 60 pairs only 59 captions are wrong"):
        r_precision(vectors(60), vectors(60))
    with pytest.raises(ValueError, match="of 120 pairs only 60 captions"):
        r_precision(vectors(120), vectors(120), torch.arange(120) % 2)


def stored(folder, **changes):
    torch.manual_seed(0)
    model = DAMSM(CONFIG)
    config = {"kind": "damsm", "model": CONFIG.model_dump(), "vocabulary": Vocabulary(words=("a", "b", "c", "d")).model_dump()}
    folder.mkdir()
    write_model(folder, model.state_dict(), config | changes)
    return model


def test_a_damsm_is_loaded_as_it_was_stored(tmp_path):
    model = stored(tmp_path / "model")
    loaded = load_model(tmp_path / "model", DAMSM)
    assert loaded.vocabulary.words == ("a", "b", "c", "d")
    assert loaded.sha256 == loaded.config.sha256["model.safetensors"]
    assert not loaded.network.training
    images, tokens, mask = torch.rand(3, 3, 16, 16), torch.zeros(3, 2, dtype=torch.long), torch.ones(3, 2, dtype=torch.bool)
    ours, theirs = (global_features(damsm, images, tokens, mask) for damsm in (loaded.network, model.eval()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(ours[0], model.image(2 * images - 1).code)  # pictures are given in 0..1, and seen in -1..1


def test_other_models_are_no_damsm(tmp_path):
    stored(tmp_path / "other", kind="draw")
    with pytest.raises(ValueError, match="is a model of kind 'draw'; expected damsm"):
        load_model(tmp_path / "other", DAMSM)
    stored(tmp_path / "words", vocabulary=Vocabulary(words=("a", "b")).model_dump())
    with pytest.raises(ValueError, match="4 word vectors for 2 words"):
        load_model(tmp_path / "words", DAMSM)
    stored(tmp_path / "sizes", model=CONFIG.model_copy(update={"width": 3}).model_dump())
    with pytest.raises(ValueError, match="config and weights do not fit"):
        load_model(tmp_path / "sizes", DAMSM)
