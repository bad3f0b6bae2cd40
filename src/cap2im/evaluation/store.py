"""Files of evaluations, and names for the files of comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cap2im.evaluation.evaluation import Evaluation
from cap2im.files import JSONObject, check_writable_file, dump_json, read_json, write_atomically

OTHERS = "others"  # evaluations of other weights or settings in the same file


def kept_evaluations(file: Path) -> list[Evaluation]:
    """Return the evaluations in a file, newest first; damaged ones are left out, as they can be measured again."""
    evaluations = (_parse(document) for document in _documents(file))
    return [evaluation for evaluation in evaluations if evaluation is not None]


def keep_evaluation(file: Path, evaluation: Evaluation) -> int:
    """Write an evaluation into a file, and keep those of other weights or settings that the file holds.

    Args:
        file: created with its folder if it is missing.
        evaluation: to write.

    Returns:
        the number of other evaluations in the file.
    """
    others = []
    for document in _documents(file):
        parsed = _parse(document)
        if parsed is None or parsed.identity != evaluation.identity:
            others.append(document)
    file.parent.mkdir(parents=True, exist_ok=True)
    document = evaluation.to_dict() | ({OTHERS: others} if others else {})
    write_atomically(file, dump_json(document) + "\n")
    return len(others)


def check_evaluation_file(file: Path) -> None:
    """Check that an evaluation can be written into a file: it is missing, empty, or holds evaluations.

    Args:
        file: to check.

    Raises:
        ValueError: it cannot be written, or holds something else.
    """
    check_writable_file(file)
    if file.exists() and file.stat().st_size and not any("model" in document for document in _documents(file)[:1]):
        raise ValueError(f"{file}: exists and is not an evaluation; choose another --out")


def free_stem(folder: Path, stem: str, of: Mapping[str, Any]) -> str:
    """Return a name for the files of a comparison: `stem`, followed by a number if another comparison has that name.

    Args:
        folder: of the comparisons.
        stem: of the files, without number and suffix.
        of: JSON values that identify the comparison; the same comparison gets the same name again.
    """
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}-{number}"
        files = [folder / f"{name}.{suffix}" for suffix in ("json", "md", "png")]
        if not any(file.exists() for file in files) or next(iter(_documents(files[0])), {}).get("of") == of:
            return name
        number += 1


def _documents(file: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of the evaluations in a file; none if it is missing or damaged."""
    try:
        newest = read_json(file, JSONObject).root
    except ValueError:
        return []
    others = newest.pop(OTHERS, [])
    return [newest, *(each for each in (others if isinstance(others, list) else []) if isinstance(each, dict))]


def _parse(document: Mapping[str, Any]) -> Evaluation | None:
    """Return the evaluation that a JSON object holds; None if it is damaged."""
    try:
        return Evaluation.from_dict(document)
    except ValueError:
        return None
