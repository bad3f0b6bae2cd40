"""Weights of exported graphs in half precision or as 8-bit integers, by onnxruntime's own tools.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/, pages "float16" and "quantization".
"""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path


class Weights(StrEnum):
    """Types of the weights of an exported model."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def convert_weights(graph: Path, weights: Weights) -> None:
    """Replace the weights of a graph; its inputs and outputs stay float32.

    Args:
        graph: file with float32 weights.
        weights: fp16 also computes in half precision; int8 multiplies integers in matrix products, with a scale for each output.
    """
    if weights == Weights.FP16:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(graph), keep_io_types=True), graph)
    elif weights == Weights.INT8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it advises to optimise the graph first, which onnxruntime does at loading
        try:  # unsigned: signed weights overflow on processors without VNNI
            quantize_dynamic(
                graph, graph, op_types_to_quantize=["Gather", "Gemm", "MatMul"], per_channel=True, weight_type=QuantType.QUInt8
            )
        finally:
            root.setLevel(level)
