"""Golden outputs: what each graph gave for recorded inputs when its bundle was made.

They show that a device, or another version of its runtime, computes what was exported.
``golden/<role>.npz`` holds arrays ``in.<tensor>`` and ``out.<tensor>``.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from counterpoint.engine.bundle import Bundle, load_bundle
from counterpoint.engine.device import Device, open_device
from counterpoint.engine.graphs import GraphSpec, Tolerance, check_arrays
from counterpoint.engine.manifest import BundleError

_INPUT, _OUTPUT = "in.", "out."
_Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenResult:
    """How near a device comes to a graph's golden outputs.

    Fields:
        role: of the graph.
        tolerance: what the manifest allows.
        max_abs_difference: largest of all elements; infinite where one is not a number.
        passed: every element is within tolerance.
        output, index: the element that is farthest from its tolerance.
        expected, got: that element.
    """

    role: str
    tolerance: Tolerance
    max_abs_difference: float
    passed: bool
    output: str
    index: tuple[int, ...]
    expected: float
    got: float


def golden_bytes(
    inputs: Mapping[str, npt.NDArray[Any]], outputs: Mapping[str, npt.NDArray[Any]]
) -> bytes:
    """The content of ``golden/<role>.npz``; the same bytes for the same arrays."""
    arrays = {
        **{_INPUT + name: array for name, array in inputs.items()},
        **{_OUTPUT + name: array for name, array in outputs.items()},
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def golden_inputs(bundle: Bundle, role: str) -> _Arrays:
    """What a graph was run on when its outputs were recorded: input that it can take.

    Raises:
        BundleError: golden data are unreadable, or do not fit the manifest.
    """
    return _read_golden(bundle, role, bundle.manifest.graphs[role])[0]


def compare_golden(bundle: Bundle, device: Device) -> list[GoldenResult]:
    """Run every graph on its golden inputs and compare, one result for each role.

    Raises:
        BundleError: golden data are unreadable, or do not fit the manifest.
    """
    results: list[GoldenResult] = []
    for role, spec in bundle.manifest.graphs.items():
        inputs, expected = _read_golden(bundle, role, spec)
        got = device.load(bundle, role).run(inputs)
        try:
            check_arrays(f"{role} output on device {device.name}", spec.outputs, got)
            _check_same_shapes(role, expected, got)
        except ValueError as error:
            raise BundleError(f"bundle {bundle.root}: {spec.file}: {error}") from error
        results.append(_compare(role, spec.tolerance, expected, got))
    return results


def check_golden(bundle: Bundle, device: Device) -> list[GoldenResult]:
    """`compare_golden`, where a graph that is out of tolerance is an error.

    Raises:
        BundleError: naming graph, output, index, expected and got.
    """
    results = compare_golden(bundle, device)
    for result in results:
        if not result.passed:
            raise BundleError(
                f"bundle {bundle.root}: graph {result.role!r} on device {device.name}: output "
                f"{result.output!r} at {list(result.index)} is {result.got:.6g}, golden is "
                f"{result.expected:.6g} (largest difference {result.max_abs_difference:.3g}, "
                f"allowed {result.tolerance.atol:g} + {result.tolerance.rtol:g} * |golden|); "
                "this bundle must not be run on this device"
            )
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A bundle that is unchanged and whose graphs give their golden outputs.

    Fields:
        bundle: the bundle.
        results: one for each graph.
        device: name of the device that ran them.
    """

    bundle: Bundle
    results: list[GoldenResult]
    device: str


def verify_bundle(path: Path, device: str) -> Verified:
    """Check every hash of the bundle at ``path`` and every graph on the device asked for.

    Raises:
        BundleError: it is incomplete or changed, or a graph gives other outputs.
        UnavailableError: there is no such device here.
    """
    bundle = load_bundle(path)
    opened = open_device(device)
    try:
        results = check_golden(bundle, opened)
    finally:
        opened.close()
    return Verified(bundle=bundle, results=results, device=opened.name)


def _read_golden(bundle: Bundle, role: str, spec: GraphSpec) -> tuple[_Arrays, _Arrays]:
    data = bundle.read_bytes(spec.golden)
    try:
        arrays = _load_npz(data)
        inputs = {n.removeprefix(_INPUT): a for n, a in arrays.items() if n.startswith(_INPUT)}
        outputs = {n.removeprefix(_OUTPUT): a for n, a in arrays.items() if n.startswith(_OUTPUT)}
        check_arrays(f"{role} input", spec.inputs, inputs)
        check_arrays(f"{role} output", spec.outputs, outputs)
    except ValueError as error:
        raise BundleError(f"bundle {bundle.root}: {spec.golden}: {error}") from error
    return inputs, outputs


def _load_npz(data: bytes) -> _Arrays:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    # What numpy and zipfile raise for bytes that are no npz, a bare array or a pickle.
    except (AttributeError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"not an npz file: {error}") from error
    if strays := [name for name in arrays if not name.startswith((_INPUT, _OUTPUT))]:
        raise ValueError(f"arrays must be named in.* or out.*, not {', '.join(strays)}")
    return arrays


def _check_same_shapes(role: str, expected: _Arrays, got: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, array in expected.items():
        if got[name].shape != array.shape:
            raise ValueError(f"{role} output {name!r}: {got[name].shape}, golden {array.shape}")


def _compare(
    role: str,
    tolerance: Tolerance,
    expected: Mapping[str, npt.NDArray[Any]],
    got: Mapping[str, npt.NDArray[Any]],
) -> GoldenResult:
    worst: tuple[float, str, tuple[int, ...]] | None = None
    max_difference = 0.0
    for name, want in expected.items():
        wanted, found = want.astype(np.float64), got[name].astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.abs(found - wanted)
            excess = difference - (tolerance.atol + tolerance.rtol * np.abs(wanted))
        # NaN and infinity on either side never pass.
        bad = ~(np.isfinite(wanted) & np.isfinite(found))
        difference[bad] = np.inf
        excess[bad] = np.inf
        index = tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
        max_difference = max(max_difference, float(difference.max()))
        if worst is None or excess[index] > worst[0]:
            worst = (float(excess[index]), name, index)
    if worst is None:
        raise ValueError(f"graph {role!r} has no outputs to compare")
    distance, name, index = worst
    return GoldenResult(
        role=role,
        tolerance=tolerance,
        max_abs_difference=max_difference,
        passed=distance <= 0,
        output=name,
        index=index,
        expected=float(expected[name][index]),
        got=float(got[name][index]),
    )
