"""Test prepared splits, sentence vectors and batches of captions of nearly one length."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from cap2im.data.caption_batches import CaptionBatches
from cap2im.data.captioned_images import CaptionedImages
from cap2im.data.dataset import PreparedDataset
from cap2im.data.sentence_vectors import load_sentence_vectors
from cap2im.data.tokenizer import split_words
from cap2im.data.vocabulary import Vocabulary
from tests.prepared import COLOURS, prepared_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> PreparedDataset:
    return PreparedDataset.open(prepared_dataset(tmp_path_factory.mktemp("squares") / "prepared"))


def batches(dataset, **changes) -> CaptionBatches:
    how = {"colours": 3, "batch_size": 6, "seed": 0} | changes
    return CaptionBatches(CaptionedImages(dataset, "train"), dataset.vocabulary, (2, 3), **how)


def words_of(dataset, batch) -> list[list[str]]:
    rows = zip(batch.tokens.tolist(), batch.mask.tolist(), strict=True)
    return [[dataset.vocabulary.words[number] for number, there in zip(*row, strict=True) if there] for row in rows]


def test_a_split_has_its_images_and_their_captions(dataset):
    images = CaptionedImages(dataset, "validation")
    assert len(images) == 6
    assert len(images.captions) == 12
    assert images.image_of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    pixels = images.pixels([1, 0, 1], 3)
    assert pixels.shape == (3, 3, 8, 8)
    assert pixels[0, :, 4, 4].tolist() == list(COLOURS["green"])
    assert torch.equal(pixels[0], pixels[2])
    assert images.pixels([0], 1).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("equal_lengths", [False, True])
def test_an_epoch_has_each_caption_once_with_its_image(dataset, equal_lengths):
    made = batches(dataset, equal_lengths=equal_lengths)
    captions = []
    for step in range(made.steps_per_epoch):
        batch = made.at(step)
        assert batch.images.shape == (6, 3, 8, 8)
        assert batch.noise.shape == (6, 2, 3)
        for words, image in zip(words_of(dataset, batch), batch.images, strict=True):
            middle = (image[:, 4, 4] * 255).round().int().tolist()
            assert COLOURS[next(word for word in words if word in COLOURS)] == tuple(middle)
            captions.append((" ".join(words), image.sum().item()))
        lengths = batch.mask.sum(dim=1)
        assert not equal_lengths or len(set(lengths.tolist())) == 1
    assert len(set(captions)) == len(captions) == made.steps_per_epoch * 6
    assert equal_lengths or made.steps_per_epoch == 8


def test_batches_are_of_nearly_one_length(dataset):
    made = batches(dataset)
    lengths = [made.at(step).mask.sum(dim=1) for step in range(made.steps_per_epoch)]
    within = torch.stack([length.float().var() for length in lengths]).mean()
    assert within < 0.2 * torch.cat(lengths).float().var()


def test_batches_depend_only_on_seed_and_step(dataset):
    one, two, other = batches(dataset), batches(dataset), batches(dataset, seed=1)
    for step in (0, 3, 9):
        one.at(step)
    assert torch.equal(one.at(5).images, two.at(5).images)
    assert torch.equal(one.at(5).noise, two.at(5).noise)
    assert not torch.equal(one.at(5).images, one.at(5 + one.steps_per_epoch).images)
    assert not torch.equal(one.at(5).images, other.at(5).images)


def test_processes_share_a_batch(dataset):
    made = batches(dataset)
    whole, parts = made.at(2), [made.at(2, slice(i, None, 2)) for i in range(2)]
    for i, part in enumerate(parts):
        assert torch.equal(part.images, whole.images[i::2])
        assert torch.equal(part.noise, whole.noise[i::2])
        assert words_of(dataset, part) == words_of(dataset, whole)[i::2]


def test_lengths_are_limited_and_too_few_captions_are_reported(dataset):
    made = batches(dataset, lengths=(3, 5), batch_size=2)
    assert {len(words) for step in range(made.steps_per_epoch) for words in words_of(dataset, made.at(step))} == {4}
    with pytest.raises(
        ValueError, match=r"48 captions of 1 to 200 words do not fill a batch of 50; a smaller batch may: --set train.batch_size=16"
    ):
        batches(dataset, batch_size=50)
    with pytest.raises(ValueError, match="do not fill a batch of 40 of one length"):
        batches(dataset, batch_size=40, equal_lengths=True)


def test_fixed_batches_are_spread_over_all_captions(dataset):
    batch = batches(dataset).fixed(4)
    captions = CaptionedImages(dataset, "train").captions
    assert words_of(dataset, batch) == [split_words(captions[i]) for i in (0, 15, 31, 47)]
    assert len(batches(dataset).fixed(1000)) == 48


class Letters:
    """Counts letters: a sentence encoder that can be checked by hand."""

    name = "letters"

    def __init__(self, letters: str = "abcd") -> None:
        self.letters, self.calls = letters, 0
        self.features = len(letters)

    def encode(self, captions):
        self.calls += len(captions)
        return torch.tensor([[float(caption.count(letter)) for letter in self.letters] for caption in captions])


def test_sentence_vectors_are_made_once_for_each_encoder(dataset):
    captions = CaptionedImages(dataset, "train").captions
    encoder = Letters()
    vectors = load_sentence_vectors(dataset, "train", captions, encoder)
    assert vectors[7].tolist() == [captions[7].count(letter) for letter in "abcd"]
    before = encoder.calls
    again = load_sentence_vectors(dataset, "train", captions, encoder)
    assert encoder.calls == before + 2, "only the two sentences by which the vectors are found"
    assert np.array_equal(vectors, again)
    other = load_sentence_vectors(dataset, "train", captions, Letters("xyz"))
    assert other.shape == (48, 3)
    batch = batches(dataset, vectors=vectors).at(1)
    for words, row in zip(words_of(dataset, batch), batch.vectors, strict=True):
        assert row.tolist() == [" ".join(words).count(letter) for letter in "abcd"]


def copied(dataset, folder) -> Path:
    return Path(shutil.copytree(dataset.folder, folder))


def change_manifest(folder: Path, **changes) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_what_is_no_dataset_is_reported(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"not a prepared dataset, it has no manifest\.json; cap2im prepare"):
        PreparedDataset.open(tmp_path)
    folder = copied(dataset, tmp_path / "copy")
    (folder / "vocabulary.json").unlink()
    with pytest.raises(ValueError, match=r"damaged dataset: no vocabulary\.json"):
        PreparedDataset.open(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json: Invalid JSON"):
        PreparedDataset.open(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "another"}, "its format is 'another', this version"),
        ({"side": None}, "manifest.json: side: Input should be a valid integer"),
        ({"fit": "squash"}, "manifest.json: fit: Input should be 'stretch', 'crop' or 'shorter'"),
        (
            {"shards": [{"file": "foo-0.parquet", "rows": 1}]},
            "shards.0.file: the name begins with none of train, ",
        ),
        ({"shards": [{"file": "train-0.parquet"}]}, "shards.0.rows: Field required"),
    ],
)
def test_damaged_manifests_are_reported(dataset, tmp_path, changes, message):
    folder = copied(dataset, tmp_path / "copy")
    change_manifest(folder, **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        PreparedDataset.open(folder)


def quota(*_: object, **__: object) -> None:
    raise datasets.exceptions.DatasetGenerationError("An error occurred") from OSError(errno.EFBIG, "File too large")


def full(*_: object, **__: object) -> None:
    raise OSError("Not enough disk space. Needed: Unknown size (download: Unknown size)")


@pytest.mark.parametrize(("load", "number"), [(quota, errno.EFBIG), (full, errno.ENOSPC)])
def test_a_cache_that_cannot_be_written_is_one_line(dataset, monkeypatch, load, number):
    monkeypatch.setattr("datasets.load_dataset", load)
    message = f"the cache of `datasets` cannot be written ({os.strerror(number).lower()}); HF_DATASETS_CACHE names another folder"
    with pytest.raises(OSError, match=re.escape(message)) as raised:
        CaptionedImages(dataset, "train")
    assert (raised.value.errno, raised.value.filename) == (number, str(datasets.config.HF_DATASETS_CACHE))


def test_a_damaged_shard_without_a_checksum_is_one_line(dataset, tmp_path):
    folder = copied(dataset, tmp_path / "copy")
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    (folder / shards[0]["file"]).write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    change_manifest(folder, shards=[shards[0] | {"sha256": None}])
    with pytest.raises(ValueError, match=r"copy, train: cannot be read: "):
        CaptionedImages(PreparedDataset.open(folder), "train")


def test_damaged_missing_and_exchanged_shards_are_refused(dataset, tmp_path):
    folder = copied(dataset, tmp_path / "copy")
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    train = folder / shards[0]["file"]
    whole = train.read_bytes()
    train.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet: truncated or altered"):
        CaptionedImages(PreparedDataset.open(folder), "train")
    train.unlink()
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet: missing; cap2im prepare with --resume makes it again"):
        CaptionedImages(PreparedDataset.open(folder), "train")
    train.write_bytes(whole)
    change_manifest(folder, shards=[shards[0] | {"rows": 23}, shards[1] | {"rows": 0}])
    with pytest.raises(ValueError, match="holds 24 images; the manifest lists 23"):
        CaptionedImages(PreparedDataset.open(folder), "train")
    with pytest.raises(
        ValueError, match=r"has no validation images; its splits: train; prepare with --validation SHARE, larger for few images"
    ):
        CaptionedImages(PreparedDataset.open(folder), "validation")
    change_manifest(folder, shards=[shards[0], shards[1] | {"file": "validation-00000-of-00001.parquet"}])
    with pytest.raises(ValueError, match=r"has no test images; its splits: train, validation; --split validation takes those$"):
        CaptionedImages(PreparedDataset.open(folder), "test")
    change_manifest(folder, shards=[shards[0]])
    with pytest.raises(ValueError, match=r"; prepare with --test SHARE; --split train takes the training images$"):
        CaptionedImages(PreparedDataset.open(folder), "test")


class ByColumn(list):
    """Rows as `datasets` answers several of them."""

    def __getitem__(self, which):
        chosen = [list.__getitem__(self, row) for row in which]
        return {name: [row[name] for row in chosen] for name in chosen[0]}


def test_an_image_that_cannot_be_decoded_is_named(dataset):
    images = CaptionedImages(dataset, "validation")
    rows = images._rows.to_list()
    rows[2]["image"]["bytes"] = b"nothing"
    images._rows = ByColumn(rows)
    assert images.pixels([1], 3).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"validation: image validation-2: cannot be decoded"):
        images.pixels([1, 2], 3)


def test_captions_without_a_known_word_are_never_used(dataset):
    images = CaptionedImages(dataset, "train")
    images.captions[5] = "\u732b \u72ac"
    attngan = Vocabulary.build(images.captions, tokens="attngan")
    made = CaptionBatches(images, attngan, (2, 3), colours=3, batch_size=47)
    assert made.steps_per_epoch == 1
    assert made.at(0).mask.any(dim=1).all()
