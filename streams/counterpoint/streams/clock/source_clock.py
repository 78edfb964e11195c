"""A source's session time: the best mapping there is, followed without jumps.

Mappings come and go (reports after a few seconds, a new line through the arrivals every three) and
none agrees with the one before it to the nanosecond. What is handed out follows at no more than
5 ms a second; only what is further off than 250 ms is taken at once, and is said by a new epoch.
"""

from __future__ import annotations

from counterpoint.streams.clock.line import Line
from counterpoint.streams.types import NS_PER_S, ClockUpdate, Modality, Tier

SLEW_NS_PER_S = 5_000_000
STEP_NS = 250_000_000
# An error has changed when it has doubled or halved, and by more than this.
ERROR_CHANGE_NS = 1_000_000
TIERS = tuple(Tier)


class SourceClock:
    """Media time in, session time out.

    Within an epoch mapped time never goes back for media time that does not, and it is never
    negative. Between two samples it departs from the active mapping's rate by at most 5 ms a
    second. A change of tier is a correction like any other.
    """

    def __init__(self, source: str, modality: Modality) -> None:
        self._source = source
        self._modality = modality
        self._offers: dict[Tier, tuple[Line, int]] = {}
        self._active: tuple[Tier, Line, int] | None = None
        self._media_ns = 0
        self._t_ns: int | None = None  # None before the first sample of an epoch
        self._left_ns = 0
        self._mapped = False
        self._broken = False
        self.epoch = 0
        self._told: tuple[Tier, int, int] | None = None

    @property
    def tier(self) -> Tier | None:
        """The mapping in use; None before there is one."""
        return None if self._active is None else self._active[0]

    @property
    def error_ns(self) -> int:
        """The mapping's stated error and what is still to be corrected."""
        return 0 if self._active is None else self._active[2] + self._left_ns

    def offer(self, tier: Tier, line: Line | None, error_ns: int = 0) -> None:
        """A tier's mapping from media time to session time as of now; None takes it away."""
        if line is None:
            self._offers.pop(tier, None)
        else:
            self._offers[tier] = (line, error_ns)
        # Without any, the last one holds: a clock does not stop because nobody speaks of it.
        for best in TIERS:
            if best in self._offers:
                self._active = (best, *self._offers[best])
                return

    def reconnect(self) -> None:
        """Media time begins anew: another connection or another SSRC. Mappings are forgotten."""
        self._offers.clear()
        self._active = None
        self._broken = self._broken or self._mapped
        self._t_ns = None
        self._left_ns = 0

    def map(self, media_ns: int) -> int:
        """Session time of a sample, nanoseconds.

        Samples may come out of order: one before the newest lies on the line as it is there and
        corrects nothing.

        Raises:
            ValueError: there is no mapping yet: offer one before the first sample.
        """
        if self._active is None:
            raise ValueError(f"{self._source}: no mapping yet; observe an arrival first")
        _, line, _ = self._active
        if self._broken:
            self.epoch += 1
            self._broken = False
        self._mapped = True
        target_ns = max(0, line.at(media_ns))
        if self._t_ns is None:
            return self._set(media_ns, target_ns, 0)
        run_ns = media_ns - self._media_ns
        on_ns = self._t_ns + run_ns + round(run_ns * line.rate)
        if run_ns <= 0:
            return max(0, on_ns)
        if target_ns == 0 and self._t_ns == 0:
            return self._set(media_ns, 0, 0)  # still before the session's beginning
        off_ns = target_ns - on_ns
        if abs(off_ns) > STEP_NS:
            self.epoch += 1
            return self._set(media_ns, target_ns, 0)
        most_ns = run_ns * SLEW_NS_PER_S // NS_PER_S
        slew_ns = max(-most_ns, min(off_ns, most_ns))
        return self._set(media_ns, on_ns + slew_ns, abs(off_ns - slew_ns))

    def _set(self, media_ns: int, t_ns: int, left_ns: int) -> int:
        self._media_ns, self._t_ns, self._left_ns = media_ns, t_ns, left_ns
        return t_ns

    def take_update(self) -> ClockUpdate | None:
        """What to say before the sample mapped last, or None if nothing of weight changed."""
        if self._active is None or self._t_ns is None:
            return None
        tier, error_ns = self._active[0], self.error_ns
        if self._told is not None:
            told_tier, told_ns, told_epoch = self._told
            less_ns, more_ns = sorted((told_ns, error_ns))
            steady = more_ns <= 2 * less_ns or more_ns - less_ns <= ERROR_CHANGE_NS
            if tier is told_tier and told_epoch == self.epoch and steady:
                return None
        self._told = (tier, error_ns, self.epoch)
        return ClockUpdate(
            source=self._source,
            modality=self._modality,
            t_ns=self._t_ns,
            tier=tier,
            error_ns=error_ns,
            epoch=self.epoch,
        )
