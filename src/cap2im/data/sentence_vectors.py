"""Sentence vectors of a split, computed once per encoder and cached beside the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from torch import Tensor

from cap2im.data.dataset import PreparedDataset
from cap2im.data.splits import Split
from cap2im.files import atomic_path, sha256
from cap2im.progress import track

AT_ONCE = 100  # captions
MANY = 1_000  # captions that take long enough to show a progress bar


class SentenceEncoder(Protocol):
    """An encoder of captions as vectors.

    Attributes:
        name: for people.
        features: size of a vector.
    """

    name: str
    features: int

    @property
    def sha256(self) -> str:
        """Checksum of the weights."""
        ...

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Return vectors [N, features], float32 on the CPU. Captions of a batch do not influence each other.

        Raises:
            ValueError: a caption is empty.
        """
        ...

    def nearest(self, word: str, known: Sequence[str], count: int = 3) -> list[str]:
        """Return the known words of the most similar meaning, most similar first; empty for an encoder without vectors of words."""
        return []


def load_sentence_vectors(dataset: PreparedDataset, split: Split, captions: Sequence[str], encoder: SentenceEncoder) -> np.ndarray:
    """Return the vectors [M, S] float16 of a split's captions, from the cache if it has them.

    The captions and the vectors of two fixed sentences are the cache's key, so another encoder never reads these vectors.
    """
    probe = encoder.encode(["a photo of a cat .", "two people ride a red bus ."]).half().numpy()
    key = sha256(probe.tobytes() + "\n".join(captions).encode())[:16]
    path = Path(dataset.folder) / "sentence-vectors" / f"{split}-{key}.npy"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        starts = track(range(0, len(captions), AT_ONCE), f"{encoder.name} encodes the {split} captions", show=len(captions) >= MANY)
        # written, not mapped: on a full disk, writing to a mapped file ends the process by SIGBUS
        with atomic_path(path) as draft, draft.open("wb") as file:
            for start in starts:
                vectors = encoder.encode(captions[start : start + AT_ONCE]).half().numpy()
                if start == 0:
                    write_array_header_1_0(file, header_data_from_array_1_0(vectors) | {"shape": (len(captions), encoder.features)})
                file.write(vectors.tobytes())
    stored: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
    return stored
