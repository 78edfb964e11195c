"""A mapping from one clock to another: a straight line beside the diagonal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """``y = y_ns + (x - x_ns) * (1 + rate)``, near its anchor.

    The diagonal is integer arithmetic and only the small departure from it is a float, so that
    nothing is lost however far both clocks are from zero (NTP time is 4e18 ns): with a rate of
    2e-3 the departure is exact to a nanosecond for more than a month around the anchor.

    Fields:
        x_ns, y_ns: the anchor, in either clock.
        rate: departure of y's rate from x's, 1e-6 is one part per million.
    """

    x_ns: int
    y_ns: int
    rate: float = 0.0

    def at(self, x_ns: int) -> int:
        """The y of an x."""
        run_ns = x_ns - self.x_ns
        return self.y_ns + run_ns + round(run_ns * self.rate)

    def then(self, after: Line) -> Line:
        """This line, then another: one line from this x to that y."""
        return Line(
            x_ns=self.x_ns,
            y_ns=after.at(self.y_ns),
            rate=self.rate + after.rate + self.rate * after.rate,
        )
