"""`MediaTimeline`: never back, and one wrong timestamp costs nothing but itself."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.media_time import MAX_GAP_NS, MediaTimeline
from counterpoint.streams.types import NS_PER_S

MS = 1_000_000
FRAME = 40 * MS


def place_all(times: list[int | None], known_end_ns: int | None) -> tuple[list[int], MediaTimeline]:
    timeline = MediaTimeline(known_end_ns)
    return [timeline.place(t, FRAME) for t in times], timeline


def test_good_timestamps_are_kept_as_they_are() -> None:
    times: list[int | None] = [-64 * MS, 0, 40 * MS, 500 * MS, 501 * MS]
    placed, timeline = place_all(times, None)
    assert placed == times
    assert timeline.repairs == 0
    assert timeline.end_ns == 541 * MS


def test_a_sample_without_a_timestamp_follows_the_one_before_it() -> None:
    assert place_all([None, None, 90 * MS, None], None)[0] == [0, FRAME, 90 * MS, 130 * MS]


def test_one_wrong_timestamp_costs_nothing_but_itself() -> None:
    wrong = 26 * 3600 * NS_PER_S
    placed, timeline = place_all([0, FRAME, wrong, 3 * FRAME, 4 * FRAME], 3 * NS_PER_S)
    assert placed == [0, FRAME, 2 * FRAME, 3 * FRAME, 4 * FRAME]
    assert timeline.repairs == 2


def test_a_recording_that_starts_again_at_zero_goes_on() -> None:
    once = [i * FRAME for i in range(50)]
    placed, timeline = place_all([*once, *once], None)
    assert placed == [i * FRAME for i in range(100)]
    assert timeline.repairs == 1


def test_a_long_pause_within_the_file_is_a_pause() -> None:
    placed, timeline = place_all([0, 90 * NS_PER_S], 91 * NS_PER_S)
    assert placed == [0, 90 * NS_PER_S]
    assert timeline.repairs == 0
    assert place_all([0, FRAME + MAX_GAP_NS + 1], None)[0] == [0, FRAME]


def test_slight_disorder_is_held_not_shifted() -> None:
    placed, timeline = place_all([0, 80 * MS, 40 * MS, 120 * MS], None)
    assert placed == [0, 80 * MS, 80 * MS, 120 * MS]
    assert timeline.repairs == 0


@given(
    st.lists(st.none() | st.integers(-(10**18), 10**18), max_size=30),
    st.none() | st.integers(0, 10**14),
)
def test_time_never_goes_back_whatever_the_file_says(
    times: list[int | None], known_end_ns: int | None
) -> None:
    placed, _ = place_all(times, known_end_ns)
    assert all(a <= b for a, b in itertools.pairwise(placed))


@given(st.lists(st.integers(-(10**18), 10**18) | st.integers(0, 12 * NS_PER_S), max_size=10))
def test_a_second_after_any_garbage_good_timestamps_keep_their_spacing(garbage: list[int]) -> None:
    timeline = MediaTimeline(10 * NS_PER_S)
    timeline.place(0, FRAME)
    for t in garbage:
        timeline.place(t, FRAME)
    placed = [timeline.place(i * FRAME, FRAME) for i in range(60)]
    assert {b - a for a, b in itertools.pairwise(placed[30:])} == {FRAME}
