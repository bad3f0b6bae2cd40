"""A small prepared dataset, written without the code that prepares."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from cap2im.data.manifest import FORMAT
from cap2im.data.vocabulary import Vocabulary
from cap2im.files import file_sha256

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (120, 120, 120)}
SHAPES = ("a {} square .", "there is a {} square in the middle .", "{} .", "one sees that here a {} square was drawn .")


def picture(colour: str, side: int, random: np.random.Generator) -> bytes:
    """A square of a colour on noise, as PNG."""
    pixels = random.integers(0, 60, (side, side, 3), dtype=np.uint8)
    pixels[side // 4 : -side // 4, side // 4 : -side // 4] = COLOURS[colour]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def prepared_dataset(folder: Path, *, side: int = 8, train: int = 24, validation: int = 6, test: int = 6) -> Path:
    """Squares in four colours, each with two captions of different lengths."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    features = Features({"id": Value("string"), "image": ImageFeature(), "captions": List(Value("string")), "class_id": Value("int64")})
    random = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    captions_of, shards = {}, []
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        colours = [list(COLOURS)[i % len(COLOURS)] for i in range(count)]
        captions = [[SHAPES[i % 4].format(c), SHAPES[(i + 1 + i // 4 % 3) % 4].format(c)] for i, c in enumerate(colours)]
        captions_of[split] = [caption for both in captions for caption in both]
        rows = {
            "id": [f"{split}-{i}" for i in range(count)],
            "image": [{"bytes": picture(c, side, random), "path": None} for c in colours],
            "captions": captions,
            "class_id": [list(COLOURS).index(c) for c in colours],
        }
        file = f"data/{split}-00000-of-00001.parquet"
        Dataset.from_dict(rows, features=features).to_parquet(folder / file)
        shards.append({"file": file, "rows": count, "sha256": file_sha256(folder / file)})
    vocabulary = Vocabulary.build(captions_of["train"])
    (folder / "vocabulary.json").write_text(vocabulary.model_dump_json())
    manifest = {"format": FORMAT, "source": {"kind": "test"}, "side": side, "fit": "stretch", "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
