"""Skips for parts that a machine lacks, and the switch that turns them into failures.

``COUNTERPOINT_REQUIRE_ALL=1`` (set by CI) makes every missing part an error, GPU aside.
"""

from __future__ import annotations

import os

import pytest


def require(name: str, available: bool, reason: str) -> None:
    """Skip the calling test if ``available`` is false, or fail it where all parts are required."""
    if available:
        return
    message = f"{name} is missing: {reason}"
    if os.environ.get("COUNTERPOINT_REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message)
