"""Drift alarms: ADWIN over a few signals of a session. All use of river.

Bifet & Gavaldà 2007, "Learning from Time-Changing Data with Adaptive Windowing", SIAM International
Conference on Data Mining. An alarm is told and logged, and changes nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from counterpoint.engine.adapt.statement import Alarm
from counterpoint.streams.errors import UnavailableError

CLOCK: Final = 1
"""Every value is looked at as it comes: there are few."""
LEAST_VALUES: Final = 10
"""No alarm before that many values of a signal."""
LEAST_WINDOW: Final = 5
"""Values on either side of a change, at least."""


class _Adwin(Protocol):
    """What is used of ``river.drift.ADWIN``."""

    @property
    def drift_detected(self) -> bool: ...
    @property
    def estimation(self) -> float: ...
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
        self._detectors: dict[str, _Adwin] = {}
        self.total = 0
        """Alarms since the session began."""

    def update(self, values: Mapping[str, float]) -> tuple[Alarm, ...]:
        """Take the next value of each signal, each in [0, 1].

        Returns:
            The signals whose mean has changed, in the order given. The values from before the
            change are forgotten then.
        """
        alarms = []
        for signal, value in values.items():
            detector = self._detectors.get(signal)
            if detector is None:
                detector = self._detectors[signal] = self._new(
                    delta=self._delta,
                    clock=CLOCK,
                    grace_period=LEAST_VALUES,
                    min_window_length=LEAST_WINDOW,
                )
            before = detector.estimation
            detector.update(value)
            if detector.drift_detected:
                alarms.append(Alarm(signal=signal, before=before, now=detector.estimation))
        self.total += len(alarms)
        return tuple(alarms)
