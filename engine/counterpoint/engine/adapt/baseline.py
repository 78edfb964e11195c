"""A session's baseline: what its first windows say on average, then fixed.

A face that looks sad at rest, a voice that always sounds angry to the model, a camera from below:
what is constant in a session shifts all its logits alike. The deviation from the baseline is what
is left. It is told beside the probabilities and changes none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

LEAST_PROBABILITY: Final = 1e-4
"""Below it all are alike: what is certain not to be would else drown the rest."""


class Baseline:
    """Mean log-probabilities of the first windows, for one head and set of modalities heard.

    Args:
        windows: how many make it.
    """

    def __init__(self, windows: int) -> None:
        if windows < 1:
            raise ValueError(f"a baseline needs a window or more, not {windows}")
        self._of = windows
        self._count = 0
        self._sums: list[float] = []

    @property
    def windows(self) -> int:
        """How many it rests on by now."""
        return self._count

    @property
    def frozen(self) -> bool:
        """Whether it has all its windows and changes no more."""
        return self._count >= self._of

    def learn(self, probabilities: Sequence[float]) -> None:
        """Take a window's probabilities (C,) in; once frozen, nothing happens."""
        if self.frozen:
            return
        values = centred(probabilities)
        self._sums = [a + b for a, b in zip(self._sums or [0.0] * len(values), values, strict=True)]
        self._count += 1

    def deviation(self, probabilities: Sequence[float]) -> tuple[float, ...] | None:
        """(C,) how much more than at the baseline each class is spoken for, in nats; sums to 0.

        None before it is frozen.
        """
        if not self.frozen:
            return None
        return tuple(
            value - total / self._count
            for value, total in zip(centred(probabilities), self._sums, strict=True)
        )


def centred(probabilities: Sequence[float]) -> list[float]:
    """(C,) log-probabilities less their mean: logits without what softmax does not see.

    The centred log-ratio of Aitchison 1982, "The Statistical Analysis of Compositional Data".
    """
    logs = [math.log(max(p, LEAST_PROBABILITY)) for p in probabilities]
    mean = sum(logs) / len(logs)
    return [value - mean for value in logs]
