"""Settings that hold for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Time limits of single examples fail on a busy machine for no fault of the code. In CI the examples
# are the same on every run; elsewhere they are new each time.
settings.register_profile(
    "counterpoint",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ or os.environ.get("COUNTERPOINT_REQUIRE_ALL") == "1",
    print_blob=True,
)
settings.load_profile("counterpoint")
