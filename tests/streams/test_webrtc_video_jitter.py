from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from counterpoint.streams.webrtc.video_jitter import (
    ASK_APART_NS,
    ASK_EVERY_NS,
    EncodedFrame,
    VideoJitter,
    VideoPacket,
)

MS = 1_000_000
WAIT_NS = 100 * MS
FRAME_NS = 33 * MS


def stream(sizes: list[int], keys: Iterable[int] = (0,), first: int = 65_530) -> list[VideoPacket]:
    """Packets of frames with as many packets each, all of a frame sent at once."""
    packets: list[VideoPacket] = []
    for frame, size in enumerate(sizes):
        for part in range(size):
            packets.append(
                VideoPacket(
                    sequence=(first + len(packets)) % 65_536,
                    timestamp=(4_294_960_000 + frame * 2_970) % (1 << 32),
                    marker=part == size - 1,
                    data=f"{frame}.{part} ".encode(),
                    key=frame in keys and part == 0,
                    arrived_ns=frame * FRAME_NS,
                    media_ns=frame,
                )
            )
    return packets


def arrived(packet: VideoPacket, at_ns: int) -> VideoPacket:
    return VideoPacket(
        sequence=packet.sequence,
        timestamp=packet.timestamp,
        marker=packet.marker,
        data=packet.data,
        key=packet.key,
        arrived_ns=at_ns,
        media_ns=packet.media_ns,
    )


def play(jitter: VideoJitter, packets: Iterable[VideoPacket]) -> list[tuple[int, EncodedFrame]]:
    """Frames with the instants at which they came out; the jitter buffer is woken when it asks."""
    given: list[tuple[int, EncodedFrame]] = []
    for packet in packets:
        while (wake_ns := jitter.next_wake_ns) is not None and wake_ns < packet.arrived_ns:
            given += [(wake_ns, frame) for frame in jitter.advance(wake_ns)]
            jitter.key_wanted(wake_ns)
            assert jitter.next_wake_ns is None or jitter.next_wake_ns > wake_ns
        given += [(packet.arrived_ns, f) for f in jitter.add(packet, packet.arrived_ns)]
        check(jitter)
    return given


def check(jitter: VideoJitter) -> None:
    c = jitter.counts
    assert c.received == c.used + c.duplicates + c.late + c.given_up + jitter.waiting


def numbers(frames: Iterable[EncodedFrame]) -> list[int]:
    return [frame.media_ns for frame in frames]


@dataclass(frozen=True)
class Journey:
    sizes: list[int]
    keys: frozenset[int]
    delays_ns: list[int]
    first: int


@st.composite
def journeys(draw: st.DrawFn, most_delay_ns: int) -> Journey:
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))
    keys = draw(st.frozensets(st.integers(1, 11), max_size=3)) | {0}
    count = sum(sizes)
    delays = draw(st.lists(st.integers(0, most_delay_ns), min_size=count, max_size=count))
    # The first packet is the first to arrive: what comes before it nobody can know of.
    return Journey(sizes, keys, [0, *delays[1:]], draw(st.integers(0, 65_535)))


@given(journeys(WAIT_NS - 1), st.data())
def test_reordering_within_the_limit_changes_nothing(journey: Journey, data: st.DataObject) -> None:
    sent = stream(journey.sizes, journey.keys, journey.first)
    packets = [
        arrived(packet, packet.arrived_ns + delay_ns)
        for packet, delay_ns in zip(sent, journey.delays_ns, strict=True)
    ]
    repeats = data.draw(st.lists(st.sampled_from(packets), max_size=5))
    come = sorted([*packets, *repeats], key=lambda packet: packet.arrived_ns)
    jitter = VideoJitter(wait_ns=WAIT_NS)
    given_ = play(jitter, come)
    assert [frame.data for _, frame in given_] == [
        b"".join(p.data for p in sent if p.media_ns == number)
        for number in range(len(journey.sizes))
    ]
    # Each leaves the moment it and all before it are there.
    due_ns = 0
    for at_ns, frame in given_:
        parts = [p.arrived_ns for p in packets if p.media_ns == frame.media_ns]
        assert frame.arrived_ns == max(parts)
        due_ns = max(due_ns, *parts)
        assert at_ns == due_ns
    assert jitter.counts.duplicates == len(repeats)
    assert jitter.counts.lost == jitter.counts.frames_given_up == 0
    assert jitter.waiting == 0


@given(journeys(3 * WAIT_NS), st.data())
def test_whatever_is_lost_frames_are_whole_in_order_and_build_on_what_was_given(
    journey: Journey, data: st.DataObject
) -> None:
    sent = stream(journey.sizes, journey.keys, journey.first)
    lost = data.draw(st.frozensets(st.integers(0, len(sent) - 1)))
    come = sorted(
        (
            arrived(packet, packet.arrived_ns + delay_ns)
            for index, (packet, delay_ns) in enumerate(zip(sent, journey.delays_ns, strict=True))
            if index not in lost
        ),
        key=lambda packet: packet.arrived_ns,
    )
    jitter = VideoJitter(wait_ns=WAIT_NS)
    given_ = play(jitter, come)
    frames = [frame for _, frame in given_]
    got = numbers(frames)
    assert got == sorted(set(got))
    for frame in frames:
        parts = [p for p in sent if p.media_ns == frame.media_ns]
        assert frame.data == b"".join(part.data for part in parts)
        assert frame.key == (frame.media_ns in journey.keys)
        assert frame.key or frame.media_ns - 1 in got
    # No packet waits longer than the limit: by then it was given or given up.
    for at_ns, frame in given_:
        assert at_ns <= frame.arrived_ns + WAIT_NS
    if come:
        end_ns = come[-1].arrived_ns + WAIT_NS
        jitter.advance(end_ns)
        check(jitter)
        # What still waits is the beginning of a frame of which nothing is known to be missing.
        assert jitter.waiting <= max(journey.sizes)


@example([(500, 0, True), (0, 0, True)])  # padding that says it begins a key frame
@given(st.lists(st.tuples(st.integers(0, 65_535), st.integers(0, 3), st.booleans()), max_size=300))
def test_any_packets_stay_within_the_bounds(noise: list[tuple[int, int, bool]]) -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS, max_packets=16, max_bytes=400)
    for step, (sequence, frame, key) in enumerate(noise):
        packet = VideoPacket(
            sequence=sequence,
            timestamp=frame,
            marker=False,
            data=bytes(sequence % 100),
            key=key,
            arrived_ns=step * MS,
        )
        for given_ in jitter.add(packet, step * MS):
            assert given_.data
        assert jitter.waiting <= 16
        assert jitter.waiting_bytes <= 400
        check(jitter)


def test_a_frame_leaves_with_its_marker_and_does_not_wait_for_the_next() -> None:
    jitter = VideoJitter()
    first = stream([3])
    assert [jitter.add(p, 0) for p in first[:2]] == [[], []]
    assert numbers(jitter.add(first[2], 0)) == [0]


def test_without_a_marker_the_next_frame_ends_it() -> None:
    jitter = VideoJitter()
    packets = stream([1, 1])
    unmarked = VideoPacket(
        sequence=packets[0].sequence,
        timestamp=packets[0].timestamp,
        marker=False,
        data=b"x",
        key=True,
        arrived_ns=0,
    )
    assert jitter.add(unmarked, 0) == []
    assert [frame.data for frame in jitter.add(packets[1], 0)] == [b"x", packets[1].data]


def test_padding_between_frames_is_used_up() -> None:
    jitter = VideoJitter()
    packets = stream([1, 1, 1, 1])
    padding = VideoPacket(
        sequence=packets[1].sequence,
        timestamp=packets[0].timestamp,
        marker=False,
        data=b"",
        key=False,
        arrived_ns=0,
    )
    given_ = play(jitter, [packets[0], padding, packets[2], packets[3]])
    assert numbers(frame for _, frame in given_) == [0, 2, 3]
    assert jitter.counts.used == 4


def test_after_a_loss_frames_are_dropped_until_the_key_frame() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS)
    packets = stream([1] * 20, keys=(0, 15))
    given_ = play(jitter, [p for p in packets if p.media_ns != 5])
    assert numbers(frame for _, frame in given_) == [*range(5), *range(15, 20)]
    assert jitter.counts.lost == 1
    assert jitter.counts.frames_given_up == 9
    assert jitter.counts.given_up == 9


def test_a_key_frame_is_asked_for_once_and_again_only_after_a_while() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS)
    packets = [p for p in stream([1] * 200) if p.media_ns != 5]
    asked: list[int] = []
    for packet in packets:
        jitter.add(packet, packet.arrived_ns)
        if jitter.key_wanted(packet.arrived_ns):
            asked.append(packet.arrived_ns)
    noticed_ns = 6 * FRAME_NS
    assert noticed_ns + WAIT_NS <= asked[0] < noticed_ns + WAIT_NS + FRAME_NS
    assert all(later - sooner >= ASK_EVERY_NS for sooner, later in pairwise(asked))
    assert len(asked) == 7


def test_losses_one_after_the_other_do_not_ask_at_each() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS)
    asked = [at_ns for at_ns in range(0, 2_000 * MS, 10 * MS) if ask_after_loss(jitter, at_ns)]
    assert all(later - sooner >= ASK_APART_NS for sooner, later in pairwise(asked))
    assert len(asked) == 4


def ask_after_loss(jitter: VideoJitter, now_ns: int) -> bool:
    jitter.lose(now_ns)
    return jitter.key_wanted(now_ns)


def test_at_the_beginning_in_the_middle_of_a_stream_a_key_frame_is_asked_for() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS)
    packets = stream([2] * 10, keys=())
    assert play(jitter, packets[1:4]) == []
    assert jitter.next_wake_ns == packets[1].arrived_ns + WAIT_NS
    assert not jitter.key_wanted(packets[1].arrived_ns + WAIT_NS - 1)
    assert jitter.key_wanted(packets[1].arrived_ns + WAIT_NS)


def test_while_a_key_frame_is_on_its_way_none_is_asked_for() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS)
    packets = stream([30])
    for packet in packets[:-1]:
        assert jitter.add(packet, 0) == []
    assert not jitter.key_wanted(10 * WAIT_NS)
    assert jitter.next_wake_ns is None
    assert numbers(jitter.add(packets[-1], 11 * WAIT_NS)) == [0]


def test_what_comes_after_it_was_given_up_on_is_late_and_again_a_duplicate() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS)
    packets = stream([1] * 20, keys=(0, 10))
    play(jitter, [p for p in packets if p.media_ns != 5])
    assert play(jitter, [arrived(packets[5], 10**9), arrived(packets[5], 10**9)]) == []
    assert (jitter.counts.late, jitter.counts.duplicates) == (1, 1)


def test_a_sender_that_begins_anew_is_followed() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS)
    play(jitter, stream([1] * 5, first=100))
    again = [arrived(p, p.arrived_ns + 10**9) for p in stream([1] * 6, keys=(1,), first=40_000)]
    given_ = play(jitter, again)
    assert numbers(frame for _, frame in given_) == [1, 2, 3, 4, 5]
    assert jitter.counts.late == 1  # the first of them could not be believed yet


def test_one_packet_with_a_number_far_off_is_passed_over() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS)
    packets = stream([1] * 6, first=100)
    stray = VideoPacket(
        sequence=50_000, timestamp=1, marker=True, data=b"x", key=True, arrived_ns=70 * MS
    )
    given_ = play(jitter, [*packets[:3], stray, *packets[3:]])
    assert numbers(frame for _, frame in given_) == [0, 1, 2, 3, 4, 5]


def test_another_stream_begins_with_numbers_of_its_own() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS)
    play(jitter, stream([1, 1, 2], first=100)[:3])
    jitter.restart(10**9)
    check(jitter)
    again = [arrived(p, p.arrived_ns + 10**9) for p in stream([1, 1], first=90)]
    assert numbers(frame for _, frame in play(jitter, again)) == [0, 1]


def test_a_frame_larger_than_the_bound_is_given_up_and_the_next_key_frame_taken() -> None:
    jitter = VideoJitter(wait_ns=WAIT_NS, max_packets=10)
    packets = stream([5, 20, 1, 5], keys=(0, 3))
    given_ = play(jitter, packets)
    assert numbers(frame for _, frame in given_) == [0, 3]
    assert jitter.counts.frames_given_up >= 1
