"""Test held-out shares and usable captions."""

from __future__ import annotations

import pytest

from cap2im.data.records import is_held_out, usable_captions
from tests.data import sources


def read(kind, path, **options):
    return sources.read(kind, path, **options)


def caption(id, text="a dog"):
    return {"id": 1, "image_id": id, "caption": text}


def test_held_out_share(tmp_path):
    sources.pairs(tmp_path, 40)
    source = read("pairs", tmp_path, validation=0.25)
    before = {record.id for record in source.splits["validation"]}
    assert 4 <= len(before) <= 16
    assert len(source.splits["train"]) + len(before) == 40
    sources.pairs(tmp_path, 50)
    assert before <= {record.id for record in read("pairs", tmp_path, validation=0.25).splits["validation"]}
    assert sum(is_held_out(str(number), 0.1) for number in range(10_000)) == pytest.approx(1000, abs=100)


def test_captions_are_tidied_and_empty_ones_are_problems(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["  two\n words ", "", "?!", "word " * 201]}])
    captions, problems = usable_captions(read("folder", tmp_path).splits["train"][0])
    assert captions == ["two words"]
    assert sorted(problem.kind for problem in problems) == ["empty caption", "empty caption", "over-long caption"]


def test_half_characters_are_problems(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["a cat \ud83d on", "a cat"]}])  # written as \ud83d
    captions, problems = usable_captions(read("folder", tmp_path).splits["train"][0])
    assert captions == ["a cat"]
    assert [(problem.kind, "\\ud83d" in problem.detail) for problem in problems] == [("wrong encoding", True)]
    str(problems[0]).encode()


def test_captions_without_words_are_problems(tmp_path):
    sources.folder(tmp_path, [{"file_name": "a.jpg", "text": ["猫 犬", "a cat"]}])
    (record,) = read("folder", tmp_path).splits["train"]
    assert usable_captions(record) == (["猫 犬", "a cat"], [])
    captions, problems = usable_captions(record, tokens="attngan")
    assert captions == ["a cat"]
    assert [problem.kind for problem in problems] == ["caption without words"]


def test_two_held_out_shares_do_not_overlap(tmp_path):
    sources.pairs(tmp_path, 60)
    alone = {record.id for record in read("pairs", tmp_path, validation=0.2).splits["validation"]}
    both = read("pairs", tmp_path, validation=0.2, test=0.2)
    ids = {split: {record.id for record in records} for split, records in both.splits.items()}
    assert ids["validation"] == alone
    assert ids["test"]
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 60
    with pytest.raises(ValueError, match=r"at most 0.9 together"):
        read("pairs", tmp_path, validation=0.5, test=0.5)


def test_a_word_of_any_length_is_no_caption(tmp_path):
    sources.pairs(tmp_path, 2)
    sources.write(tmp_path / "p1.txt", "x" * 10_001 + "\n" + "x" * 10_000)
    record = next(record for record in read("pairs", tmp_path).splits["train"] if record.id == "p1")
    captions, problems = usable_captions(record)
    assert [len(caption) for caption in captions] == [10_000]
    assert [(problem.kind, problem.detail[:33]) for problem in problems] == [("over-long caption", "10,001 characters, at most 10,000")]
