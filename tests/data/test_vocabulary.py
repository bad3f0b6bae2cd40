"""Test tokenising, unknown words and padding."""

from __future__ import annotations

from pathlib import Path

import pytest

from cap2im.data.batch import pad
from cap2im.data.image_files import ImageBytes
from cap2im.data.records import CaptionedImage, usable_captions
from cap2im.data.tokenizer import is_unspaced, normalise, split_words
from cap2im.data.vocabulary import Vocabulary
from tests.limits import GIB, run_limited

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
        ("a zebra", r"unknown word 'zebra'$"),
        ("a cat", r"unknown word 'cat'$"),
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
    with pytest.raises(ValueError, match="has no known word"):
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


def test_unknown_words_can_be_marked():
    vocabulary = Vocabulary.build(["a dog ."], minimum_count=1)
    assert vocabulary.encode(["a blue dog"], "mark")[0].words == ("a", "UNK", "dog", ".")
    assert vocabulary.encode(["zebra"], "mark")[0].numbers == (3, 0)
    with pytest.raises(ValueError, match="has no word for unknown words"):
        VOCABULARY.encode(["a blue digit"], "mark")
    with pytest.raises(ValueError, match=r"'UNK', is not listed"):
        Vocabulary(words=("a",), unknown="UNK")


def test_of_many_problems_the_first_are_reported():
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
def test_captions_cannot_contain_special_tokens(word):
    vocabulary = Vocabulary(words=("<eos>", "<end>", "<no word 4>", "-unk-", "a", "."), unknown="-unk-")
    assert set(vocabulary.split(f"a {word}")) == set(split_words(f"a {word}")), "as if it were not known"
    assert set(vocabulary.numbered(f"a {word}")) == {4, 3, 5}
    with pytest.raises(ValueError, match="unknown word"):
        vocabulary.encode([f"a {word}"])


@pytest.mark.parametrize(
    "typed",
    [
        "the child\u2019s t-shirt , caf\u00e9",
        "the child's t\u2011shirt , cafe\u0301",
        "\ufeffthe child\u02bcs t\u2010shirt\u00a0, ca\u200bf\u00e9",
        "the chi\u00adld's t-shirt\u3000, caf\ufe0f\u00e9\u2060",
        "THE child's \uff54-shirt \uff0c CAF\u00c9",
        "the\u2028child's\tt-shirt , cafe\u034f\u0301",
        "the \x07child's t-shirt , caf\u00e9\x7f",
    ],
)
@pytest.mark.parametrize("tokens", ["released", "attngan"])
def test_one_word_however_it_is_typed(typed, tokens):
    assert split_words(typed, tokens) == split_words("the child's t-shirt , caf\u00e9", tokens)
    vocabulary = Vocabulary.build(["the child's t-shirt , caf\u00e9"], tokens=tokens)
    assert vocabulary.unknown_words(typed) == []


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("सफ़ेद ज़मीन", ["सफ\u093cेद", "ज\u093cमीन"]),
        ("वह, लाल।", ["वह", ",", "लाल", "।"]),
        ("الحمراءُ", ["الحمراءُ"]),
        ("一个红圆。", ["一", "个", "红", "圆", "。"]),
        ("赤いボール", ["赤", "い", "ボール"]),
        ("빨간 원", ["빨간", "원"]),
        ("วง\u200bกลม", ["วง", "กลม"]),
        ("col·lecció", ["col·lecció"]),
        ("3\ufe0f\u20e3 👩\u200d👧", ["3", "👩", "👧"]),
    ],
)
def test_words_of_other_scripts_stay_whole(caption, words):
    assert split_words(caption) == [*words, "."]
    assert Vocabulary.build([caption]).split(caption) == [*words, "."]


def test_captions_without_spaces_are_reported():
    record = CaptionedImage("one", ImageBytes("one.png", b""), ("วงกลมสีแดงบนพื้นสีขาว", "วงกลม สีแดง"))
    captions, problems = usable_captions(record)
    assert (len(captions), [problem.kind for problem in problems]) == (2, ["words not separated"])


def test_captions_without_spaces_are_noticed():
    assert is_unspaced("วงกลมสีแดงบนพื้นสีขาว")
    assert not is_unspaced("วงกลม สีแดง บน พื้น สีขาว")
    assert not is_unspaced("a red circle on a white ground 红色的圆在白色的地上红色的圆在白色的地上")


@pytest.mark.parametrize(
    ("words", "caption", "split"),
    [
        (("the", "child\u2019s", "."), "the child's", ["the", "child\u2019s", "."]),
        (("cafe", "\u0301", "."), "caf\u00e9", ["cafe", "\u0301", "."]),
        (("सफ", "\u093c", "\u0947", "द", "."), "सफ़ेद", ["सफ", "\u093c", "\u0947", "द", "."]),
        (("红色的圆", "."), "红色的圆.", ["红色的圆", "."]),
        (("l\u2019e\u0301te\u0301", "."), "l'\u00e9t\u00e9", ["l\u2019e\u0301te\u0301", "."]),
    ],
)
def test_older_vocabularies_find_their_words(words, caption, split):
    assert Vocabulary(words=words).split(caption) == split
    assert Vocabulary(words=words).encode([caption])[0].words == tuple(split)


@pytest.mark.parametrize("sign", [*".!?,\"'():;&*$+<>/", "…", "\u2013", "\u2014", "\u201c", "«", "。", "°", "€", "!!!", "?!"])
def test_unknown_punctuation_is_dropped(sign):
    assert VOCABULARY.encode([f"a digit {sign}"])[0].words == ("a", "digit", ".")
    assert VOCABULARY.unknown_words(f"a {sign} digit") == []
    assert "!" in Vocabulary(words=("a", "!", ".")).encode(["a !"])[0].words, "known punctuation stays"


@pytest.mark.parametrize("sign", ["🐕", "\ufffd", "\ue000"])
def test_pictographs_and_broken_characters_are_unknown_words(sign):
    with pytest.raises(ValueError, match="unknown word"):
        VOCABULARY.encode([f"a digit {sign}"])


@pytest.mark.parametrize(("typed", "meant"), [("dgo", "dog"), ("teh", "the"), ("hte", "the"), ("digti", "digit"), ("elefant", "elephant")])
def test_swapped_letters_find_their_word(typed, meant):
    vocabulary = Vocabulary(words=("do", "go", "dig", "the", "then", "on", "an", "digit", "elephant", "dog", "UNK", "<end>"), unknown="UNK")
    assert vocabulary.nearest(typed)[0] == meant
    assert vocabulary.nearest("cat") == vocabulary.nearest("a") == [], "too short to be similar"


def test_no_suggestions_for_signs_and_endless_words():
    vocabulary = Vocabulary(words=("<end>", "UNK", "end"), unknown="UNK")
    assert vocabulary.nearest("<end") == ["end"]
    assert vocabulary.nearest("e" * 10**6) == []


HOSTILE = {
    "hyphens": "a-" * 50_000,
    "apostrophes": "'" * 100_000,
    "marks": "a" + "\u0301\u0316" * 50_000,
    "hidden marks": "a" + "\u0301\u200b\u0316" * 30_000,
    "ideographs": "赤" * 100_000,
    "endings": "an't" * 25_000,
    "unspaced": "ก\u200b" * 50_000,
}


def test_hostile_text_takes_linear_time():
    code = """
from tests.data.test_vocabulary import HOSTILE, VOCABULARY
from cap2im.data.tokenizer import split_words
for text in HOSTILE.values():
    for tokens in ("released", "attngan", "treebank"):
        split_words(text, tokens)
    try:
        VOCABULARY.encode([text])
    except ValueError as error:
        print(len(str(error)))
"""
    end = run_limited(cwd=Path(__file__).parents[2], cpu=20, code=code)  # importing torch takes some seconds of it
    assert end.status == 0, end.err
    lengths = [int(line) for line in end.out.split()]
    assert len(lengths) == len(HOSTILE)
    assert max(lengths) < 1000
    assert end.peak < 2 * GIB


def test_normalised_text_can_keep_its_case():
    assert normalise("Caf\u00e9 O\u2019Brien", lower=False) == "Caf\u00e9 O'Brien"


def test_the_word_count_has_neither_marks_nor_aliases():
    assert VOCABULARY.word_count == 5
    assert Vocabulary(words=("a", "dog", "UNK"), unknown="UNK").word_count == 2
    assert Vocabulary(words=("<end>", "a", "dog")).word_count == 2


def test_hyphens_that_join_no_words_are_words():
    assert split_words("x--y dogs' a-b-c'") == ["x", "-", "-", "y", "dogs", "'", "a-b-c", "'", "."]
    assert split_words("é--y dogé' ") == ["é", "-", "-", "y", "dogé", "'", "."]
