"""Normalise captions and split them into words.

Different spellings of a word become one string: composed and decomposed accents, typographic and straight quotes, invisible characters.
Captions of printable ASCII are only lower-cased, and are split as alignDRAW's and AttnGAN's releases split them.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Container
from functools import cache
from itertools import chain
from typing import Any, Literal, NamedTuple

Tokenizer = Literal["released", "attngan", "treebank"]

MOST_MARKS = 30  # combining marks in a row, as in Unicode's stream-safe format; normalising more would take quadratic time

# characters that keyboards and word processors write instead of ASCII
_TYPOGRAPHIC = {
    "'": "\u2018\u2019\u201a\u201b\u02bb\u02bc\u2032\u00b4",
    '"': "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033",
    "-": "\u2010\u2011\u2212\ufe63",
}
_WIDE = (*range(0xFF01, 0xFF5F), *range(0xFB00, 0xFB07))  # full-width ASCII, Latin ligatures
_INVISIBLE_LETTERS = (
    0x034F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x3164,
    0xFFA0,
)  # joiners, fillers
_VARIATION_SELECTORS = (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))

# scripts without spaces, in which each character is a word, as in Unicode's word boundaries
_IDEOGRAPHS = "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
# scripts without spaces between words of several characters: Thai, Lao, Myanmar, Khmer, Tai
_UNSPACED = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0edf\u1000-\u109f\u1780-\u17d3\u17dd\u1950-\u19df\u1a20-\u1aad\ua9e0-\ua9ff\uaa60-\uaadf"
_LONGEST_UNSPACED = 15  # characters of a word of those scripts; longer runs are several words

_ENDING = r"'(?:s|re|ve|ll|d|m)\b"


class _Patterns(NamedTuple):
    coarse: re.Pattern[str]  # words and punctuation; ideographs in a row are one word
    fine: re.Pattern[str]  # the same, and each ideograph is a word
    treebank: re.Pattern[str]


def _patterns(marks: str) -> _Patterns:
    """Compile the patterns of words with combining marks.

    Quantifiers of characters are possessive, so that no text takes quadratic time. Those of groups are not: in Python 3.11.2 a possessive
    group keeps what its last, failed try has read, and "x--y" would have the word "x-".
    """
    letters, joiners = rf"[\w{marks}]", "['\u00b7\u05f3\u05f4-]"
    plain = rf"(?:[^\W{_IDEOGRAPHS}]|[{marks}])" if marks else rf"[^\W{_IDEOGRAPHS}]"
    ideograph = rf"[{_IDEOGRAPHS}][{marks}]*+" if marks else f"[{_IDEOGRAPHS}]"
    return _Patterns(
        coarse=re.compile(rf"\w{letters}*+(?:{joiners}\w{letters}*+)*|[^\w\s]"),
        fine=re.compile(rf"{ideograph}|[^\W{_IDEOGRAPHS}]{plain}*+(?:{joiners}[^\W{_IDEOGRAPHS}]{plain}*+)*|[^\w\s]"),
        treebank=re.compile(
            # not possessive: up to Python 3.11.2 a lookahead inside of a possessive group is ignored
            rf"\w{letters}*(?=n't\b)|n't\b|{_ENDING}|\w{letters}*(?:(?!{_ENDING})['-]\w{letters}*)*|``|''|\.\.\.|--|[^\w\s]",
            re.IGNORECASE,
        ),
    )


# words of ASCII text; other words are split at their combining marks, as in vocabularies of earlier versions
_WITHOUT_MARKS = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


_ASCII_TREEBANK = _patterns("").treebank


class _Unicode(NamedTuple):
    table: dict[int, str | None]  # characters to replace, or to drop
    marks: str  # combining marks
    many_marks: re.Pattern[str]
    patterns: _Patterns


@cache
def _unicode() -> _Unicode:
    """Build the tables for text beyond ASCII, on first use: it takes 30 ms."""
    category = {code: unicodedata.category(chr(code)) for code in (*range(0x20000), *range(0xE0000, 0xE0200))}
    dropped = {*_INVISIBLE_LETTERS, *_VARIATION_SELECTORS, *(code for code, kind in category.items() if kind in ("Cf", "Me"))}
    dropped |= {code for code, kind in category.items() if kind == "Cc" and not chr(code).isspace()}
    table: dict[int, str | None] = dict.fromkeys(dropped)
    table |= {code: unicodedata.normalize("NFKC", chr(code)) for code in _WIDE}
    table |= {ord(typed): plain for plain, every in _TYPOGRAPHIC.items() for typed in every}
    marks = "".join(chr(code) for code, kind in category.items() if kind in ("Mn", "Mc") and code not in dropped)
    return _Unicode(table, marks, re.compile(rf"([{marks}]{{{MOST_MARKS}}})[{marks}]+"), _patterns(marks))


_MANY_SIGNS = re.compile(rf"[^\w\s!-~]{{{MOST_MARKS + 1}}}")
_WITHIN_UNSPACED = re.compile(f"(?<=[{_UNSPACED}])\u200b+(?=[{_UNSPACED}])")  # a zero-width space separates words there
_LONG_UNSPACED = re.compile(f"[{_UNSPACED}]{{{_LONGEST_UNSPACED + 1}}}")


def normalise(caption: str, *, lower: bool = True) -> str:
    """Return a caption in the form in which words are compared.

    Accents are composed (NFC). Typographic apostrophes, quotes and hyphens, full-width letters and ligatures become plain characters.
    Invisible characters, soft hyphens and control characters are dropped. White space is kept.

    Args:
        caption: any text.
        lower: whether to lower-case it.
    """
    if caption.isascii() and caption.isprintable():
        return caption.lower() if lower else caption
    table, _, many_marks, _ = _unicode()
    text = _WITHIN_UNSPACED.sub(" ", caption).translate(table)
    if _MANY_SIGNS.search(text):  # much faster than a search for marks
        text = many_marks.sub(r"\1", text)
    text = unicodedata.normalize("NFC", text).translate(table)  # NFC turns some letters into quotes
    return unicodedata.normalize("NFC", text.lower() if lower else text)


def split_words(caption: str, tokens: Tokenizer = "released") -> list[str]:
    """Return the normalised words of a caption.

    Args:
        caption: any text.
        tokens: "released", as alignDRAW's release: lower case, punctuation is a word, a caption ends with a full stop, each Chinese
            character and hiragana is a word. "attngan", as AttnGAN's: lower-case runs of ASCII letters, digits and underscores. "treebank",
            as the released skip-thoughts': case is kept, punctuation and the endings 's, 're, 've, 'll, 'd, 'm and n't are words.
    """
    text = normalise(caption, lower=tokens != "treebank")
    if tokens == "attngan":
        return [word for run in re.findall(r"\w+", text) if (word := run.encode("ascii", "ignore").decode())]
    if tokens == "treebank":
        return (_ASCII_TREEBANK if text.isascii() else _unicode().patterns.treebank).findall(text)
    return with_full_stop((_WITHOUT_MARKS if text.isascii() else _unicode().patterns.fine).findall(text))


def with_full_stop(words: list[str]) -> list[str]:
    """Append a full stop to words, unless they end with one or are empty."""
    return words if not words or words[-1] == "." else [*words, "."]


def split_known(piece: str, known: Container[str]) -> list[str]:
    """Split normalised text without white space as "released" does, and keep known words whole.

    A vocabulary of an earlier version may list several ideographs as one word, or parts of a word that was split at its combining marks.
    """
    if piece.isascii():
        return _WITHOUT_MARKS.findall(piece)
    patterns = _unicode().patterns
    words = []
    for word in patterns.coarse.findall(piece):
        if word.isascii() or word in known:
            words.append(word)
            continue
        fine = patterns.fine.findall(word)
        readings = chain([fine], (_WITHOUT_MARKS.findall(unicodedata.normalize(form, word)) for form in ("NFC", "NFD")))
        words += next((parts for parts in readings if all(part in known for part in parts)), fine)
    return words


def is_punctuation(word: str) -> bool:
    """Return whether a word is only punctuation and mathematical, currency or modifier symbols. Emoji count as words."""
    return all(
        kind[0] in "PM" or kind in ("Sm", "Sc", "Sk") or (kind == "So" and char < "\u0100")
        for char in word
        if (kind := unicodedata.category(char))
    )


def is_unspaced(caption: str) -> bool:
    """Return whether a caption holds Thai, Lao, Khmer or Myanmar text without spaces, which counts as one word."""
    return _LONG_UNSPACED.search(caption) is not None


@cache
def character_tables() -> dict[str, Any]:
    r"""Return the characters that `normalise` and `split_words` distinguish, for programs in other languages.

    Returns:
        contents of character classes of regular expressions, with code points as \u{61}: "word", "space", "mark", "punctuation", and
        "dropped" by `normalise`; "ideograph" and "unspaced" script; and "replaced", a dictionary of characters.
    """
    table, marks = _unicode().table, set(_unicode().marks)
    return {
        "word": _character_class(lambda char: char.isalnum() or char == "_"),
        "space": _character_class(str.isspace),
        "mark": _character_class(marks.__contains__),
        "punctuation": _character_class(is_punctuation),
        "dropped": _character_class(lambda char: table.get(ord(char), "") is None),
        "ideograph": _IDEOGRAPHS,
        "unspaced": _UNSPACED,
        "replaced": {chr(code): plain for code, plain in table.items() if plain is not None},
    }


def _character_class(holds: Callable[[str], bool]) -> str:
    """Return the ranges of the characters for which a condition holds."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if holds(chr(code)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\u{{{first:x}}}-\\u{{{last:x}}}" for first, last in ranges)
