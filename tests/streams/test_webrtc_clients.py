"""Senders that are not aiortc: FFmpeg's WHIP muxer and GStreamer's webrtcbin."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from counterpoint.streams.clock.source_clock import STEP_NS
from counterpoint.streams.errors import SourceError
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import NS_PER_S, Modality
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
    check_steps(feed, Modality.VIDEO, [frame.t_ns for frame in feed.frames], NS_PER_S // 30)
    # GStreamer's first packet is dated as if its encoder had no look-ahead.
    check_steps(feed, Modality.AUDIO, [chunk.t_ns for chunk in feed.chunks[1:]], NS_PER_S // 50)
    assert {(frame.width, frame.height) for frame in feed.frames} == {(320, 240)}
    assert max(abs(feed.chunks[-1].samples)) > 0.1


def check_steps(
    feed: CollectingFeed, modality: Modality, times_ns: list[int], step_ns: int
) -> None:
    """Whole steps, but where a new epoch says that packets had come a quarter second late: all
    processes here share two cores, and a clock that goes by arrivals can know no better."""
    epochs = [update.epoch for update in feed.updates if update.modality is modality]
    assert epochs[0] == 0
    assert all(after - before in (0, 1) for before, after in pairwise(epochs))
    steps = [(b - a) / step_ns for a, b in pairwise(times_ns)]
    odd = [step for step in steps if step < 0.95 or abs(step - round(step)) > 0.05]
    assert len(odd) <= epochs[-1], odd
    assert all(abs(step - 1) * step_ns > STEP_NS for step in odd), odd


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
