"""Errors of the command line: each ends in one line on standard error and an exit status, without a traceback."""

from __future__ import annotations

import difflib
import errno
import itertools
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

import typer

from cap2im.files import describe, explain

# how to continue a command that was interrupted or whose disk failed
RESUME_HINTS = {
    "train": "; --resume continues from the last checkpoint, if one was saved",
    "prepare": "; --resume continues from the last complete shard",
    "generate": "; --resume draws the missing pictures",
}
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
# what to lower when memory runs out
MEMORY_HINTS = {
    "draw": "ask for fewer --samples or captions at a time, or a smaller --model",
    "generate": "give fewer captions at a time, or a smaller --model",
    "train": "lower train.batch_size (--set train.batch_size=N) or the sizes of the model",
    "prepare": "lower --workers or --side",
    "check": "lower --workers",
    "serve": "lower --batch or --workers, or serve fewer models",
    "evaluate": "lower --samples, or evaluate a smaller model",
    "compare": "lower --samples, or compare fewer models",
}

# typer carries its own copy of click's exceptions, or click's, by its version; they share a base class
USAGE_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class StoppedError(Exception):
    """An interrupted command; its text says how to continue."""


def exit_status(command: Callable[[], Any]) -> int:
    """Run a command, print its error as one line, and return the exit status: 2 for an error, 130 after an interrupt."""
    name = "".join(sys.argv[1:2])
    resume_hint = "" if sys.argv[1:3] == ["prepare", "cutouts"] else RESUME_HINTS.get(name, "")  # cut-outs are written at the end
    try:
        code = command()
        message = "interrupted" + resume_hint if code == 130 else ""
    except USAGE_ERROR as error:
        message, code = _usage_message(error) + _setting_hint(error), 2
    except StoppedError as error:
        message, code = str(error), 130
    except (ValueError, OSError) as error:
        message, code = explain(error), 2
        if isinstance(error.__cause__, BrokenExecutor):
            message += f": {MEMORY_HINTS[name]}{resume_hint}"
        if getattr(error, "errno", None) in DISK_ERRORS and "--resume" not in message:
            message += resume_hint
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        message, code = f"out of memory: {MEMORY_HINTS.get(name, 'use a machine with more')}", 2
    except (KeyboardInterrupt, typer.Abort):
        message, code = "interrupted" + resume_hint, 130
    if message:
        print(f"cap2im: {message}", file=sys.stderr)
    return code if isinstance(code, int) else 0


def refuse_empty_values(arguments: list[str]) -> None:
    """Refuse options with empty values: with OUT unset, `--out "$OUT"` would otherwise name the current folder.

    Args:
        arguments: of the command line.

    Raises:
        ValueError: an option has an empty value.
    """
    for option, value in itertools.pairwise([*arguments, "-"]):
        name, equals, own = option.partition("=")
        if option.startswith("-") and (value == "" or (equals and name.startswith("--") and own == "")):
            raise ValueError(f"{name}: its value is empty")


def _out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out: Python and NumPy raise MemoryError, torch a RuntimeError with one of several texts."""
    texts = ("not enough memory", "can't allocate memory", "Cannot allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


def _usage_message(error: Exception) -> str:
    """Return typer's sentence about the command line, with the value that it got: newer versions check values by pydantic."""
    sentence: str = getattr(error, "format_message", error.__str__)()
    cause: Any = error.__cause__
    if hasattr(cause, "errors"):
        return sentence.replace(getattr(error, "message", sentence), describe(cause))
    return sentence


def _setting_hint(error: Exception) -> str:
    """Return a hint for a recipe's setting that was typed as an option of its own, e.g. `train --epochs 3`."""
    option = getattr(error, "option_name", None)
    if option is None or sys.argv[1:2] != ["train"]:
        return ""
    from cap2im.config import setting_keys

    name = option.lstrip("-").replace("-", "_")
    words = [*sys.argv, ""]
    index = next((index for index, word in enumerate(words) if word.partition("=")[0] == option), len(sys.argv))
    value = words[index].partition("=")[2] or "".join(words[index + 1 : index + 2]) or "VALUE"
    keys = {key.rpartition(".")[2]: key for key in reversed(setting_keys())}  # of keys with equal endings, the first
    similar = difflib.get_close_matches(name, keys, n=1, cutoff=0.8)
    return "".join(f"; --set {keys[each]}={value} changes that setting of the recipe" for each in similar)
