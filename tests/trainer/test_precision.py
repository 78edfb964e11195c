"""Half precision and int8: what stands in the graphs, how near they are, when an export stops."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from counterpoint.streams.errors import FailedError
from counterpoint.trainer.export import run_onnx
from counterpoint.trainer.onnx_export import check_axes, check_parity, export_graph
from counterpoint.trainer.parity import GATES, Gate, Parity, agrees, check, measure
from counterpoint.trainer.precision import quantised_weights, to_fp16, to_int8
from tests.support.requirements import require

pytestmark = pytest.mark.trainer

DYNAMIC = {"x": {0: "N", 1: "T"}, "y": {0: "N", 1: "T"}}
Arrays = dict[str, np.ndarray[Any, Any]]


class Encoder(nn.Module):
    """Convolution, recurrent and linear layer, as for sound: (N, T, 8) -> (N, T, 6)."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM] = nn.GRU) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 3, padding=1)
        self.recurrent = kind(16, 12, batch_first=True, bidirectional=True)
        self.project = nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))
        projected: Tensor = self.project(states)
        return projected


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    export_graph(Encoder().eval(), {"x": torch.randn(3, 7, 8)}, ["y"], path, dynamic=DYNAMIC)
    return path


def inputs(seed: int, count: int = 12) -> list[Arrays]:
    random = np.random.default_rng(seed)
    return [
        {"x": random.standard_normal((1 + row % 3, 4 + row, 8)).astype(np.float32)}
        for row in range(count)
    ]


def runner(model: bytes) -> Any:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda given: {"y": session.run(["y"], dict(given))[0]}


def types_of(model: bytes) -> set[str]:
    graph = onnx.load_from_string(model).graph
    return {
        onnx.TensorProto.DataType.Name(tensor.type.tensor_type.elem_type)
        for tensor in (*graph.input, *graph.output)
    }


def test_half_precision_is_half_as_large_and_near(graph: Path) -> None:
    full = graph.read_bytes()
    half = to_fp16(full)
    assert types_of(half) == {"FLOAT"}
    weights = onnx.load_from_string(half).graph.initializer
    assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights)
    found = measure(runner(full), runner(half), inputs(0))
    check("encoder", "fp16", found)
    assert 0 < found.error < GATES["fp16"].error


def test_int8_has_a_scale_for_each_channel_and_explicit_pairs(graph: Path) -> None:
    full = graph.read_bytes()
    small = to_int8(full, inputs(0))
    assert types_of(small) == {"FLOAT"}
    kinds = [node.op_type for node in onnx.load_from_string(small).graph.node]
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(kinds)
    assert not {"DynamicQuantizeLinear", "MatMulInteger", "QLinearConv"} & set(kinds)
    scales = quantised_weights(small).values()
    assert 16 in scales  # the convolution's channels
    assert 6 in scales  # the columns of the linear layer
    check("encoder", "int8", measure(runner(full), runner(small), inputs(1)))


def test_int8_needs_inputs_and_something_to_quantise(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(FailedError, match="inputs to calibrate on"):
        to_int8(graph.read_bytes(), [])
    path = tmp_path / "tanh.onnx"
    export_graph(nn.Tanh(), {"x": torch.zeros(2, 3)}, ["y"], path, dynamic={"x": {0: "N"}})
    with pytest.raises(FailedError, match="nothing in the graph"):
        to_int8(path.read_bytes(), [{"x": np.zeros((1, 3), np.float32)}])


def test_parity_counted_by_hand() -> None:
    answers = iter([np.array([[3.0, 4.0]]), np.array([[0.0, 0.0]])])
    others = iter([np.array([[4.0, 3.0]]), np.array([[0.0, 0.0]])])
    found = measure(
        lambda _: {"a_logits": next(answers)}, lambda _: {"a_logits": next(others)}, [{}, {}]
    )
    assert found == Parity(
        inputs=2,
        rows=2,
        error=pytest.approx((2 / 25) ** 0.5),  # type: ignore[arg-type] # compares as a number
        largest=1 / 4,
        cosine=pytest.approx((24 / 25 + 1) / 2),  # type: ignore[arg-type] # compares as a number
        agreement=0.5,
    )


def test_a_gate_that_fails_says_the_numbers() -> None:
    bad = Parity(inputs=4, rows=0, error=0.5, largest=0.7, cosine=0.91, agreement=None)
    with pytest.raises(FailedError, match=r"graph 'x' in int8 .* 4 inputs: error 0\.5 .*0\.910000"):
        check("graph 'x'", "int8", bad)
    flipped = Parity(inputs=4, rows=100, error=0.0, largest=0.0, cosine=1.0, agreement=0.9)
    with pytest.raises(
        FailedError, match=r"agreement 0\.9000; asked .* agreement of at least 0\.95"
    ):
        check("graph 'x'", "int8", flipped)


def test_of_few_rows_one_may_differ() -> None:
    gate = Gate(error=1, cosine=0, agreement=0.95)
    assert agrees(None, 0, gate)
    assert agrees(7 / 8, 8, gate)
    assert not agrees(6 / 8, 8, gate)
    assert agrees(0.95, 100, gate)
    assert not agrees(0.94, 100, gate)


def test_other_shapes_and_what_is_no_number_do_not_pass() -> None:
    one = np.ones((1, 2))
    answers = iter([np.ones((1, 3)), np.array([[1.0, np.nan]])])
    for _ in range(2):
        with pytest.raises(FailedError, match="output y"):
            measure(lambda _: {"y": one}, lambda _: {"y": next(answers)}, [{}])
    with pytest.raises(FailedError, match="needs inputs"):
        measure(lambda _: {}, lambda _: {}, [])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_our_export_of_recurrent_layers_takes_any_length_and_batch(
    kind: type[nn.GRU | nn.LSTM], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, path = Encoder(kind).eval(), tmp_path / "recurrent.onnx"
    export_graph(module, {"x": torch.randn(3, 7, 8)}, ["y"], path, dynamic=DYNAMIC)
    for batch, length in ((3, 7), (1, 7), (5, 1), (2, 23)):
        given = torch.randn(batch, length, 8)
        with torch.inference_mode():
            expected = {"y": module(given).numpy()}
        assert (
            check_parity("recurrent", expected, run_onnx(path, {"x": given.numpy()}), atol=1e-5)
            < 1e-5
        )


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_the_other_exporter_fixes_the_time_axis_and_the_check_sees_it(
    kind: type[nn.GRU | nn.LSTM], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require(
        "onnxscript", importlib.util.find_spec("onnxscript") is not None, "pip install onnxscript"
    )
    caplog.set_level(logging.ERROR)
    path = tmp_path / "trap.onnx"
    torch.onnx.export(
        Encoder(kind).eval(), (torch.randn(3, 7, 8),), str(path), input_names=["x"],
        output_names=["y"], dynamic_axes=DYNAMIC, dynamo=True, verbose=False,
    )  # fmt: skip
    with pytest.raises(FailedError, match=r"axis 1 \(T\) of y is fixed at 7"):
        check_axes(path, DYNAMIC)


def test_an_axis_that_was_fixed_is_named(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    path = tmp_path / "fixed.onnx"
    onnx.save(model, path)
    with pytest.raises(FailedError, match=r"fixed\.onnx: axis 1 \(T\) of y is fixed at 7"):
        check_axes(path, DYNAMIC)
    check_axes(graph, DYNAMIC)
