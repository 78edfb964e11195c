"""Counters in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "counterpoint_"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT"})
_SERIES: Final = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)(\{.*\})?")


class ServerCounters:
    """What the server counts of itself. The labels have few values, whatever clients send."""

    def __init__(self) -> None:
        self.in_work = 0
        self.streams = 0
        self.connections_refused = 0
        self._requests: Counter[tuple[str, int]] = Counter()
        self._refused: Counter[str] = Counter()

    def answered(self, method: str, status: int) -> None:
        """An answer has begun."""
        self._requests[method if method in _METHODS else "other", status] += 1

    def refused(self, reason: str) -> None:
        """A request was turned away before it reached the engine."""
        self._refused[reason] += 1

    def series(self) -> dict[str, float]:
        """Name, with labels -> value."""
        series: dict[str, float] = {
            "http_requests_in_work": self.in_work,
            "http_streams": self.streams,
            "http_connections_refused_total": self.connections_refused,
        }
        for (method, status), count in self._requests.items():
            series[f'http_requests_total{{method="{method}",status="{status}"}}'] = count
        for reason, count in self._refused.items():
            series[f'http_refused_total{{reason="{reason}"}}'] = count
        return series


def exposition(*parts: Mapping[str, float]) -> str:
    """All series, those of one name together; ``_total`` in a name makes it a counter.

    Raises:
        ValueError: a name that Prometheus would not read.
    """
    families: dict[str, list[str]] = {}
    for series, value in _sorted(parts):
        match = _SERIES.fullmatch(series)
        if match is None or "\n" in series:
            raise ValueError(f"{series!r} is no name of a metric")
        families.setdefault(match.group(1), []).append(f"{PREFIX}{series} {_number(value)}")
    lines = []
    for name, samples in families.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# TYPE {PREFIX}{name} {kind}", *samples]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    # A number of numpy's would say its type.
    return str(value) if type(value) is int else repr(float(value))


def _sorted(parts: Iterable[Mapping[str, float]]) -> list[tuple[str, float]]:
    return sorted(pair for part in parts for pair in part.items())
