"""Prior adaptation: probabilities follow how often a session shows each class, within bounds.

Saerens, Latinne & Decaestecker 2002, "Adjusting the Outputs of a Classifier to New a Priori
Probabilities: A Simple Procedure", Neural Computation 14(1): expectation maximisation on calibrated
outputs, and their likelihood ratio test, without which nothing is changed. Here the maximum is that
under a Dirichlet prior around the bundle's shares, and within bounds. Only unadapted outputs are
learned from, so that what was adapted cannot confirm itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

LEAST_SHARE: Final = 1e-3
"""Of a class in the bundle's data, so that no ratio of shares is infinite."""
ITERATIONS: Final = 20
"""Of expectation and maximisation after each observation; the last result is where it starts."""
_QUANTILE: Final = 3.090232
"""Standard normal quantile of 0.999: how sure the test has to be."""
_CONVERGED: Final = 1e-5

Floats = npt.NDArray[np.float64]


class PriorEstimate:
    """The shares of the classes in one session, for one head and one set of modalities heard.

    Args:
        base: (C,) the classes' shares in the data to which the outputs are calibrated.
        bound: a share lies between ``base / bound`` and ``base * bound``.
        strength: observations that ``base`` counts for.
        memory: observations that are remembered.
    """

    def __init__(self, base: Sequence[float], *, bound: float, strength: int, memory: int) -> None:
        self._base = floored(base)
        self._low = self._base / bound
        self._high = np.minimum(self._base * bound, 1.0)
        self._strength = strength
        self._ratios = np.empty((memory, len(self._base)), np.float64)  # a ring
        self._seen = 0
        self._shares = self._base
        self._applied = False
        self._critical = chi_square_quantile(len(self._base) - 1)

    @property
    def base(self) -> tuple[float, ...]:
        """(C,) shares to which the outputs are calibrated."""
        return tuple(self._base.tolist())

    @property
    def shares(self) -> tuple[float, ...]:
        """(C,) the session's, as far as known; within the bounds, summing to 1."""
        return tuple(self._shares.tolist())

    @property
    def observations(self) -> int:
        """How many the estimate rests on."""
        return min(self._seen, len(self._ratios))

    @property
    def applied(self) -> bool:
        """Whether the observations speak so clearly against ``base`` that `adjust` does something.

        That is: by a likelihood ratio test at the level 0.001.
        """
        return self._applied

    def observe(self, probabilities: Sequence[float]) -> None:
        """Learn from one calibrated, unadapted output (C,). It shares no data with others."""
        place = self._seen % len(self._ratios)
        self._ratios[place] = np.array(probabilities, np.float64) / self._base
        self._seen += 1
        ratios = self._ratios[: self.observations]
        shares = self._shares
        # Sums along an axis, no matrix products: the same bits whatever BLAS there is.
        for _ in range(ITERATIONS):
            joint = ratios * shares
            expected = (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0)
            wanted = expected + self._strength * self._base
            before, shares = shares, bounded(wanted, self._low, self._high)
            if np.abs(shares - before).max() < _CONVERGED:
                break
        self._shares = shares
        gain = np.log((ratios * shares).sum(axis=1)) - np.log((ratios * self._base).sum(axis=1))
        self._applied = bool(2 * gain.sum() > self._critical)

    def adjust(self, probabilities: tuple[float, ...]) -> tuple[float, ...]:
        """The output (C,) as it would be calibrated to the session's shares; sums to 1.

        While not `applied` it is the very same tuple.
        """
        if not self._applied:
            return probabilities
        weighted = [
            p * share / base
            for p, share, base in zip(
                probabilities, self._shares.tolist(), self._base.tolist(), strict=True
            )
        ]
        total = sum(weighted)
        return tuple(value / total for value in weighted)


def floored(shares: Sequence[float]) -> Floats:
    """(C,) shares, none below `LEAST_SHARE` (nearly), summing to 1."""
    raised = np.maximum(np.array(shares, np.float64), LEAST_SHARE)
    result: Floats = raised / raised.sum()
    return result


def bounded(wanted: Floats, low: Floats, high: Floats) -> Floats:
    """The shares (C,) within ``low`` and ``high`` that maximise ``sum(wanted * log(shares))``.

    They are ``clip(c * wanted, low, high)`` for the ``c`` at which they sum to 1 (the Karush-Kuhn-
    Tucker conditions say so). The sum is piecewise linear in ``c``, with a kink where a share meets
    a bound. ``low`` sums to less than 1, ``high`` to more, ``wanted`` is positive.
    """
    # A handful of numbers: Python's own are faster than an array's way in and out.
    terms: list[tuple[float, float, float]] = list(
        zip(wanted.tolist(), low.tolist(), high.tolist(), strict=True)
    )

    def total(c: float) -> float:
        return sum(min(max(c * want, least), most) for want, least, most in terms)

    kinks = sorted(bound / want for want, least, most in terms for bound in (least, most))
    above = next((at for at, c in enumerate(kinks) if total(c) >= 1.0), len(kinks) - 1)
    left, right = kinks[max(above - 1, 0)], kinks[above]
    at_left, at_right = total(left), total(right)
    c = (
        right
        if at_right <= at_left
        else left + (1 - at_left) / (at_right - at_left) * (right - left)
    )
    return np.array([min(max(c * want, least), most) for want, least, most in terms])


def chi_square_quantile(freedom: int) -> float:
    """Quantile 0.999 of the chi-square distribution.

    Wilson & Hilferty 1931, "The Distribution of Chi-Square": at most 4 % too high.
    """
    part = 2 / (9 * freedom)
    return freedom * (1 - part + _QUANTILE * math.sqrt(part)) ** 3
