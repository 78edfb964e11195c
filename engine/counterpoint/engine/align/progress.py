"""How far a source has come, and how a cell-wise modality stands in a window."""

from __future__ import annotations

from dataclasses import dataclass, field

from counterpoint.engine.align.window import AlignSpec, Part, State, Tally
from counterpoint.streams.types import ClockUpdate, Tier

_MS = 1_000_000


@dataclass(slots=True)
class Progress:
    """What is known of one source. ``last_arrival_ns`` starts at the origin.

    ``required``: windows wait for it. ``heartbeats``: it has sent a `Bound`.
    """

    name: str
    required: bool = True
    last_arrival_ns: int = 0
    bound_ns: int = 0
    ended: bool = False
    error: str | None = None
    heartbeats: bool = False
    tier: Tier = Tier.MEDIA
    error_ns: int = 0
    epoch: int = 0

    def clock(self, update: ClockUpdate, floor_ns: int) -> bool:
        """Take what is said of the source's clock; gives whether the clock broke.

        A break takes the bound back to ``floor_ns``, and a source that had ended is back. What is
        said of an earlier epoch is ignored.
        """
        if update.epoch < self.epoch:
            return False
        broke = update.epoch > self.epoch
        self.tier, self.error_ns, self.epoch = update.tier, update.error_ns, update.epoch
        if broke:
            self.bound_ns = min(self.bound_ns, floor_ns)
            self.ended, self.error = False, None
        return broke

    def ended_reason(self) -> str:
        return "ended" if self.error is None else f"ended: {self.error}"

    def end(self, error: str | None) -> None:
        """Nothing more will come. Only the first end counts."""
        if not self.ended:
            self.ended = True
            self.error = error


@dataclass(slots=True)
class Tallies:
    """The counters of one source while they grow; see `Tally`."""

    received: int = 0
    used: int = 0
    late: int = 0
    duplicate: int = 0
    not_sampled: int = 0
    out_of_range: int = 0

    def snapshot(self, in_flight: int) -> Tally:
        return Tally(
            received=self.received,
            used=self.used,
            late=self.late,
            duplicate=self.duplicate,
            not_sampled=self.not_sampled,
            out_of_range=self.out_of_range,
            in_flight=in_flight,
        )


@dataclass(slots=True)
class Ledger:
    """Running totals over sealed cells, so that a window's coverage costs the same for any context.

    For each sealed cell that a window to come can begin or end with: the units (instants or
    samples) with content from the origin up to the cell's end, and the time of the newest one.
    """

    totals: dict[int, tuple[int, int | None]] = field(default_factory=lambda: {0: (0, None)})
    last: int = 0

    def add(self, units: int, newest_ns: int | None) -> None:
        """Append the next cell; ``newest_ns`` is None where it is empty."""
        total, newest = self.totals[self.last]
        self.last += 1
        self.totals[self.last] = (total + units, newest if newest_ns is None else newest_ns)

    def amend(self, index: int, units: int, newest_ns: int) -> None:
        """Cell ``index`` got ``units`` more; its newest content is of ``newest_ns`` now.

        Content of a cell is only ever added or replaced by newer content.
        """
        for cell in range(index, self.last + 1):
            total, newest = self.totals[cell]
            if newest is None or newest < newest_ns:
                newest = newest_ns
            self.totals[cell] = (total + units, newest)

    def content(self, cells: range) -> tuple[int, int | None]:
        """Units in ``cells``, and the time of the newest content among them, if any."""
        if not cells:
            return 0, None
        total, newest = self.totals[cells[-1]]
        units = total - self.totals[cells[0] - 1][0]
        return units, newest if units else None

    def forget(self, index: int) -> None:
        """Drop the entry of a cell that no window to come will begin after."""
        self.totals.pop(index, None)


def stand(
    spec: AlignSpec,
    progress: Progress | None,
    *,
    start_ns: int,
    end_ns: int,
    now_ns: int,
    coverage: float,
    newest_ns: int | None,
    satisfied: bool,
) -> Part:
    """How video or audio stands in the window ``[start_ns, end_ns)``: the table of `State`.

    Args:
        satisfied: the content is all that was asked for (the rows "present").
        newest_ns: time of the newest content, None when empty.
    """
    complete = False
    reason: str | None = None
    if progress is None:
        state, reason = State.MISSING, "no source"
    else:
        complete = progress.ended or progress.bound_ns >= end_ns
        quiet_ns = now_ns - progress.last_arrival_ns
        if progress.ended and newest_ns is None:
            state, reason = State.MISSING, progress.ended_reason()
        elif not complete and quiet_ns >= spec.idle_ns:
            state = State.STALLED if quiet_ns >= spec.stalled_ns else State.IDLE
            reason = f"nothing arrived for {quiet_ns // _MS} ms"
        elif not complete:
            state = State.PARTIAL
            reason = "incomplete " + (
                "at the deadline" if progress.required else "when the window was given"
            )
        elif newest_ns is None:
            state, reason = State.SILENT, "nothing in the context"
        elif satisfied:
            state = State.PRESENT
        else:
            state = State.PARTIAL
            reason = progress.ended_reason() if progress.ended else "gaps"
    return Part(
        start_ns=start_ns,
        state=state,
        reason=reason,
        coverage=coverage,
        age_ns=None if newest_ns is None else end_ns - newest_ns,
        complete=complete,
    )
