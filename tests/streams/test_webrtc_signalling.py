"""Offers, answers and trickled candidates: what is taken, and what is refused with which reason."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterpoint.streams.errors import SourceError, UsageError
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import NS_PER_S
from counterpoint.streams.webrtc import CandidateError, IceServer, OfferError, Peer, PeerSettings
from counterpoint.streams.webrtc.signalling import read_fragment, read_offer, write_answer
from tests.support.webrtc import Client, CollectingFeed, PatternTrack, ToneTrack, running

SETTINGS = PeerSettings(loopback=True)


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    with SystemRuntime() as runtime:
        yield runtime


async def real_offer() -> str:
    client = Client(PatternTrack(), ToneTrack(), "chat")
    try:
        return await client.offer()
    finally:
        await client.close()


@pytest.fixture(scope="module")
def offer() -> str:
    return asyncio.run(real_offer())


def answer_to(runtime: SystemRuntime, offer: str, settings: PeerSettings = SETTINGS) -> str:
    async def main() -> str:
        peer = Peer("cam", runtime, settings)
        try:
            return await peer.answer(offer)
        finally:
            await peer.close()

    return asyncio.run(main())


def refusal(runtime: SystemRuntime, offer: str) -> str:
    with pytest.raises(OfferError) as refused:
        answer_to(runtime, offer)
    assert isinstance(refused.value, UsageError)
    return str(refused.value)


# -- offers and answers --------------------------------------------------------------------------


def test_the_answer_receives_only_and_names_the_bit_rates(
    runtime: SystemRuntime, offer: str
) -> None:
    answer = answer_to(runtime, offer)
    assert answer.count("a=recvonly\r\n") == 2
    assert "a=sendrecv" not in answer
    payload_type = re.search(r"a=rtpmap:(\d+) VP8/90000\r\n", answer)
    assert payload_type
    fmtp = f"a=fmtp:{payload_type[1]} x-google-start-bitrate=2000;x-google-min-bitrate=800\r\n"
    assert answer.count(fmtp) == 1
    assert "127.0.0.1" in answer
    assert all(line.endswith("\r\n") for line in answer.splitlines(keepends=True))


def test_without_ice_servers_none_is_asked(runtime: SystemRuntime, offer: str) -> None:
    assert " srflx " not in answer_to(runtime, offer)


def test_an_ice_server_that_does_not_answer_delays_no_longer_than_the_timeout(
    runtime: SystemRuntime, offer: str
) -> None:
    settings = PeerSettings(
        loopback=True,
        ice_servers=(IceServer(url="stun:127.0.0.1:9"),),
        connect_timeout_ns=NS_PER_S // 5,
    )
    with pytest.raises(SourceError, match="ICE servers"):
        answer_to(runtime, offer, settings)


@pytest.mark.parametrize("url", ["http://example.org", "stun:", "turn:a:b", "stun:a?transport=udp"])
def test_an_ice_server_that_is_none_is_said(url: str) -> None:
    with pytest.raises(UsageError, match="ICE server"):
        IceServer(url=url)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no session description"),
        ("hello", "no session description"),
        ("v=0\r\n", "no media section"),
        ("v=0\r\n" + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" * 17, "more than 16 media sections"),
        ("v=0\r\nm=text 9 UDP/TLS/RTP/SAVPF 98\r\n", "unknown kind: 'text'"),
        ("v=0\r\nm=audio\r\n", "cannot be read"),
        ("v=0\r\n" + "x" * 300_000, "more than 262144 characters"),
    ],
)
def test_what_is_no_offer_is_refused(runtime: SystemRuntime, text: str, reason: str) -> None:
    said = refusal(runtime, text)
    assert reason in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("line", "instead", "reason"),
    [
        (r"a=ice-ufrag:.*\r\n", "", "a=ice-ufrag or a=ice-pwd is missing"),
        (r"a=ice-pwd:.*\r\n", "", "a=ice-ufrag or a=ice-pwd is missing"),
        (r"a=fingerprint:.*\r\n", "", "a=setup or a=fingerprint is missing"),
        (r"a=setup:.*\r\n", "", "a=setup or a=fingerprint is missing"),
        (r"a=setup:.*\r\n", "a=setup:holdconn\r\n", "cannot be read"),
        (r"a=rtcp-mux\r\n", "", "a=rtcp-mux is missing"),
        (r"a=sctp-port:.*\r\n", "", "a=sctp-port is missing"),
        (r"a=mid:.*\r\n", "a=mid:0\r\n", "the same a=mid"),
        (r"a=group:BUNDLE.*\r\n", "a=group:BUNDLE 0 1 7\r\n", "a=group:BUNDLE"),
        (r"a=rtpmap:(\d+) (VP8|H264)/90000\r\n", r"a=rtpmap:\1 AV1/90000\r\n", "video"),
        (r"a=candidate:.*\r\n", "a=candidate:1 1 udp\r\n", "cannot be read"),
        (r"a=candidate:.*\r\n", "a=candidate:1 1 udp 1 ::1 9 typ host\r\n" * 200, "candidates"),
        (r"a=sendrecv\r\n", "a=recvonly\r\n", "neither video nor audio"),
    ],
)
def test_an_offer_that_lacks_something_is_refused(
    runtime: SystemRuntime, offer: str, line: str, instead: str, reason: str
) -> None:
    if instead == "a=recvonly\r\n":
        offer = offer[: offer.index("m=application")]
        offer = re.sub(r"a=group:BUNDLE 0 1 2", "a=group:BUNDLE 0 1", offer)
    changed = re.sub(line, instead, offer)
    assert changed != offer
    said = refusal(runtime, changed)
    assert reason in said
    assert "\n" not in said


def test_a_direction_left_out_means_both(runtime: SystemRuntime, offer: str) -> None:
    assert answer_to(runtime, offer.replace("a=sendrecv\r\n", "")).count("a=recvonly\r\n") == 2


@given(st.data())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_damaged_offer_is_answered_or_refused_and_nothing_else(
    runtime: SystemRuntime, offer: str, data: st.DataObject
) -> None:
    lines = offer.split("\r\n")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["cut", "twice", "swap", "shorten", "replace", "number"])):
            case "cut":
                del lines[at]
            case "twice":
                lines.insert(at, lines[at])
            case "swap":
                lines[at], lines[at - 1] = lines[at - 1], lines[at]
            case "shorten":
                lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
            case "replace":
                lines[at] = lines[at][:4] + data.draw(st.text(max_size=20))
            case "number":
                lines[at] = re.sub(r"\d+", str(data.draw(st.integers(-1, 1 << 40))), lines[at])
        lines = lines or [""]
    try:
        answer = answer_to(runtime, "\r\n".join(lines))
    except (OfferError, SourceError) as refused:
        assert "\n" not in str(refused)  # noqa: PT017 - either outcome is right
    else:
        assert answer.startswith("v=0\r\n")


def test_an_offer_is_answered_once(runtime: SystemRuntime, offer: str) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        await peer.answer(offer)
        try:
            with pytest.raises(OfferError, match="offered before"):
                await peer.answer(offer)
        finally:
            await peer.close()

    asyncio.run(main())


def test_a_peer_that_was_not_answered_cannot_run(runtime: SystemRuntime) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        with pytest.raises(SourceError, match="offer again"):
            await peer.run(CollectingFeed(runtime))
        await peer.close()

    asyncio.run(main())


def test_bit_rates_are_named_once_for_vp8_and_for_nothing_else() -> None:
    answer = write_answer("a=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n")
    assert answer.splitlines() == [
        "a=rtpmap:96 VP8/90000",
        "a=fmtp:96 x-google-start-bitrate=2000;x-google-min-bitrate=800",
        "a=rtpmap:97 rtx/90000",
        "a=fmtp:97 apt=96",
    ]


def test_candidates_that_are_names_are_looked_up_later() -> None:
    name = "a=candidate:1 1 udp 2113937151 7f3c.local 50000 typ host"
    text = f"v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:a\r\n{name}\r\na=end-of-candidates\r\n"
    ready = read_offer(text)
    assert ready.late_candidates == (("a", name.removeprefix("a=candidate:")),)
    assert ".local" not in ready.sdp
    assert "a=end-of-candidates" not in ready.sdp
    assert ready.complete


# -- trickled candidates -------------------------------------------------------------------------


def without_candidates(offer: str) -> tuple[str, list[str]]:
    lines = offer.split("\r\n")
    candidates = [line for line in lines if line.startswith("a=candidate:")]
    kept = [line for line in lines if not line.startswith(("a=candidate:", "a=end-of-candidates"))]
    return "\r\n".join(kept), candidates


def test_a_client_may_send_its_candidates_later(runtime: SystemRuntime) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        client = Client(PatternTrack(), ToneTrack())
        feed = CollectingFeed(runtime)
        bare, candidates = without_candidates(await client.offer())
        assert candidates
        assert peer.ice_session == ""
        await client.accept(await peer.answer(bare))
        session = peer.ice_session
        assert re.fullmatch(r"[0-9a-f]{32}", session)
        ufrag = re.search(r"a=ice-ufrag:(.*)\r\n", bare)
        pwd = re.search(r"a=ice-pwd:(.*)\r\n", bare)
        assert ufrag
        assert pwd
        head = f"a=ice-ufrag:{ufrag[1]}\r\na=ice-pwd:{pwd[1]}\r\nm=video 9 RTP/AVP 0\r\na=mid:0\r\n"
        async with running(peer, client, feed, connecting=False):
            await peer.add_candidates(head + "\r\n".join(candidates) + "\r\n")
            await peer.add_candidates("a=end-of-candidates\r\n")
            await peer.add_candidates("a=end-of-candidates\r\n")
            await feed.until(frames=2)
            assert peer.ice_session == session
        with pytest.raises(CandidateError, match="no connection"):
            await peer.add_candidates(candidates[0])

    asyncio.run(main())


def test_an_ice_restart_and_what_is_no_candidate_are_refused(
    runtime: SystemRuntime, offer: str
) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        with pytest.raises(CandidateError, match="no connection"):
            await peer.add_candidates("a=end-of-candidates")
        await peer.answer(offer)
        try:
            with pytest.raises(CandidateError, match="ICE restart is not possible"):
                await peer.add_candidates("a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1")
            with pytest.raises(CandidateError, match="three words here"):
                await peer.add_candidates("a=candidate:three words here")
        finally:
            await peer.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no candidate"),
        ('{"candidate": ""}', "not of one"),
        ("a=candidate:x\n" * 200, "more than 128 candidates"),
        ("x" * 40_000, "more than 32768 characters"),
    ],
)
def test_what_is_no_fragment_is_refused(text: str, reason: str) -> None:
    with pytest.raises(CandidateError, match=reason):
        read_fragment(text)
