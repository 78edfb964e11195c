"""Senders that are not aiortc: FFmpeg's WHIP muxer and GStreamer's webrtcbin."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from counterpoint.streams.errors import SourceError
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import NS_PER_S
from counterpoint.streams.webrtc import Peer, PeerSettings
from tests.support.webrtc import WAIT_S, CollectingFeed, ends
from tests.support.webrtc_whip import endpoint, ffmpeg, gstreamer, require_gstreamer

SETTINGS = PeerSettings(loopback=True)


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    with SystemRuntime() as runtime:
        yield runtime


def check(feed: CollectingFeed) -> None:
    """Pictures and sound in order, each at its time; a busy sender may leave some out."""
    assert [frame.sequence for frame in feed.frames] == list(range(len(feed.frames)))
    frame_ns, chunk_ns = NS_PER_S // 30, NS_PER_S // 50
    steps = [round((b.t_ns - a.t_ns) / frame_ns, 1) for a, b in pairwise(feed.frames)]
    assert all(step >= 1 and step.is_integer() for step in steps)
    steps = [round((b.t_ns - a.t_ns) / chunk_ns, 1) for a, b in pairwise(feed.chunks)]
    # GStreamer's first packet is dated as if its encoder had no look-ahead.
    assert all(step >= 1 and step.is_integer() for step in steps[1:])
    assert {(frame.width, frame.height) for frame in feed.frames} == {(320, 240)}
    assert max(abs(feed.chunks[-1].samples)) > 0.1
    assert {update.epoch for update in feed.updates} == {0}


def test_ffmpeg_sends_by_whip_and_is_missed_when_it_is_killed(
    runtime: SystemRuntime, tmp_path: Path
) -> None:
    async def main() -> None:
        peer = Peer("obs", runtime, SETTINGS)
        feed = CollectingFeed(runtime)
        answered = asyncio.Event()
        async with endpoint(peer, answered) as url, ffmpeg(url, tmp_path) as process:
            async with asyncio.timeout(WAIT_S):
                await answered.wait()
            task = asyncio.create_task(peer.run(feed))
            await feed.until(frames=60, chunks=100)
            stats = peer.stats()
            process.kill()
            with pytest.raises(SourceError, match="no media for 2 s"):
                await ends(task)
        assert stats.video is not None
        assert stats.audio is not None
        assert (stats.video.codec, stats.audio.codec) == ("H264", "OPUS")
        assert stats.video.decode_errors == stats.video.frames_given_up == 0
        assert stats.reports >= 2
        assert stats.reports_taken >= 2
        check(feed)
        # Its pictures say which they are: the first came through, and none is left out.
        assert [round(float(frame.y.mean())) - 16 for frame in feed.frames[:5]] == [0, 1, 2, 3, 4]

    asyncio.run(main())


@pytest.mark.gstreamer
def test_gstreamer_sends_with_its_rsa_certificate(runtime: SystemRuntime) -> None:
    require_gstreamer()

    async def main() -> None:
        peer = Peer("gst", runtime, SETTINGS)
        feed = CollectingFeed(runtime)
        answered = asyncio.Event()
        async with endpoint(peer, answered) as url, gstreamer(url) as process:
            async with asyncio.timeout(WAIT_S):
                await answered.wait()
            task = asyncio.create_task(peer.run(feed))
            await feed.until(frames=60, chunks=100)
            stats = peer.stats()
            process.kill()
            with pytest.raises(SourceError, match="no media for 2 s"):
                await ends(task)
        assert stats.video is not None
        assert stats.audio is not None
        assert (stats.video.codec, stats.audio.codec) == ("VP8", "OPUS")
        assert stats.video.decode_errors == 0
        check(feed)

    asyncio.run(main())
