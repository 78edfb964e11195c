"""RTCP Sender Reports: what a sender says of the time of its tracks (RFC 3550, section 6.4.1).

A report pairs the sender's clock (NTP) with a track's (RTP), so tracks of one sender lie on one
timeline whatever the network did to them. `SenderReports` is the line of one track; `SenderOffset`
leads from the sender's clock to the engine's and is one for all tracks of a session, so that its
own error moves them together.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from statistics import median

from counterpoint.streams.clock.envelope import Envelope
from counterpoint.streams.clock.fit import MIN_SPAN_NS, fit, relevelled
from counterpoint.streams.clock.line import Line
from counterpoint.streams.clock.rtp import Unwrap, ntp_to_ns
from counterpoint.streams.types import NS_PER_S

BIN_NS = 10 * NS_PER_S
BINS = 10
MAX_LEAD_NS = 10 * NS_PER_S
REPORTS = 20
# A report may be off by this and a thousandth of the time since the one it is compared with.
OUTLIER_NS = 20_000_000
INVALID_IN_A_ROW = 3
GARBAGE = 0xFFFF_FFFF


class SenderOffset:
    """From a sender's clock to the session's, by the least delayed of its reports.

    The lower envelope of (arrival - report time), over a hundred seconds because reports are rare:
    old reports go, so a sender whose clock drifts is followed. What a track does (a regression
    begun anew, a change of SSRC) leaves it as it is.

    Reports may place media ahead of their own arrival (FFmpeg's WHIP muxer: by as long as it took
    to connect). No packet is older than its content, so the whole is then moved back, for all
    tracks alike, until none is.
    """

    def __init__(self) -> None:
        self._envelope = Envelope(bin_ns=BIN_NS, bins=BINS)
        self._leads: deque[tuple[int, int]] = deque()  # (bin, greatest lead in it)
        self._lead_ns = 0
        self._line: Line | None = None
        self._line_of: tuple[Line | None, int] = (None, 0)
        # By how much the sender's clock was set since, as the last track that saw it says.
        self.step_ns = 0

    @property
    def line(self) -> Line | None:
        """From the sender's time to the session's; None before the first report."""
        line = self._envelope.line
        if self._line_of[0] is not line or self._line_of[1] != self._lead_ns:
            self._line_of = (line, self._lead_ns)
            self._line = line
            if line is not None and self._lead_ns:
                self._line = replace(line, y_ns=line.y_ns - self._lead_ns)
        return self._line

    @property
    def lead_ns(self) -> int:
        """By how much media lie ahead of their arrival by the reports alone."""
        return self._lead_ns

    @property
    def error_ns(self) -> int:
        return self._envelope.error_ns

    def add(self, sender_ns: int, arrived_ns: int) -> None:
        """A report of any of the session's tracks that was accepted."""
        self._envelope.add(sender_ns, arrived_ns)

    def packet(self, sender_ns: int, arrived_ns: int) -> None:
        """A packet of any of the tracks.

        Args:
            sender_ns: the sender's time of its content, by its track's reports.
            arrived_ns: when it arrived, in session time.
        """
        lead_ns = -self.delay_ns(sender_ns, arrived_ns)
        if lead_ns > MAX_LEAD_NS:
            return  # the media clock jumped, which the next reports will tell
        number = arrived_ns // BIN_NS
        leads = self._leads
        if leads and leads[-1][0] >= number:
            if lead_ns <= leads[-1][1]:
                return
            number, _ = leads.pop()
        leads.append((number, lead_ns))
        while leads[0][0] <= number - BINS:
            leads.popleft()
        self._lead_ns = max(0, max(lead for _, lead in leads))

    def forget_packets(self) -> None:
        """What packets were compared with has changed."""
        self._leads.clear()
        self._lead_ns = 0

    def delay_ns(self, sender_ns: int, arrived_ns: int) -> int:
        """How much later a report arrived than the estimate says, 0 before there is one."""
        line = self._envelope.line
        return 0 if line is None else arrived_ns - line.at(sender_ns)


class SenderReports:
    """One track's line from media time to the sender's time: least squares over the last reports
    but stray ones.

    There is a line once two reports lie a second apart and its slope is within 0.1 % of the clock
    rate, so a sender whose reports run at twice the rate never gets one. Garbage and repeats
    are passed over. Three reports in a row that do not lie on the line begin it anew: where the
    sender's clock was set (its reports then arrive at another offset), the step is taken out of its
    time and the line stays; where the media clock jumped, the line is learned again. Two in a row
    that lie off it by the same move the line: sound was lost before it was stamped (see `fit`).
    """

    def __init__(self, offset: SenderOffset) -> None:
        self._offset = offset
        self._points: deque[tuple[int, int]] = deque(maxlen=REPORTS)
        self._invalid: list[tuple[int, int, int, int]] = []
        self._unwrap = Unwrap(64)
        self._step_ns = 0
        self._line: Line | None = None
        self._error_ns = 0
        self.resets = 0

    @property
    def line(self) -> Line | None:
        """From media time to the session's; None while reports cannot be trusted."""
        after = self._offset.line
        return None if self._line is None or after is None else self._line.then(after)

    @property
    def sender_line(self) -> Line | None:
        """From media time to the sender's."""
        return self._line

    @property
    def error_ns(self) -> int:
        """How far reports lie from their line at most, and the shared offset's error."""
        return self._error_ns + self._offset.error_ns

    def forget(self) -> None:
        """Begin anew, as after a change of SSRC; the shared offset stays."""
        self._points.clear()
        self._invalid.clear()
        self._line = None
        self._offset.forget_packets()

    def add(self, ntp: int, media_ns: int, arrived_ns: int) -> bool:
        """One report. True if it was taken.

        Args:
            ntp: the 64 bits of its NTP timestamp.
            media_ns: its RTP timestamp, unwrapped, in nanoseconds of the track's clock.
            arrived_ns: when it arrived, in session time.
        """
        if ntp >> 32 in (0, GARBAGE):
            return False
        if not self._points:
            self._step_ns = self._nearest_step_ns(ntp, arrived_ns)
        sender_ns = ntp_to_ns(self._unwrap.near(ntp)) - self._step_ns
        if self._points:
            last_media_ns, last_sender_ns = self._points[-1]
            if media_ns <= last_media_ns and sender_ns <= last_sender_ns:
                return False
            expected = self._line or Line(x_ns=last_media_ns, y_ns=last_sender_ns)
            off_ns = sender_ns - expected.at(media_ns)
            allowed_ns = OUTLIER_NS + abs(media_ns - last_media_ns) // 1_000
            if abs(off_ns) > allowed_ns:
                return self._outlier(ntp, media_ns, arrived_ns, off_ns)
        self._take(ntp, media_ns, arrived_ns)
        return True

    def _nearest_step_ns(self, ntp: int, arrived_ns: int) -> int:
        """A track that begins late has not seen the sender's clock being set; others have."""
        read_ns = ntp_to_ns(self._unwrap.near(ntp))
        return min(
            (self._step_ns, self._offset.step_ns),
            key=lambda step_ns: abs(self._offset.delay_ns(read_ns - step_ns, arrived_ns)),
        )

    def _take(self, ntp: int, media_ns: int, arrived_ns: int) -> None:
        sender_ns = ntp_to_ns(self._unwrap.add(ntp)) - self._step_ns
        self._invalid.clear()
        self._points.append((media_ns, sender_ns))
        self._fit()
        if self._line is not None:
            self._offset.add(sender_ns, arrived_ns)

    def _outlier(self, ntp: int, media_ns: int, arrived_ns: int, off_ns: int) -> bool:
        self._invalid.append((ntp, media_ns, arrived_ns, off_ns))
        if len(self._invalid) < INVALID_IN_A_ROW:
            return False
        invalid = list(self._invalid)
        self.resets += 1
        steps = [off for *_, off in invalid]
        step_ns = round(median(steps))
        # After a step of the sender's clock reports seem to arrive earlier by as much.
        late_ns = median(
            self._offset.delay_ns(ntp_to_ns(self._unwrap.near(n)) - self._step_ns, at)
            for n, _, at, _ in invalid
        )
        stepped = (
            self._line is not None
            and max(steps) - min(steps) <= 2 * OUTLIER_NS
            and 2 * abs(late_ns + step_ns) < abs(step_ns)
        )
        if stepped:
            self._step_ns += step_ns
            self._offset.step_ns = self._step_ns
            self._invalid.clear()
        else:
            self.forget()
        for n, media, at, _ in invalid if stepped else invalid[-1:]:
            self._take(n, media, at)
        return True

    def _fit(self) -> None:
        points = self._points
        if moved_ns := relevelled(points):
            for number in range(len(points) - 2):
                media_ns, sender_ns = points[number]
                points[number] = (media_ns, sender_ns + moved_ns)
        times_ns = [media_ns for media_ns, _ in points]
        if max(times_ns) - min(times_ns) < MIN_SPAN_NS:
            return
        found = fit(points)
        self._line, self._error_ns = found or (None, self._error_ns)
