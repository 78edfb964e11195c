"""Peers that answer no checks of consent: kept while their media come, and no longer."""

from __future__ import annotations

import asyncio

import aioice.ice
import pytest

from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.webrtc import Peer, PeerSettings
from counterpoint.streams.webrtc.consent import ICE_CONNECTION, PROTOCOLS
from counterpoint.streams.webrtc.hidden import private
from tests.support.webrtc import Client, CollectingFeed, PatternTrack, ends, running

SETTINGS = PeerSettings(loopback=True)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without consent is over within moments."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.02)
    monkeypatch.setattr(aioice.ice, "CONSENT_FAILURES", 2)
    monkeypatch.setattr("aioice.stun.RETRY_RTO", 0.05)


class Asked:
    """Counts the requests that a client leaves without an answer."""

    def __init__(self, client: Client) -> None:
        self.count = 0
        transports = {t.sender.transport for t in client.pc.getTransceivers()}
        if client.pc.sctp is not None:
            transports.add(client.pc.sctp.transport)
        for transport in transports:
            ice = private(transport.transport, ICE_CONNECTION)
            ice.request_received = self._ignore
            assert private(ice, PROTOCOLS)

    def _ignore(self, *_: object) -> None:
        self.count += 1


def test_who_sends_media_is_kept_without_an_answer() -> None:
    async def main() -> None:
        with SystemRuntime() as runtime:
            peer = Peer("ffmpeg", runtime, SETTINGS)
            client = Client(PatternTrack(64, 48))
            feed = CollectingFeed(runtime)
            async with running(peer, client, feed) as task:
                await feed.until(frames=3)
                asked = Asked(client)
                await feed.until_true(lambda: asked.count >= 8)
                count = len(feed.frames)
                await feed.until(frames=count + 10)
                assert not task.done()
                assert peer.state == "connected"

    asyncio.run(main())


def test_who_sends_nothing_and_answers_nothing_is_gone() -> None:
    async def main() -> None:
        with SystemRuntime() as runtime:
            peer = Peer("viewer", runtime, SETTINGS)
            client = Client(channel_label="counterpoint")
            async with running(peer, client, CollectingFeed(runtime)) as task:
                await client.until_open()
                Asked(client)
                await ends(task)
                assert peer.state == "closed"

    asyncio.run(main())
