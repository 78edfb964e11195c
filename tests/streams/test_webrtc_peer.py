"""A peer against a real sender: aiortc's, over loopback, with everything in between."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise

import av
import pytest

from counterpoint.streams.errors import SourceError
from counterpoint.streams.feed import LiveSource
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import NS_PER_S, AudioChunk, ClockUpdate, Modality, Tier, VideoFrame
from counterpoint.streams.webrtc import Peer, PeerSettings
from counterpoint.streams.webrtc.channels import ERROR_BURST
from tests.support.webrtc import (
    WAIT_S,
    Client,
    CollectingFeed,
    PatternTrack,
    ToneTrack,
    ends,
    running,
    until,
)

SETTINGS = PeerSettings(loopback=True)
CHUNK_NS = NS_PER_S // 50


@pytest.fixture
def runtime() -> Iterator[SystemRuntime]:
    with SystemRuntime() as runtime:
        yield runtime


def test_pictures_and_sound_come_in_order_with_their_clocks(runtime: SystemRuntime) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        assert isinstance(peer, LiveSource)
        client = Client(PatternTrack(320, 240), ToneTrack())
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed):
            assert peer.modalities == {Modality.VIDEO, Modality.AUDIO}
            await feed.until(frames=40, chunks=60)
            stats = peer.stats()

        both: list[tuple[str, Sequence[VideoFrame | AudioChunk]]]
        both = [("video", feed.frames), ("audio", feed.chunks)]
        for modality, items in both:
            assert [item.sequence for item in items] == list(range(len(items)))
            assert all(item.source == "cam" for item in items)
            assert all(a.t_ns < b.t_ns for a, b in pairwise(items))
            told = next(u for u in feed.updates if u.modality == modality)
            assert feed.items.index(told) < feed.items.index(items[0])
            assert (told.tier, told.epoch) == (Tier.ARRIVAL, 0)
        frame = feed.frames[-1]
        assert (frame.width, frame.height) == (320, 240)
        assert frame.u is not None
        assert frame.u.shape == (120, 160)
        assert not frame.full_range
        assert abs(int(feed.frames[30].y.mean()) - (16 + 30)) <= 3
        chunk = feed.chunks[30]
        assert (len(chunk.samples), chunk.rate_hz) == (960, 48_000)
        assert 0.3 < abs(chunk.samples).max() < 0.7
        # A tone of 440 Hz crosses zero 880 times a second.
        assert abs(int((chunk.samples[1:] * chunk.samples[:-1] < 0).sum()) - 880 // 50) <= 2

        assert stats.state == "connected"
        assert stats.video is not None
        assert stats.audio is not None
        assert (stats.video.codec, stats.audio.codec) == ("VP8", "OPUS")
        assert (stats.video.width, stats.video.height) == (320, 240)
        for track in (stats.video, stats.audio):
            assert track.lost == track.decode_errors == track.frames_given_up == 0
            assert track.delay_p50_ns is not None
            assert track.delay_p99_ns is not None
            assert 0 < track.delay_p50_ns <= track.delay_p99_ns

    asyncio.run(main())


def test_reports_of_the_sender_take_over_from_arrivals(runtime: SystemRuntime) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        client = Client(PatternTrack(160, 120), ToneTrack())
        feed = CollectingFeed(runtime)

        def by_reports() -> bool:
            return any(
                isinstance(item, ClockUpdate) and item.tier is Tier.REPORTS
                for item in feed.items[-2:]
            )

        async with running(peer, client, feed):
            await feed.until_true(by_reports)
        stats = peer.stats()
        assert stats.reports >= 2
        assert stats.reports_taken >= 2

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_one_kind_of_media_alone(runtime: SystemRuntime, kind: str) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        client = Client(
            PatternTrack() if kind == "video" else None, ToneTrack() if kind == "audio" else None
        )
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed):
            assert peer.modalities == {Modality(kind)}
            await feed.until(**{"video": {"frames": 5}, "audio": {"chunks": 5}}[kind])
        assert {item.modality for item in feed.updates} == {Modality(kind)}

    asyncio.run(main())


def test_texts_both_ways_and_everything_else_refused_with_a_reason(
    runtime: SystemRuntime,
) -> None:
    async def main() -> None:
        texts: list[str] = []
        opened = asyncio.Event()
        peer = Peer("viewer", runtime, SETTINGS, on_text=texts.append, on_open=opened.set)
        client = Client(channel_label="any label")
        feed = CollectingFeed(runtime)
        assert not peer.send("nobody hears this")
        async with running(peer, client, feed) as task:
            assert peer.modalities == frozenset()
            await client.until_open()
            async with asyncio.timeout(WAIT_S):
                await opened.wait()
            assert peer.channel_open
            assert client.channel is not None
            client.channel.send("größer")
            client.channel.send(b"\x00")
            client.channel.send("ü" * 4_097)
            client.channel.send("ü" * 4_096)
            assert peer.send("to you")
            await client.until_received(3)
            client.channel.send("last")
            await until(lambda: "last" in texts)
            stats = peer.stats()
            await client.close()
            await ends(task)
        assert texts == ["größer", "ü" * 4_096, "last"]
        assert client.received[0] == "to you"
        errors = [json.loads(message) for message in client.received[1:]]
        assert [error["type"] for error in errors] == ["error", "error"]
        assert "text only" in errors[0]["reason"]
        assert "8192 bytes" in errors[1]["reason"]
        assert (stats.messages, stats.sent, stats.unsent) == (3, 3, 1)
        assert sum(stats.refused.values()) == 2
        assert feed.items == []
        assert not peer.send("too late")

    asyncio.run(main())


def test_a_flood_of_nonsense_is_not_answered_message_by_message(runtime: SystemRuntime) -> None:
    async def main() -> None:
        peer = Peer("viewer", runtime, SETTINGS)
        client = Client(channel_label="chat")
        async with running(peer, client, CollectingFeed(runtime)):
            await client.until_open()
            assert client.channel is not None
            flood = 3 * ERROR_BURST
            for _ in range(flood):
                client.channel.send(b"\x00")
            await until(lambda: sum(peer.stats().refused.values()) == flood)
            stats = peer.stats()
            assert stats.sent >= ERROR_BURST
            assert stats.errors_untold > 0
            assert stats.sent + stats.errors_untold == flood
            await client.until_received(stats.sent)

    asyncio.run(main())


def test_nothing_is_sent_while_too_much_waits(runtime: SystemRuntime) -> None:
    async def main() -> None:
        settings = PeerSettings(loopback=True, max_buffered_bytes=100_000)
        peer = Peer("viewer", runtime, settings)
        client = Client(channel_label="chat")
        async with running(peer, client, CollectingFeed(runtime)):
            await client.until_open()
            await until(lambda: peer.channel_open)
            # Within one turn of the loop nothing leaves, so this fills it.
            sent = [peer.send("x" * 10_000) for _ in range(30)]
            assert sent[:10] == [True] * 10
            assert sent[-1] is False
            assert peer.stats().unsent == sent.count(False)

    asyncio.run(main())


def test_a_client_that_closes_ends_the_source(runtime: SystemRuntime) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        client = Client(PatternTrack(), ToneTrack())
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed) as task:
            await feed.until(frames=3)
            await client.close()
            await ends(task)
        assert peer.state == "closed"
        with pytest.raises(SourceError, match="offer again"):
            await peer.run(feed)

    asyncio.run(main())


def test_a_killed_client_ends_the_source_with_an_error(runtime: SystemRuntime) -> None:
    async def main() -> None:
        settings = PeerSettings(loopback=True, media_idle_ns=NS_PER_S // 2)
        peer = Peer("cam", runtime, settings)
        client = Client(PatternTrack(), ToneTrack())
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed) as task:
            await feed.until(frames=3)
            client.kill()
            with pytest.raises(SourceError, match=r"no media for 0\.5 s"):
                await ends(task)
        assert peer.state == "closed"

    asyncio.run(main())


def test_a_stalled_camera_beside_a_running_microphone_is_no_end(runtime: SystemRuntime) -> None:
    async def main() -> None:
        settings = PeerSettings(loopback=True, media_idle_ns=NS_PER_S // 2)
        peer = Peer("cam", runtime, settings)
        client = Client(PatternTrack(), ToneTrack())
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed) as task:
            await feed.until(frames=3)
            client.filter(lambda ssrc, _: ssrc == client.ssrc("audio"))
            count = len(feed.chunks)
            await feed.until(chunks=count + 75)  # 1.5 s
            assert not task.done()

    asyncio.run(main())


def test_who_sends_messages_is_there_though_all_media_stand_still(
    runtime: SystemRuntime,
) -> None:
    async def main() -> None:
        settings = PeerSettings(loopback=True, media_idle_ns=NS_PER_S // 2)
        peer = Peer("cam", runtime, settings)
        client = Client(PatternTrack(), channel_label="chat")
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed) as task:
            await feed.until(frames=3)
            await client.until_open()
            client.filter(lambda *_: False)
            assert client.channel is not None
            for _ in range(15):
                client.channel.send("still here")
                await asyncio.wait({task}, timeout=0.1)
            assert not task.done()
            with pytest.raises(SourceError, match="no media"):
                await ends(task)

    asyncio.run(main())


def test_who_connects_and_sends_none_of_the_media_offered_is_gone(runtime: SystemRuntime) -> None:
    class Mute(ToneTrack):
        """Never has anything to send."""

        async def recv(self) -> av.AudioFrame:
            return await asyncio.Future()

    async def main() -> None:
        settings = PeerSettings(loopback=True, connect_timeout_ns=2 * NS_PER_S)
        peer = Peer("cam", runtime, settings)
        client = Client(audio=Mute())
        async with running(peer, client, CollectingFeed(runtime)) as task:
            with pytest.raises(SourceError, match="no media for 2 s"):
                await ends(task)

    asyncio.run(main())


def test_a_client_without_media_is_there_as_long_as_it_says_something(
    runtime: SystemRuntime,
) -> None:
    async def main() -> None:
        settings = PeerSettings(loopback=True, media_idle_ns=NS_PER_S // 2)
        peer = Peer("chat", runtime, settings)
        client = Client(channel_label="chat")
        async with running(peer, client, CollectingFeed(runtime)) as task:
            await client.until_open()
            assert client.channel is not None
            for _ in range(15):
                client.channel.send("still here")
                await asyncio.wait({task}, timeout=0.1)
            assert not task.done()
            with pytest.raises(SourceError, match="no messages for 1 s"):
                await ends(task)

    asyncio.run(main())


def test_nothing_of_a_peer_remains(runtime: SystemRuntime) -> None:
    async def main() -> weakref.ref[Peer]:
        peer = Peer("cam", runtime, SETTINGS)
        client = Client(PatternTrack(), ToneTrack(), "chat")
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed):
            await feed.until(frames=2, chunks=2)
        return weakref.ref(peer)

    peer = asyncio.run(main())
    gc.collect()
    assert peer() is None


def test_a_client_that_never_connects_is_given_up(runtime: SystemRuntime) -> None:
    async def main() -> None:
        settings = PeerSettings(loopback=True, connect_timeout_ns=NS_PER_S // 2)
        peer = Peer("cam", runtime, settings)
        client = Client(PatternTrack())
        await peer.answer(await client.offer())
        async with running(peer, client, CollectingFeed(runtime), connecting=False) as task:
            with pytest.raises(SourceError, match=r"not connected after 0\.5 s"):
                await ends(task)

    asyncio.run(main())


def test_cancelled_it_closes_the_connection_and_gives_its_lanes_back(
    runtime: SystemRuntime,
) -> None:
    async def main() -> None:
        for _ in range(3):
            peer = Peer("cam", runtime, SETTINGS)
            client = Client(PatternTrack(), ToneTrack())
            feed = CollectingFeed(runtime)
            async with running(peer, client, feed) as task:
                await feed.until(frames=2, chunks=2)
            assert task.cancelled()
            assert peer.state == "closed"
        assert len(runtime._lanes) == 1  # of the pictures

    asyncio.run(main())


def test_cancelled_while_both_sides_close_it_closes_all_the_same(
    runtime: SystemRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        client = Client(PatternTrack(), ToneTrack())
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed) as task:
            await feed.until(frames=2)
            await client.close()
            await until(lambda: peer.state != "connected")
            task.cancel()
            await asyncio.wait({task})
            await until(lambda: peer._connection.state == "closed")

    asyncio.run(main())
    gc.collect()  # a task whose exception nobody looked at says so here
    assert "never retrieved" not in caplog.text


def test_a_change_of_resolution_changes_the_frames_from_there_on(runtime: SystemRuntime) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        camera = PatternTrack(320, 240)
        client = Client(camera)
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed):
            await feed.until(frames=5)
            camera.size = (640, 480)
            await feed.until_true(lambda: bool(feed.frames[-1].width == 640))
            camera.size = (162, 122)
            await feed.until_true(lambda: bool(feed.frames[-1].width == 162))
        sizes = [(frame.width, frame.height) for frame in feed.frames]
        assert list(dict.fromkeys(sizes)) == [(320, 240), (640, 480), (162, 122)]
        u = feed.frames[-1].u
        assert u is not None
        assert u.shape == (61, 81)
        assert [f.sequence for f in feed.frames] == list(range(len(sizes)))

    asyncio.run(main())


def test_pictures_that_are_too_large_are_refused_and_counted(runtime: SystemRuntime) -> None:
    async def main() -> None:
        settings = PeerSettings(loopback=True, max_pixels=320 * 240)
        peer = Peer("cam", runtime, settings)
        camera = PatternTrack(640, 480)
        client = Client(camera)
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed):
            await feed.until_true(lambda: len(feed.bounds) > 1)
            assert feed.frames == []
            assert peer.drops.by_reason["video: picture too large"] >= 1
            camera.size = (320, 240)
            await feed.until(frames=3)
        assert {(frame.width, frame.height) for frame in feed.frames} == {(320, 240)}

    asyncio.run(main())


def test_a_lost_packet_of_sound_leaves_a_gap_and_the_delay_recovers(
    runtime: SystemRuntime,
) -> None:
    async def main() -> None:
        peer = Peer("mic", runtime, SETTINGS)
        client = Client(audio=ToneTrack())
        feed = CollectingFeed(runtime)
        lost: list[int] = []

        def keeps(ssrc: int, sequence: int) -> bool:
            if len(feed.chunks) > 20 and not lost:
                lost.append(sequence)
                return False
            return True

        async with running(peer, client, feed):
            client.filter(keeps)
            await feed.until(chunks=60)
            stats = peer.stats().audio
        assert stats is not None
        assert (stats.lost, stats.frames_given_up, stats.decode_errors) == (1, 1, 0)
        gaps = [round((b.t_ns - a.end_ns) / CHUNK_NS) for a, b in pairwise(feed.chunks)]
        assert gaps.count(1) == 1  # one packet is missing, and nothing is moved to fill its place
        assert gaps.count(0) == len(gaps) - 1
        # Handed over how long after capture: as before, soon after the gap.
        late_ns = [
            at_ns - item.t_ns
            for at_ns, item in zip(feed.arrived_ns, feed.items, strict=True)
            if item in feed.chunks
        ]
        gap = gaps.index(1) + 1
        assert min(late_ns[gap + 5 :]) < min(late_ns[:gap]) + CHUNK_NS

    asyncio.run(main())


def test_a_lost_packet_of_video_is_sent_again(runtime: SystemRuntime) -> None:
    async def main() -> None:
        # Waits long: how soon the packet comes again is the machine's affair.
        settings = PeerSettings(loopback=True, video_wait_ns=10 * NS_PER_S)
        peer = Peer("cam", runtime, settings)
        client = Client(PatternTrack())
        feed = CollectingFeed(runtime)
        lost: list[int] = []

        def keeps(ssrc: int, sequence: int) -> bool:
            if ssrc == client.ssrc("video") and len(feed.frames) > 5 and not lost:
                lost.append(sequence)
                return False
            return True

        async with running(peer, client, feed):
            client.filter(keeps)
            await feed.until(frames=30)
            stats = peer.stats().video
        assert lost
        assert stats is not None
        assert (stats.lost, stats.frames_given_up, stats.reordered) == (0, 0, 1)
        assert stats.key_frame_requests == 0
        steps = [round((b.t_ns - a.t_ns) * 30 / NS_PER_S) for a, b in pairwise(feed.frames)]
        assert set(steps) == {1}

    asyncio.run(main())


def test_a_picture_lost_for_good_costs_those_up_to_the_key_frame_that_is_asked_for(
    runtime: SystemRuntime,
) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        client = Client(PatternTrack())
        feed = CollectingFeed(runtime)
        lost: list[int] = []

        def keeps(ssrc: int, sequence: int) -> bool:
            if ssrc != client.ssrc("video"):
                return False  # what is sent again
            if len(feed.frames) > 5 and not lost:
                lost.append(sequence)
                return False
            return True

        async with running(peer, client, feed):
            client.filter(keeps)
            await feed.until_true(lambda: bool(feed.bounds))
            count = len(feed.frames)
            await feed.until(frames=count + 10)
            stats = peer.stats().video
        assert stats is not None
        assert stats.lost == 1
        assert stats.key_frame_requests >= 1
        assert stats.frames_given_up >= 1
        assert stats.decode_errors == 0
        assert [frame.sequence for frame in feed.frames] == list(range(len(feed.frames)))
        steps = [round((b.t_ns - a.t_ns) * 30 / NS_PER_S) for a, b in pairwise(feed.frames)]
        assert sum(step > 1 for step in steps) == 1
        # Bounds say what will not come, so that nobody waits for it.
        after = feed.frames[count].t_ns
        assert all(bound.t_ns <= after for bound in feed.bounds)

    asyncio.run(main())


def test_what_cannot_be_read_is_counted_and_ends_nothing(runtime: SystemRuntime) -> None:
    async def main() -> None:
        texts: list[str] = []
        peer = Peer("cam", runtime, SETTINGS, on_text=texts.append)
        client = Client(PatternTrack(), ToneTrack(), channel_label="chat")
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed) as task:
            await feed.until(frames=3, chunks=3)
            await client.until_open()
            ssrc = b"\x01\x02\x03\x04"
            # A header extension that announces three bytes of send time and has one.
            bad = b"\x90\x61\x00\x01" + bytes(4) + ssrc + b"\xbe\xde\x00\x01\x30\x00\x00\x00"
            await client.send_raw(bad)
            # A report that is cut off, and text that is none.
            await client.send_raw(b"\x80\xc8\x00\x06" + ssrc + bytes(20))
            await client.send_raw(b"\x81\xcf\x00\x02" + ssrc + bytes(4))
            assert client.channel is not None
            client.channel.transport._data_channel_queue.append((client.channel, 51, b"\xff\xfe"))
            client.channel.send("still here")
            count = len(feed.frames)
            await feed.until(frames=count + 5)
            await until(lambda: bool(texts))
            assert not task.done()
            stats = peer.stats()
        assert texts == ["still here"]
        assert stats.trouble["RTP not readable"] == 1
        assert stats.trouble["data not readable"] == 1

    asyncio.run(main())


def test_packets_of_ever_new_streams_are_refused(runtime: SystemRuntime) -> None:
    async def main() -> None:
        peer = Peer("mic", runtime, SETTINGS)
        client = Client(audio=ToneTrack())
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed) as task:
            await feed.until(chunks=3)
            for ssrc in range(100):
                await client.send_raw(b"\x80\x60" + bytes(6) + ssrc.to_bytes(4, "big") + b"noise")
            await until(lambda: peer.stats().trouble.get("RTP beyond limits", 0) >= 100 - 32)
            count = len(feed.chunks)
            await feed.until_true(lambda: len(feed.chunks) > count or task.done())
            assert not task.done()

    asyncio.run(main())


def test_data_beyond_a_rate_is_lost_and_what_comes_later_is_heard(
    runtime: SystemRuntime,
) -> None:
    async def main() -> None:
        texts: list[str] = []
        peer = Peer("chat", runtime, SETTINGS, on_text=texts.append)
        client = Client(audio=ToneTrack(), channel_label="chat")
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed):
            await until(lambda: peer.channel_open)
            assert client.channel is not None
            for _ in range(3):
                client.channel.send("x" * 60_000)
            client.channel.send("the last word")
            await until(lambda: "the last word" in texts)
            stats = peer.stats()
        assert texts == ["the last word"]
        assert stats.trouble["data beyond limits"] > 0
        assert sum(stats.refused.values()) == 3

    asyncio.run(main())


def test_tracks_beyond_the_first_of_each_kind_are_ignored(runtime: SystemRuntime) -> None:
    async def main() -> None:
        peer = Peer("cam", runtime, SETTINGS)
        client = Client(PatternTrack(320, 240))
        client.pc.addTrack(PatternTrack(160, 120))
        feed = CollectingFeed(runtime)
        async with running(peer, client, feed):
            await feed.until(frames=10)
        assert peer.stats().ignored_tracks == 1
        assert {frame.width for frame in feed.frames} == {320}

    asyncio.run(main())
