"""The names of the kinds of captioned images. Imports nothing, for the command line wants them at once."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["coco", "birds", "folder", "pairs", "huggingface", "released", "attngan", "cifar", "webdataset"]
KINDS: tuple[str, ...] = get_args(Kind)
