"""Devices: what runs a bundle's graphs, and the one place where it is chosen."""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from counterpoint.engine.bundle import Bundle
from counterpoint.engine.graphs import GraphSpec
from counterpoint.streams.errors import FailedError, UnavailableError, UsageError

Arrays: TypeAlias = Mapping[str, npt.NDArray[np.float32 | np.int64]]

_log = logging.getLogger(__name__)


class DeviceError(FailedError):
    """A device failed while running a graph."""


class DeviceChoice(enum.StrEnum):
    """What a person asks for."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Graph(Protocol):
    """One compiled graph. Blocking; may be called from several threads at once."""

    @property
    def role(self) -> str:
        """Its role in the bundle."""
        ...

    @property
    def spec(self) -> GraphSpec:
        """Its tensors."""
        ...

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Outputs by name, for inputs by name; names, dtypes and shapes as in ``spec``.

        Raises:
            ValueError: an input is missing, unknown, or of another dtype or shape.
            DeviceError: the device failed, or is closed.
        """
        ...


class Device(Protocol):
    """What compiles graphs and runs them."""

    @property
    def name(self) -> str:
        """``cpu`` or ``cuda``."""
        ...

    def load(self, bundle: Bundle, role: str) -> Graph:
        """Compile the graph of a role. Load it once and share it: it may be large.

        Raises:
            BundleError: the model is damaged, or not what the manifest says.
            DeviceError: the device is closed.
        """
        ...

    def close(self) -> None:
        """Give back what the device holds; its graphs cannot run any more. May be called twice."""
        ...


def open_device(choice: DeviceChoice | str) -> Device:
    """Open the device that is asked for; ``auto`` takes the fastest there is, and logs which.

    Raises:
        UsageError: no such choice.
        UnavailableError: what is asked for cannot be had here.
    """
    if choice not in list(DeviceChoice):
        known = ", ".join(DeviceChoice)
        raise UsageError(f"unknown device {choice!r}; choose one of {known}")
    # Inside the function: a device's vendor library is loaded only where the device is chosen.
    match DeviceChoice(choice):
        case DeviceChoice.CUDA:
            raise UnavailableError(
                "device 'cuda' is not to be had: this version of counterpoint has no CUDA "
                "backend; use device 'cpu' or 'auto'"
            )
        case DeviceChoice.CPU:
            from counterpoint.engine.cpu_onnxruntime import CpuDevice

            return CpuDevice()
        case DeviceChoice.AUTO:
            from counterpoint.engine.cpu_onnxruntime import CpuDevice, runtime_version

            _log.info(
                "device auto: cpu with ONNX Runtime %s, since this version has no other backend",
                runtime_version(),
            )
            return CpuDevice()
