"""An fp32 ONNX graph in half precision or with int8 weights.

Precision stands in the graph itself, as strongly typed runtimes want it: fp16 tensors and casts, or
explicit pairs of QuantizeLinear and DequantizeLinear. Inputs and outputs stay float32 and int64, so
the engine takes a graph of any precision as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from counterpoint.engine.graphs import Precision
from counterpoint.streams.errors import FailedError

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]

# Transpose moves numbers and computes none, and in half precision ONNX Runtime 1.32 dies of a
# segmentation fault when it optimises the layout around it on a CPU.
_KEPT_IN_FP32: Final = (*DEFAULT_OP_BLOCK_LIST, "Transpose")

# Where weights and time are. Sums, masks and softmax keep their precision; recurrent layers have
# no quantised form with explicit Q/DQ.
_QUANTISED: Final = ("Conv", "MatMul", "Gemm", "Gather")


def to_fp16(model: bytes) -> bytes:
    """The graph in half precision."""
    converted = convert_float_to_float16(
        onnx.load_from_string(model), keep_io_types=True, op_block_list=list(_KEPT_IN_FP32)
    )
    ordered = OnnxModel(converted)
    # The casts were put at the end, before which their results are used already.
    ordered.topological_sort()
    onnx.checker.check_model(ordered.model)
    content: bytes = ordered.model.SerializeToString()
    return content


def to_int8(model: bytes, calibration: Sequence[Arrays]) -> bytes:
    """The graph with int8 weights, per channel, and activations as they are on ``calibration``.

    Weights use seven bits: before VNNI, x86 adds pairs of products in 16 bits and eight-bit weights
    overflow there, so the same graph would give other outputs on older processors.

    Args:
        calibration: inputs that are like those in service; their ranges become the scales.

    Raises:
        FailedError: there is no input to calibrate on, or nothing in the graph to quantise.
    """
    if not calibration:
        raise FailedError("int8 needs inputs to calibrate on, and there are none")
    with tempfile.TemporaryDirectory() as folder:
        full, prepared, small = (Path(folder) / name for name in ("full", "prepared", "small"))
        full.write_bytes(model)
        quant_pre_process(str(full), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(small),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        content = small.read_bytes()
    if not quantised_weights(content):
        raise FailedError("nothing in the graph can be quantised")
    return content


def convert(model: bytes, precision: Precision, calibration: Sequence[Arrays]) -> bytes:
    """An fp32 graph in ``precision``."""
    match precision:
        case "fp32":
            return model
        case "fp16":
            return to_fp16(model)
        case "int8":
            return to_int8(model, calibration)


def quantised_weights(model: bytes) -> dict[str, int]:
    """8-bit weights by name, each with the number of its scales: 1 is one for the whole tensor."""
    graph = onnx.load_from_string(model).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    return {
        node.input[0]: int(np.prod(tensors[node.input[1]].dims))
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in tensors
        and tensors[node.input[0]].data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    }


class _Reader(CalibrationDataReader):  # type: ignore[misc] # the library has no types
    def __init__(self, rows: Sequence[Arrays]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        row = next(self._rows, None)
        return None if row is None else dict(row)
