"""A chat's time: the server's stamp where its offset was probed, else the arrival.

A probe asks the server for its time; the answer lies somewhere within the round trip, so the probe
with the least round trip knows the offset best (Cristian, "Probabilistic clock synchronization",
1989).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from counterpoint.streams.types import NS_PER_S, ClockUpdate, Modality, Tier

PROBES = 16
MAX_AGE_NS = 600 * NS_PER_S
# What a probe's knowledge loses while it ages: two ordinary crystals against one another.
DRIFT = 100e-6
ARRIVAL_ERROR_NS = 500_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    at_ns: int
    offset_ns: int
    error_ns: int

    def error_at_ns(self, now_ns: int) -> int:
        return self.error_ns + round(max(0, now_ns - self.at_ns) * DRIFT)


class ChatClock:
    """Session time for a chat's lines. Holds at most 16 probes of at most ten minutes."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._probes: deque[_Probe] = deque(maxlen=PROBES)
        self._told: tuple[Tier, int] | None = None
        self._now: tuple[Tier, int, int] | None = None

    def probe(self, sent_ns: int, server_ns: int, received_ns: int) -> None:
        """A question for the server's time, asked and answered.

        Args:
            sent_ns, received_ns: when it was asked and answered, in session time.
            server_ns: what the server answered.

        Raises:
            ValueError: it was answered before it was asked.
        """
        round_trip_ns = received_ns - sent_ns
        if round_trip_ns < 0:
            raise ValueError(f"a probe sent at {sent_ns} cannot be received at {received_ns}")
        middle_ns = sent_ns + round_trip_ns // 2
        self._probes.append(
            _Probe(
                at_ns=received_ns,
                offset_ns=middle_ns - server_ns,
                error_ns=round_trip_ns // 2 + 1,
            )
        )

    def stamp(self, server_ns: int | None, arrived_ns: int) -> int:
        """Session time of a line: never after it arrived, never negative.

        Args:
            server_ns: the server's stamp, None where the line has none.
            arrived_ns: when the line arrived, in session time.
        """
        while self._probes and arrived_ns - self._probes[0].at_ns > MAX_AGE_NS:
            self._probes.popleft()
        if server_ns is None or not self._probes:
            t_ns, tier, error_ns = arrived_ns, Tier.ARRIVAL, ARRIVAL_ERROR_NS
        else:
            best = min(self._probes, key=lambda probe: probe.error_at_ns(arrived_ns))
            t_ns = server_ns + best.offset_ns
            tier, error_ns = Tier.SERVER, best.error_at_ns(arrived_ns)
        t_ns = max(0, min(t_ns, arrived_ns))
        self._now = (tier, error_ns, t_ns)
        return t_ns

    def take_update(self) -> ClockUpdate | None:
        """What to say before the line stamped last, or None if nothing of weight changed."""
        if self._now is None:
            return None
        tier, error_ns, t_ns = self._now
        if self._told is not None:
            told_tier, told_ns = self._told
            if tier is told_tier and told_ns <= 2 * error_ns and error_ns <= 2 * told_ns:
                return None
        self._told = (tier, error_ns)
        return ClockUpdate(
            source=self._source, modality=Modality.CHAT, t_ns=t_ns, tier=tier, error_ns=error_ns
        )
