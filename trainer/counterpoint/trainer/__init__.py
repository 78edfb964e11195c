"""The Counterpoint trainer: from labelled data to a bundle that the engine runs."""

import counterpoint.engine  # noqa: F401 - first of all, since it turns telemetry off
