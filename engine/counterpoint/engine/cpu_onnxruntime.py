"""The CPU device: ONNX Runtime, one thread for each call, the caller's own."""

from __future__ import annotations

from typing import Any, Final

import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as vendor

from counterpoint.engine.bundle import Bundle
from counterpoint.engine.device import Arrays, DeviceError
from counterpoint.engine.graphs import DType, GraphSpec, TensorSpec, check_arrays
from counterpoint.engine.manifest import BundleError

# The runtime's exceptions have no common base; its Python layer adds the last three.
_VENDOR_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(
        item
        for item in vars(vendor).values()
        if isinstance(item, type) and issubclass(item, Exception)
    ),
    RuntimeError,
    ValueError,
    TypeError,
)
_DTYPES: Final[dict[str, DType]] = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_LOG_ERRORS_ONLY: Final = 3


def runtime_version() -> str:
    """Version of ONNX Runtime."""
    return str(ort.__version__)


class CpuDevice:
    """ONNX Runtime's CPU provider. Implements `counterpoint.engine.device.Device`."""

    name = "cpu"

    def __init__(self) -> None:
        self.closed = False

    def load(self, bundle: Bundle, role: str) -> CpuGraph:
        """See `Device.load`. The model's bytes are hashed as they are read."""
        if self.closed:
            raise DeviceError(f"device {self.name} is closed, so it cannot load graph {role!r}")
        spec = bundle.manifest.graphs[role]
        model = bundle.read_bytes(spec.file)
        try:
            session = ort.InferenceSession(
                model, _session_options(role), providers=["CPUExecutionProvider"]
            )
        except _VENDOR_ERRORS as error:
            raise BundleError(
                f"bundle {bundle.root}: {spec.file} is not a model that ONNX Runtime "
                f"{runtime_version()} can load: {_one_line(error)}"
            ) from error
        for found, expected in (
            (session.get_inputs(), spec.inputs),
            (session.get_outputs(), spec.outputs),
        ):
            if problem := _mismatch(found, expected):
                raise BundleError(f"bundle {bundle.root}: {spec.file}: {problem}")
        return CpuGraph(device=self, role=role, spec=spec, session=session)

    def close(self) -> None:
        """See `Device.close`. Sessions are freed with the graphs that hold them."""
        self.closed = True


class CpuGraph:
    """One session. Implements `counterpoint.engine.device.Graph`."""

    def __init__(
        self, *, device: CpuDevice, role: str, spec: GraphSpec, session: ort.InferenceSession
    ) -> None:
        self.role = role
        self.spec = spec
        self._device = device
        self._session = session
        self._outputs = [tensor.name for tensor in spec.outputs]

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """See `Graph.run`. Runs on the calling thread."""
        if self._device.closed:
            raise DeviceError(f"device {self._device.name} is closed: graph {self.role!r} is gone")
        check_arrays(f"{self.role} input", self.spec.inputs, inputs)
        try:
            outputs = self._session.run(self._outputs, dict(inputs))
        except _VENDOR_ERRORS as error:
            raise DeviceError(
                f"graph {self.role!r} failed on device {self._device.name}: {_one_line(error)}"
            ) from error
        return dict(zip(self._outputs, outputs, strict=True))


def _session_options(role: str) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.logid = role
    options.log_severity_level = _LOG_ERRORS_ONLY
    # Sessions of inference run beside each other, one thread each: threads of their own would
    # fight over the cores, and spin while they wait.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The arena keeps the memory of the largest batch it ever saw. Without it that is given back,
    # at the cost of a higher usual size and a higher peak. Memory patterns are kept for
    # each new shape, and batch and text length vary.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.use_deterministic_compute = True
    return options


def _mismatch(found: list[Any], expected: tuple[TensorSpec, ...]) -> str | None:
    """What of the compiled graph's tensors is not as the manifest says; None if nothing.

    Where the graph leaves a dimension open that the manifest gives, the manifest decides.
    """
    by_name = {node.name: node for node in found}
    if set(by_name) != {spec.name for spec in expected}:
        names = ", ".join(sorted(by_name))
        wanted = ", ".join(sorted(spec.name for spec in expected))
        return f"the manifest has tensors {wanted}; the graph has {names}"
    for spec in expected:
        node = by_name[spec.name]
        shape = tuple(node.shape)
        fits = _DTYPES.get(node.type) == spec.dtype and len(shape) == len(spec.shape)
        if not fits or any(
            isinstance(size, int) and size != dim
            for size, dim in zip(shape, spec.shape, strict=True)
        ):
            return f"the manifest has tensor '{spec}'; the graph has {node.type} {list(shape)}"
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
