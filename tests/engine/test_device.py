"""Devices: the one choice, the contract of a call, and the tiny bundle's graphs on the CPU."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from counterpoint.engine.bundle import Bundle, write_bundle
from counterpoint.engine.device import Device, DeviceChoice, DeviceError, Graph, open_device
from counterpoint.engine.graphs import ROLES
from counterpoint.engine.manifest import BundleError
from counterpoint.streams.errors import UnavailableError, UsageError
from tests.support.bundles import Arrays, example_inputs, tiny_bundle, tiny_parts


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def device() -> Device:
    return open_device(DeviceChoice.CPU)


def inputs_of(graph: Graph, *, batch: int = 2, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return example_inputs(graph.role, graph.spec.inputs, rng, batch=batch)


# --- choosing --------------------------------------------------------------------------------


def test_auto_takes_the_cpu_and_logs_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="counterpoint.engine.device"):
        assert open_device("auto").name == "cpu"
    (record,) = caplog.records
    assert record.getMessage().startswith("device auto: cpu with ONNX Runtime ")
    assert "since this version has no other backend" in record.getMessage()


def test_a_device_that_is_not_to_be_had_is_an_error_and_never_another_device() -> None:
    with pytest.raises(UnavailableError, match=r"'cuda' is not to be had: .*; use device 'cpu'"):
        open_device("cuda")
    assert UnavailableError.exit_code == 3


def test_an_unknown_device_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="unknown device 'tpu'; choose one of auto, cpu, cuda"):
        open_device("tpu")


def test_the_runtime_is_imported_only_when_a_device_is_opened() -> None:
    code = (
        "import sys, counterpoint.engine.device, counterpoint.engine.golden\n"
        "assert 'onnxruntime' not in sys.modules and 'torch' not in sys.modules\n"
        "counterpoint.engine.device.open_device('cpu')\n"
        "assert 'onnxruntime' in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# --- calling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_have_the_names_dtypes_and_shapes_of_the_manifest(
    bundle: Bundle, device: Device, role: str, batch: int
) -> None:
    graph = device.load(bundle, role)
    outputs = graph.run(inputs_of(graph, batch=batch))
    assert list(outputs) == [spec.name for spec in graph.spec.outputs]
    for spec in graph.spec.outputs:
        shape = tuple(batch if dim == "N" else dim for dim in spec.shape)
        assert outputs[spec.name].shape == shape
        assert outputs[spec.name].dtype == np.dtype(spec.dtype)
        assert np.isfinite(outputs[spec.name]).all()


@pytest.mark.parametrize("role", ROLES)
def test_a_row_does_not_depend_on_the_batch_it_is_in(
    bundle: Bundle, device: Device, role: str
) -> None:
    graph = device.load(bundle, role)
    inputs = inputs_of(graph, batch=3)
    axes = {spec.name: spec.shape.index("N") for spec in graph.spec.inputs if "N" in spec.shape}
    alone = {
        name: np.take(array, [1], axis=axes[name]) if name in axes else array
        for name, array in inputs.items()
    }
    together, single = graph.run(inputs), graph.run(alone)
    for spec in graph.spec.outputs:
        row = np.take(together[spec.name], [1], axis=spec.shape.index("N"))
        np.testing.assert_allclose(single[spec.name], row, atol=1e-6)


F32, I64 = np.float32, np.int64


@pytest.mark.parametrize(
    ("role", "change", "message"),
    [
        ("vision", {"faces": None}, r"vision input: expected tensors faces; got $"),
        (
            "vision",
            {"face": np.zeros((1, 1, 48, 48), F32)},
            r"vision input: expected tensors faces; got face, faces",
        ),
        (
            "vision",
            {"faces": np.zeros((1, 1, 48, 48))},
            r"vision input 'faces': expected dtype float32, got float64",
        ),
        (
            "vision",
            {"faces": np.zeros((1, 48, 48), F32)},
            r"'faces': expected shape \(N,1,48,48\), got \(1,48,48\)",
        ),
        (
            "vision",
            {"faces": np.zeros((1, 1, 48, 64), F32)},
            r"'faces': expected shape \(N,1,48,48\), N = 1, got \(1,1,48,64\)",
        ),
        (
            "vision",
            {"faces": np.zeros((0, 1, 48, 48), F32)},
            r"'faces': expected shape \(N,1,48,48\), N = 0, got \(0,1,48,48\)",
        ),
        (
            "text",
            {"attention_mask": np.ones((2, 5), I64)},
            r"'attention_mask': expected shape \(N,L\), N = 2, L = 6, got \(2,5\)",
        ),
        ("vad", {"sr": np.int64(16_000)}, r"vad input 'sr': expected dtype int64, got <class"),
        ("vad", {"sr": np.array([16_000])}, r"'sr': expected shape \(\), N = 2, got \(1\)"),
        (
            "vad",
            {"state": np.zeros((2, 1, 128), F32)},
            r"'state': expected shape \(2,N,128\), N = 2, got \(2,1,128\)",
        ),
        ("fusion", {"state": np.zeros((2, 3), F32)}, r"'state': expected dtype int64"),
    ],
)
def test_an_input_that_does_not_fit_is_named(
    bundle: Bundle, device: Device, role: str, change: dict[str, Any], message: str
) -> None:
    graph = device.load(bundle, role)
    inputs = {k: v for k, v in {**inputs_of(graph), **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        graph.run(inputs)


def test_inputs_may_be_read_only_views_and_are_left_as_they_are(
    bundle: Bundle, device: Device
) -> None:
    graph = device.load(bundle, "audio")
    wide = np.random.default_rng(0).standard_normal((2, 64, 39)).astype(np.float32)
    view = wide.transpose(0, 2, 1)
    view.flags.writeable = False
    before = view.copy()
    strided = graph.run({"logmel": view})["embedding"]
    np.testing.assert_array_equal(strided, graph.run({"logmel": before})["embedding"])
    np.testing.assert_array_equal(view, before)


def test_an_error_of_the_runtime_is_translated_and_chained(bundle: Bundle, device: Device) -> None:
    graph = device.load(bundle, "text")
    inputs = inputs_of(graph)
    inputs["input_ids"][0, 0] = 10_000  # far outside the table of embeddings
    with pytest.raises(DeviceError, match="graph 'text' failed on device cpu: ") as caught:
        graph.run(inputs)
    assert type(caught.value.__cause__).__module__.startswith("onnxruntime")
    assert "\n" not in str(caught.value)


def test_a_closed_device_runs_nothing(bundle: Bundle) -> None:
    device = open_device("cpu")
    graph = device.load(bundle, "ngrams")
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="device cpu is closed: graph 'ngrams' is gone"):
        graph.run(inputs_of(graph))
    with pytest.raises(DeviceError, match="device cpu is closed, so it cannot load graph 'vad'"):
        device.load(bundle, "vad")


def test_sessions_in_many_threads_give_what_one_gives(bundle: Bundle, device: Device) -> None:
    shared = device.load(bundle, "fusion")
    own = device.load(bundle, "fusion")
    inputs = [inputs_of(shared, batch=1 + seed % 4, seed=seed) for seed in range(40)]
    expected = [shared.run(arrays) for arrays in inputs]
    with ThreadPoolExecutor(4) as pool:
        for graph in (shared, own):
            for got, want in zip(pool.map(graph.run, inputs), expected, strict=True):
                for name, array in want.items():
                    np.testing.assert_array_equal(got[name], array)


# --- loading ---------------------------------------------------------------------------------


def bundle_with_model(directory: Path, role: str, model: bytes) -> Bundle:
    manifest, files = tiny_parts()
    return write_bundle(directory, manifest, files={**files, manifest.graphs[role].file: model})


def test_bytes_that_are_no_model_are_named(tmp_path: Path, device: Device) -> None:
    bundle = bundle_with_model(tmp_path / "b", "vision", b"not a model")
    with pytest.raises(BundleError, match=r"models/vision/.* is not a model that ONNX Runtime"):
        device.load(bundle, "vision")


def test_a_model_changed_after_loading_the_bundle_is_not_run(
    tmp_path: Path, device: Device
) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    other = tiny_parts(seed=1)[1]
    bundle.graph_path("vision").write_bytes(other[bundle.manifest.graphs["vision"].file])
    with pytest.raises(BundleError, match=r"models/vision/model\.fp32\.onnx is not the file that"):
        device.load(bundle, "vision")


def vision_model(*, name: str = "faces", dtype: int = 1, batch: Any = "N", size: int = 48) -> bytes:
    """A graph that is nearly the one for faces."""
    face = helper.make_tensor_value_info(name, dtype, [batch, 1, size, size])
    embedding = helper.make_tensor_value_info("embedding", dtype, [batch, 128])
    nodes = [
        helper.make_node("Flatten", [name], ["flat"]),
        helper.make_node("Slice", ["flat", "from", "to", "axis"], ["embedding"]),
    ]
    constants = [
        helper.make_tensor(key, 7, [1], [value])
        for key, value in (("from", 0), ("to", 128), ("axis", 1))
    ]
    graph = helper.make_graph(nodes, "vision", [face], [embedding], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (vision_model(name="face"), "the manifest has tensors faces; the graph has face"),
        (vision_model(dtype=11), r"'faces float32 \(N,1,48,48\)'; the graph has tensor\(double\)"),
        (vision_model(batch=1), r"the graph has tensor\(float\) \[1, 1, 48, 48\]"),
        (vision_model(size=64), r"the graph has tensor\(float\) \['N', 1, 64, 64\]"),
    ],
)
def test_a_model_that_is_not_what_the_manifest_says_is_refused(
    tmp_path: Path, device: Device, model: bytes, message: str
) -> None:
    bundle = bundle_with_model(tmp_path / "b", "vision", model)
    with pytest.raises(BundleError, match=message):
        device.load(bundle, "vision")


def test_a_model_that_fits_is_loaded(tmp_path: Path, device: Device) -> None:
    graph = device.load(bundle_with_model(tmp_path / "b", "vision", vision_model()), "vision")
    faces = inputs_of(graph)["faces"]
    got = graph.run({"faces": faces})["embedding"]
    np.testing.assert_array_equal(got, faces.reshape(2, -1)[:, :128])


# --- what the tiny bundle promises to other tests ----------------------------------------------


@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_what_is_masked_has_no_influence(bundle: Bundle, device: Device, modality: str) -> None:
    graph = device.load(bundle, "fusion")
    inputs = inputs_of(graph)
    inputs["state"][:] = 1
    before = graph.run(inputs)
    masked = inputs[f"{modality}_mask"] == 0
    assert masked.any()
    assert not masked.all()
    changed = dict(inputs)
    changed[modality] = inputs[modality].copy()
    changed[modality][masked] = np.nan
    for name, array in graph.run(changed).items():
        np.testing.assert_array_equal(array, before[name])
    changed[modality][~masked] += 1.0
    changed[modality][masked] = 0.0
    assert not np.array_equal(graph.run(changed)["emotion_logits"], before["emotion_logits"])


def test_contributions_and_a_bias_sum_to_the_logits(bundle: Bundle, device: Device) -> None:
    graph = device.load(bundle, "fusion")
    inputs = inputs_of(graph, batch=5)
    inputs["state"][0] = 0
    outputs = graph.run(inputs)
    for head in bundle.manifest.heads:
        bias = outputs[f"{head}_logits"] - outputs[f"{head}_contributions"].sum(axis=1)
        np.testing.assert_allclose(bias, np.broadcast_to(bias[0], bias.shape), atol=1e-5)
        absent = inputs["state"] != 1
        np.testing.assert_array_equal(outputs[f"{head}_contributions"][absent], 0.0)


def test_padding_of_text_has_no_influence(bundle: Bundle, device: Device) -> None:
    text, ngrams = device.load(bundle, "text"), device.load(bundle, "ngrams")
    ids = np.array([[2, 9, 4, 3]])
    plain = text.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})["embedding"]
    padded = text.run(
        {
            "input_ids": np.concatenate([ids, [[7, 0]]], axis=1),
            "attention_mask": np.array([[1, 1, 1, 1, 0, 0]]),
        }
    )["embedding"]
    np.testing.assert_allclose(padded, plain, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 1.0, atol=1e-6)
    few = ngrams.run({"buckets": np.array([[32_768, 5]])})["embedding"]
    more = ngrams.run({"buckets": np.array([[32_768, 5, 0, 0, 0]])})["embedding"]
    np.testing.assert_allclose(more, few, atol=1e-6)


def test_speech_is_louder_than_silence(bundle: Bundle, device: Device) -> None:
    graph = device.load(bundle, "vad")
    rng = np.random.default_rng(0)
    inputs = {
        "input": np.stack([np.zeros(576), 0.1 * rng.standard_normal(576)]).astype(np.float32),
        "state": np.zeros((2, 2, 128), np.float32),
        "sr": np.array(16_000),
    }
    outputs = graph.run(inputs)
    silence, speech = outputs["output"][:, 0]
    assert silence < 0.2 < 0.8 < speech
    assert not np.array_equal(outputs["stateN"][:, 0], outputs["stateN"][:, 1])
