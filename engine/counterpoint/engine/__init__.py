"""The Counterpoint engine: aligned windows, compiled encoders and fusion, predictions in Redis.

The two entry points are loaded on first use, so that the trainer, which shares preprocessing and
the bundle format, does not pull in Redis and ONNX Runtime with them.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoint.engine.engine import Engine
    from counterpoint.engine.subscribe import Subscriber

__all__ = ["Engine", "Subscriber"]

# ONNX Runtime's wheels report every loaded model to their vendor by default, and keep an identifier
# of the machine. What runs here is nobody's business. This must be set before the library is first
# imported, so it stands where every module of engine and trainer passes.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_HOME = {"Engine": "counterpoint.engine.engine", "Subscriber": "counterpoint.engine.subscribe"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
