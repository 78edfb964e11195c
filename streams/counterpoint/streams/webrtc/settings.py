"""What a peer is told, and what it tells of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import NS_PER_S, Modality, Tier

MS = 1_000_000
_URL = re.compile(r"(stun:[^?:]+(:\d+)?)|(turns?:[^?:]+(:\d+)?(\?transport=(udp|tcp))?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServer:
    """A STUN or TURN server (RFC 7064, RFC 7065).

    Fields:
        url: ``stun:host[:port]``, ``turn:host[:port][?transport=udp|tcp]`` or ``turns:...``.
        username, credential: for TURN.

    Raises:
        UsageError: the URL is not like that.
    """

    url: str
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.url):
            raise UsageError(
                f"ICE server {self.url!r}: give stun:host[:port], "
                f"turn:host[:port][?transport=udp|tcp] or turns:host[:port][?transport=tcp]"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """How a peer is treated.

    Fields:
        ice_servers: exactly those that are asked, of each kind the first; none by default.
        modalities: what is taken in; the client is told to send nothing else, and nothing else is
            decoded.
        loopback: also offer 127.0.0.1. It is offered anyway where there is no other address.
        connect_timeout_ns: a peer that is not connected after this is given up.
        media_idle_ns: a peer none of whose tracks sent a packet for this long is gone, unless it
            sent a message within twice as long.
        video_wait_ns, audio_wait_ns: how long a packet may wait for an earlier one.
        max_width, max_height, max_pixels: larger pictures are refused.
        max_message_bytes: a longer message on a data channel is refused.
        max_buffered_bytes: nothing is sent while more than this waits on the channel.
    """

    ice_servers: tuple[IceServer, ...] = ()
    modalities: frozenset[Modality] = frozenset({Modality.VIDEO, Modality.AUDIO})
    loopback: bool = False
    connect_timeout_ns: int = 10 * NS_PER_S
    media_idle_ns: int = 2 * NS_PER_S
    video_wait_ns: int = 100 * MS
    audio_wait_ns: int = 40 * MS
    max_width: int = 3840
    max_height: int = 3840
    max_pixels: int = 3840 * 2160
    max_message_bytes: int = 8 * 1024
    max_buffered_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackStats:
    """One track, at one instant. Counts are since the peer connected.

    Fields:
        codec: of the last packet; empty before the first.
        tier, error_ns, epoch: how its time is mapped; the tier is None before the first packet.
        packets: received, repeats included.
        duplicates: received once more.
        reordered: that came after one with a greater number, and in time.
        lost: numbers that were given up on; ``late`` of them came after all.
        given_up: packets that came and were of no use without those that were lost.
        waiting: packets and encoded frames waiting now.
        frames: pictures, or runs of sound, handed over.
        decoded: pictures, or packets of sound, in them.
        frames_given_up: pictures known of and never whole; gaps in the sound.
        key_frame_requests: sent.
        decode_errors: what the decoder refused.
        dropped: encoded frames and pictures left out on purpose, by reason.
        width, height: of the last picture; 0 for sound.
        delay_p50_ns, delay_p99_ns: from the arrival of a picture's last packet, or of the first of
            a run of sound, until it was handed over, over the last thousand; None before that.
    """

    codec: str = ""
    tier: Tier | None = None
    error_ns: int = 0
    epoch: int = 0
    packets: int = 0
    duplicates: int = 0
    reordered: int = 0
    lost: int = 0
    late: int = 0
    given_up: int = 0
    waiting: int = 0
    frames: int = 0
    decoded: int = 0
    frames_given_up: int = 0
    key_frame_requests: int = 0
    decode_errors: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    width: int = 0
    height: int = 0
    delay_p50_ns: int | None = None
    delay_p99_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStats:
    """A peer, at one instant.

    Fields:
        state: of its connection: new, connecting, connected, failed or closed.
        video, audio: its tracks; None where it has none.
        ignored_tracks: offered beyond the first of each kind.
        reports: RTCP Sender Reports received; ``reports_taken`` of them agreed with the clock.
        trouble: what was received and could not be read, by what it was.
        messages: texts received on data channels, ``refused`` ones by reason left out.
        refused: messages that were refused, by reason.
        sent: texts sent; ``unsent`` ones had no channel that could take them.
        errors_untold: refusals that the client was not told of: there were too many.
    """

    state: str
    video: TrackStats | None = None
    audio: TrackStats | None = None
    ignored_tracks: int = 0
    reports: int = 0
    reports_taken: int = 0
    trouble: Mapping[str, int] = field(default_factory=dict)
    messages: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    sent: int = 0
    unsent: int = 0
    errors_untold: int = 0
