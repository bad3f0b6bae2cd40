"""Sentence vectors of a prepared split, computed once per encoder and cached beside the dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from rich.console import Console
from rich.progress import track
from torch import Tensor

from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import Split
from cap2im.files import atomic_path

CAPTIONS_AT_ONCE = 1_000


class SentenceEncoder(Protocol):
    """Anything that turns captions into vectors.

    Attributes:
        name: what people call it.
        features: numbers in a vector.
    """

    name: str
    features: int

    @property
    def sha256(self) -> str:
        """Of the weights, wherever they lie: a copy has that of the original."""
        ...

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Vectors [N, features], float32 on the CPU; a caption's vector does not depend on the others, but for rounding.

        Raises:
            ValueError: a caption is empty.
        """
        ...


def load_sentence_vectors(dataset: PreparedDataset, split: Split, captions: Sequence[str], encoder: SentenceEncoder) -> np.ndarray:
    """The vectors [M, S] float16 of a split's captions, made once for each encoder and kept beside the dataset.

    What an encoder says of a few fixed sentences names it: another encoder never finds these vectors.
    """
    probe = encoder.encode(["a photo of a cat .", "two people ride a red bus ."]).half().numpy()
    key = hashlib.sha256(probe.tobytes() + "\n".join(captions).encode()).hexdigest()[:16]
    path = Path(dataset.folder) / "sentence-vectors" / f"{split}-{key}.npy"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        steps = range(0, len(captions), 100)
        quiet = len(captions) < CAPTIONS_AT_ONCE
        # written, not mapped: a full disk would end a process that writes into a mapped file by SIGBUS
        with atomic_path(path) as draft, draft.open("wb") as file:
            for start in track(steps, f"{encoder.name} reads the {split} captions", console=Console(stderr=True), disable=quiet):
                vectors = encoder.encode(captions[start : start + 100]).half().numpy()
                if start == 0:
                    write_array_header_1_0(file, header_data_from_array_1_0(vectors) | {"shape": (len(captions), encoder.features)})
                file.write(vectors.tobytes())
    stored: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
    return stored
