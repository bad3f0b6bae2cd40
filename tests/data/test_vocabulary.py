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


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A red Bus .", ["A", "red", "Bus", "."]),
        ("A man's dog isn't here, can't be", ["A", "man", "'s", "dog", "is", "n't", "here", ",", "ca", "n't", "be"]),
        ("Wait... I'll go -- to O'Brien's t-shirts", ["Wait", "...", "I", "'ll", "go", "--", "to", "O'Brien", "'s", "t-shirts"]),
        ("", []),
    ],
)
def test_treebank_words_are_as_written(caption, words):
    assert split_words(caption, "treebank") == words


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


def test_signs_are_no_examples_of_words():
    with pytest.raises(ValueError, match=r"the model knows 3 words, e\.g\. bird, wings\)"):
        Vocabulary(words=("<end>", "bird", "wings"), tokens="attngan").encode(["xyzzy"])


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


@pytest.mark.parametrize(
    ("caption", "words"),
    [("A dog's t-shirt.", ["a", "dog", "s", "t", "shirt"]), ("café 3", ["caf", "3"]), ("...", []), ("É", [])],
)
def test_attngan_splits_at_everything_but_ascii_words(caption, words):
    assert split_words(caption, "attngan") == words


def test_a_vocabulary_is_built_by_frequency_then_alphabet():
    captions = ["a dog .", "a cat and a dog .", "an ant"]
    assert Vocabulary.build(captions).words == (".", "a", "dog", "an", "and", "ant", "cat", "UNK")
    assert Vocabulary.build(captions, minimum_count=2).words == (".", "a", "dog", "UNK")
    assert Vocabulary.build(captions, size=3).words == (".", "a", "UNK")
    attngan = Vocabulary.build(captions, tokens="attngan")
    assert attngan.words == ("<end>", "a", "dog", "an", "and", "ant", "cat")
    assert (attngan.tokens, attngan.unknown, attngan.training_unknown) == ("attngan", None, "skip")
    with pytest.raises(ValueError, match="no word is left of 7"):
        Vocabulary.build(captions, minimum_count=9)


def test_unknown_words_can_be_marked_where_there_is_a_word_for_them():
    vocabulary = Vocabulary.build(["a dog ."], minimum_count=1)
    assert vocabulary.encode(["a blue dog"], "mark")[0].words == ("a", "UNK", "dog", ".")
    assert vocabulary.encode(["zebra"], "mark")[0].numbers == (3, 0)
    with pytest.raises(ValueError, match="has no word for unknown words"):
        VOCABULARY.encode(["a blue digit"], "mark")
    with pytest.raises(ValueError, match=r"'UNK', is not listed"):
        Vocabulary(words=("a",), unknown="UNK")


def test_of_many_problems_the_first_are_told():
    with pytest.raises(ValueError, match=r"^(a caption is empty; ){5}and 7 captions more$"):
        VOCABULARY.encode([""] * 12)


def test_known_words_stay_whole_between_spaces():
    vocabulary = Vocabulary(words=("a", "man", "'s", "n't", "t-shirt", "UNK", "."), unknown="UNK")
    assert vocabulary.split("A man 's T-Shirt is n't red") == ["a", "man", "'s", "t-shirt", "is", "n't", "red", "."]
    assert vocabulary.split("a t-shirt.") == ["a", "t-shirt", "."]
    assert vocabulary.numbered("A man 's blue t-shirt") == [0, 1, 2, 5, 4, 6]
    assert vocabulary.numbered("") == []
    attngan = Vocabulary.build(["a dog"], tokens="attngan")
    assert attngan.numbered("A blue dog!") == [1, 2]


@pytest.mark.parametrize("word", ["<eos>", "<end>", "<END>", "<no word 4>", "-unk-"])
def test_no_caption_can_say_what_stands_for_no_word(word):
    vocabulary = Vocabulary(words=("<eos>", "<end>", "<no word 4>", "-unk-", "a", "."), unknown="-unk-")
    assert set(vocabulary.split(f"a {word}")) == set(split_words(f"a {word}")), "as if it were not known"
    assert set(vocabulary.numbered(f"a {word}")) == {4, 3, 5}
    with pytest.raises(ValueError, match="unknown word"):
        vocabulary.encode([f"a {word}"])
