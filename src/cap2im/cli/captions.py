"""Read captions from arguments, files and standard input."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

from cap2im.files import LARGEST_DOCUMENT, decode_text, read_text, shortened, split_lines

STANDARD_INPUT = "standard input"  # in messages


def read_input(file: Path) -> str:
    """Return the text of a file, or of standard input (`-`): UTF-8, or another Unicode encoding with a byte order mark.

    Raises:
        ValueError: Standard input is closed or too large, or the text has another encoding.
    """
    if str(file) != "-":
        return read_text(file)
    if sys.stdin is None:  # `<&-` in a shell
        raise ValueError(f"{STANDARD_INPUT}: is closed, and captions are needed")
    data = sys.stdin.buffer.read(LARGEST_DOCUMENT + 1)
    if len(data) > LARGEST_DOCUMENT:
        raise ValueError(f"{STANDARD_INPUT}: at most {LARGEST_DOCUMENT:,} bytes are read")
    return decode_text(data, STANDARD_INPUT)


def read_groups(file: Path) -> list[list[str]]:
    """Return the captions of a file or of standard input (`-`), one a line, in groups separated by empty lines.

    Raises:
        ValueError: The file has no captions, or a line is data rather than a caption.
    """
    from cap2im.data.text_files import data_format  # slow to import

    lines = [line.strip() for line in split_lines(read_input(file))]
    name = STANDARD_INPUT if str(file) == "-" else str(file)
    for number, line in enumerate(lines, 1):
        if (reason := data_format(line)) is not None:
            raise ValueError(f"{name}, line {number}: expected one caption a line, and {reason}: {shortened(line, 50)}")
    groups = [list(group) for filled, group in itertools.groupby(lines, key=bool) if filled]
    if not groups:
        raise ValueError(f"{name}: no captions in it")
    return groups


def decode_argument(argument: str) -> str:
    """Return an argument of the command line as UTF-8, independent of the locale.

    Raises:
        ValueError: The argument is not UTF-8.
    """
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ValueError(f"caption {shortened(repr(argument))}: not UTF-8") from None


def read_captions(captions: list[str], file: Path | None) -> list[str]:
    """Return the captions of the arguments, and those of a file or standard input (`-`).

    Arguments that are all single words become one caption, whose quotes are missing.
    """
    captions = [decode_argument(caption) for caption in captions]
    if len(captions) > 1 and not any(re.search(r"\s", caption.strip()) for caption in captions):
        captions = [" ".join(captions)]
        print(f"one caption: {captions[0]!r}; to draw several, quote each, or write one a line into --captions FILE", file=sys.stderr)
    if file is not None:
        captions = [*captions, *(caption for group in read_groups(file) for caption in group)]
    return captions
