"""Test sentence sources, triples of neighbours and their batches by step."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from cap2im.data.manifest import FORMAT
from cap2im.data.sentence_batches import SentenceGroups, TripleBatches, sentence_vocabulary, spread_triples
from cap2im.data.sentence_source import SentenceSource
from cap2im.data.vocabulary import Vocabulary

TEXT = "A one .\nA two .\nA three .\nA four .\n\n* * *\nB one .\nB two .\n\nC one .\nC two .\nC three ."
TOKENS = "b.jpg#0\tred dog .\na.jpg.1#0\tone .\nb.jpg#1\t\na.jpg.1#1\ttwo .\na.jpg.1#2\tthree .\nb.jpg#2\tblue dog .\nc.jpg#0\talone .\n"


def source(path: Path, text: str, share: float = 1e-9) -> SentenceSource:
    path.write_text(text, "utf-8")
    return SentenceSource.open(path, share)


def groups(of: SentenceSource) -> tuple[SentenceGroups, list[str]]:
    read = list(of.groups("train"))
    flat = [sentence for group in read for sentence in group]
    return SentenceGroups.of(read, sentence_vocabulary(flat, 1000), longest=30, ordered=of.ordered), flat


def prepared(folder: Path, captions: dict[str, list[list[str]]]) -> Path:
    """What sentences need of a prepared dataset."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / "data").mkdir()
    shards = []
    for part, images in captions.items():
        shards.append({"file": f"data/{part}-00000-of-00001.parquet", "rows": len(images)})
        pq.write_table(pa.table({"id": [str(i) for i in range(len(images))], "captions": images}), folder / shards[-1]["file"])
    manifest = {"format": FORMAT, "side": 8, "fit": "stretch", "source": {}, "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "vocabulary.json").write_text(Vocabulary(words=("a",)).model_dump_json())
    return folder


def test_a_text_is_parted_by_lines_without_words(tmp_path):
    assert [len(group) for group in source(tmp_path / "text", TEXT).groups("train")] == [4, 2, 3]


def test_no_triple_crosses_a_paragraph(tmp_path):
    sentences, flat = groups(source(tmp_path / "text", TEXT))
    sentence_triples = [[flat[i] for i in triple] for triple in sentences.triples().tolist()]
    assert sentence_triples == [
        ["A one .", "A two .", "A three ."],
        ["A two .", "A three .", "A four ."],
        ["C one .", "C two .", "C three ."],
    ]


def test_neighbours_of_a_caption_are_others_of_its_image(tmp_path):
    of = source(tmp_path / "tokens", TOKENS)
    assert not of.ordered
    assert list(of.groups("train")) == [["red dog .", "blue dog ."], ["one .", "two .", "three ."], ["alone ."]]
    sentences, flat = groups(of)
    found = set()
    for epoch in range(20):
        triples = sentences.triples(0, epoch)
        assert sorted(triples[:, 1].tolist()) == [0, 1, 2, 3, 4], "each caption that has others, once"
        for before, centre, after in triples.tolist():
            image = [{0, 1}, {2, 3, 4}][centre > 1]
            assert {before, centre, after} <= image
            assert centre not in (before, after)
            assert len(image) == 2 or before != after
            found.add((before, centre, after))
    assert len(found) == 2 + 6, "every order comes"
    assert torch.equal(sentences.triples(0, 3), sentences.triples(0, 3))
    assert {flat[i] for i in (0, 1)} == {"red dog .", "blue dog ."}


def test_validation_is_the_end_and_no_image_is_on_both_sides(tmp_path):
    of = source(tmp_path / "text", TEXT, 0.3)
    train, validation = ([s for group in of.groups(part) for s in group] for part in ("train", "validation"))
    assert (len(train), validation) == (6, ["C one .", "C two .", "C three ."])
    cut = source(tmp_path / "one paragraph", "a\nb\nc\nd", 0.5)
    assert [list(cut.groups(part)) for part in ("train", "validation")] == [[["a", "b"]], [["c", "d"]]]
    images = source(tmp_path / "tokens", TOKENS, 0.5)
    assert [len(group) for group in images.groups("train")] == [2, 3]
    assert [len(group) for group in images.groups("validation")] == [1]


def test_a_prepared_dataset(tmp_path):
    captions = {"train": [["a dog", "  "], ["two", "three"]], "validation": [["four", "five"]]}
    of = SentenceSource.open(prepared(tmp_path, captions), 0.5)
    assert (list(of.groups("train")), list(of.groups("validation"))) == ([["a dog"], ["two", "three"]], [["four", "five"]])
    assert not of.ordered
    (tmp_path / "data" / "train-00007-of-00008.parquet").write_bytes(b"a leftover that the manifest does not name")
    assert list(of.groups("train")) == [["a dog"], ["two", "three"]]
    for spoil in (lambda path: path.write_bytes(b"nothing"), Path.unlink):
        spoil(tmp_path / "data" / "train-00000-of-00001.parquet")
        with pytest.raises(ValueError, match=r"train-00000-of-00001.parquet: no column of captions") as error:
            list(of.groups("train"))
        assert "\n" not in str(error.value)


def test_a_prepared_dataset_without_images_for_validation(tmp_path):
    of = SentenceSource.open(prepared(tmp_path, {"train": [["a", "b"], ["c", "d"], ["e", "f"], ["g", " "]], "test": [["t", "t"]]}), 0.4)
    assert list(of.groups("train")) == [["a", "b"], ["c", "d"]]
    assert list(of.groups("validation")) == [["e", "f"], ["g"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"fine\ncaf\xe9\n", "line 2 is not UTF-8"),
        (b"a.jpg#0\tfine .\na.jpg one\n", "line 2: not IMAGE.jpg#N and a caption: a.jpg one"),
        (None, "no such file or folder"),
    ],
)
def test_refused_files(tmp_path, content, message):
    path = tmp_path / "sentences"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"sentences(:|,) .*{message}|sentences: {message}"):
        list(SentenceSource.open(path, 0.1).groups("train"))


def test_a_folder_that_was_not_prepared(tmp_path):
    with pytest.raises(ValueError, match=r"not a prepared dataset, it has no manifest.json"):
        SentenceSource.open(tmp_path, 0.1)


def test_words_and_cutting():
    vocabulary = sentence_vocabulary(["a a a b b c", "a"], 5)
    assert vocabulary.words == ("<eos>", "a", ".", "b", "UNK")
    sentences = SentenceGroups.of([["b a c", "a a a a a"]], vocabulary, longest=4, ordered=True)
    assert sentences.numbers.tolist() == [3, 1, 4, 2, 1, 1, 1, 1]
    assert sentences.starts.tolist() == [0, 4, 8]
    assert vocabulary.encode(["<eos> a"], "mark")[0].numbers == (4, 4, 4, 1, 2), "no sentence can say its own end"


@pytest.fixture(scope="module")
def many() -> SentenceGroups:
    lengths = torch.randint(1, 20, (900,), generator=torch.Generator().manual_seed(0)).tolist()
    text = [[" ".join(["w"] * n) for n in lengths[start : start + 9]] for start in range(0, 900, 9)]
    return SentenceGroups.of(text, sentence_vocabulary(["w"], 10), longest=30, ordered=True)


def test_batches_depend_only_on_seed_and_step(many):
    one, two, other = TripleBatches(many, 16, 1), TripleBatches(many, 16, 1), TripleBatches(many, 16, 2)
    for step in (0, 60, 3):
        one.at(step)
    a, b = one.at(5), two.at(5)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.mask, b.mask)
    assert not torch.equal(a.mask.sum(2), other.at(5).mask.sum(2))
    assert not torch.equal(a.mask.sum(2), one.at(5 + one.steps_per_epoch).mask.sum(2)), "the next epoch has another order"


def test_an_epoch_has_each_triple_once_in_similar_lengths(many):
    batches = TripleBatches(many, 16, 0)
    order = batches._order(0)
    assert order.shape == (700 // 16, 16, 3)
    centres = order[:, :, 1].flatten().tolist()
    assert len(set(centres)) == len(centres)
    filled = sum(int(batches.at(step).mask.any(0).any(0).sum()) for step in range(batches.steps_per_epoch)) / batches.steps_per_epoch
    mixed = many.starts.diff()[order.flatten(0, 1)[torch.randperm(len(centres))].view(-1, 16, 3)].amax((1, 2)).float().mean()
    assert filled < 0.85 * mixed, "batches are shorter than if triples were mixed"


def test_batch_holds_the_words(many):
    triples = torch.tensor([[0, 1, 2], [3, 4, 5]])
    batch = many.batch(triples)
    lengths = many.starts.diff()
    assert batch.mask.sum(2).tolist() == lengths[triples.T].tolist()
    assert not batch.tokens[~batch.mask].any()
    for place in range(3):
        for row in range(2):
            start = int(many.starts[triples[row, place]])
            words = batch.tokens[place, row][batch.mask[place, row]]
            assert words.tolist() == many.numbers[start : start + len(words)].tolist()
    assert len(batch[slice(1, None, 2)]) == 1


def test_too_few_triples(many):
    with pytest.raises(ValueError, match="700 of 900 sentences have neighbours, and a batch needs 701"):
        TripleBatches(many, 701, 0)


def test_validation_triples_are_fixed(many):
    one, two = spread_triples(many, 100, 32), spread_triples(many, 100, 32)
    assert sum(len(batch) for batch in one) == 100
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(one, two, strict=True))


CAPTIONS = [("one.jpg", "a dog, wet"), ("one.jpg", 'a "big" dog'), ("two.jpg", "a cat"), ("two.jpg", "the cat sits")]


def _csv(separator: str) -> str:
    quoted = [(image, '"' + caption.replace('"', '""') + '"') for image, caption in CAPTIONS]
    return "".join(f"{image}{separator}{caption}\n" for image, caption in [("image", "caption"), *quoted])


FLICKR30K = "image_name| comment_number| comment\n" + "".join(f"{i}| {n}| {c}\n" for n, (i, c) in enumerate(CAPTIONS))


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{i}#{n}\t{c}\n" for n, (i, c) in enumerate(CAPTIONS)),
        "".join(f"{i}#{n}{' ' if n < 2 else chr(9)}{c}\n" for n, (i, c) in enumerate(CAPTIONS)),
        _csv(","),
        _csv(";"),
        "file_name\ttext\tsplit\n" + "".join(f"{i}\t{c}\t\n" for i, c in CAPTIONS),
        FLICKR30K,
        FLICKR30K.replace("| 3| the", "| 3   the"),
        FLICKR30K.replace("\n", "\r\n"),
        FLICKR30K.replace("\n", "\r"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_captions_are_grouped_by_image(tmp_path, text, encoding):
    path = tmp_path / "captions.txt"
    path.write_bytes(text.encode(encoding))
    found = SentenceSource.open(path, 1e-9)
    assert not found.ordered
    assert list(found.groups("train")) == [["a dog, wet", 'a "big" dog'], ["a cat", "the cat sits"]]


PROSE = "It was late, and the dog slept.\nHe said: \u201cyes, of course\u201d.\nIn 1,999 cases [sic] it ran.\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PROSE.encode() + b"".join(b"1%d.jpg,a dog runs\n" % n for n in range(9)), "lines look like a table"),
        (b"".join(b"%d,a dog runs,0\n" % n for n in range(9)), "make a dataset of the table: cap2im prepare table"),
        (b"a dog runs\tpositive\n" * 9, "lines look like a table"),
        (b"sentence,label\n" + b"a dog runs,positive\n" * 9, "lines look like a table"),
        (b'[{"caption": "a dog"},\n{"caption": "a cat"}]\n', "is JSON"),
        (b'{\n  "images": [\n    {\n      "caption": "a dog"\n    }\n  ]\n}\n', "is JSON"),
        (b'{"file_name": "a.png", "text": "a dog"}\n' * 9, "is JSON"),
        (b"<!DOCTYPE html>\n<html>\n<p>a dog runs</p>\n", "is HTML or XML"),
        (b"<captions>\n<caption>a dog</caption>\n</captions>\n", "is HTML or XML"),
        (b"PAR1\x15\x04\x15", "is a Parquet file"),
        (b"PK\x03\x04\x14\0", "is a spreadsheet or ZIP archive"),
        (b"a dog\n\0\0\n", "line 2 holds a NUL byte"),
        ("a dog\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
        ("a dog\n".encode("utf-16") + b"x", "is damaged"),
        (b"image,caption\na.jpg,a dog, wet\n", "line 2: 3 cells in 2 columns"),
    ],
)
def test_binary_files_are_refused_as_text(tmp_path, content, message):
    path = tmp_path / "sentences.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        list(SentenceSource.open(path, 0.1).groups("train"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_prose_stays_a_text(tmp_path, end):
    text = PROSE.replace("\n", end) + end + f"a\u2028b <unk> <s> here </s>{end}[Music]{end}"
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbf" + text.encode())
    read = list(SentenceSource.open(tmp_path / "text", 1e-9).groups("train"))
    assert read == [PROSE.splitlines(), ["a\u2028b <unk> <s> here </s>", "[Music]"]]


def test_a_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a FIFO"):
        SentenceSource.open(tmp_path / "pipe", 0.1)
