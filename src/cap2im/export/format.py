"""The folder of an exported model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cap2im.export.weights import Weights

MODEL, TEXT, GLIMPSE, PICTURE = "model.json", "text.onnx", "glimpse.onnx", "picture.onnx"
STATE = ("canvas", "hidden", "cell")  # of a recurrent model, from glimpse to glimpse


class OnnxModel(BaseModel):
    """The `model.json` of an exported model.

    Attributes:
        format: of the folder.
        version: of cap2im.
        name: of the model.
        description: one sentence.
        kind: as in the model's `config.json`.
        side: A, pixels.
        colours: 1 or 3.
        glimpses: T, canvases of a drawing.
        noise_shape: of one picture.
        words: L, number of tokens that text.onnx takes; shorter captions are padded.
        reads_words: whether the model reads captions.
        attends: whether the model has word weights.
        vocabulary: fields of `cap2im.data.vocabulary.Vocabulary`.
        examples: captions.
        weights: type of the weights.
        sha256: of each graph.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["cap2im onnx 1"] = "cap2im onnx 1"
    version: str
    name: str
    description: str
    kind: str
    side: int
    colours: int
    glimpses: int
    noise_shape: tuple[int, int]
    words: int
    reads_words: bool
    attends: bool
    vocabulary: dict[str, Any]
    examples: tuple[str, ...]
    weights: Weights = Weights.FP32
    sha256: dict[str, str]
