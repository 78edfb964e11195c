"""From a torch module to an ONNX file, and the gate that both give the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from counterpoint.streams.errors import FailedError

OPSET = 17


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: list[str],
    path: Path,
    *,
    dynamic: Mapping[str, Mapping[int, str]],
) -> None:
    """Trace ``module`` in inference mode and write it as ONNX.

    The tracing exporter is used on purpose: the newer one fixes the time axis of recurrent layers
    without a word.

    Args:
        module: called with ``inputs`` in order.
        inputs: example tensors by name; the batch of an example must be larger than 1.
        outputs: names of the outputs in order.
        dynamic: names of the dynamic axes of inputs and outputs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    module.eval()
    with warnings.catch_warnings(), torch.inference_mode():
        # Deprecation of this exporter, and shape checks that it traces as constants; `check_parity`
        # runs other shapes than the traced one and so shows if one of them mattered.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    _declare(path, inputs, dynamic)
    check_axes(path, dynamic)


def check_axes(path: Path, dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """Every axis that is meant to be open still is, in the graph that was written.

    An exporter may fix the time axis of a recurrent layer's output at the length that it saw, and
    say nothing: a runtime that trusts the graph then allocates and plans for that length alone.

    Raises:
        FailedError: naming tensor, axis and the size that it was fixed at.
    """
    graph = onnx.load(path, load_external_data=False).graph
    for tensor in (*graph.input, *graph.output):
        dims = tensor.type.tensor_type.shape.dim
        for axis, name in dynamic.get(tensor.name, {}).items():
            if dims[axis].HasField("dim_value"):
                raise FailedError(
                    f"{path.name}: axis {axis} ({name}) of {tensor.name} is fixed at "
                    f"{dims[axis].dim_value}; export recurrent layers with dynamo=False, or a "
                    "fixed chunk with state in and out"
                )


def _declare(
    path: Path, inputs: Mapping[str, Tensor], dynamic: Mapping[str, Mapping[int, str]]
) -> None:
    """Give the graph the inputs that it does not use: the exporter leaves them out, and a
    caller gives them all the same."""
    model = onnx.load(str(path))
    known = {tensor.name for tensor in model.graph.input}
    unused = [name for name in inputs if name not in known]
    if not unused:
        return
    for name in unused:
        axes = dynamic.get(name, {})
        shape = [axes.get(axis, size) for axis, size in enumerate(inputs[name].shape)]
        kind = onnx.helper.np_dtype_to_tensor_dtype(inputs[name].numpy().dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    path.write_bytes(model.SerializeToString())


def check_parity(
    what: str,
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    *,
    atol: float,
) -> float:
    """The largest difference over all outputs.

    Raises:
        FailedError: an output has another shape, or differs by more than ``atol``.
    """
    worst = 0.0
    for name, want in expected.items():
        got = found[name]
        if got.shape != want.shape:
            raise FailedError(f"{what}.{name}: torch gives {want.shape}, ONNX {got.shape}")
        difference = float(np.abs(want - got).max())
        if not difference <= atol:
            raise FailedError(
                f"{what}.{name}: torch and ONNX differ by {difference:.3g}, allowed {atol:.3g}"
            )
        worst = max(worst, difference)
    return worst
