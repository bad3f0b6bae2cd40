"""Draw with an exported model by onnxruntime, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cap2im.data.vocabulary import Tokens, Unknown, Vocabulary
from cap2im.export.format import GLIMPSE, MODEL, PICTURE, STATE, TEXT, OnnxModel
from cap2im.export.noise import picture_noise
from cap2im.export.weights import Weights
from cap2im.extras import require
from cap2im.files import file_sha256, read_json
from cap2im.rendering.drawing import Drawing, Drawings

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class OnnxDrawer:
    """An exported model, ready to draw.

    Attributes:
        about: its `model.json`.
        vocabulary: the words that it knows.
        sessions: onnxruntime's session of each graph.
    """

    about: OnnxModel
    vocabulary: Vocabulary
    sessions: dict[str, Any]

    @classmethod
    def load(cls, folder: Path | str) -> OnnxDrawer:
        """Load an exported folder.

        Raises:
            ValueError: onnxruntime is missing, or the folder is not an exported model or is damaged.
        """
        require("drawing with an exported model", "export", "onnxruntime")
        import onnxruntime

        folder = Path(folder)
        if not (folder / MODEL).is_file():
            raise ValueError(f"{folder}: no {MODEL} in it; cap2im export MODEL --out OUT makes such a folder")
        about = read_json(folder / MODEL, OnnxModel)
        for name, sha256 in about.sha256.items():
            if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
                raise ValueError(f"{folder / name}: missing or damaged; its SHA-256 should be {sha256}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        sessions = {name: onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"]) for name in about.sha256}
        return cls(about, Vocabulary.model_validate(about.vocabulary), sessions)

    @property
    def label(self) -> str:
        """The model's name on its drawings: with the type of the weights, if that is not fp32."""
        return self.about.name if self.about.weights == Weights.FP32 else f"{self.about.name} in {self.about.weights.value}"

    def draw(self, captions: str | Sequence[str], *, seed: int | Sequence[int] = 0, unknown: Unknown = "error") -> Drawings:
        """Draw captions.

        Args:
            captions: one or several.
            seed: of all captions, or one for each; 0 or more. The same caption and seed give the picture that the model draws with torch,
                within a grey level if the weights are fp32.
            unknown: what to do with unknown words: "error" or "skip".

        Raises:
            ValueError: an unknown word, an empty or over-long caption, a negative seed, or another number of seeds.
        """
        captions = [captions] if isinstance(captions, str) else captions
        seeds = [seed] * len(captions) if isinstance(seed, int) else seed
        if len(seeds) != len(captions):
            raise ValueError(f"{len(seeds)} seeds for {len(captions)} captions: each caption needs one")
        if min(seeds, default=0) < 0:
            raise ValueError(f"seed is {min(seeds)}; it must not be negative")
        tokens = self.vocabulary.encode(captions, unknown if self.about.reads_words else self.vocabulary.training_unknown)
        for caption, each in zip(captions, tokens, strict=True):
            if self.about.reads_words and len(each.words) > self.about.words:
                raise ValueError(f"caption {caption!r} has {len(each.words)} words; this exported model reads {self.about.words}")
        noise = np.stack([picture_noise(each, self.about.noise_shape) for each in seeds])
        pictures, weights, boxes = self._recurrent(tokens, noise) if GLIMPSE in self.sessions else self._whole(tokens, noise)
        canvases = np.rint(pictures.transpose(0, 1, 3, 4, 2) * 255).astype(np.uint8)  # [B, T, A, A, C]
        return Drawings(
            Drawing(
                caption,
                each.words if weights is not None else (),
                seeds[row],
                self.label,
                canvases=canvases[row],
                attention=None if weights is None else weights[row, :, : len(each.words)],
                boxes=None if boxes is None else boxes[row],
            )
            for row, (caption, each) in enumerate(zip(captions, tokens, strict=True))
        )

    def _text(self, captions: Sequence[Tokens]) -> Arrays:
        """Return the encoded captions, by the names of the tensors."""
        if TEXT not in self.sessions:
            return {}
        tokens = np.zeros((len(captions), self.about.words), dtype=np.int64)
        mask = np.zeros(tokens.shape, dtype=np.bool_)
        for row, caption in enumerate(captions):
            tokens[row, : len(caption.numbers)] = caption.numbers
            mask[row, : len(caption.numbers)] = True
        return {"mask": mask, **_run(self.sessions[TEXT], {"tokens": tokens, "mask": mask})}

    def _recurrent(self, captions: Sequence[Tokens], noise: NDArray[np.float32]) -> tuple[Any, ...]:
        """Draw glimpse by glimpse: pictures [B, T, C, A, A], word weights [B, T, L] or None, boxes [B, T, 4]."""
        session, text = self.sessions[GLIMPSE], self._text(captions)
        shapes = {each.name: each.shape[1:] for each in session.get_inputs()}
        state: Arrays = {name: np.zeros((len(noise), *shapes[name]), dtype=np.float32) for name in STATE}
        steps = []
        for t in range(noise.shape[1]):
            made = _run(session, {"later": np.array([t > 0], dtype=np.float32), "noise": noise[:, t], **state, **text})
            state = {name: made[f"next_{name}"] for name in STATE}
            steps.append(made)
        series = (np.stack([step[name] for step in steps], axis=1) if name in steps[0] else None for name in ("picture", "weights", "box"))
        return tuple(series)

    def _whole(self, captions: Sequence[Tokens], noise: NDArray[np.float32]) -> tuple[Any, ...]:
        """Draw at once: pictures [B, T, C, A, A], word weights [B, T, L] or None, no boxes."""
        made = _run(self.sessions[PICTURE], {"noise": noise, **self._text(captions)})
        return made["pictures"], made.get("weights"), None


def _run(session: Any, values: Arrays) -> Arrays:
    """Run a graph on those of the values that it takes, and return its outputs by name."""
    inputs = {each.name: values[each.name] for each in session.get_inputs()}
    return dict(zip((each.name for each in session.get_outputs()), session.run(None, inputs), strict=True))
