"""One track of a peer: packets in, items out, at its own pace.

Packets and reports are only noted when they come, with the instant; all else happens in the track's
own task (`Track.pump`): jitter buffer, clock, and the decoder. So nothing that is wrong
with a track reaches aiortc's tasks, and nothing waits for the session, which takes what it can.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from counterpoint.streams.clock import RtpClock, SenderOffset
from counterpoint.streams.feed import Feed
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import AudioChunk, Bound, DropCounter, Modality, VideoFrame
from counterpoint.streams.webrtc.adapter import ReceivedTrack
from counterpoint.streams.webrtc.packets import RtpPacket, SenderReport
from counterpoint.streams.webrtc.sequence import JitterCounts
from counterpoint.streams.webrtc.settings import MS, TrackStats

MAX_INBOX = 4_096
MAX_ENCODED = 64
# A decoder further behind than this will not catch up by itself.
MAX_BEHIND_NS = 500 * MS
# WHIP clients open with up to a second of media at once, and the newest of it arrived with the
# least delay. So nothing is given a time before packets have stopped to arrive faster than they
# were made (by more than this), for so long; and after a second come what may.
CATCHING_UP_NS = 10 * MS
OPENING_NS = 100 * MS
MAX_OPENING_NS = 1_000 * MS
MAX_HELD = 128
DELAYS = 1_000

INBOX_FULL = "too many packets at once"
BEHIND = "decoder too slow"
STREAM_CHANGED = "another stream began"
TOO_OLD = "of a stream that is over"
TOO_EARLY = "before the session took it"
OTHER_RATE = "a codec of another clock rate"
HELD = "too much at the opening"


# From session time and number, what is handed over; None where there is nothing at that time.
Maker: TypeAlias = Callable[[int, int], VideoFrame | AudioChunk] | None


def rtp_rate_hz(codec: str) -> int:
    """Ticks a second of a codec's timestamps; its name in upper case."""
    match codec:
        case "OPUS":
            return 48_000
        case "G722" | "PCMU" | "PCMA":
            # G.722's clock runs at 8 kHz though it has 16 (RFC 3551, section 4.5.2).
            return 8_000
        case _:
            return 90_000


class Track(ABC):
    """What both kinds have in common.

    Args:
        name: of the source, for its items.
        received: where packets come from.
        offset: one for all tracks of the peer.
        drops: of the whole peer.
        on_begin: called with the first packet.
    """

    def __init__(
        self,
        name: str,
        modality: Modality,
        received: ReceivedTrack,
        *,
        runtime: Runtime,
        offset: SenderOffset,
        drops: DropCounter,
        on_begin: Callable[[], None],
    ) -> None:
        self.last_packet_ns: int | None = None
        self.said_bye = False
        self.reports = 0
        self.reports_taken = 0
        self._name = name
        self.modality = modality
        self._received = received
        self._runtime = runtime
        self._offset = offset
        self._drops = drops
        self._on_begin = on_begin
        self._own_drops = DropCounter()
        self._inbox: deque[tuple[int, RtpPacket | SenderReport]] = deque()
        self._wake = asyncio.Event()
        self._clock: RtpClock | None = None
        self._ssrc = -1
        self._codec = ""
        self._opening_ends_ns = 0
        self._opening_ends_at_most_ns = 0
        self._least_offset_ns = 0
        self._rate_hz = 0
        self._early_report: tuple[SenderReport, int] | None = None  # of a stream yet to come
        self._held: deque[tuple[int, int, Maker]] = deque()
        self._newest_media_ns = -1  # of what was given
        self._sequence = 0
        self._decoded = 0
        self._given_ns = 0  # session time of what was handed over last
        self._decode_errors = 0
        self._delays: deque[int] = deque(maxlen=DELAYS)
        received.on_packet = self._note_packet
        received.on_report = self._note_report
        received.on_bye = self._note_bye

    # -- as it comes ---------------------------------------------------------------------------

    def _note_packet(self, packet: RtpPacket) -> None:
        begins = self.last_packet_ns is None
        self.last_packet_ns = self._runtime.now_ns()
        self.said_bye = False
        self._keep(self.last_packet_ns, packet)
        if self._tells_something(packet):
            self._wake.set()
        if begins:
            self._on_begin()

    def _note_report(self, report: SenderReport) -> None:
        self._keep(self._runtime.now_ns(), report)
        self._wake.set()

    def _keep(self, now_ns: int, what: RtpPacket | SenderReport) -> None:
        if len(self._inbox) >= MAX_INBOX:
            self._inbox.popleft()
            self._drop(INBOX_FULL)
        self._inbox.append((now_ns, what))

    def _note_bye(self, ssrc: int) -> None:
        if ssrc == self._ssrc:
            self.said_bye = True

    # -- the track's own task ------------------------------------------------------------------

    async def pump(self, feed: Feed) -> None:
        """Give items until cancelled."""
        early = sum(isinstance(what, RtpPacket) for _, what in self._inbox)
        if early:
            self._drop(TOO_EARLY, early)
            self._inbox = deque(one for one in self._inbox if not isinstance(one[1], RtpPacket))
        while True:
            self._wake.clear()
            self._take_inbox(feed)
            await self._step(feed)
            if self._inbox or self._has_work:
                continue
            wake_ns = self._next_wake_ns()
            timer = None if wake_ns is None else self._runtime.call_at(wake_ns, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _take_inbox(self, feed: Feed) -> None:
        while self._inbox:
            now_ns, what = self._inbox.popleft()
            arrived_ns = feed.session_ns(now_ns)
            if isinstance(what, SenderReport):
                self.reports += 1
                self._take_report(what, arrived_ns)
            else:
                self._take_packet(what, now_ns, arrived_ns)

    def _take_report(self, report: SenderReport, arrived_ns: int) -> None:
        if self._clock is None or report.ssrc != self._ssrc:
            # FFmpeg's first report comes before its first packet, and the next 5 s later.
            self._early_report = (report, arrived_ns)
            return
        self.reports_taken += self._clock.report(
            report.ssrc, report.ntp, report.timestamp, arrived_ns
        )

    def _take_packet(self, packet: RtpPacket, now_ns: int, arrived_ns: int) -> None:
        rate_hz = rtp_rate_hz(packet.codec)
        if self._clock is None:
            self._rate_hz = rate_hz
            self._opening_ends_at_most_ns = now_ns + MAX_OPENING_NS
            self._clock = RtpClock(self._name, self.modality, rate_hz, self._offset)
        if rate_hz != self._rate_hz:
            self._drop(OTHER_RATE)
            return
        media_ns = self._clock.packet(packet.ssrc, packet.timestamp, arrived_ns)
        if media_ns is None:
            self._drop(TOO_OLD)
            return
        self._watch_opening(media_ns, now_ns)
        if packet.ssrc != self._ssrc:
            if self._ssrc >= 0:
                self._change_stream()
                if self._held:
                    self._drop(STREAM_CHANGED, len(self._held))
                    self._held.clear()
                self._newest_media_ns = -1
            self._ssrc = packet.ssrc
        if self._early_report is not None and self._early_report[0].ssrc == packet.ssrc:
            self._take_report(*self._early_report)
            self._early_report = None
        self._codec = packet.codec
        self._add(packet, media_ns, now_ns)

    def _watch_opening(self, media_ns: int, now_ns: int) -> None:
        """Let the opening go on while packets come faster than they were made."""
        if self._opening_ends_ns and now_ns >= self._opening_ends_ns:
            return
        offset_ns = now_ns - media_ns
        if not self._opening_ends_ns or offset_ns < self._least_offset_ns - CATCHING_UP_NS:
            self._least_offset_ns = offset_ns
            self._opening_ends_ns = min(now_ns + OPENING_NS, self._opening_ends_at_most_ns)

    def _give(self, media_ns: int, arrived_ns: int, make: Maker) -> None:
        """Hand over what was decoded, now or when the opening is over.

        Args:
            media_ns: as the clock gave it.
            arrived_ns: when a picture's last packet or the first of a run of sound arrived, of
                the runtime's clock.
            make: None says that there will be nothing up to then.
        """
        if len(self._held) >= MAX_HELD:
            self._held.popleft()
            self._drop(HELD)
        self._newest_media_ns = max(self._newest_media_ns, media_ns)
        self._held.append((media_ns, arrived_ns, make))

    def _release(self, feed: Feed) -> None:
        now_ns = self._runtime.now_ns()
        if self._clock is None or now_ns < self._opening_ends_ns:
            return
        while self._held:
            media_ns, arrived_ns, make = self._held.popleft()
            t_ns = self._clock.map(media_ns)
            update = self._clock.take_update()
            if update is not None:
                feed.put(update)
            if make is None:
                feed.put(Bound(source=self._name, modality=self.modality, t_ns=t_ns))
                continue
            feed.put(make(t_ns, self._sequence))
            self._given_ns = t_ns
            self._sequence += 1
            self._delays.append(self._runtime.now_ns() - arrived_ns)

    def _next_wake_ns(self) -> int | None:
        wakes = [self._jitter_wake_ns()]
        if self._held:
            wakes.append(self._opening_ends_ns)
        return min((wake for wake in wakes if wake is not None), default=None)

    def _drop(self, reason: str, count: int = 1) -> None:
        self._drops.add(f"{self.modality}: {reason}", count)
        self._own_drops.add(reason, count)

    def stats(self) -> TrackStats:
        """What became of it so far."""
        counts = self._counts
        clock = None if self._clock is None else self._clock.clock
        p50, p99 = np.percentile(self._delays, [50, 99]) if self._delays else (None, None)
        return TrackStats(
            codec=self._codec,
            tier=None if clock is None else clock.tier,
            error_ns=0 if clock is None else clock.error_ns,
            epoch=0 if clock is None else clock.epoch,
            packets=counts.received,
            duplicates=counts.duplicates,
            reordered=counts.reordered,
            lost=counts.lost,
            late=counts.late,
            given_up=counts.given_up,
            waiting=self._waiting + len(self._held),
            frames=self._sequence,
            decoded=self._decoded,
            frames_given_up=counts.frames_given_up,
            decode_errors=self._decode_errors,
            dropped=dict(self._own_drops.by_reason),
            delay_p50_ns=None if p50 is None else int(p50),
            delay_p99_ns=None if p99 is None else int(p99),
        )

    # -- of each kind --------------------------------------------------------------------------

    @property
    @abstractmethod
    def _counts(self) -> JitterCounts: ...

    @property
    @abstractmethod
    def _waiting(self) -> int:
        """Packets and frames that wait."""

    @property
    @abstractmethod
    def _has_work(self) -> bool:
        """There is something to decode."""

    @abstractmethod
    def _jitter_wake_ns(self) -> int | None:
        """When the jitter buffer is to be looked at again."""

    @abstractmethod
    def _tells_something(self, packet: RtpPacket) -> bool:
        """Whether there may be something to do because of it; else it can wait for the next."""

    @abstractmethod
    def _add(self, packet: RtpPacket, media_ns: int, now_ns: int) -> None:
        """A packet, to the jitter buffer."""

    @abstractmethod
    def _change_stream(self) -> None:
        """Another SSRC begins."""

    @abstractmethod
    async def _step(self, feed: Feed) -> None:
        """Decode at most one frame, and give what there is."""
