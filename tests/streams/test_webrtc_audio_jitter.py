from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.webrtc.audio_jitter import AudioGap, AudioJitter, AudioPacket, AudioPiece

MS = 1_000_000
WAIT_NS = 40 * MS
PACKET_NS = 20 * MS


def packet(number: int, *, first: int = 65_530, arrived_ns: int | None = None) -> AudioPacket:
    return AudioPacket(
        sequence=(first + number) % 65_536,
        timestamp=number * 960,
        data=b"%d" % number,
        arrived_ns=number * PACKET_NS if arrived_ns is None else arrived_ns,
        media_ns=number,
    )


def play(jitter: AudioJitter, packets: Iterable[AudioPacket]) -> list[tuple[int, AudioPiece]]:
    """Pieces with the instants at which they came out; the jitter buffer is woken when it asks."""
    given_: list[tuple[int, AudioPiece]] = []
    for one in packets:
        while (wake_ns := jitter.next_wake_ns) is not None and wake_ns < one.arrived_ns:
            given_ += [(wake_ns, piece) for piece in jitter.advance(wake_ns)]
            assert jitter.next_wake_ns is None or jitter.next_wake_ns > wake_ns
        given_ += [(one.arrived_ns, piece) for piece in jitter.add(one, one.arrived_ns)]
        check(jitter)
    return given_


def check(jitter: AudioJitter) -> None:
    c = jitter.counts
    assert c.received == c.used + c.duplicates + c.late + c.given_up + jitter.waiting


def numbers(pieces: Iterable[tuple[int, AudioPiece]]) -> list[int]:
    return [piece.media_ns for _, piece in pieces if isinstance(piece, AudioPacket)]


@given(st.integers(0, 65_535), st.lists(st.integers(0, WAIT_NS - 1), max_size=40), st.data())
def test_reordering_within_the_limit_changes_nothing(
    first: int, delays_ns: list[int], data: st.DataObject
) -> None:
    packets = [
        packet(n, first=first, arrived_ns=n * PACKET_NS + delay_ns)
        for n, delay_ns in enumerate([0, *delays_ns])
    ]
    repeats = data.draw(st.lists(st.sampled_from(packets), max_size=5))
    jitter = AudioJitter(wait_ns=WAIT_NS)
    given_ = play(jitter, sorted([*packets, *repeats], key=lambda one: one.arrived_ns))
    assert [piece for _, piece in given_] == packets
    due_ns = 0
    for at_ns, piece in given_:
        assert isinstance(piece, AudioPacket)
        due_ns = max(due_ns, piece.arrived_ns)
        assert at_ns == due_ns  # at once when all before it are there
    assert jitter.counts.duplicates == len(repeats)


@given(
    st.lists(st.tuples(st.integers(0, 5 * WAIT_NS), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 65_535),
)
def test_whatever_is_lost_the_rest_comes_in_order_and_in_time(
    fates: list[tuple[int, bool]], first: int
) -> None:
    come = sorted(
        (
            packet(n, first=first, arrived_ns=n * PACKET_NS + delay_ns)
            for n, (delay_ns, lost) in enumerate(fates)
            if not lost
        ),
        key=lambda one: one.arrived_ns,
    )
    jitter = AudioJitter(wait_ns=WAIT_NS)
    given_ = play(jitter, come)
    while (wake_ns := jitter.next_wake_ns) is not None:
        given_ += [(wake_ns, piece) for piece in jitter.advance(wake_ns)]
    got = numbers(given_)
    assert got == sorted(set(got))
    for at_ns, piece in given_:
        assert isinstance(piece, AudioGap) or at_ns <= piece.arrived_ns + WAIT_NS
    # Each gap is said just before what follows it, with how much is missing.
    for (_, before), (_, gap), (_, after) in zip(given_, given_[1:], given_[2:], strict=False):
        if isinstance(gap, AudioGap):
            assert isinstance(before, AudioPacket)
            assert isinstance(after, AudioPacket)
            assert after.media_ns - before.media_ns == gap.packets + 1
    gaps = [piece.packets for _, piece in given_ if isinstance(piece, AudioGap)]
    assert jitter.counts.lost == sum(gaps)
    assert jitter.counts.frames_given_up == len(gaps)
    assert jitter.waiting == 0
    check(jitter)


@given(st.lists(st.integers(0, 65_535), max_size=300))
def test_any_packets_stay_within_the_bound(sequences: list[int]) -> None:
    jitter = AudioJitter(wait_ns=WAIT_NS, max_packets=8)
    for sequence in sequences:
        one = AudioPacket(sequence=sequence, timestamp=0, data=b"x", arrived_ns=0)
        jitter.add(one, 0)
        assert jitter.waiting <= 8
        check(jitter)


def test_after_one_lost_packet_the_delay_is_what_it_was() -> None:
    jitter = AudioJitter(wait_ns=WAIT_NS)
    given_ = play(jitter, [packet(n) for n in range(20) if n != 5])
    late_ns = {
        piece.media_ns: at_ns - piece.arrived_ns
        for at_ns, piece in given_
        if isinstance(piece, AudioPacket)
    }
    assert late_ns[6] == WAIT_NS
    assert late_ns[7] == WAIT_NS - PACKET_NS
    assert all(late_ns[number] == 0 for number in range(8, 20))
    assert [piece for _, piece in given_ if isinstance(piece, AudioGap)] == [AudioGap(packets=1)]


def test_padding_and_stillness_are_no_gaps() -> None:
    jitter = AudioJitter(wait_ns=WAIT_NS)
    padding = AudioPacket(sequence=packet(1).sequence, timestamp=0, data=b"", arrived_ns=0)
    # Discontinuous transmission: numbers go on, time leaps.
    given_ = play(jitter, [packet(0), padding, packet(2, arrived_ns=10**9)])
    assert numbers(given_) == [0, 2]
    assert jitter.counts.lost == 0


def test_another_stream_begins_with_what_still_waited_given() -> None:
    jitter = AudioJitter(wait_ns=WAIT_NS)
    play(jitter, [packet(0), packet(2)])
    assert jitter.restart() == [AudioGap(packets=1), packet(2)]
    assert numbers(play(jitter, [packet(0, first=9), packet(1, first=9)])) == [0, 1]
