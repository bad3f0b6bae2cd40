"""Export a drawing model as ONNX graphs, with everything that another program needs to draw with it.

An exported folder holds model.json (`OnnxModel`), text.onnx for models that read words, and glimpse.onnx (recurrent models) or
picture.onnx. `cap2im.export.onnx_drawing` draws with it, without torch.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cap2im._version import __version__
from cap2im.export.format import GLIMPSE, MODEL, PICTURE, STATE, TEXT, OnnxModel
from cap2im.export.graphs import GlimpseGraph, PictureGraph, TextGraph
from cap2im.export.weights import Weights, convert_weights
from cap2im.extras import require
from cap2im.files import atomic_folder, check_writable_folder, file_sha256, write_atomically
from cap2im.models.aligndraw import DRAW
from cap2im.pipeline import Pipeline

OPSET = 20
EXAMPLES = 2  # captions of the traced batch; one would make the size of the batch a constant


def export_onnx(pipeline: Pipeline, out: Path, *, words: int = 32, weights: Weights = Weights.FP32) -> Path:
    """Write a model as ONNX graphs.

    Args:
        pipeline: a model without a sharpener.
        out: new folder.
        words: L, the longest caption that the exported model reads.
        weights: type of the weights.

    Returns:
        the folder.

    Raises:
        ValueError: a package is missing, the folder holds something, or the model is conditioned on vectors of a sentence encoder.
    """
    require("cap2im export", "export", "onnx", "onnxscript", "onnxruntime")
    check_new_folder(out)
    if pipeline.encoder is not None:
        raise ValueError(f"{pipeline.name}: it is conditioned on vectors of a sentence encoder, which cannot be exported")
    model, c = pipeline.model.eval(), pipeline.model.config
    with atomic_folder(out) as folder, torch.no_grad(), _quiet():
        text: dict[str, Tensor] = {}
        if c.reads_words:
            encoder = TextGraph(model)
            tokens = torch.ones(EXAMPLES, words, dtype=torch.long)
            mask = torch.arange(words) < torch.tensor([[words], [1]])
            text = dict(zip(encoder.names, encoder(tokens, mask), strict=True))
            _write(encoder, {"tokens": tokens, "mask": mask}, tuple(text), folder / TEXT)
            if not isinstance(model, DRAW) or c.conditioning == "align":
                text["mask"] = mask
        if isinstance(model, DRAW):
            state = model.initial_generative_state(EXAMPLES)
            inputs = {
                "later": torch.zeros(1),
                "noise": torch.zeros(EXAMPLES, c.noise_shape[1]),
                **{name: getattr(state, name).contiguous() for name in STATE},
                **text,
            }
            outputs = (*(f"next_{name}" for name in STATE), "picture", "box", *(("weights",) if "mask" in text else ()))
            _write(GlimpseGraph(model), inputs, outputs, folder / GLIMPSE)
        else:
            picture = PictureGraph(model)
            inputs = {"noise": torch.zeros(EXAMPLES, *c.noise_shape), **text}
            outputs = ("pictures", "weights")[: len(picture(*inputs.values()))]
            _write(picture, inputs, outputs, folder / PICTURE)
        graphs = [name for name in (TEXT, GLIMPSE, PICTURE) if (folder / name).exists()]
        for name in graphs:
            convert_weights(folder / name, weights)
        about = OnnxModel(
            version=__version__,
            name=pipeline.name,
            description=pipeline.config.description,
            kind=pipeline.config.kind,
            side=c.side,
            colours=c.colours,
            glimpses=model.glimpses,
            noise_shape=c.noise_shape,
            words=words,
            reads_words=c.reads_words,
            attends=outputs[-1] == "weights",
            vocabulary=pipeline.vocabulary.model_dump(exclude_none=True),
            examples=tuple(pipeline.examples),
            weights=weights,
            sha256={name: file_sha256(folder / name) for name in graphs},
        )
        write_atomically(folder / MODEL, about.model_dump_json(indent=1) + "\n")
    return out


def check_new_folder(out: Path) -> None:
    """Check that a folder can be written and nothing would be replaced.

    Raises:
        ValueError: a file, a folder that holds something, or one that cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists already; give a new or an empty folder")
    check_writable_folder(out)


def _write(network: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], path: Path) -> None:
    """Trace a network with a batch of any size, and write it."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass  # an extra

    batch = torch.export.Dim("batch", min=1)
    sizes: tuple[Any, ...] = tuple({} if name == "later" else {0: batch} for name in inputs)
    program = torch.onnx.export(
        network.eval(),
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=OPSET,
        dynamic_shapes=_shapes_of(network, sizes),
        external_data=False,
        optimize=False,  # onnxruntime does it at loading; the optimizer of onnxscript fails on LAPGAN
        verbose=False,
    )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # stack traces of the export, a sixth of a small graph
    program.save(path)


def _shapes_of(network: nn.Module, sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the dynamic shapes as `torch.export` takes them: those of `*text` are one tuple."""
    fixed = {GlimpseGraph: 5, PictureGraph: 1}.get(type(network))
    return sizes if fixed is None or len(sizes) == fixed else (*sizes[:fixed], sizes[fixed:])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings from people, who can do nothing about them."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch._dynamo", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
