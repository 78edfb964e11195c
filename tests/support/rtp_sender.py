"""A sender of RTP tracks with known truth: drifting clocks, jitter, loss, reordering, reports."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from counterpoint.streams.types import NS_PER_S

MS = 1_000_000
# The year 2023, so that NTP time is as large as it really is.
SENDER_EPOCH_NS = 3_900_000_000 * NS_PER_S


def ns_to_ntp(ns: int) -> int:
    return (ns << 32) // NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """What arrives: at ``arrived_ns``, with a timestamp taken at ``true_ns`` of session time."""

    arrived_ns: int
    true_ns: int
    timestamp: int
    ntp: int | None = None  # of a report; None for media


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One track of a sender, ``media_ppm`` fast; the sender's own clock is ``sender_ppm`` fast."""

    name: str
    rate_hz: int
    media_ppm: int = 0
    sender_ppm: int = 0
    first_timestamp: int = 0
    every_ns: int = 100 * MS
    reports_from_ns: int | None = NS_PER_S
    reports_every_ns: int = 5_300 * MS
    path_ns: int = 20 * MS
    jitter_ns: int = 10 * MS
    loss: float = 0.0
    late: float = 0.0  # share of packets that come 250 ms later, so after their successors
    seed: int = 0

    def timestamp(self, true_ns: int) -> int:
        ticks = true_ns * self.rate_hz * (1_000_000 + self.media_ppm) // (NS_PER_S * 1_000_000)
        return (self.first_timestamp + ticks) % (1 << 32)

    def ntp(self, true_ns: int) -> int:
        return ns_to_ntp(SENDER_EPOCH_NS + true_ns + true_ns * self.sender_ppm // 1_000_000)

    def packets(self, until_ns: int) -> Iterator[Packet]:
        """Media and reports in order of arrival."""
        rng = random.Random(f"{self.seed}/{self.name}")
        held: list[Packet] = []
        report_ns = self.reports_from_ns
        for true_ns in range(0, until_ns, self.every_ns):
            if report_ns is not None and true_ns >= report_ns:
                report_ns += self.reports_every_ns
                held.append(self._packet(true_ns, rng, report=True))
            if rng.random() >= self.loss:
                held.append(self._packet(true_ns, rng))
            due = [p for p in held if p.arrived_ns <= true_ns]
            if due:
                held = [p for p in held if p.arrived_ns > true_ns]
                yield from sorted(due, key=lambda p: p.arrived_ns)
        yield from sorted(held, key=lambda p: p.arrived_ns)

    def _packet(self, true_ns: int, rng: random.Random, *, report: bool = False) -> Packet:
        delay_ns = self.path_ns + int(rng.random() * self.jitter_ns)
        if not report and self.late and rng.random() < self.late:
            delay_ns += 250 * MS
        return Packet(
            arrived_ns=true_ns + delay_ns,
            true_ns=true_ns,
            timestamp=self.timestamp(true_ns),
            ntp=self.ntp(true_ns) if report else None,
        )
