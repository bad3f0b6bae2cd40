"""Model cards of converted models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cap2im._version import __version__
from cap2im.checkpoint import SENTENCE_ENCODER

CARD = """---
library_name: cap2im
---

# {name}

Legacy weights, converted by `cap2im convert`; not trained here.

| | |
| --- | --- |
{table}
"""


def card(name: str, config: Mapping[str, Any]) -> str:
    """Return the README.md of a converted model."""
    origin = config["converted_from"]
    lines = [f"| converted from | `{file}`, SHA-256 {sha256} |" for file, sha256 in origin["files"].items()]
    lines += [f"| kind | {origin['kind']} |", *_sizes(config)]
    table = "\n".join([*lines, f"| parameters | {config['parameters']:,} |", f"| written by | cap2im {__version__} |"])
    return CARD.format(name=name, table=table)


def _sizes(config: Mapping[str, Any]) -> list[str]:
    """Return table rows with the sizes of a model."""
    size = config["model"]
    words = f"| words | {len(config['vocabulary']['words']):,} |" if "vocabulary" in config else "| words | none |"
    match config["kind"]:
        case "draw":
            return [
                f"| equations | variant `{size['variant']}` |",
                f"| canvas | {size['side']} x {size['side']} x {size['colours']} |",
                f"| glimpses | {size['glimpses']} (not in the file) |",
                words if size["conditioning"] != "none" else "| words | none |",
            ]
        case "sharpener":
            sentences = f"sentence vectors of {size['sentence_features']:,} features, from the encoder in {SENTENCE_ENCODER}/"
            return [f"| images | {size['side']} x {size['side']} x {size['colours']} |", f"| captions | {sentences} |"]
        case "attngan":
            sides = ", ".join(str(size["first_side"] * 2**stage) for stage in range(size["branches"]))
            masks = "one per caption (variant `paper`), as in the authors' program with a batch of one"
            return [f"| sides | {sides} |", f"| masks of the attention | {masks} |", words]
        case "damsm":
            corners = "with corners aligned, as torch did when these weights were trained"
            return [f"| images | resized to 299 x 299 {corners} |", f"| features | {size['text']['features']} |", words]
    return []
