"""Skips for a machine without the trainer's extra, before its modules are imported."""

from __future__ import annotations

import importlib.util
import os

import pytest


def need_trainer() -> None:
    """Skip the calling module if torch is missing, or fail it where all parts are required."""
    if importlib.util.find_spec("torch") is not None:
        return
    message = "torch is missing: pip install 'counterpoint[trainer]'"
    if os.environ.get("COUNTERPOINT_REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message, allow_module_level=True)
