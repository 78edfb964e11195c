"""A line through a track's reports that neither a stray report nor lost sound bends for long.

Least squares alone would: where a sender loses 20 ms of sound before it is stamped, all its later
reports lie 20 ms off the earlier ones, and a line through 20 reports, one each five seconds, takes
a minute and more to follow (measured with Chromium on a busy machine: sound up to 20 ms off).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, TypeAlias

from counterpoint.streams.clock.line import Line
from counterpoint.streams.types import NS_PER_S

Point: TypeAlias = tuple[int, int]
"""A report: its track's media time and the sender's time."""

MIN_SPAN_NS: Final = NS_PER_S
MAX_SLOPE: Final = 1e-3
# A report that is less off than this, or than four times what is usual, is not stray.
STRAY_NS: Final = 5_000_000
USUAL: Final = 4
# Two reports that are off by the same, to this, are no accident.
AGREEING_NS: Final = 2_000_000


def fit(points: Sequence[Point]) -> tuple[Line, int] | None:
    """Least squares over all points but stray ones.

    Returns:
        The line, and how far the points lie from it at most, the last one included though it be
        stray. None where they span less than a second, or the line's slope departs from 1 by more
        than a thousandth.
    """
    runs, rises = _centred(points)
    if max(runs) - min(runs) < MIN_SPAN_NS:
        return None
    everything = list(range(len(runs)))
    for used in (_not_stray(runs, rises), everything):
        rate, intercept = _least_squares([runs[n] for n in used], [rises[n] for n in used])
        if abs(rate) <= MAX_SLOPE:
            break
    else:
        return None
    told = {*used, len(points) - 1}
    error_ns = max(abs(rises[n] - rate * runs[n] - intercept) for n in told)
    x0, y0 = points[-1]
    return Line(x_ns=x0, y_ns=y0 + round(intercept), rate=rate), round(error_ns)


def relevelled(points: Sequence[Point]) -> int:
    """By how much all points but the last two are to be moved, to lie on one line with those.

    Not 0 where the last two lie off the others' line on the same side, by the same, and by more
    than is usual: the track lost something. What the others say of the rate stays of use.
    """
    if len(points) < 3:
        return 0
    runs, rises = _centred(points)
    rate = _rate(runs[:-2], rises[:-2])
    levels = [rise - rate * run for run, rise in zip(runs, rises, strict=True)]
    level, noise = _middle(levels[:-2])
    first, second = levels[-2] - level, levels[-1] - level
    # One or two points say nothing of the rate that one could count on.
    unknown_ns = MAX_SLOPE * (runs[-1] - runs[0]) if len(points) < 5 else 0.0
    least_ns = max(STRAY_NS + unknown_ns, USUAL * noise)
    if abs(first - second) > AGREEING_NS or min(abs(first), abs(second)) <= least_ns:
        return 0
    return round((first + second) / 2)


def _least_squares(runs: Sequence[int], rises: Sequence[int]) -> tuple[float, float]:
    """Slope and intercept. In integers: sums of centred values are exact."""
    count, sum_x, sum_y = len(runs), sum(runs), sum(rises)
    spread = count * sum(x * x for x in runs) - sum_x * sum_x
    joint = count * sum(x * y for x, y in zip(runs, rises, strict=True)) - sum_x * sum_y
    rate = joint / spread
    return rate, (sum_y - rate * sum_x) / count


def _centred(points: Sequence[Point]) -> tuple[list[int], list[int]]:
    """Media times from the last one on, and by how much the sender's time departs from them."""
    x0, y0 = points[-1]
    return [x - x0 for x, _ in points], [y - y0 - (x - x0) for x, y in points]


def _not_stray(runs: list[int], rises: list[int]) -> list[int]:
    """Indices of what to fit; all where what is left would be too little."""
    everything = list(range(len(runs)))
    rate = _rate(runs, rises)
    levels = [rise - rate * run for run, rise in zip(runs, rises, strict=True)]
    level, noise = _middle(levels)
    most_ns = max(STRAY_NS, USUAL * noise)
    usual = [n for n in everything if abs(levels[n] - level) <= most_ns]
    span_ns = max((runs[n] for n in usual), default=0) - min((runs[n] for n in usual), default=0)
    return usual if span_ns >= MIN_SPAN_NS else everything


def _rate(runs: Sequence[int], rises: Sequence[int]) -> float:
    """The median slope between any two (Theil and Sen); 0 where it cannot be a clock's."""
    slopes = [
        (rises[b] - rises[a]) / (runs[b] - runs[a])
        for a in range(len(runs))
        for b in range(a + 1, len(runs))
        if runs[b] > runs[a]
    ]
    rate = median(slopes) if slopes else 0.0
    return rate if abs(rate) <= MAX_SLOPE else 0.0


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The median, and the median distance from it."""
    middle = median(values)
    return middle, median(abs(value - middle) for value in values)
