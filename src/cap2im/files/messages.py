"""Short messages for people about errors and values."""

from __future__ import annotations

import errno
import os
import re
import reprlib
from typing import Any

from pydantic import ValidationError

OS_PROBLEMS = {
    errno.ENOENT: "no such file or folder",
    errno.EEXIST: "a file or folder of this name is in the way",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "is a folder, and a file is needed",
    errno.ENOTEMPTY: "this folder is not empty",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "cannot be written: this file system is read-only",
    errno.ENOSPC: "cannot be written: the disk is full",
    errno.EDQUOT: "cannot be written: the disk quota is used up",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many files are open",
    errno.ELOOP: "symbolic links point at each other",
}
NO_HOST = "no such host, or no network"

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 2, 60, 60, 40


def explain(error: BaseException) -> str:
    """Return an error as one line: the file and a sentence, without error numbers and names of Python classes."""
    if isinstance(error, OSError) and error.strerror is not None and error.errno is not None:
        own_text = error.strerror != os.strerror(error.errno)
        problem = error.strerror if own_text else OS_PROBLEMS.get(error.errno, error.strerror.lower())
        return f"{error.filename}: {problem}" if error.filename else problem
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"<urlopen error (.*?)>", r"\1", text)
    text = re.sub(r"\[(?:Errno|WinError) -?\d+\] ", "", text)
    return re.sub(r"(?:Name or service not known|Temporary failure in name resolution|nodename nor servname provided.*)", NO_HOST, text)


def describe(error: ValidationError, most: int = 3) -> str:
    """Return the first problems of a validation error as one line: key, problem, value got.

    Args:
        error: Of pydantic.
        most: Number of problems to describe; the others are counted.
    """
    problems = []
    for each in error.errors(include_url=False)[:most]:
        key = ".".join(str(part) for part in each["loc"])
        problem, value = each["msg"].removeprefix("Value error, ").rstrip("."), each["input"]
        named = isinstance(value, str) and repr(value) in problem
        got = "" if each["type"] == "json_invalid" or isinstance(value, dict | list) or named else f", got {shortened(repr(value))}"
        problems.append(f"{key + ': ' if key else ''}{problem}{got}")
    more = error.error_count() - most
    return "; ".join(problems) + (f"; and {more} problems more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless the number is 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shortened(text: str, most: int = 60) -> str:
    """Return text cut to a number of characters, with line breaks and invisible characters escaped."""
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return visible if len(visible) <= most else f"{visible[: most - 1]}…"


def brief(value: Any) -> str:
    """Return a short `repr` of a value of any size, without expanding nested values."""
    try:
        return shortened(_BRIEF.repr(value))
    except ValueError:  # Python refuses to write integers of very many digits
        return f"a long {type(value).__name__}"
