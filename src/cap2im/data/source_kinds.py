"""The names of the kinds of captioned images. Imports nothing, because the command line needs them at once."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["coco", "flickr8k", "birds", "folder", "table", "pairs", "huggingface", "released", "attngan", "cifar", "webdataset"]
KINDS: tuple[str, ...] = get_args(Kind)
