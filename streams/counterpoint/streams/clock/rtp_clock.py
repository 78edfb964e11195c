"""One RTP track on the session timeline: packets and reports in, session time out."""

from __future__ import annotations

from counterpoint.streams.clock.envelope import Envelope
from counterpoint.streams.clock.line import Line
from counterpoint.streams.clock.reports import SenderOffset, SenderReports
from counterpoint.streams.clock.rtp import Unwrap, ticks_to_ns
from counterpoint.streams.clock.source_clock import SourceClock
from counterpoint.streams.types import NS_PER_S, ClockUpdate, Modality, Tier

# Reports come every few seconds; a line nobody confirmed for this long is not trusted further.
REPORTS_EXPIRE_NS = 60 * NS_PER_S
# Packets of the SSRC before may still come this long after a change.
RETIRED_NS = 2 * NS_PER_S


class RtpClock:
    """The clock of one track.

    Until the sender's reports are accepted it goes by arrivals, and says so. Session time is for
    what `packet` returned for it, so that a packet of an SSRC that is gone is told apart.
    """

    def __init__(self, source: str, modality: Modality, rate_hz: int, offset: SenderOffset) -> None:
        """A track's clock.

        Args:
            source, modality: whose clock.
            rate_hz: ticks a second of its RTP timestamps.
            offset: one for all tracks of the session.
        """
        if rate_hz <= 0:
            raise ValueError(f"rate_hz must be positive, not {rate_hz}")
        self.clock = SourceClock(source, modality)
        self._rate_hz = rate_hz
        self._unwrap = Unwrap()
        self._envelope = Envelope()
        self._offset = offset
        self._seen: Line | None = None
        self._reports = SenderReports(offset)
        self._ssrc: int | None = None
        self._retired = (-1, 0)  # (SSRC, until)
        self._reported_ns = 0

    def packet(self, ssrc: int, timestamp: int, arrived_ns: int) -> int | None:
        """A packet arrived: its media time, which `map` takes. None: of an SSRC that is gone.

        Args:
            ssrc, timestamp: from its header.
            arrived_ns: when it arrived, in session time.
        """
        if ssrc != self._ssrc:
            gone, until_ns = self._retired
            if ssrc == gone and arrived_ns < until_ns:
                return None
            if self._ssrc is not None:
                self._retired = (self._ssrc, arrived_ns + RETIRED_NS)
                self.reconnect()
            self._ssrc = ssrc
        media_ns = ticks_to_ns(self._unwrap.add(timestamp), self._rate_hz)
        if (sender_line := self._reports.sender_line) is not None:
            self._offset.packet(sender_line.at(media_ns), arrived_ns)
        if self._envelope.add(media_ns, arrived_ns):
            self.clock.offer(Tier.ARRIVAL, self._envelope.line, self._envelope.error_ns)
            self._offer_reports(arrived_ns)
        elif self._offset.line is not self._seen:
            # All tracks follow the shared offset at once, so that they move together.
            self._offer_reports(arrived_ns)
        return media_ns

    def report(self, ssrc: int, ntp: int, timestamp: int, arrived_ns: int) -> bool:
        """A Sender Report arrived. True if it was taken.

        Args:
            ssrc: of its sender; a report of another stream than the packets' is passed over.
            ntp: 64 bits of NTP time.
            timestamp: 32 bits of RTP time.
            arrived_ns: when it arrived, in session time.
        """
        if ssrc != self._ssrc or timestamp == 0xFFFF_FFFF:
            return False
        media_ns = ticks_to_ns(self._unwrap.near(timestamp), self._rate_hz)
        new = self._reports.line is None
        taken = self._reports.add(ntp, media_ns, arrived_ns)
        if taken:
            self._reported_ns = arrived_ns
        if new:
            self._compare(media_ns)
        self._offer_reports(arrived_ns)
        return taken

    def _compare(self, media_ns: int) -> None:
        """A line that is new must not lie ahead of the packets before it, either."""
        sender_line, arrivals = self._reports.sender_line, self._envelope.line
        if sender_line is not None and arrivals is not None:
            self._offset.packet(sender_line.at(media_ns), arrivals.at(media_ns))

    def captured(self, line: Line | None, error_ns: int = 0) -> None:
        """A mapping by ``abs-capture-time``, where the sender gives it."""
        self.clock.offer(Tier.CAPTURE, line, error_ns)

    def map(self, media_ns: int) -> int:
        """Session time of what `packet` returned."""
        return self.clock.map(media_ns)

    def take_update(self) -> ClockUpdate | None:
        """What to say before the sample mapped last, or None if nothing of weight changed."""
        return self.clock.take_update()

    def reconnect(self, offset: SenderOffset | None = None) -> None:
        """Another connection under the same source: all but the shared offset begins anew.

        Args:
            offset: a new one for all tracks, where the sender may be another one.
        """
        if offset is not None:
            self._offset = offset
            self._reports = SenderReports(offset)
        self._ssrc = None
        self._unwrap.forget()
        self._envelope = Envelope()
        self._reports.forget()
        self.clock.reconnect()

    def _offer_reports(self, now_ns: int) -> None:
        self._seen = self._offset.line
        fresh = now_ns - self._reported_ns <= REPORTS_EXPIRE_NS
        line = self._reports.line if fresh else None
        self.clock.offer(Tier.REPORTS, line, self._reports.error_ns)
