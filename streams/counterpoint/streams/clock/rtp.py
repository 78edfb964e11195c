"""RTP and NTP timestamps as integers that do not wrap (RFC 3550, sections 4 and 5.1)."""

from __future__ import annotations

from counterpoint.streams.types import NS_PER_S


class Unwrap:
    """Timestamps modulo ``2 ** bits`` made continuous.

    Each is read as the value nearest to the greatest so far, so packets out of order are right as
    long as they are less than half a turn away (6.6 hours at 90 kHz). The first is taken as it is;
    one before it may be negative.
    """

    def __init__(self, bits: int = 32) -> None:
        self._turn = 1 << bits
        self._half = 1 << (bits - 1)
        self._greatest: int | None = None

    def add(self, value: int) -> int:
        """The continuous value, which later ones are read against."""
        continuous = self.near(value)
        if self._greatest is None or continuous > self._greatest:
            self._greatest = continuous
        return continuous

    def near(self, value: int) -> int:
        """The continuous value, without remembering it."""
        if not 0 <= value < self._turn:
            raise ValueError(f"timestamp must be from 0 to {self._turn - 1}, not {value}")
        if self._greatest is None:
            return value
        ahead = (value - self._greatest) % self._turn
        return self._greatest + (ahead - self._turn if ahead >= self._half else ahead)

    def forget(self) -> None:
        """Begin anew, as after a change of SSRC."""
        self._greatest = None


def ntp_to_ns(ntp: int) -> int:
    """A 64-bit NTP timestamp (32 bits of seconds since 1900, 32 of fraction) in nanoseconds.

    May be given unwrapped, past its era of 2 ** 32 seconds (which ends in 2036).
    """
    return (ntp * NS_PER_S + (1 << 31)) >> 32


def ticks_to_ns(ticks: int, rate_hz: int) -> int:
    """Ticks of a media clock in nanoseconds, rounded down; exact for any number of hours."""
    return ticks * NS_PER_S // rate_hz
