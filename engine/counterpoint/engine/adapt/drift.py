"""Drift alarms: ADWIN over a few signals of a session. All use of river.

Bifet & Gavaldà 2007, "Learning from Time-Changing Data with Adaptive Windowing", SIAM International
Conference on Data Mining. An alarm is told and logged, and changes nothing.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from counterpoint.engine.adapt.statement import Alarm
from counterpoint.streams.errors import UnavailableError

CLOCK: Final = 1
"""Every value is looked at as it comes: there are few."""
LEAST_VALUES: Final = 12
"""No alarm before that many values of a signal."""
LEAST_WINDOW: Final = 5
"""Values on either side of a change, at least."""
NEWEST: Final = 10
"""Values that an alarm calls now; the others since the last alarm of the signal are before."""


class _Adwin(Protocol):
    """What is used of ``river.drift.ADWIN``."""

    @property
    def drift_detected(self) -> bool: ...
    def update(self, x: float) -> None: ...


def load_detector() -> Callable[..., Any]:
    """river's ADWIN. The first call takes a second or more: not on the loop.

    Raises:
        UnavailableError: river is not installed.
    """
    try:
        module = importlib.import_module("river.drift")
    except ImportError as error:
        raise UnavailableError(
            "adaptation.drift needs river: pip install 'counterpoint[drift]', or leave it off"
        ) from error
    detector: Callable[..., Any] = module.ADWIN
    return detector


class _Signal:
    """A detector, and the means that it does not tell: ADWIN drops what is old piece by piece."""

    def __init__(self, detector: _Adwin) -> None:
        self._detector = detector
        self._newest: deque[float] = deque(maxlen=NEWEST)
        self._older_sum = 0.0
        self._older = 0

    def update(self, value: float) -> tuple[float, float] | None:
        """The means before and now, if ``value`` makes an alarm."""
        if len(self._newest) == NEWEST:
            self._older_sum += self._newest[0]
            self._older += 1
        self._newest.append(value)
        self._detector.update(value)
        if not self._detector.drift_detected:
            return None
        # `LEAST_VALUES` make sure that there is one.
        means = self._older_sum / max(self._older, 1), sum(self._newest) / len(self._newest)
        self._newest.clear()
        self._older_sum, self._older = 0.0, 0
        return means


class Drift:
    """Watches signals by name; each has a detector of its own from its first value on.

    Args:
        delta: ADWIN's confidence parameter.

    Raises:
        UnavailableError: river is not installed.
    """

    def __init__(self, delta: float) -> None:
        self._new: Callable[..., Any] = load_detector()
        self._delta = delta
        self._signals: dict[str, _Signal] = {}
        self.total = 0
        """Alarms since the session began."""

    def update(self, values: Mapping[str, float]) -> tuple[Alarm, ...]:
        """Take the next value of each signal, each in [0, 1].

        Returns:
            The signals whose mean has changed, in the order given. Their detectors begin anew.
        """
        alarms = []
        for name, value in values.items():
            signal = self._signals.get(name)
            if signal is None:
                detector: _Adwin = self._new(
                    delta=self._delta,
                    clock=CLOCK,
                    grace_period=LEAST_VALUES,
                    min_window_length=LEAST_WINDOW,
                )
                signal = self._signals[name] = _Signal(detector)
            if (means := signal.update(value)) is not None:
                alarms.append(Alarm(signal=name, before=means[0], now=means[1]))
        self.total += len(alarms)
        return tuple(alarms)
