"""Pictures and sound of one sender whose timestamps lie on one timeline of its own.

Both go through one line to the session's time, so that they stay together as the sender has them,
however differently their packets are delayed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from counterpoint.streams.clock.envelope import Envelope
from counterpoint.streams.clock.source_clock import SourceClock
from counterpoint.streams.types import NS_PER_S, ClockUpdate, Modality, Tier

# A sender that sets its timestamps back by more, or forth by more than time went on, begins anew.
BACK_NS: Final = NS_PER_S // 4
FORTH_NS: Final = 10 * NS_PER_S
# What the decoder still had of the timeline before a break.
STRAY_NS: Final = 5 * NS_PER_S


class SharedClock:
    """Session time by arrivals alone (tier arrival), for all streams of one sender.

    Args:
        source: whose clock.
        modalities: of its streams.
    """

    def __init__(self, source: str, modalities: Iterable[Modality]) -> None:
        self._envelope = Envelope()
        self._clocks = {modality: SourceClock(source, modality) for modality in modalities}
        self._packets: dict[Modality, tuple[int, int]] = {}  # the last one's media time, arrival
        self._placed: dict[Modality, int] = {}
        self._first: tuple[int, int] | None = None
        self.breaks = 0
        """How often the sender's timestamps began anew."""

    def packet(
        self, modality: Modality, media_ns: int, arrived_ns: int, *, decoded_ns: int | None = None
    ) -> None:
        """A packet arrived.

        Args:
            media_ns: its presentation time.
            arrived_ns: session time.
            decoded_ns: its decoding time, in the order of which packets come; None where it is
                the same.
        """
        order_ns = media_ns if decoded_ns is None else decoded_ns
        last = self._packets.get(modality)
        if last is not None:
            run_ns = order_ns - last[0]
            if run_ns < -BACK_NS or run_ns - (arrived_ns - last[1]) > FORTH_NS:
                self._break()
        self._packets[modality] = (order_ns, arrived_ns)
        if self._first is None:
            self._first = (order_ns, arrived_ns)
        # Presentation time: no sample may seem to be taken after it came.
        self._envelope.add(media_ns, arrived_ns)
        for clock in self._clocks.values():
            clock.offer(Tier.ARRIVAL, self._envelope.line, self._envelope.error_ns)

    def ahead_ns(self) -> int:
        """By how much more the media went on than time did, since the last break.

        A live stream that begins with what its server kept is ahead by that, once.
        """
        if self._first is None:
            return 0
        media_ns, arrived_ns = max(self._packets.values(), key=lambda packet: packet[1])
        return (media_ns - self._first[0]) - (arrived_ns - self._first[1])

    def late_ns(self, modality: Modality) -> int:
        """How much later the last packet came than the least delayed ones would have."""
        line = self._envelope.line
        if line is None or modality not in self._packets:
            return 0
        media_ns, arrived_ns = self._packets[modality]
        return arrived_ns - line.at(media_ns)

    def place(self, modality: Modality, media_ns: int) -> int | None:
        """Session time of a decoded sample; None where its timestamp goes back or strays."""
        packet = self._packets.get(modality)
        if packet is None or abs(media_ns - packet[0]) > STRAY_NS:
            return None
        last_ns = self._placed.get(modality)
        if last_ns is not None and media_ns <= last_ns:
            return None
        self._placed[modality] = media_ns
        return self._clocks[modality].map(media_ns)

    def take_update(self, modality: Modality) -> ClockUpdate | None:
        """What to say before the sample placed last, or None if nothing of weight changed."""
        return self._clocks[modality].take_update()

    def _break(self) -> None:
        self.breaks += 1
        self._envelope = Envelope()
        self._packets.clear()
        self._placed.clear()
        self._first = None
        for clock in self._clocks.values():
            clock.reconnect()
