"""Packets of an audio track in, the same in order out: limited in time. Pure.

A packet leaves at once when the one before it has left; nothing is held for the future. What is
missing is waited for no longer than the limit, and then said to be missing: what follows keeps its
own time, so the delay is back to what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from counterpoint.streams.webrtc.sequence import JitterCounts, PassedOver, Sequence

WAIT_NS = 40_000_000
MAX_PACKETS = 128


class AudioPacket(NamedTuple):
    """One packet: one run of sound.

    Fields:
        sequence: 0 to 65535.
        timestamp: 32 bits, of its first sample.
        data: the encoded sound; empty for padding.
        arrived_ns: when it arrived.
        media_ns: the timestamp unwrapped; passed through.
    """

    sequence: int
    timestamp: int
    data: bytes
    arrived_ns: int
    media_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioGap:
    """Sound that will not come, before the packet that is given next.

    Fields:
        packets: how many are missing.
    """

    packets: int


AudioPiece: TypeAlias = AudioPacket | AudioGap


class AudioJitter:
    """The jitter buffer of one audio track.

    Args:
        wait_ns: how long a packet may wait for an earlier one.
        max_packets: with more than these waiting, what they wait for is given up at once.
    """

    def __init__(self, *, wait_ns: int = WAIT_NS, max_packets: int = MAX_PACKETS) -> None:
        self.counts = JitterCounts()
        self._wait_ns = wait_ns
        self._max_packets = max_packets
        self._packets: dict[int, AudioPacket] = {}
        self._begin()

    def _begin(self) -> None:
        self._sequence = Sequence()
        self._passed_over = PassedOver()
        self._newest = -1
        self._next: int | None = None
        self._gap: tuple[int, int] | None = None  # (missing number, until when it is waited for)

    @property
    def waiting(self) -> int:
        """Packets held."""
        return len(self._packets)

    def add(self, packet: AudioPacket, now_ns: int) -> list[AudioPiece]:
        """A packet arrived. What can be played now, in order."""
        counts = self.counts
        counts.received += 1
        number = self._sequence.add(packet.sequence)
        if number is None:
            counts.late += 1
            return self.advance(now_ns)
        pieces: list[AudioPiece] = []
        if self._sequence.restarted:
            pieces = self._flush()
            self._next = number
        elif self._next is None:
            self._next = number
        if number < self._next or number in self._packets:
            if self._passed_over.take(number):
                counts.late += 1
            else:
                counts.duplicates += 1
            return pieces + self.advance(now_ns)
        counts.reordered += number < self._newest
        self._newest = max(self._newest, number)
        self._packets[number] = packet
        pieces += self.advance(now_ns)
        while len(self._packets) > self._max_packets:
            pieces += self._skip_gap()
            pieces += self._contiguous()
        return pieces

    def advance(self, now_ns: int) -> list[AudioPiece]:
        """Time has gone on: what was waited for too long is given up. What can be played now."""
        pieces: list[AudioPiece] = list(self._contiguous())
        while self._gap is not None and now_ns >= self._gap[1]:
            pieces += self._skip_gap()
            pieces += self._contiguous()
        return pieces

    def restart(self) -> list[AudioPiece]:
        """Another stream begins, with numbers of its own (a change of SSRC). What still waited."""
        pieces = self._flush()
        self._begin()
        return pieces

    @property
    def next_wake_ns(self) -> int | None:
        """When to call `advance` again though nothing arrives; None: no need."""
        return None if self._gap is None else self._gap[1]

    def _contiguous(self) -> list[AudioPacket]:
        """The packets that nothing is missing before; padding is left out."""
        found: list[AudioPacket] = []
        if self._next is None:
            return found
        while (packet := self._packets.pop(self._next, None)) is not None:
            self._next += 1
            self.counts.used += 1
            if packet.data:
                self.counts.frames += 1
                found.append(packet)
        if not self._packets:
            self._gap = None
        elif self._gap is None or self._gap[0] != self._next:
            first_ns = min(packet.arrived_ns for packet in self._packets.values())
            self._gap = (self._next, first_ns + self._wait_ns)
        return found

    def _skip_gap(self) -> list[AudioPiece]:
        """Go on with the first packet that waits."""
        assert self._next is not None
        first = min(self._packets)
        missing = range(self._next, first)
        self.counts.lost += self._passed_over.add(missing, first)
        self.counts.frames_given_up += 1
        self._next = first
        self._gap = None
        return [AudioGap(packets=len(missing))]

    def _flush(self) -> list[AudioPiece]:
        pieces: list[AudioPiece] = []
        while self._packets:
            pieces += self._skip_gap()
            pieces += self._contiguous()
        return pieces
