"""A track under the virtual clock: its opening, a slow decoder, another stream within."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TypeVar, cast

from counterpoint.streams.clock import SenderOffset
from counterpoint.streams.runtime import Lane
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    ClockUpdate,
    DropCounter,
    Item,
    Modality,
    Tier,
    VideoFrame,
)
from counterpoint.streams.webrtc.adapter import ReceivedTrack
from counterpoint.streams.webrtc.audio_track import AudioTrack
from counterpoint.streams.webrtc.packets import RtpPacket, SenderReport
from counterpoint.streams.webrtc.settings import MS, PeerSettings
from counterpoint.streams.webrtc.track import MAX_BEHIND_NS, OPENING_NS
from counterpoint.streams.webrtc.video_track import VideoTrack
from tests.support.rtp_sender import SENDER_EPOCH_NS, ns_to_ntp
from tests.support.virtual import VirtualRuntime
from tests.support.webrtc_media import HandedTrack, encoded_pictures, h264_packets, vp8_packet

T = TypeVar("T")
FRAME_NS = NS_PER_S // 30


def opus_packet(number: int) -> RtpPacket:
    """20 ms of silence."""
    return RtpPacket(
        ssrc=1,
        sequence=number,
        timestamp=number * 960,
        marker=False,
        codec="OPUS",
        payload=b"",
        data=b"\xf8\xff\xfe",
    )


def ntp(ns: int) -> int:
    return ns_to_ntp(SENDER_EPOCH_NS + ns)


class SlowLane:
    """Takes ``ns`` of virtual time for each call."""

    def __init__(self, runtime: VirtualRuntime, ns: int) -> None:
        self._runtime = runtime
        self._ns = ns

    async def submit(self, fn: Callable[[], T]) -> T:
        await self._runtime.sleep_until(self._runtime.now_ns() + self._ns)
        return fn()


class Kept:
    """A feed that keeps all; the session began with the runtime."""

    def __init__(self, runtime: VirtualRuntime) -> None:
        self.items: list[tuple[int, Item]] = []
        self.hop_ns = 0  # where set, sound is wanted at the end of each hop
        self._runtime = runtime
        self._origin_ns = runtime.now_ns()

    def now_ns(self) -> int:
        return self._runtime.now_ns() - self._origin_ns

    def session_ns(self, monotonic_ns: int) -> int:
        return monotonic_ns - self._origin_ns

    def wanted_ns(self, modality: Modality) -> int:
        if not self.hop_ns or modality is not Modality.AUDIO:
            return 0
        end_ns = self.chunks[-1].end_ns if self.chunks else 0
        return (end_ns // self.hop_ns + 1) * self.hop_ns

    def put(self, item: Item) -> None:
        self.items.append((self.now_ns(), item))

    @property
    def frames(self) -> list[tuple[int, VideoFrame]]:
        return [(at_ns, item) for at_ns, item in self.items if isinstance(item, VideoFrame)]

    @property
    def chunks(self) -> list[AudioChunk]:
        return [item for _, item in self.items if isinstance(item, AudioChunk)]

    @property
    def epochs(self) -> set[int]:
        return {item.epoch for _, item in self.items if isinstance(item, ClockUpdate)}


class Bench:
    """A track, what it is handed and what it gives."""

    def __init__(self, kind: type[VideoTrack | AudioTrack], lane_ns: int = 0) -> None:
        self.runtime = VirtualRuntime()
        self.handed = HandedTrack()
        self.feed = Kept(self.runtime)
        self.drops = DropCounter()
        lane: Lane = SlowLane(self.runtime, lane_ns) if lane_ns else self.runtime.lane("decode")
        new = partial(VideoTrack, lane=lane) if kind is VideoTrack else AudioTrack
        self.track: VideoTrack | AudioTrack = new(
            "cam",
            cast("ReceivedTrack", self.handed),
            runtime=self.runtime,
            offset=SenderOffset(),
            drops=self.drops,
            on_begin=lambda: None,
            settings=PeerSettings(),
        )

    def play(self, arrivals: list[tuple[int, RtpPacket]], until_ns: int) -> None:
        """Hand packets over at their instants of session time, and let time go on to the end."""

        async def main() -> None:
            pump = asyncio.create_task(self.track.pump(self.feed))
            start_ns = self.runtime.now_ns()
            await self.runtime.settle()
            for at_ns, packet in arrivals:
                await self.runtime.advance_to(start_ns + at_ns)
                self.handed.on_packet(packet)
            await self.runtime.advance_to(start_ns + until_ns)
            pump.cancel()
            await asyncio.wait({pump})
            assert pump.cancelled()

        asyncio.run(main())


def test_a_burst_at_the_opening_is_dated_by_the_newest_of_it() -> None:
    bench = Bench(VideoTrack)
    pictures = encoded_pictures("VP8", 50)
    packets = [vp8_packet(data, number) for number, data in enumerate(pictures)]
    opening_ns = 2 * NS_PER_S
    # 24 pictures at once, 0.8 s of media; then one after the other.
    arrivals = [
        (opening_ns + max(0, n - 23) * FRAME_NS, packet) for n, packet in enumerate(packets)
    ]
    bench.play(arrivals, 4 * NS_PER_S)
    frames = bench.feed.frames
    assert [frame.sequence for _, frame in frames] == list(range(50))
    assert bench.feed.epochs == {0}
    first_ns = opening_ns - 23 * FRAME_NS
    for number, (at_ns, frame) in enumerate(frames):
        assert abs(frame.t_ns - (first_ns + number * FRAME_NS)) < MS
        assert at_ns == max(opening_ns + OPENING_NS, arrivals[number][0])


def test_an_opening_that_comes_faster_than_it_was_made_is_waited_for() -> None:
    bench = Bench(VideoTrack)
    pictures = encoded_pictures("VP8", 60)
    packets = [vp8_packet(data, number) for number, data in enumerate(pictures)]
    # The first second of media within 0.3 s, the rest as it is made.
    arrivals = [
        (n * 10 * MS if n < 30 else 290 * MS + (n - 29) * FRAME_NS, packet)
        for n, packet in enumerate(packets)
    ]
    bench.play([(NS_PER_S + at_ns, packet) for at_ns, packet in arrivals], 4 * NS_PER_S)
    frames = bench.feed.frames
    assert [frame.sequence for _, frame in frames] == list(range(60))
    assert bench.feed.epochs == {0}
    for number, (at_ns, frame) in enumerate(frames):
        true_ns = NS_PER_S + 290 * MS + (number - 29) * FRAME_NS
        assert abs(frame.t_ns - true_ns) < 5 * MS
        assert at_ns >= NS_PER_S + 290 * MS + OPENING_NS - 50 * MS


def test_nothing_is_late_once_it_runs() -> None:
    bench = Bench(VideoTrack)
    packets = [vp8_packet(d, n) for n, d in enumerate(encoded_pictures("VP8", 30))]
    bench.play([(n * FRAME_NS, packet) for n, packet in enumerate(packets)], 2 * NS_PER_S)
    after = [(n, at_ns) for n, (at_ns, _) in enumerate(bench.feed.frames) if n > 3]
    assert [at_ns for _, at_ns in after] == [n * FRAME_NS for n, _ in after]


def test_a_decoder_that_is_too_slow_costs_pictures_and_no_delay() -> None:
    bench = Bench(VideoTrack, lane_ns=100 * MS)
    pictures = encoded_pictures("VP8", 300, keys=(0, 100, 200))
    arrivals = [(n * FRAME_NS, vp8_packet(data, n)) for n, data in enumerate(pictures)]
    bench.play(arrivals, 12 * NS_PER_S)
    frames = bench.feed.frames
    assert 20 < len(frames) < 130
    assert [frame.sequence for _, frame in frames] == list(range(len(frames)))
    most_ns = MAX_BEHIND_NS + OPENING_NS + 2 * 100 * MS
    assert all(at_ns - frame.t_ns <= most_ns for at_ns, frame in frames)
    dropped = bench.drops.by_reason["video: decoder too slow"]
    stats = bench.track.stats()
    assert stats.packets == 300
    # Every picture was given, dropped before the decoder, or of no use after one that was.
    assert stats.frames + dropped + stats.given_up + stats.waiting == 300
    assert stats.decode_errors == 0
    assert bench.handed.asked
    assert all(16 <= int(frame.y.mean()) <= 255 for _, frame in frames)


def test_another_stream_in_the_same_track_is_another_epoch() -> None:
    bench = Bench(VideoTrack)
    first = [vp8_packet(d, n, ssrc=1) for n, d in enumerate(encoded_pictures("VP8", 20))]
    second = [vp8_packet(d, n, ssrc=2, first=7) for n, d in enumerate(encoded_pictures("VP8", 20))]
    arrivals = [(n * FRAME_NS, packet) for n, packet in enumerate([*first, *second])]
    stray = (arrivals[25][0], vp8_packet(b"\x00" * 20, 20, ssrc=1))
    bench.play(sorted([*arrivals, stray], key=lambda arrival: arrival[0]), 3 * NS_PER_S)
    frames = [frame for _, frame in bench.feed.frames]
    assert [frame.sequence for frame in frames] == list(range(40))
    assert bench.feed.epochs == {0, 1}
    assert all(a.t_ns < b.t_ns for a, b in pairwise(frames))
    assert bench.drops.by_reason == {"video: of a stream that is over": 1}


def test_a_report_before_the_first_packet_is_kept_for_it() -> None:
    bench = Bench(AudioTrack)
    packets = [opus_packet(n) for n in range(100)]
    bench.handed.on_report(SenderReport(ssrc=1, ntp=ntp(0), timestamp=0))

    def report_later() -> None:
        bench.handed.on_report(SenderReport(ssrc=1, ntp=ntp(NS_PER_S), timestamp=48_000))

    bench.runtime.call_at(bench.runtime.now_ns() + NS_PER_S, report_later)
    bench.play([(n * 20 * MS, packet) for n, packet in enumerate(packets)], 3 * NS_PER_S)
    assert (bench.track.reports, bench.track.reports_taken) == (2, 2)
    assert bench.track.stats().tier is Tier.REPORTS


def test_h264_comes_through_too() -> None:
    bench = Bench(VideoTrack)
    arrivals: list[tuple[int, RtpPacket]] = []
    for n, data in enumerate(encoded_pictures("H264", 30)):
        arrivals += [(n * FRAME_NS, packet) for packet in h264_packets(data, n, len(arrivals))]
    bench.play(arrivals, 2 * NS_PER_S)
    assert [frame.sequence for _, frame in bench.feed.frames] == list(range(30))
    assert bench.track.stats().codec == "H264"


def test_damaged_pictures_are_counted_and_a_key_frame_is_asked_for() -> None:
    bench = Bench(VideoTrack)
    pictures = encoded_pictures("VP8", 45, keys=(0, 25))
    pictures[10] = b"\x01\xff" + b"\xff" * 10
    arrivals = [(n * FRAME_NS, vp8_packet(data, n)) for n, data in enumerate(pictures)]
    bench.play(arrivals, 3 * NS_PER_S)
    brightness = [round((int(frame.y.mean()) - 16) / 4) for _, frame in bench.feed.frames]
    assert brightness == [*range(10), *range(25, 45)]
    assert bench.track.stats().decode_errors == 1
    assert bench.handed.asked[0] == 1


def test_damaged_sound_is_counted_and_the_rest_keeps_its_time() -> None:
    bench = Bench(AudioTrack)
    packets = [opus_packet(n) for n in range(30)]
    packets[10] = packets[10]._replace(data=b"\xff\xff\xff")
    bench.play([(n * 20 * MS, packet) for n, packet in enumerate(packets)], NS_PER_S)
    chunks = bench.feed.chunks
    assert len(chunks) == 29
    steps = [round((b.t_ns - a.t_ns) / (20 * MS)) for a, b in pairwise(chunks)]
    assert (steps.count(1), steps.count(2)) == (27, 1)
    assert bench.track.stats().decode_errors == 1


def arrivals_of_sound(count: int) -> list[tuple[int, RtpPacket]]:
    return [(n * 20 * MS, opus_packet(n)) for n in range(count)]


def test_sound_that_nobody_waits_for_comes_in_runs_and_at_a_hops_end_at_once() -> None:
    bench = Bench(AudioTrack)
    bench.feed.hop_ns = 250 * MS
    bench.play(arrivals_of_sound(100), 4 * NS_PER_S)
    chunks = [(at_ns, item) for at_ns, item in bench.feed.items if isinstance(item, AudioChunk)]
    assert sum(len(chunk.samples) for _, chunk in chunks) == 100 * 960
    assert all(abs(b.t_ns - a.end_ns) < MS for (_, a), (_, b) in pairwise(chunks))
    assert bench.track.stats().decoded == 100
    late = chunks[len(chunks) // 3 :]
    assert max(len(chunk.samples) for _, chunk in late) == 3 * 960
    assert len(late) < 100 * 2 // 3 * 0.6
    # A run is handed over when its last packet comes; the one that ends a hop is not waited beyond.
    ends = {at_ns for at_ns, _ in arrivals_of_sound(100)}
    for at_ns, chunk in late[:-1]:
        assert at_ns in ends
        assert at_ns - chunk.t_ns <= 60 * MS
    first_t_ns = chunks[0][1].t_ns
    for number in range(4, 8):
        hop_ends_ns = number * 250 * MS
        (reaches_ns, chunk), *_ = [c for c in chunks if c[1].end_ns >= hop_ends_ns]
        newest = -(-(hop_ends_ns - first_t_ns) // (20 * MS)) - 1  # the packet that reaches the end
        assert reaches_ns == newest * 20 * MS


def test_sound_that_stops_in_a_run_is_handed_over_all_the_same() -> None:
    for count in (50, 51, 52, 53):
        bench = Bench(AudioTrack)
        bench.feed.hop_ns = 10 * NS_PER_S
        bench.play(arrivals_of_sound(count), 3 * NS_PER_S)
        assert sum(len(chunk.samples) for chunk in bench.feed.chunks) == count * 960
        last_ns = max(at_ns for at_ns, item in bench.feed.items if isinstance(item, AudioChunk))
        assert last_ns <= (count - 1) * 20 * MS + 80 * MS
