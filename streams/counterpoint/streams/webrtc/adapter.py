"""aiortc, and all that is private in it: a peer connection that gives packets instead of frames.

aiortc's receivers would hand packets to a jitter buffer that holds every frame back by one, and a
decoder behind queues without bounds. Here a stand-in takes the jitter buffer's place: NACK, RTX,
statistics and bandwidth estimation stay aiortc's, packets come to us. What is private and used is
named first, and the contract tests say what is expected of each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import aioice.ice
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.exceptions import (
    InternalError,
    InvalidAccessError,
    InvalidStateError,
    OperationError,
)
from aiortc.rtcdtlstransport import RTCCertificate, SRTPProtectionProfile
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtp import AnyRtcpPacket, RtcpByePacket, RtcpSrPacket
from aiortc.rtp import RtpPacket as AiortcPacket
from OpenSSL import SSL

from counterpoint.streams.rate import TokenBucket
from counterpoint.streams.types import DropCounter
from counterpoint.streams.webrtc.consent import MediaConsent
from counterpoint.streams.webrtc.descriptions import (
    UNREADABLE,
    check_description,
    read_candidate,
    reason_of,
)
from counterpoint.streams.webrtc.hidden import private
from counterpoint.streams.webrtc.packets import RtpPacket, SenderReport
from counterpoint.streams.webrtc.settings import IceServer
from counterpoint.streams.webrtc.signalling import CandidateError, Offer, OfferError

log = logging.getLogger(__name__)

CERTIFICATES: Final = "_RTCPeerConnection__certificates"
JITTER_BUFFER: Final = "_RTCRtpReceiver__jitter_buffer"
STOP_DECODER: Final = "_RTCRtpReceiver__stop_decoder"
HANDLE_RTCP_PACKET: Final = "_handle_rtcp_packet"
SEND_PLI: Final = "_send_rtcp_pli"
HANDLE_RTP_DATA: Final = "_handle_rtp_data"
HANDLE_RTCP_DATA: Final = "_handle_rtcp_data"
HANDLE_SCTP_DATA: Final = "_handle_data"
RECEIVE_WINDOW: Final = "_advertised_rwnd"
DEPAYLOADED: Final = "_data"
HOST_ADDRESSES: Final = "get_host_addresses"
# And `RTCCertificate._create_ssl_context`, overridden below.

DATA_BYTES_PER_S: Final = 32_000
DATA_BURST_BYTES: Final = 128_000
"""Of one client, on all of its data channels. What is beyond is lost, as on a narrow link, so that
its sender slows down: a megabyte costs the loop more than minutes of anybody's media."""
DATAGRAM_BYTES: Final = 320
"""What a datagram counts for at least: the work is in each of them, not in its bytes. So a hundred
a second pass, which is what a client needs to acknowledge the predictions of eight participants."""
MAX_SSRCS: Final = 32
"""aiortc keeps something for every SSRC that it has ever seen."""
# aiortc's own, and the same for peers whose certificate has an RSA key (GStreamer).
CIPHERS: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"
    b"ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:"
    b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305:"
    b"ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA"
)
_REFUSED: Final = (
    *UNREADABLE,
    RuntimeError,  # a StopIteration within a coroutine
    InternalError,
    InvalidAccessError,
    InvalidStateError,
    OperationError,
    OSError,
)


# -- addresses -----------------------------------------------------------------------------------

_loopback: ContextVar[bool | None] = ContextVar("counterpoint_loopback", default=None)
_own_addresses: Final = private(aioice.ice, HOST_ADDRESSES)


def _host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    addresses: list[str] = _own_addresses(use_ipv4, use_ipv6)
    wanted = _loopback.get()
    if wanted is not None and use_ipv4 and (wanted or not addresses):
        return [*addresses, "127.0.0.1"]
    return addresses


setattr(aioice.ice, HOST_ADDRESSES, _host_addresses)


@contextmanager
def offering_loopback(always: bool) -> Iterator[None]:
    """Connections that gather candidates within also offer 127.0.0.1.

    aioice leaves it out, so a machine without a network could reach nobody. All others are left
    as they are.

    Args:
        always: also where there is another address.
    """
    token = _loopback.set(always)
    try:
        yield
    finally:
        _loopback.reset(token)


# -- tracks ----------------------------------------------------------------------------------------


class _JitterBufferStandIn:
    """Takes the packets that aiortc's jitter buffer would get, and never gives a frame."""

    def __init__(self, track: ReceivedTrack) -> None:
        self._track = track

    def add(self, packet: AiortcPacket) -> tuple[bool, None]:
        codec = self._track.codecs.get(packet.payload_type)
        if codec is not None:
            self._track.on_packet(
                RtpPacket(
                    ssrc=packet.ssrc,
                    sequence=packet.sequence_number,
                    timestamp=packet.timestamp,
                    marker=bool(packet.marker),
                    codec=codec,
                    payload=packet.payload,
                    data=private(packet, DEPAYLOADED),
                )
            )
        return False, None


def _passed_over(_: object) -> None:
    """Before anybody listens."""


class ReceivedTrack:
    """One track that the client sends. Callbacks run in the loop and must not raise.

    Fields:
        kind: ``audio`` or ``video``.
        codecs: names of codecs by payload type; empty before packets may come.
        on_packet, on_report: called with each.
        on_bye: called with an SSRC that its sender has ended.
    """

    def __init__(self, receiver: RTCRtpReceiver, kind: str) -> None:
        self.kind = kind
        self.codecs: dict[int, str] = {}
        self.on_packet: Callable[[RtpPacket], None] = _passed_over
        self.on_report: Callable[[SenderReport], None] = _passed_over
        self.on_bye: Callable[[int], None] = _passed_over
        self._receiver = receiver
        self._receive = receiver.receive
        self._handle_rtcp = private(receiver, HANDLE_RTCP_PACKET)
        private(receiver, JITTER_BUFFER)
        setattr(receiver, JITTER_BUFFER, _JitterBufferStandIn(self))
        setattr(receiver, HANDLE_RTCP_PACKET, self._on_rtcp)
        setattr(receiver, "receive", self._on_receive)  # noqa: B010 - mypy forbids the assignment

    async def request_key_frame(self, ssrc: int) -> None:
        """Ask for a picture that needs no other (PLI, RFC 4585 section 6.3.1)."""
        await private(self._receiver, SEND_PLI)(ssrc)

    async def _on_receive(self, parameters: RTCRtpReceiveParameters) -> None:
        self.codecs = {
            codec.payloadType: codec.name.upper()
            for codec in parameters.codecs
            if codec.payloadType is not None
        }
        await self._receive(parameters)
        # Its decoder has nothing to do, and to end it later could block the loop.
        private(self._receiver, STOP_DECODER)()

    async def _on_rtcp(self, packet: AnyRtcpPacket) -> None:
        await self._handle_rtcp(packet)
        if isinstance(packet, RtcpSrPacket):
            info = packet.sender_info
            self.on_report(
                SenderReport(ssrc=packet.ssrc, ntp=info.ntp_timestamp, timestamp=info.rtp_timestamp)
            )
        elif isinstance(packet, RtcpByePacket):
            for ssrc in packet.sources:
                self.on_bye(ssrc)


# -- the connection ------------------------------------------------------------------------------


class _Certificate(RTCCertificate):
    """A certificate that talks to peers with RSA keys, too."""

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(CIPHERS)
        return context


class Connection:
    """A peer connection that answers an offer, and sends nothing but data channels.

    Fields:
        tracks: the first track of each kind that the client sends, by kind.
        ignored_tracks: how many more it offered.
        trouble: what was received and could not be read, by what it was.

    Args:
        ice_servers: all that are asked.
        loopback: also offer 127.0.0.1 where there are other addresses.
        on_change: called when `state` may have changed.
        on_channel: called with each data channel that the client opens.
        now_ns: a clock.
    """

    def __init__(
        self,
        *,
        ice_servers: tuple[IceServer, ...],
        loopback: bool,
        on_change: Callable[[], None],
        on_channel: Callable[[RTCDataChannel], None],
        now_ns: Callable[[], int],
    ) -> None:
        self._now_ns = now_ns
        self._data_bytes = TokenBucket(per_s=DATA_BYTES_PER_S, burst=DATA_BURST_BYTES)
        self.tracks: dict[str, ReceivedTrack] = {}
        self.ignored_tracks = 0
        self.trouble = DropCounter()
        self._loopback = loopback
        self._ssrcs: set[int] = set()
        self._late: tuple[tuple[str | None, str], ...] = ()
        self._complete = False
        servers = [
            RTCIceServer(urls=server.url, username=server.username, credential=server.credential)
            for server in ice_servers
        ]
        # An empty list, and not None, which would mean a public STUN server.
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        private(self._pc, CERTIFICATES)
        setattr(self._pc, CERTIFICATES, [_Certificate.generateCertificate()])
        self._pc.on("connectionstatechange", on_change)
        self._pc.on("datachannel", on_channel)

    @property
    def state(self) -> str:
        """``new``, ``connecting``, ``connected``, ``failed`` or ``closed``."""
        return self._pc.connectionState

    @property
    def why_failed(self) -> str:
        """What `state` is ``failed`` for."""
        if self._pc.iceConnectionState == "failed":
            return "no way from the client's addresses to these, or it is gone"
        return "no encryption in common (its certificate has to be RSA or ECDSA on P-256)"

    @property
    def has_channels(self) -> bool:
        """The client asked for data channels."""
        return self._pc.sctp is not None

    async def accept(self, offer: Offer) -> str:
        """Take the client's offer; connecting begins.

        Returns:
            The answer, with all candidates.

        Raises:
            OfferError: it cannot be taken.
        """
        check_description(offer.sdp)
        try:
            with offering_loopback(self._loopback):
                await self._pc.setRemoteDescription(
                    RTCSessionDescription(sdp=offer.sdp, type="offer")
                )
                self._take_tracks()
                self._guard()
                await self._pc.setLocalDescription()
        except _REFUSED as exc:
            raise OfferError(f"the offer cannot be taken: {reason_of(exc)}") from exc
        self._late, self._complete = offer.late_candidates, offer.complete
        return self._pc.localDescription.sdp

    async def add_late_candidates(self) -> None:
        """Look up the candidates of the offer that were left out of it; takes about a second."""
        late, self._late = self._late, ()
        for mid, text in late:
            try:
                await self.add_candidate(mid, text)
            except CandidateError as exc:
                self.trouble.add("candidate not found")
                log.info("a candidate was passed over: %s", exc)
        if late and self._complete:
            await self.end_candidates()

    async def add_candidate(self, mid: str | None, text: str) -> None:
        """A candidate of the client's.

        Args:
            mid: of the media section it belongs to; None for the first.
            text: what follows ``a=candidate:``.

        Raises:
            CandidateError: it cannot be read or looked up.
        """
        try:
            await self._pc.addIceCandidate(read_candidate(mid, text))
        except (*UNREADABLE, OSError) as exc:
            raise CandidateError(f"candidate {text[:60]!r}: {reason_of(exc)}") from exc

    async def end_candidates(self) -> None:
        """The client has no more candidates."""
        await self._pc.addIceCandidate(None)

    async def close(self) -> None:
        """End it. Nothing blocks: there are no decoders of aiortc's to wait for."""
        # Cancelled half-way it would never be closed: aiortc's own closing waits for the first.
        await asyncio.shield(self._pc.close())

    # -- between the descriptions --------------------------------------------------------------

    def _take_tracks(self) -> None:
        for transceiver in self._pc.getTransceivers():
            if not transceiver.receiver.track:
                transceiver.direction = "inactive"
            elif transceiver.kind in self.tracks:
                transceiver.direction = "inactive"
                self.ignored_tracks += 1
            else:
                track = ReceivedTrack(transceiver.receiver, transceiver.kind)
                self.tracks[transceiver.kind] = track
        if not self.tracks and not self.has_channels:
            raise OfferError("the offer sends neither video nor audio and has no data channel")

    def _guard(self) -> None:
        """What cannot be read must not end the connection: aiortc's tasks end by any exception."""
        transports = {t.receiver.transport for t in self._pc.getTransceivers()}
        if self._pc.sctp is not None:
            transports.add(self._pc.sctp.transport)
            self._guard_one(
                self._pc.sctp, HANDLE_SCTP_DATA, "data", self._within_window, in_turns=True
            )
        for transport in transports:
            MediaConsent(transport)
            self._guard_one(transport, HANDLE_RTP_DATA, "RTP", self._known_ssrc)
            self._guard_one(transport, HANDLE_RTCP_DATA, "RTCP", lambda _: True)

    def _guard_one(
        self,
        owner: object,
        name: str,
        what: str,
        admits: Callable[[bytes], bool],
        *,
        in_turns: bool = False,
    ) -> None:
        inner: Callable[..., Awaitable[None]] = private(owner, name)

        async def guarded(data: bytes, **arguments: Any) -> None:
            if not admits(data):
                self.trouble.add(f"{what} beyond limits")
                return
            try:
                await inner(data, **arguments)
            except UNREADABLE as exc:
                kind = f"{what} not readable"
                # Loud once: it may as well be a callback of ours that raised.
                level = logging.DEBUG if kind in self.trouble.by_reason else logging.WARNING
                self.trouble.add(kind)
                log.log(level, "%s: %s", kind, reason_of(exc), exc_info=True)
            if in_turns:
                # A loop that reads many datagrams at once would handle all parts of a large
                # message before anything of another session.
                await asyncio.sleep(0)  # noqa: TID251 - not for time, but for the others' turn

        setattr(owner, name, guarded)

    def _known_ssrc(self, data: bytes) -> bool:
        ssrc = int.from_bytes(data[8:12], "big")
        if ssrc not in self._ssrcs:
            if len(self._ssrcs) >= MAX_SSRCS:
                return False
            self._ssrcs.add(ssrc)
        return True

    def _within_window(self, data: bytes) -> bool:
        """A sender of data that does not heed its window could fill the memory."""
        if private(self._pc.sctp, RECEIVE_WINDOW) <= 0:
            return False
        return self._data_bytes.take(self._now_ns(), max(DATAGRAM_BYTES, len(data)))
