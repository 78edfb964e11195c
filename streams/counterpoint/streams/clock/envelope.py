"""The lower envelope of arrivals: what a source's clock says of the session's, by arrivals alone.

Packets are delayed by the path at least, and by queues on top of it; the least delayed packet of a
few seconds tells the offset between both clocks (plus the path's delay, which one side alone cannot
see), and how that changes tells their rates. The minimum of each bin of three seconds is kept for
thirty; a line through the minima after Theil and Sen (the median of all slopes, then the median
of what remains) is moved by a few delayed bins no further than by none.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from counterpoint.streams.clock.line import Line

BIN_NS = 3_000_000_000
BINS = 10
# Crystals are off by 500 ppm at worst; what seems more is the noise of a young estimate.
MAX_RATE = 2e-3
# Stated while there is no second bin to compare the first with.
FIRST_ERROR_NS = 50_000_000


class Envelope:
    """The line from a source's time to the session's through its least delayed arrivals.

    Holds at most ``bins`` pairs. A line is computed when a bin ends, not for each packet; before
    the second bin has ended it is the running minimum with no rate.
    """

    def __init__(self, *, bin_ns: int = BIN_NS, bins: int = BINS) -> None:
        if bin_ns <= 0 or bins < 2:
            raise ValueError(f"bin_ns must be positive and bins at least 2, not {bin_ns}, {bins}")
        self._bin_ns = bin_ns
        self._keep_ns = bin_ns * bins
        self._minima: deque[tuple[int, int]] = deque(maxlen=bins)
        self._bin_from_ns = 0
        self._least: tuple[int, int] | None = None  # (offset, media time) of the open bin
        self._line: Line | None = None
        self._fitted = False
        self._error_ns = FIRST_ERROR_NS

    @property
    def line(self) -> Line | None:
        """From the source's time to the session's; None before the first arrival."""
        return self._line

    @property
    def error_ns(self) -> int:
        """How far the minima lie from the line at most, 50 ms before there are two of them."""
        return self._error_ns

    def add(self, media_ns: int, arrived_ns: int) -> bool:
        """One arrival. True if the line is another now.

        Args:
            media_ns: the source's time of what arrived.
            arrived_ns: when it arrived, in session time.
        """
        least = (arrived_ns - media_ns, media_ns)
        if self._least is None:
            self._bin_from_ns = arrived_ns
            self._least = least
            if self._line is None:
                self._line = Line(x_ns=media_ns, y_ns=arrived_ns)
                return True
            return False
        if arrived_ns - self._bin_from_ns >= self._bin_ns:
            self._minima.append((self._least[1], self._least[0]))
            gone = (arrived_ns - self._bin_from_ns) // self._bin_ns
            self._bin_from_ns += gone * self._bin_ns
            self._least = least
            return self._fit(arrived_ns)
        if least[0] < self._least[0]:
            self._least = least
            if not self._fitted and self._line is not None:
                start = self._line.y_ns - self._line.x_ns
                if least[0] < start:
                    self._line = Line(x_ns=media_ns, y_ns=arrived_ns)
                    return True
        return False

    def _fit(self, now_ns: int) -> bool:
        minima = self._minima
        while minima and now_ns - (minima[0][0] + minima[0][1]) > self._keep_ns + self._bin_ns:
            minima.popleft()
        if len(minima) < 2:
            return False
        x0, y0 = minima[-1]
        points = [(x - x0, y - y0) for x, y in minima]
        slopes = [
            (yb - ya) / (xb - xa)
            for a, (xa, ya) in enumerate(points)
            for xb, yb in points[a + 1 :]
            # The minima of neighbouring bins may lie side by side, which says nothing of a rate.
            if 2 * (xb - xa) >= self._bin_ns
        ]
        rate = max(-MAX_RATE, min(median(slopes), MAX_RATE)) if slopes else 0.0
        offset = median(y - x * rate for x, y in points)
        self._line = Line(x_ns=x0, y_ns=x0 + y0 + round(offset), rate=rate)
        self._error_ns = round(max(abs(y - x * rate - offset) for x, y in points))
        if len(points) == 2:
            # A line through two points always fits.
            self._error_ns = max(self._error_ns, FIRST_ERROR_NS // 10)
        self._fitted = True
        return True
