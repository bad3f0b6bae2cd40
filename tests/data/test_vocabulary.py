"""Tokenising, unknown words, padding."""

from __future__ import annotations

import pytest

from cap2im.data.vocabulary import Vocabulary, pad, split_words

VOCABULARY = Vocabulary(words=("a", "digit", "3", "top", "."), aliases={"three": "3"})


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A digit.", ["a", "digit", "."]),
        ("a digit", ["a", "digit", "."]),
        ("a  digit ,\n3 .", ["a", "digit", ",", "3", "."]),
        ("A dog's t-shirt!", ["a", "dog's", "t-shirt", "!", "."]),
        ("", []),
        ("ÜBER", ["über", "."]),
    ],
)
def test_split_words(caption, words):
    assert split_words(caption) == words


def test_numbers_and_words_as_typed():
    tokens = VOCABULARY.encode(["A digit THREE"])[0]
    assert tokens.words == ("a", "digit", "three", ".")
    assert tokens.numbers == (0, 1, 2, 4)


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a digti", r"unknown word 'digti' \(nearest known: digit\)"),
        ("a zebra", r"unknown word 'zebra' \(the model knows 5 words, e.g. a, digit"),
        ("", "a caption is empty"),
        ("   ", "a caption is empty"),
        ("...", "has no words"),
        ("digit " * 10_000, "has 10001 words; at most 200"),
    ],
)
def test_refused_captions(caption, message):
    with pytest.raises(ValueError, match=message):
        VOCABULARY.encode([caption])


def test_all_problems_at_once():
    with pytest.raises(ValueError, match=r"blue.*; a caption is empty"):
        VOCABULARY.encode(["a blue digit", "a digit", ""])


def test_skip_leaves_unknown_words_out_but_not_all_of_them():
    assert VOCABULARY.encode(["a blue digit"], "skip")[0].words == ("a", "digit", ".")
    with pytest.raises(ValueError, match="no word that the model knows"):
        VOCABULARY.encode(["zebra"], "skip")


def test_inconsistent_vocabularies_are_refused():
    with pytest.raises(ValueError, match="listed twice"):
        Vocabulary(words=("a", "a"))
    with pytest.raises(ValueError, match="not listed: x"):
        Vocabulary(words=("a",), aliases={"x": "b"})


def test_pad():
    tokens, mask = pad([(1, 2, 3), (4,)])
    assert tokens.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert mask.tolist() == [[True] * 3, [True, False, False]]
