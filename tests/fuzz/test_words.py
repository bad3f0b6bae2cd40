"""Tokenizers, vocabularies and sentence files accept random text."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cap2im.data.sentence_source import SentenceSource
from cap2im.data.tokenizer import Tokenizer, normalise, split_words
from cap2im.data.vocabulary import Vocabulary

LETTERS = "abcAİßé'-.,! \t\n赤いボกวसफ\u093cेकΣ\u03c3🐕👩"
OTHERS = "\u2019\u201c\u2010\u0301\u0316\u200b\u200d\u00ad\ufeff\uff44\ufb01\u1fef\u1ffd\u2126\u20e3\u034f\u2028"
SCRIPTS = st.sampled_from(LETTERS + OTHERS)
TEXT = st.text(st.one_of(SCRIPTS, st.characters()), max_size=60)
TOKENS = st.sampled_from(get_args(Tokenizer))
VOCABULARY = Vocabulary(words=("a", "b", "caf\u00e9", "child\u2019s", "सफ", "\u093c", "赤い", "n't", "!", ".", "UNK"), unknown="UNK")


@given(TEXT, st.booleans())
def test_normalising_twice_changes_nothing(text, lower):
    once = normalise(text, lower=lower)
    assert normalise(once, lower=lower) == once


@given(TEXT, TOKENS)
def test_words_are_normalised_and_hold_no_spaces(text, tokens):
    for word in split_words(text, tokens):
        assert word == normalise(word, lower=tokens != "treebank")
        assert word.split() == [word]


@given(TEXT, TOKENS)
def test_composed_and_decomposed_text_have_the_same_words(text, tokens):
    composed, decomposed = (split_words(unicodedata.normalize(form, text), tokens) for form in ("NFC", "NFD"))
    assert composed == decomposed == split_words(text, tokens)


@given(st.text(st.sampled_from("abé'- .,!赤"), max_size=30), st.sampled_from("\u200c\u2060\ufeff\u00ad\ufe0f"), TOKENS)
def test_invisible_characters_change_no_word(text, invisible, tokens):
    assert split_words(invisible + invisible.join(text) + invisible, tokens) == split_words(text, tokens)


@given(st.lists(TEXT, max_size=3), st.sampled_from(["error", "skip", "mark"]))
def test_encode_gives_numbers_or_a_short_error(captions, unknown):
    tokens, problem = [], ""
    try:
        tokens = VOCABULARY.encode(captions, unknown)
    except ValueError as error:
        problem = str(error)
    assert len(problem) < 3000
    assert problem or len(tokens) == len(captions)
    assert [[VOCABULARY.words[number] for number in each.numbers] for each in tokens] == [list(each.words) for each in tokens]


@given(st.lists(TEXT, min_size=1, max_size=3), TOKENS)
def test_vocabulary_encodes_its_captions(captions, tokens):
    assume(any(split_words(caption, tokens) for caption in captions))
    vocabulary = Vocabulary.build(captions, tokens=tokens)
    assert [vocabulary.unknown_words(caption) for caption in captions] == [[]] * len(captions)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sentences") / "captions.txt"


LINE = st.lists(
    st.one_of(TEXT, st.sampled_from(["image,caption", "a.jpg", "#0", "\t", "|", ",", '"', "{", "}", "<p>", "1"])), max_size=6
).map("".join)


@given(st.one_of(st.binary(max_size=200), st.lists(LINE, max_size=6).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))))
def test_any_file_is_sentences_or_one_line(path, content):
    path.write_bytes(content)
    problem = f"{path}: "
    try:
        for group in SentenceSource.open(path, 0.3).groups("train"):
            assert all(isinstance(sentence, str) for sentence in group)
    except ValueError as error:
        problem = str(error)
    assert problem.startswith((f"{path}: ", f"{path}, line "))
    assert "\n" not in problem
