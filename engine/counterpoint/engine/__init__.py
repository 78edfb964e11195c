"""The Counterpoint engine: aligned windows, compiled encoders and fusion, predictions in Redis.

The two entry points are loaded on first use, so that the trainer, which shares preprocessing and
the bundle format, does not pull in Redis and ONNX Runtime with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoint.engine.engine import Engine
    from counterpoint.engine.subscribe import Subscriber

__all__ = ["Engine", "Subscriber"]

_HOME = {"Engine": "counterpoint.engine.engine", "Subscriber": "counterpoint.engine.subscribe"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
