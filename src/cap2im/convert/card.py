"""The card of a converted model."""

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
    """README.md of a model folder of this name and config."""
    origin = config["converted_from"]
    lines = [f"| made from | `{file}`, SHA-256 {sha256} |" for file, sha256 in origin["files"].items()]
    lines += [f"| kind | {origin['kind']} |", *_sizes(config)]
    table = "\n".join([*lines, f"| parameters | {config['parameters']:,} |", f"| written by | cap2im {__version__} |"])
    return CARD.format(name=name, table=table)


def _sizes(config: Mapping[str, Any]) -> list[str]:
    """What people want to know of a kind's sizes."""
    size = config["model"]
    words = f"| words | {len(config['vocabulary']['words']):,} |" if "vocabulary" in config else "| words | none |"
    match config["kind"]:
        case "draw":
            return [
                f"| equations | variant `{size['variant']}` |",
                f"| canvas | {size['side']} x {size['side']} x {size['colours']} |",
                f"| glimpses | {size['glimpses']} (the file does not tell) |",
                words if size["conditioning"] != "none" else "| words | none |",
            ]
        case "sharpener":
            hears = f"vectors of {size['sentence_features']:,} features, of the encoder in its folder {SENTENCE_ENCODER}/"
            return [f"| images | {size['side']} x {size['side']} x {size['colours']} |", f"| captions | {hears} |"]
        case "attngan":
            sides = ", ".join(str(size["first_side"] * 2**stage) for stage in range(size["branches"]))
            masks = "each caption's own (variant `paper`): alone, a caption is drawn as the authors' program draws it"
            return [f"| sides | {sides} |", f"| masks of the attention | {masks} |", words]
        case "damsm":
            corners = "with corners aligned, as torch did when these weights were trained"
            return [f"| images | resized to 299 x 299 {corners} |", f"| features | {size['text']['features']} |", words]
    return []
