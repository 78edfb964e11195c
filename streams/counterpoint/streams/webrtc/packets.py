"""What a track's sender says: packets, and reports of its clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class RtpPacket(NamedTuple):
    """A media packet; one that was sent again (RTX) looks like the first.

    A tuple: a hundred and more come each second of every peer, and a frozen dataclass takes four
    times as long to make.

    Fields:
        ssrc, sequence, timestamp, marker: of its header.
        codec: its name, in upper case.
        payload: as it came.
        data: without the codec's payload descriptor.
    """

    ssrc: int
    sequence: int
    timestamp: int
    marker: bool
    codec: str
    payload: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderReport:
    """What an RTCP Sender Report says of time (RFC 3550, section 6.4.1).

    Fields:
        ssrc: whose.
        ntp: 64 bits of NTP time.
        timestamp: 32 bits of RTP time.
    """

    ssrc: int
    ntp: int
    timestamp: int
