"""From a source's own time to the session timeline: numbers in, numbers out.

Pure: no clock is read and nothing waits; whoever receives packets, reports or device buffers says
when they arrived, in nanoseconds of session time. `RtpClock` is what a track of a peer connection
needs, `SourceClock` with a `DeviceClock` what a microphone or a camera needs, `ChatClock` what a
chat needs.
"""

from __future__ import annotations

from counterpoint.streams.clock.chat import ChatClock
from counterpoint.streams.clock.device import DeviceClock, seconds_to_ns
from counterpoint.streams.clock.envelope import Envelope
from counterpoint.streams.clock.line import Line
from counterpoint.streams.clock.reports import SenderOffset, SenderReports
from counterpoint.streams.clock.rtp import Unwrap, ntp_to_ns
from counterpoint.streams.clock.rtp_clock import RtpClock
from counterpoint.streams.clock.source_clock import SourceClock

__all__ = [
    "ChatClock",
    "DeviceClock",
    "Envelope",
    "Line",
    "RtpClock",
    "SenderOffset",
    "SenderReports",
    "SourceClock",
    "Unwrap",
    "ntp_to_ns",
    "seconds_to_ns",
]
