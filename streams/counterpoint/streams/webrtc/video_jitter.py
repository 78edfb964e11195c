"""Packets of a video track in, whole frames out: limited in time, packets and bytes. Pure.

A frame leaves the moment its last packet (the marker bit, RFC 3550 section 5.1) and all before it
are there; it does not wait for the next one. A packet waits for an earlier one no longer than the
limit; then the frames that lack it are given up, and so are all up to the next key frame, since
they build on each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from counterpoint.streams.types import NS_PER_S
from counterpoint.streams.webrtc.sequence import JitterCounts, PassedOver, Sequence

WAIT_NS = 100_000_000
MAX_PACKETS = 2_048
MAX_BYTES = 4 * 1024 * 1024
# A key frame takes the way to the sender and back; asking more often makes a bad link worse.
ASK_EVERY_NS = NS_PER_S
ASK_APART_NS = NS_PER_S // 2


class VideoPacket(NamedTuple):
    """One packet, its payload descriptor taken off.

    Fields:
        sequence: 0 to 65535.
        timestamp: 32 bits, the same for all packets of a frame.
        marker: the last packet of its frame.
        data: its part of the encoded frame; empty for padding.
        key: a key frame begins with it.
        arrived_ns: when it arrived.
        media_ns: the timestamp unwrapped; passed through.
    """

    sequence: int
    timestamp: int
    marker: bool
    data: bytes
    key: bool
    arrived_ns: int
    media_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFrame:
    """One whole frame.

    Fields:
        timestamp, media_ns: of its packets.
        key: it needs no other frame.
        data: to decode.
        arrived_ns: when the last of its packets arrived.
    """

    timestamp: int
    media_ns: int
    key: bool
    data: bytes
    arrived_ns: int


class VideoJitter:
    """The jitter buffer of one video track.

    Before the first key frame, and after a loss, frames are dropped until the next key frame
    begins; `key_wanted` says when to ask for one.

    Args:
        wait_ns: how long a packet may wait for an earlier one.
        max_packets, max_bytes: beyond these all that waits is given up.
    """

    def __init__(
        self, *, wait_ns: int = WAIT_NS, max_packets: int = MAX_PACKETS, max_bytes: int = MAX_BYTES
    ) -> None:
        self.counts = JitterCounts()
        self._wait_ns = wait_ns
        self._max_packets = max_packets
        self._max_bytes = max_bytes
        self._packets: dict[int, VideoPacket] = {}
        self._bytes = 0
        self._key_starts: set[int] = set()
        self._needs_key = True
        self._ask_ns: int | None = None
        self._asked_ns: int | None = None
        self._given_up_timestamp: int | None = None
        self._begin()

    def _begin(self) -> None:
        self._sequence = Sequence()
        self._passed_over = PassedOver()
        self._newest = -1
        self.given_up_media_ns = -1  # of the newest frame that was given up
        # All below was used or given up. Until either happens the first packet may not be the
        # first to arrive.
        self._floor: int | None = None
        self._opening = True
        # Where the next frame begins: the floor, or the next key frame while one is needed.
        self._head: int | None = None
        self._scan = 0  # all from the head up to here is there and belongs to the head's frame
        self._gap: tuple[int, int] | None = None  # (missing number, until when it is waited for)

    @property
    def waiting(self) -> int:
        """Packets held."""
        return len(self._packets)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def add(self, packet: VideoPacket, now_ns: int) -> list[EncodedFrame]:
        """A packet arrived. Frames that are whole now, in order."""
        counts = self.counts
        counts.received += 1
        number = self._sequence.add(packet.sequence)
        if number is None:
            counts.late += 1
            return self.advance(now_ns)
        if self._sequence.restarted:
            self._give_up_all(now_ns)
            self._floor = number
        elif self._floor is None or (self._opening and number < self._floor):
            self._floor = number
        if number < self._floor or number in self._packets:
            if self._passed_over.take(number):
                counts.late += 1
            else:
                counts.duplicates += 1
            return self.advance(now_ns)
        self._insert(number, packet)
        if self._needs_key and self._ask_ns is None:
            self._ask_ns = now_ns + self._wait_ns
        frames = self.advance(now_ns)
        if self._is_over and self._needs_key:
            # First what can no longer be of use, unless it were the beginning of a key frame.
            self._give_up_below(self._newest if self._head is None else self._head)
        if self._is_over:
            self._give_up_all(now_ns)
        return frames

    def advance(self, now_ns: int) -> list[EncodedFrame]:
        """Time has gone on: what waited too long is given up. Frames that are whole now."""
        frames: list[EncodedFrame] = []
        while True:
            if self._needs_key:
                self._seek_key(now_ns)
            if self._head is None:
                return frames
            self._skip_padding(self._head)
            end = self._end_of_frame(self._head)
            if end is not None:
                frames.append(self._take(self._head, end))
            elif self._gap is not None and now_ns >= self._gap[1]:
                self._give_up_head(now_ns)
            else:
                return frames

    def lose(self, now_ns: int) -> None:
        """Frames from here on would be of no use to the decoder: go on with the next key frame."""
        self._needs_key = True
        self._ask_ns = now_ns
        if self._asked_ns is not None:
            self._ask_ns = max(now_ns, self._asked_ns + ASK_APART_NS)
        self._move_head(None)

    def restart(self, now_ns: int) -> None:
        """Another stream begins, with numbers of its own (a change of SSRC)."""
        self._give_up_all(now_ns)
        self._ask_ns = None
        self._begin()

    def key_wanted(self, now_ns: int) -> bool:
        """Whether to ask the sender for a key frame now; True at most once in half a second."""
        if not self._wants_key or self._ask_ns is None or now_ns < self._ask_ns:
            return False
        self._asked_ns = now_ns
        self._ask_ns = now_ns + ASK_EVERY_NS
        return True

    @property
    def next_wake_ns(self) -> int | None:
        """When to call `advance` and `key_wanted` again though nothing arrives; None: no need."""
        wakes = [] if self._gap is None else [self._gap[1]]
        if self._wants_key and self._ask_ns is not None:
            wakes.append(self._ask_ns)
        return min(wakes, default=None)

    @property
    def _wants_key(self) -> bool:
        """A key frame is needed and none is on its way."""
        return self._needs_key and self._head is None

    # -- frames --------------------------------------------------------------------------------

    def _skip_padding(self, head: int) -> None:
        """Padding between frames has numbers of its own and nothing in it."""
        while (packet := self._packets.get(head)) is not None and not packet.data:
            self._remove(head)
            self.counts.used += 1
            head += 1
            self._floor = head
            self._move_head(head)

    def _end_of_frame(self, head: int) -> int | None:
        """The number after the frame that begins at ``head``, if it is whole."""
        first = self._packets.get(head)
        while first is not None and (packet := self._packets.get(self._scan)) is not None:
            if packet.timestamp != first.timestamp:
                return self._scan
            self._scan += 1
            if packet.marker:
                return self._scan
        if self._newest < self._scan:
            self._gap = None
        elif self._gap is None or self._gap[0] != self._scan:
            behind = (p.arrived_ns for n, p in self._packets.items() if n > self._scan)
            self._gap = (self._scan, min(behind) + self._wait_ns)
        return None

    def _take(self, head: int, end: int) -> EncodedFrame:
        self._give_up_below(head)
        packets = [self._remove(number) for number in range(head, end)]
        self.counts.used += len(packets)
        self.counts.frames += 1
        self._floor = end
        self._opening = self._needs_key = False
        self._ask_ns = None
        self._move_head(end)
        return EncodedFrame(
            timestamp=packets[0].timestamp,
            media_ns=packets[0].media_ns,
            key=any(packet.key for packet in packets),
            data=b"".join([packet.data for packet in packets]),
            arrived_ns=max(packet.arrived_ns for packet in packets),
        )

    def _move_head(self, head: int | None) -> None:
        self._head = head
        self._scan = 0 if head is None else head
        self._gap = None

    @property
    def _is_over(self) -> bool:
        return len(self._packets) > self._max_packets or self._bytes > self._max_bytes

    # -- losses --------------------------------------------------------------------------------

    def _seek_key(self, now_ns: int) -> None:
        """Let the head be where the next key frame begins."""
        head = min(self._key_starts, default=None)
        if head != self._head:
            self._move_head(head)
        # Others are kept this long since a key frame's first packet may come after its second.
        due_ns = now_ns - self._wait_ns
        expired = [
            n
            for n, p in self._packets.items()
            if p.arrived_ns <= due_ns and (head is None or n < head)
        ]
        if expired:
            self._give_up_below(max(expired) + 1)

    def _give_up_head(self, now_ns: int) -> None:
        """The head's frame will not be whole: all before the next key frame goes."""
        missing = self._scan
        later = [number for number in self._key_starts if number > missing]
        self._give_up_below(min(later, default=missing + 1))
        self.lose(now_ns)

    def _give_up_all(self, now_ns: int) -> None:
        if self._floor is not None:
            self._give_up_below(self._newest + 1)
        self.lose(now_ns)

    def _give_up_below(self, end: int) -> None:
        """All below ``end`` is over; no key start of a later frame lies there."""
        assert self._floor is not None
        if end <= self._floor:
            return
        self._opening = False
        missing = [n for n in range(self._floor, end) if n not in self._packets]
        self.counts.lost += self._passed_over.add(missing, end)
        for number in sorted(n for n in self._packets if n < end):
            packet = self._remove(number)
            self.counts.given_up += 1
            if packet.data and packet.timestamp != self._given_up_timestamp:
                self._given_up_timestamp = packet.timestamp
                self.counts.frames_given_up += 1
                self.given_up_media_ns = packet.media_ns
        self._floor = end

    def _insert(self, number: int, packet: VideoPacket) -> None:
        self.counts.reordered += number < self._newest
        self._newest = max(self._newest, number)
        self._packets[number] = packet
        self._bytes += len(packet.data)
        if packet.key and packet.data:
            self._key_starts.add(number)

    def _remove(self, number: int) -> VideoPacket:
        packet = self._packets.pop(number)
        self._bytes -= len(packet.data)
        self._key_starts.discard(number)
        return packet
