"""What the ``[adaptation]`` section says. Imported by the configuration, so it knows no models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_BOUND: Final = 10.0
MAX_MEMORY: Final = 5_000
MAX_BASELINE: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationSection:
    """How a session's predictions follow the session.

    Fields:
        prior: whether probabilities are adapted to how often the session shows each class.
        prior_bound: a class's share is at most this many times that in the bundle's data, and at
            least this part of it.
        prior_strength: observations that the bundle's own shares count for.
        prior_memory: observations that are remembered; older ones are forgotten.
        baseline_windows: the first windows that make the session's baseline; 0 for none.
        drift: whether it is watched for drift; needs the extra ``drift``.
        drift_delta: ADWIN's confidence parameter: the smaller, the fewer and later the alarms.
    """

    prior: bool = False
    prior_bound: float = 3.0
    prior_strength: int = 60
    prior_memory: int = 400
    baseline_windows: int = 0
    drift: bool = False
    drift_delta: float = 0.002

    def check(self) -> str | None:
        if not 1.0 < self.prior_bound <= MAX_BOUND:
            return f"prior_bound is above 1, at most {MAX_BOUND:g}, not {self.prior_bound:g}"
        if self.prior_strength < 1:
            return f"prior_strength is 1 or more, not {self.prior_strength}"
        if not 1 <= self.prior_memory <= MAX_MEMORY:
            return f"prior_memory is 1 to {MAX_MEMORY}, not {self.prior_memory}"
        if not 0 <= self.baseline_windows <= MAX_BASELINE:
            return f"baseline_windows is 0 to {MAX_BASELINE}, not {self.baseline_windows}"
        if not 0.0 < self.drift_delta < 1.0:
            return f"drift_delta lies between 0 and 1, not {self.drift_delta:g}"
        return None

    @property
    def off(self) -> bool:
        """Whether nothing at all is adapted or watched."""
        return not (self.prior or self.baseline_windows or self.drift)
