"""What is private in aiortc and aioice and used by `streams.webrtc.adapter`, name by name.

When one of these fails, another version of aiortc has it differently: read its source, then change
the adapter and this file together.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable

import aioice.ice
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcdtlstransport import (
    SRTP_PROFILES,
    RTCCertificate,
    RTCDtlsTransport,
    SRTPProtectionProfile,
    generate_certificate,
)
from aiortc.rtcicetransport import RTCIceGatherer
from aiortc.rtcrtpparameters import (
    RTCRtcpFeedback,
    RTCRtpCodecParameters,
    RTCRtpDecodingParameters,
    RTCRtpReceiveParameters,
    RTCRtpRtxParameters,
)
from aiortc.rtcrtpreceiver import RemoteStreamTrack, RTCRtpReceiver
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import (
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    RtcpByePacket,
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
    RtpPacket,
    wrap_rtx,
)
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL

from counterpoint.streams.errors import UnavailableError
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import Modality
from counterpoint.streams.webrtc import Peer, PeerSettings, adapter
from counterpoint.streams.webrtc import packets as ours
from counterpoint.streams.webrtc.hidden import private
from tests.support.webrtc import Client, CollectingFeed, PatternTrack, running

SSRC, RTX_SSRC = 1_000, 2_000
KEY_FRAME = b"\x10\x00\x00\x00"  # a VP8 payload: its descriptor, and a key frame's first bytes


class FakeTransport:
    """What a receiver needs of a DTLS transport; keeps the RTCP that it sends."""

    state = "connected"
    _stats_id = "transport"

    def __init__(self) -> None:
        self.sent: list[object] = []

    async def _send_rtp(self, data: bytes) -> None:
        self.sent += RtcpPacket.parse(data)

    def _register_rtp_receiver(self, *_: object) -> None: ...

    def _unregister_rtp_receiver(self, *_: object) -> None: ...

    def _get_stats(self) -> dict[str, object]:
        return {}


async def received_track() -> tuple[RTCRtpReceiver, FakeTransport, list[ours.RtpPacket]]:
    transport = FakeTransport()
    receiver = RTCRtpReceiver("video", transport)  # type: ignore[arg-type] # a fake
    receiver._set_rtcp_ssrc(7)
    receiver._track = RemoteStreamTrack(kind="video")
    track = adapter.ReceivedTrack(receiver, "video")
    packets: list[ours.RtpPacket] = []
    track.on_packet = packets.append
    feedback = [RTCRtcpFeedback(type="nack"), RTCRtcpFeedback(type="nack", parameter="pli")]
    await receiver.receive(
        RTCRtpReceiveParameters(
            codecs=[
                RTCRtpCodecParameters(
                    mimeType="video/VP8", clockRate=90_000, payloadType=97, rtcpFeedback=feedback
                ),
                RTCRtpCodecParameters(
                    mimeType="video/rtx", clockRate=90_000, payloadType=98, parameters={"apt": 97}
                ),
            ],
            encodings=[
                RTCRtpDecodingParameters(
                    ssrc=SSRC, payloadType=97, rtx=RTCRtpRtxParameters(ssrc=RTX_SSRC)
                )
            ],
        )
    )
    return receiver, transport, packets


def packet(sequence: int, *, marker: int = 1) -> RtpPacket:
    return RtpPacket(
        payload_type=97,
        marker=marker,
        sequence_number=sequence,
        timestamp=sequence * 3_000,
        ssrc=SSRC,
        payload=KEY_FRAME,
    )


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (RTCRtpReceiver, adapter.STOP_DECODER, ["self"]),
        (RTCRtpReceiver, adapter.HANDLE_RTCP_PACKET, ["self", "packet"]),
        (RTCRtpReceiver, adapter.SEND_PLI, ["self", "media_ssrc"]),
        (RTCDtlsTransport, adapter.HANDLE_RTP_DATA, ["self", "data", "arrival_time_ms"]),
        (RTCDtlsTransport, adapter.HANDLE_RTCP_DATA, ["self", "data"]),
        (RTCSctpTransport, adapter.HANDLE_SCTP_DATA, ["self", "data"]),
        (RTCCertificate, "_create_ssl_context", ["self", "srtp_profiles"]),
    ],
)
def test_what_is_called_or_replaced_takes_what_it_took(
    owner: type, name: str, parameters: list[str]
) -> None:
    found: Callable[..., object] = private(owner, name)
    assert list(inspect.signature(found).parameters) == parameters


def test_host_addresses_are_looked_up_where_they_are_replaced() -> None:
    assert getattr(aioice.ice, adapter.HOST_ADDRESSES) is adapter._host_addresses
    parameters = list(inspect.signature(adapter._own_addresses).parameters)
    assert parameters == ["use_ipv4", "use_ipv6"]

    async def hosts() -> set[str]:
        connection = aioice.ice.Connection(ice_controlling=False)
        await connection.gather_candidates()
        found = {candidate.host for candidate in connection.local_candidates}
        await connection.close()
        return found

    async def main() -> None:
        before = await hosts()
        assert "127.0.0.1" not in before
        with adapter.offering_loopback(always=True):
            assert await hosts() == before | {"127.0.0.1"}
        with adapter.offering_loopback(always=False):
            assert await hosts() == (before or {"127.0.0.1"})
        assert await hosts() == before

    asyncio.run(main())


def test_where_there_is_no_other_address_loopback_is_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter, "_own_addresses", lambda *_: [])
    assert adapter._host_addresses(True, True) == []  # others are left as they are
    with adapter.offering_loopback(always=False):
        assert adapter._host_addresses(True, True) == ["127.0.0.1"]


def test_the_default_is_a_public_server_and_an_empty_list_is_none() -> None:
    async def main() -> None:
        assert RTCIceGatherer()._connection.stun_server is not None
        assert RTCIceGatherer(iceServers=[])._connection.stun_server is None
        connection = adapter.Connection(
            ice_servers=(),
            loopback=False,
            on_change=lambda: None,
            on_channel=lambda _: None,
            now_ns=lambda: 0,
        )
        transceiver = connection._pc.addTransceiver("audio")
        ice = transceiver.receiver.transport.transport._connection
        assert ice.stun_server is None
        assert ice.turn_server is None
        await connection.close()

    asyncio.run(main())


def test_certificates_are_those_that_transports_use() -> None:
    async def main() -> None:
        connection = adapter.Connection(
            ice_servers=(),
            loopback=False,
            on_change=lambda: None,
            on_channel=lambda _: None,
            now_ns=lambda: 0,
        )
        (certificate,) = getattr(connection._pc, adapter.CERTIFICATES)
        transceiver = connection._pc.addTransceiver("audio")
        fingerprints = transceiver.receiver.transport.getLocalParameters().fingerprints
        assert fingerprints == certificate.getFingerprints()
        ciphers = SSL.Connection(certificate._create_ssl_context(SRTP_PROFILES)).get_cipher_list()
        assert "ECDHE-RSA-AES128-GCM-SHA256" in ciphers
        assert "ECDHE-ECDSA-AES128-GCM-SHA256" in ciphers
        await connection.close()

    asyncio.run(main())


def test_packets_come_where_the_jitter_buffer_was_and_no_decoder_runs() -> None:
    async def main() -> None:
        before = threading.active_count()
        receiver, _, packets = await received_track()
        assert threading.active_count() == before
        await receiver._handle_rtp_packet(packet(1), arrival_time_ms=0)
        (got,) = packets
        assert (got.ssrc, got.sequence, got.timestamp, got.marker) == (SSRC, 1, 3_000, True)
        assert (got.codec, got.payload, got.data) == ("VP8", KEY_FRAME, KEY_FRAME[1:])
        await receiver.stop()

    asyncio.run(main())


def test_what_is_missing_is_asked_for_and_what_is_sent_again_unwrapped() -> None:
    async def main() -> None:
        receiver, transport, packets = await received_track()
        await receiver._handle_rtp_packet(packet(1), arrival_time_ms=0)
        await receiver._handle_rtp_packet(packet(3), arrival_time_ms=0)
        (nack,) = transport.sent
        assert isinstance(nack, RtcpRtpfbPacket)
        assert (nack.fmt, nack.media_ssrc, nack.lost) == (RTCP_RTPFB_NACK, SSRC, [2])
        again = wrap_rtx(packet(2), payload_type=98, sequence_number=9, ssrc=RTX_SSRC)
        await receiver._handle_rtp_packet(again, arrival_time_ms=0)
        assert [p.sequence for p in packets] == [1, 3, 2]
        assert packets[2] == ours.RtpPacket(
            ssrc=SSRC,
            sequence=2,
            timestamp=6_000,
            marker=True,
            codec="VP8",
            payload=KEY_FRAME,
            data=KEY_FRAME[1:],
        )
        await receiver.stop()

    asyncio.run(main())


def test_a_key_frame_is_asked_for_by_a_pli_and_by_nobody_else() -> None:
    async def main() -> None:
        receiver, transport, _ = await received_track()
        for sequence in (1, 600, 2_000):  # aiortc's own jitter buffer would ask here
            await receiver._handle_rtp_packet(packet(sequence), arrival_time_ms=0)
        plis = [p for p in transport.sent if isinstance(p, RtcpPsfbPacket)]
        assert plis == []
        await getattr(receiver, adapter.SEND_PLI)(SSRC)
        pli = transport.sent[-1]
        assert isinstance(pli, RtcpPsfbPacket)
        assert (pli.fmt, pli.media_ssrc) == (RTCP_PSFB_PLI, SSRC)
        await receiver.stop()

    asyncio.run(main())


def test_reports_and_goodbyes_are_heard_and_aiortc_hears_them_too() -> None:
    async def main() -> None:
        receiver = RTCRtpReceiver("audio", FakeTransport())  # type: ignore[arg-type] # a fake
        track = adapter.ReceivedTrack(receiver, "audio")
        reports: list[ours.SenderReport] = []
        byes: list[int] = []
        track.on_report, track.on_bye = reports.append, byes.append
        info = RtcpSenderInfo(
            ntp_timestamp=5 << 32, rtp_timestamp=77, packet_count=1, octet_count=2
        )
        handle = getattr(receiver, adapter.HANDLE_RTCP_PACKET)
        await handle(RtcpSrPacket(ssrc=SSRC, sender_info=info))
        await handle(RtcpByePacket(sources=[SSRC]))
        assert reports == [ours.SenderReport(ssrc=SSRC, ntp=5 << 32, timestamp=77)]
        assert byes == [SSRC]
        assert "remote-outbound-rtp" in {s.type for s in (await receiver.getStats()).values()}

    asyncio.run(main())


def test_the_window_of_the_data_channel_shrinks_by_what_is_held() -> None:
    async def main() -> None:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.createDataChannel("chat")
        assert pc.sctp is not None
        assert getattr(pc.sctp, adapter.RECEIVE_WINDOW) >= 256 * 1024
        source = inspect.getsource(type(pc.sctp))
        assert f"self.{adapter.RECEIVE_WINDOW} -= len(chunk.user_data)" in source
        await pc.close()

    asyncio.run(main())


def test_what_is_gone_is_said_by_name() -> None:
    with pytest.raises(
        UnavailableError, match=r"RTCCertificate has no _gone: this version of aiortc"
    ):
        private(RTCCertificate, "_gone")


def test_a_peer_with_an_rsa_certificate_connects() -> None:
    class RsaCertificate(RTCCertificate):
        def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
            context = super()._create_ssl_context(srtp_profiles)
            context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")
            return context

    async def main(runtime: SystemRuntime) -> None:
        key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        certificate = RsaCertificate(key, generate_certificate(key))  # type: ignore[arg-type]
        peer = Peer("cam", runtime, PeerSettings(loopback=True))
        client = Client(PatternTrack(160, 120), certificate=certificate)
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed):
            await feed.until(frames=2)
            assert peer.modalities == {Modality.VIDEO}

    with SystemRuntime() as runtime:
        asyncio.run(main(runtime))


def test_an_answer_of_ours_is_one_that_aiortc_takes() -> None:
    async def main() -> None:
        client = Client(PatternTrack())
        with SystemRuntime() as runtime:
            peer = Peer("cam", runtime, PeerSettings(loopback=True))
            answer = await peer.answer(await client.offer())
            await client.pc.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
            (transceiver,) = client.pc.getTransceivers()
            assert transceiver.currentDirection == "sendonly"
            await peer.close()
            await client.close()

    asyncio.run(main())
