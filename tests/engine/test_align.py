"""The aligner, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from counterpoint.engine.align import (
    Aligner,
    AlignSpec,
    AudioCell,
    Line,
    Output,
    State,
    Status,
    VideoCell,
    Window,
)
from counterpoint.engine.align.video import GAP_BLOCK, LEARN_GAPS
from counterpoint.streams.types import ClockUpdate, Item, Modality, Tier
from tests.support.align_sessions import MS, NAMES, S, bound, chunk, ended, frame, line

V, A, C = Modality.VIDEO, Modality.AUDIO, Modality.CHAT
SPEC = AlignSpec(audio_rate_hz=1_000)
HOP = SPEC.hop_ns


def aligner_for(*modalities: Modality, spec: AlignSpec = SPEC) -> Aligner:
    return Aligner(spec, {modality: NAMES[modality] for modality in modalities})


def sound(t_ns: int, count: int, value: float = 0.5, rate_hz: int = 1_000) -> Item:
    return chunk(t_ns, [value] * count, rate_hz=rate_hz)


def windows(outputs: Sequence[Output]) -> list[Window]:
    return [output for output in outputs if isinstance(output, Window)]


def pictures(outputs: Sequence[Output]) -> list[tuple[int, int | None]]:
    return [
        (output.index, None if output.frame is None else output.frame.sequence)
        for output in outputs
        if isinstance(output, VideoCell)
    ]


def sounds(outputs: Sequence[Output]) -> list[AudioCell]:
    return [output for output in outputs if isinstance(output, AudioCell)]


# Video


def test_the_picture_of_an_instant_is_the_newest_strictly_before_it() -> None:
    aligner = aligner_for(V)
    for n, t_ns in enumerate([0, 100 * MS, HOP - 1, HOP]):
        aligner.push(frame(t_ns, n), t_ns)
    assert pictures(aligner.advance(HOP)) == [(1, 2)]


@pytest.mark.parametrize(("age_ns", "chosen"), [(HOP, 0), (HOP + 1, None)])
def test_a_picture_as_old_as_the_tolerance_is_taken_and_an_older_one_is_not(
    age_ns: int, chosen: int | None
) -> None:
    aligner = aligner_for(V)
    aligner.push(frame(2 * HOP - age_ns), HOP)
    aligner.push(bound(V, 2 * HOP), 2 * HOP)
    assert pictures(aligner.advance(2 * HOP))[-1] == (2, chosen)


def test_with_a_long_tolerance_a_picture_stands_in_for_later_instants_and_is_used_once() -> None:
    aligner = aligner_for(V, spec=replace(SPEC, video_tolerance_ns=2 * HOP))
    aligner.push(frame(100 * MS, 7), 100 * MS)
    aligner.push(bound(V, 3 * HOP), 3 * HOP)
    assert pictures(aligner.advance(3 * HOP)) == [(1, 7), (2, 7), (3, None)]
    assert aligner.counters().items[V].used == 1


def test_a_cell_of_video_is_given_as_soon_as_no_frame_is_expected_before_its_instant() -> None:
    aligner = aligner_for(V)
    times = range(9 * MS, 240 * MS, 20 * MS)  # the last is 229 ms; the next is due at 249 ms
    for n, t_ns in enumerate(times):
        aligner.push(frame(t_ns, n), t_ns)
        assert pictures(aligner.advance(t_ns)) == []
    aligner.push(frame(249 * MS, 12), 249 * MS)
    assert pictures(aligner.advance(249 * MS)) == [(1, 12)]
    assert aligner.bounds()[V] == 269 * MS


def test_the_gap_between_frames_is_trusted_only_after_some_were_seen() -> None:
    aligner = aligner_for(V)
    for n in range(LEARN_GAPS + 1):
        t_ns = n * 10 * MS
        assert aligner.bounds()[V] == max(0, t_ns - 10 * MS)
        aligner.push(frame(t_ns, n), t_ns)
    assert aligner.bounds()[V] == (LEARN_GAPS + 1) * 10 * MS


def test_a_freak_pair_of_frames_is_forgotten() -> None:
    aligner = aligner_for(V)
    times = [n * 30 * MS for n in range(3 * GAP_BLOCK)]
    times[5] = times[4] + 1
    for n, t_ns in enumerate(times):
        aligner.push(frame(t_ns, n), t_ns)
        aligner.advance(t_ns)
        if n == GAP_BLOCK:
            assert aligner.bounds()[V] == t_ns + 1
    assert aligner.bounds()[V] == times[-1] + 30 * MS


def test_a_frame_for_a_closed_cell_is_late_even_before_its_window_is_emitted() -> None:
    aligner = aligner_for(V, A)
    aligner.push(frame(200 * MS, 0), 200 * MS)
    aligner.push(frame(251 * MS, 1), 251 * MS)
    assert pictures(aligner.advance(251 * MS)) == [(1, 0)]
    aligner.push(frame(249 * MS, 2), 252 * MS)
    assert aligner.counters().items[V].late == 1


def test_a_frame_passed_over_and_a_frame_sent_twice_are_told_apart() -> None:
    aligner = aligner_for(V)
    for t_ns, sequence in [(10, 0), (20, 1), (20, 1), (15, 9)]:
        aligner.push(frame(t_ns * MS, sequence), 20 * MS)
    tally = aligner.counters().items[V]
    assert (tally.not_sampled, tally.duplicate, tally.in_flight) == (2, 1, 1)


# Audio


def test_a_cell_of_audio_is_given_as_soon_as_the_last_chunk_reaches_its_end() -> None:
    aligner = aligner_for(A)
    aligner.push(sound(0, 249), 249 * MS)
    assert sounds(aligner.advance(249 * MS)) == []
    aligner.push(sound(249 * MS, 1), 250 * MS)
    (cell,) = sounds(aligner.advance(250 * MS))
    assert cell.valid.all()
    assert cell.samples.tolist() == [0.5] * 250


def test_a_chunk_is_placed_at_the_nearest_sample() -> None:
    spec = AlignSpec()
    aligner = aligner_for(A, spec=spec)
    sample_ns = 62_500
    aligner.push(sound(10 * sample_ns - sample_ns // 2, 5, rate_hz=16_000), HOP)
    aligner.push(sound(20 * sample_ns - sample_ns // 2 - 1, 5, rate_hz=16_000), HOP)
    aligner.push(bound(A, HOP), HOP)
    (cell,) = sounds(aligner.advance(HOP))
    assert cell.valid.nonzero()[0].tolist() == [10, 11, 12, 13, 14, 19, 20, 21, 22, 23]


def test_a_chunk_across_cells_is_divided_and_counts_once() -> None:
    aligner = aligner_for(A)
    aligner.push(sound(0, 600), 0)
    first, second = sounds(aligner.advance(0))
    assert (first.index, second.index) == (1, 2)
    tally = aligner.counters().items[A]
    assert (tally.used, tally.in_flight) == (1, 0)
    assert aligner.counters().audio_samples.in_flight == 100


def test_a_gap_is_zero_and_not_valid() -> None:
    aligner = aligner_for(A)
    aligner.push(sound(0, 100), 100 * MS)
    aligner.push(sound(150 * MS, 100), 250 * MS)
    cell = sounds(aligner.advance(250 * MS))[0]
    assert cell.valid.tolist() == [True] * 100 + [False] * 50 + [True] * 100
    assert not cell.samples[100:150].any()


def test_where_chunks_overlap_the_sample_that_came_first_stays() -> None:
    aligner = aligner_for(A)
    aligner.push(sound(0, 100, 0.25), 100 * MS)
    aligner.push(sound(50 * MS, 200, 0.75), 250 * MS)
    aligner.push(sound(50 * MS, 10, 0.9), 250 * MS)
    cell = sounds(aligner.advance(250 * MS))[0]
    assert cell.samples.tolist() == [0.25] * 100 + [0.75] * 150
    assert aligner.counters().audio_samples.duplicate == 60
    tally = aligner.counters().items[A]
    assert (tally.used, tally.duplicate) == (2, 1)


def test_of_a_chunk_across_the_last_closed_cell_only_the_new_part_is_used() -> None:
    aligner = aligner_for(A)
    aligner.push(bound(A, HOP), HOP)
    aligner.advance(HOP)
    aligner.push(sound(200 * MS, 300), 500 * MS)
    cell = sounds(aligner.advance(500 * MS))[0]
    assert cell.valid.all()
    assert aligner.counters().items[A].used == 1
    assert aligner.counters().items[A].late == 0
    assert aligner.counters().audio_samples.late == 50


def test_of_a_chunk_across_the_origin_only_the_part_after_it_is_used() -> None:
    aligner = aligner_for(A)
    aligner.push(sound(-30 * MS, 280), 250 * MS)
    assert sounds(aligner.advance(250 * MS))[0].valid.all()
    assert aligner.counters().audio_samples.out_of_range == 30


# Chat


def test_a_line_is_given_at_once_and_named_by_every_window_whose_context_holds_it() -> None:
    aligner = aligner_for(C, spec=replace(SPEC, chat_context_ns=2 * HOP))
    aligner.push(line(HOP, 3), HOP)
    assert [type(output) for output in aligner.advance(HOP)] == [Line, Window]
    given = windows(aligner.advance(4 * HOP))
    assert [window.chat_lines for window in given] == [(3,), (3,), ()]


def test_only_the_newest_lines_are_named_oldest_first() -> None:
    aligner = aligner_for(C, spec=replace(SPEC, chat_max_lines=3))
    for sequence, t_ms in enumerate([50, 10, 40, 30, 20]):
        aligner.push(line(t_ms * MS, sequence), 100 * MS)
    outputs = aligner.advance(HOP)
    given = [output.line.sequence for output in outputs if isinstance(output, Line)]
    assert given == [0, 1, 2, 3]  # the last can be in no window
    (window,) = windows(outputs)
    assert window.chat_lines == (3, 2, 0)
    assert aligner.counters().items[C].not_sampled == 2


def test_a_line_that_missed_a_window_joins_the_next() -> None:
    aligner = aligner_for(C)
    assert windows(aligner.advance(HOP))[0].chat_lines == ()
    aligner.push(line(HOP - 1, 0), HOP + 1)
    assert windows(aligner.advance(2 * HOP))[0].chat_lines == (0,)
    assert aligner.counters().items[C].late == 0


@pytest.mark.parametrize(("t_ns", "late"), [(HOP, 0), (HOP - 1, 1)])
def test_a_line_older_than_every_window_to_come_is_late(t_ns: int, late: int) -> None:
    aligner = aligner_for(C, spec=replace(SPEC, chat_context_ns=2 * HOP))
    aligner.advance(2 * HOP)
    aligner.push(line(t_ns), 2 * HOP + 1)
    assert aligner.counters().items[C].late == late


def test_a_line_sent_twice_is_a_duplicate_before_and_after_its_window() -> None:
    aligner = aligner_for(C)
    aligner.push(line(5), 5)
    aligner.push(line(5), 6)
    outputs = aligner.advance(HOP)
    aligner.push(line(5), HOP + 1)
    outputs += aligner.advance(2 * HOP)
    assert len([output for output in outputs if isinstance(output, Line)]) == 1
    assert aligner.counters().items[C].duplicate == 2


# When windows are emitted


def test_a_window_waits_for_every_source_and_goes_when_the_last_is_complete() -> None:
    aligner = aligner_for(V, A, C)
    aligner.push(sound(0, 220), 220 * MS)
    aligner.push(frame(HOP), HOP)
    assert windows(aligner.advance(HOP)) == []
    aligner.push(sound(220 * MS, 30), HOP + 30 * MS)
    (window,) = windows(aligner.advance(HOP + 30 * MS))
    assert window.complete
    assert window.emitted_ns == HOP + 30 * MS


def test_a_window_is_never_emitted_before_its_end() -> None:
    aligner = aligner_for(V)
    aligner.push(frame(HOP), 10 * MS)  # a clock that runs ahead
    assert windows(aligner.advance(HOP - 1)) == []
    assert aligner.next_wake_ns() == HOP
    assert len(windows(aligner.advance(HOP))) == 1


def test_an_active_source_holds_a_window_up_to_the_deadline() -> None:
    aligner = aligner_for(V, A)
    outputs: list[Output] = []
    for t_ns in range(0, 600 * MS, 50 * MS):
        aligner.push(frame(t_ns, t_ns), t_ns)
        aligner.push(sound(0, 1), t_ns)  # goes on and on about the first millisecond
        outputs += aligner.advance(t_ns)
    window = windows(outputs)[0]
    assert window.emitted_ns == HOP + SPEC.deadline_ns
    assert not window.complete
    assert window.parts[A].state is State.PARTIAL
    assert window.parts[A].reason == "incomplete at the deadline"


def test_a_quiet_source_holds_a_window_for_the_idle_time_and_then_is_idle_and_then_stalled() -> (
    None
):
    aligner = aligner_for(V, A)
    aligner.push(sound(0, 200), 200 * MS)
    outputs: list[Output] = []
    for t_ns in range(0, 4 * S, 10 * MS):
        aligner.push(frame(t_ns, t_ns), t_ns)
        outputs += aligner.advance(t_ns)
    given = windows(outputs)
    assert given[0].emitted_ns == 200 * MS + SPEC.idle_ns
    assert given[0].parts[A].reason == "nothing arrived for 150 ms"
    assert given[0].parts[A].coverage == pytest.approx(200 / 250)
    assert all(window.emitted_ns <= window.end_ns for window in given[1:])
    states = [window.parts[A].state for window in given]
    assert states == [State.IDLE] * 8 + [State.STALLED] * 7


def test_a_source_that_comes_back_is_waited_for_again() -> None:
    aligner = aligner_for(A)
    (first,) = windows(aligner.advance(HOP))
    assert first.parts[A].state is State.IDLE
    aligner.push(sound(480 * MS, 10), 490 * MS)
    assert windows(aligner.advance(2 * HOP)) == []
    aligner.push(sound(490 * MS, 20), 510 * MS)
    (second,) = windows(aligner.advance(510 * MS))
    assert (second.parts[A].state, second.parts[A].reason) == (State.PARTIAL, "gaps")
    assert second.parts[A].coverage == pytest.approx(20 / 500)


def test_next_wake_tells_the_idle_time_then_the_deadline() -> None:
    aligner = aligner_for(A)
    assert aligner.next_wake_ns() == HOP
    aligner.push(sound(0, 240), 240 * MS)
    assert aligner.next_wake_ns() == 240 * MS + SPEC.idle_ns
    aligner.push(sound(0, 1), 380 * MS)
    assert aligner.next_wake_ns() == HOP + SPEC.deadline_ns
    aligner.push(sound(240 * MS, 10), 390 * MS)
    assert aligner.next_wake_ns() == 390 * MS
    aligner.finish(0)
    assert aligner.next_wake_ns() is None


def test_while_something_waits_to_be_taken_next_wake_is_now() -> None:
    aligner = aligner_for(C)
    aligner.push(line(5), 7)
    assert aligner.next_wake_ns() == 7
    aligner.advance(7)
    assert aligner.next_wake_ns() == HOP


def test_without_any_source_windows_come_at_their_ends() -> None:
    given = windows(Aligner(SPEC, {}).advance(3 * HOP))
    assert [window.emitted_ns for window in given] == [HOP, 2 * HOP, 3 * HOP]
    assert given[0].video_cells == given[0].audio_cells == range(0)
    assert all(part.state is State.MISSING for part in given[0].parts.values())
    assert all(part.reason == "no source" for part in given[0].parts.values())


def test_a_session_that_finds_no_time_gets_the_same_windows_at_the_same_session_instants() -> None:
    aligner = aligner_for(V)
    aligner.push(frame(0), 0)
    aligner.push(frame(S, 1), S)
    given = windows(aligner.advance(S))
    assert [window.emitted_ns for window in given] == [HOP, 2 * HOP, 3 * HOP, S]


# States


def test_a_complete_window_with_everything_is_present_in_all_three() -> None:
    aligner = aligner_for(V, A, C)
    aligner.push(frame(200 * MS), 200 * MS)
    aligner.push(line(150 * MS), 200 * MS)
    aligner.push(sound(0, 250), HOP)
    aligner.push(frame(HOP, 1), HOP)
    (window,) = windows(aligner.advance(HOP))
    assert {part.state for part in window.parts.values()} == {State.PRESENT}
    assert {part.reason for part in window.parts.values()} == {None}
    assert [window.parts[m].age_ns for m in (V, A, C)] == [50 * MS, 0, 100 * MS]
    assert [window.parts[m].coverage for m in (V, A)] == [1.0, 1.0]
    assert window.parts[C].coverage == pytest.approx(150 / 250)  # the heartbeat: 100 ms


def test_known_to_be_empty_is_silent_not_missing() -> None:
    aligner = aligner_for(V, A, C)
    for modality in (V, A):
        aligner.push(bound(modality, HOP), HOP)
    (window,) = windows(aligner.advance(HOP))
    assert {part.state for part in window.parts.values()} == {State.SILENT}
    assert window.parts[C].reason == "no lines"
    assert window.parts[A].reason == "nothing in the context"


def test_an_ended_source_is_complete_for_ever_partial_while_seen_and_then_missing() -> None:
    aligner = aligner_for(V, A, C, spec=replace(SPEC, audio_context_ns=2 * HOP))
    aligner.push(sound(0, 100), 100 * MS)
    aligner.push(ended(A, 100 * MS, "disk gone"), 100 * MS)
    aligner.push(ended(V, 0), 100 * MS)
    aligner.push(ended(C, 0), 100 * MS)
    assert aligner.ended
    given = windows(aligner.advance(3 * HOP))
    assert [window.emitted_ns for window in given] == [HOP, 2 * HOP, 3 * HOP]
    assert all(window.complete for window in given)
    audio = [(window.parts[A].state, window.parts[A].reason) for window in given]
    assert audio == [(State.PARTIAL, "ended: disk gone")] * 2 + [
        (State.MISSING, "ended: disk gone")
    ]
    assert (given[0].parts[V].state, given[0].parts[V].reason) == (State.MISSING, "ended")
    assert (given[0].parts[C].state, given[0].parts[C].reason) == (State.MISSING, "ended")
    assert given[0].parts[C].coverage == 0.0


# The end


@pytest.mark.parametrize("audio_ms", [2_980, 3_000, 3_020])
def test_a_clip_of_three_seconds_gives_twelve_windows_however_long_its_audio_is(
    audio_ms: int,
) -> None:
    aligner = aligner_for(V, A)
    outputs: list[Output] = []
    for t_ms in range(0, 3_020, 20):
        if t_ms % 40 == 0 and t_ms < 3_000:
            aligner.push(frame(t_ms * MS, t_ms // 40), t_ms * MS)
        if t_ms < audio_ms:
            aligner.push(sound(t_ms * MS, 20), t_ms * MS + 20 * MS)
        outputs += aligner.advance(t_ms * MS + 20 * MS)
    end_ns = max(3_000, audio_ms) * MS
    aligner.push(ended(V, 3_000 * MS), end_ns)
    aligner.push(ended(A, audio_ms * MS), end_ns)
    outputs += aligner.advance(end_ns) + aligner.finish(end_ns)
    given = windows(outputs)
    assert [window.index for window in given] == list(range(1, 13))
    assert all(window.complete for window in given)
    assert pictures(outputs)[-1] == (12, 74)
    assert aligner.counters().items[A].out_of_range == (audio_ms > 3_000)
    aligner.check()


@pytest.mark.parametrize(("end_ns", "count"), [(HOP // 2 - 1, 0), (HOP // 2, 1), (HOP, 1)])
def test_a_last_window_that_is_at_least_half_full_is_emitted(end_ns: int, count: int) -> None:
    assert len(windows(aligner_for(A).finish(end_ns))) == count


def test_what_comes_after_the_end_of_its_source_or_of_the_session_is_out_of_range() -> None:
    aligner = aligner_for(V, A, C)
    aligner.push(ended(A, 0), 0)
    aligner.push(sound(0, 10), 10 * MS)
    aligner.push(bound(A, HOP), 10 * MS)
    assert aligner.bounds()[A] == 0
    aligner.finish(HOP)
    aligner.push(frame(20 * MS), 20 * MS)
    aligner.push(line(20 * MS), 20 * MS)
    assert [aligner.counters().items[m].out_of_range for m in (V, A, C)] == [1, 1, 1]
    assert aligner.advance(S) == []
    assert aligner.finish(S) == []
    aligner.check()


def test_what_lies_too_far_ahead_or_before_the_origin_is_out_of_range() -> None:
    aligner = aligner_for(V, A, C, spec=replace(SPEC, max_ahead_ns=S))
    for t_ns in (-1, S + 1):
        aligner.push(frame(t_ns), 0)
        aligner.push(line(t_ns), 0)
    aligner.push(sound(S + 1, 10), 0)
    aligner.push(sound(-10 * MS, 10), 0)
    aligner.push(sound(0, 2_000), 0)
    counters = aligner.counters()
    assert [counters.items[m].out_of_range for m in (V, A, C)] == [2, 2, 2]
    assert aligner.bounds()[A] == S
    assert counters.audio_samples.out_of_range == 10 + 10 + 1_000
    assert counters.audio_samples.in_flight == 1_000


def test_a_bound_far_ahead_closes_no_more_cells_than_lie_in_range() -> None:
    aligner = aligner_for(V, spec=replace(SPEC, max_ahead_ns=S))
    aligner.push(bound(V, 1 << 60), 0)
    assert [index for index, _ in pictures(aligner.advance(0))] == [1, 2, 3, 4]
    aligner.check()


# Clocks, breaks and what is required


def clock(
    modality: Modality, epoch: int = 0, tier: Tier = Tier.MEDIA, error_ns: int = 0
) -> ClockUpdate:
    return ClockUpdate(
        source=NAMES[modality], modality=modality, t_ns=0, tier=tier, error_ns=error_ns, epoch=epoch
    )


def told(window: Window) -> tuple[int, Status, int, int]:
    return window.index, window.status, window.revision, window.emitted_ns


def test_an_item_that_comes_late_to_the_aligner_counts_as_arriving_at_the_instant_reached() -> None:
    aligner = aligner_for(V)
    aligner.advance(300 * MS)
    assert aligner.now_ns == 300 * MS
    aligner.push(frame(10), 200 * MS)
    assert aligner.now_ns == 300 * MS
    aligner.push(frame(20, 1), 310 * MS)
    assert aligner.now_ns == 310 * MS


def test_a_window_does_not_wait_for_an_optional_modality_and_says_that_it_was_incomplete() -> None:
    aligner = aligner_for(V, A, spec=replace(SPEC, required=frozenset({A})))
    aligner.push(frame(200 * MS), 240 * MS)
    aligner.push(sound(0, 250), HOP)
    (window,) = windows(aligner.advance(HOP))
    assert window.complete
    assert not window.parts[V].complete
    assert window.parts[V].state is State.PARTIAL
    assert window.parts[V].reason == "incomplete when the window was given"


def test_a_window_waits_for_the_heartbeat_of_a_required_chat_but_never_for_an_idle_time() -> None:
    aligner = aligner_for(C, spec=replace(SPEC, required=frozenset({C})))
    assert aligner.next_wake_ns() == HOP + SPEC.chat_delay_ns
    (first,) = windows(aligner.advance(HOP + SPEC.chat_delay_ns))
    assert first.complete
    aligner.push(bound(C, 2 * HOP), 2 * HOP - 1)
    (second,) = windows(aligner.advance(2 * HOP))
    assert second.emitted_ns == 2 * HOP
    aligner.push(ended(C, 0), 2 * HOP + 1)
    assert aligner.next_wake_ns() == 3 * HOP


def test_a_required_chat_with_a_long_delay_holds_a_window_up_to_the_deadline() -> None:
    aligner = aligner_for(C, spec=replace(SPEC, required=frozenset({C}), chat_delay_ns=5 * S))
    (window,) = windows(aligner.advance(HOP + SPEC.deadline_ns))
    assert window.emitted_ns == HOP + SPEC.deadline_ns
    assert not window.complete


def test_a_window_says_the_least_trusted_tier_and_the_sum_of_the_errors() -> None:
    aligner = aligner_for(V, A, C)
    aligner.push(clock(V, tier=Tier.CAPTURE, error_ns=3 * MS), 0)
    aligner.push(clock(A, tier=Tier.REPORTS, error_ns=2 * MS), 0)
    aligner.push(clock(C, tier=Tier.ARRIVAL, error_ns=90 * MS), 0)
    (window,) = windows(aligner.advance(HOP))
    assert (window.tier, window.align_error_ns, window.epoch) == (Tier.REPORTS, 5 * MS, 0)
    aligner.push(clock(A, tier=Tier.CAPTURE, error_ns=1 * MS), HOP + 1)
    (window,) = windows(aligner.finish(2 * HOP))
    assert (window.tier, window.align_error_ns) == (Tier.CAPTURE, 4 * MS)


def test_of_chat_alone_a_window_says_the_tier_of_chat() -> None:
    aligner = aligner_for(C)
    aligner.push(clock(C, tier=Tier.SERVER, error_ns=7 * MS), 0)
    (window,) = windows(aligner.advance(HOP))
    assert (window.tier, window.align_error_ns) == (Tier.SERVER, 7 * MS)


def test_after_a_break_forward_the_step_is_not_learned_as_a_gap_and_no_window_is_left_out() -> None:
    aligner = aligner_for(V)
    for n in range(12):
        aligner.push(frame(n * 20 * MS, n), n * 20 * MS)
    assert aligner.bounds()[V] == 240 * MS
    aligner.push(clock(V, epoch=1), 230 * MS)
    assert aligner.bounds()[V] == 0  # no cell was given yet
    aligner.push(frame(3 * HOP, 12), 240 * MS)
    assert aligner.bounds()[V] == 3 * HOP  # no gap from the first frame after it
    aligner.push(frame(3 * HOP + 30 * MS, 13), 270 * MS)
    assert aligner.bounds()[V] == 3 * HOP + 50 * MS  # the gap learned before it
    outputs = aligner.advance(3 * HOP)
    assert [window.epoch for window in windows(outputs)] == [1, 1, 1]
    assert pictures(outputs) == [(1, 11), (2, None), (3, None)]


def test_after_a_break_backward_the_bound_falls_to_the_end_of_the_last_given_cell() -> None:
    aligner = aligner_for(A)
    aligner.push(sound(0, 600), HOP)
    (first,) = windows(aligner.advance(HOP))
    aligner.push(clock(A, epoch=5), 300 * MS)
    assert aligner.bounds()[A] == 2 * HOP
    aligner.push(clock(A, epoch=4, tier=Tier.ARRIVAL), 310 * MS)  # of an epoch that is over
    aligner.push(sound(550 * MS, 150, 0.75), 320 * MS)
    assert aligner.bounds()[A] == 700 * MS
    aligner.push(sound(700 * MS, 50), 330 * MS)
    second, third = windows(aligner.advance(3 * HOP))
    assert (first.epoch, second.epoch, third.epoch) == (0, 1, 1)
    assert second.tier is Tier.MEDIA
    assert aligner.counters().audio_samples.duplicate == 50  # what was open stayed


def test_a_source_that_is_back_after_its_end_is_waited_for_and_may_end_again() -> None:
    aligner = aligner_for(A)
    aligner.push(ended(A, 0, "cable pulled"), 10 * MS)
    (first,) = windows(aligner.advance(HOP))
    assert first.parts[A].reason == "ended: cable pulled"
    aligner.push(clock(A, epoch=1), 260 * MS)
    back = not aligner.ended
    assert back
    aligner.push(sound(300 * MS, 150), 450 * MS)
    assert aligner.next_wake_ns() == 600 * MS
    aligner.push(sound(450 * MS, 50), 510 * MS)
    (second,) = windows(aligner.advance(510 * MS))
    assert (second.parts[A].state, second.parts[A].reason) == (State.PARTIAL, "gaps")
    aligner.push(ended(A, 0, "again"), 520 * MS)
    assert aligner.ended
    (third,) = windows(aligner.finish(3 * HOP))
    assert third.parts[A].reason == "ended: again"


def test_a_chat_whose_heartbeats_stop_is_stalled_and_not_silent() -> None:
    aligner = aligner_for(C, spec=replace(SPEC, stalled_ns=S))
    aligner.push(bound(C, 150 * MS), HOP)
    given = windows(aligner.advance(HOP + S))
    assert [window.parts[C].state for window in given] == [State.SILENT] * 4 + [State.STALLED]
    assert given[-1].parts[C].reason == "nothing arrived for 1000 ms"
    assert given[-1].parts[C].coverage == pytest.approx(150 / 1250)


def test_a_chat_that_never_sent_a_heartbeat_is_silent_however_long_it_says_nothing() -> None:
    given = windows(aligner_for(C, spec=replace(SPEC, stalled_ns=S)).advance(5 * S))
    assert {window.parts[C].state for window in given} == {State.SILENT}


# Windows given again

LATE = replace(SPEC, lateness_ns=S)
SETTLED = HOP + SPEC.deadline_ns + S  # when the first window is settled


def test_a_window_is_provisional_at_the_deadline_then_final_then_amended() -> None:
    aligner = aligner_for(A, spec=LATE)
    for t_ns in (200 * MS, 300 * MS, 400 * MS):
        aligner.push(sound(0, 100), t_ns)
    (window,) = windows(aligner.advance(500 * MS))
    assert told(window) == (1, Status.PROVISIONAL, 0, 500 * MS)
    assert not window.complete
    assert window.parts[A].reason == "incomplete at the deadline"
    aligner.push(sound(200 * MS, 50), 510 * MS)
    outputs = aligner.advance(510 * MS)
    assert [type(output) for output in outputs] == [AudioCell, Window]
    assert told(windows(outputs)[0]) == (1, Status.FINAL, 1, 510 * MS)
    assert windows(outputs)[0].parts[A].coverage == pytest.approx(150 / 250)
    aligner.push(sound(100 * MS, 100, 0.75), SETTLED)  # the last instant at which it counts
    outputs = aligner.advance(SETTLED)
    amended = [window for window in windows(outputs) if window.index == 1]
    assert [told(window) for window in amended] == [(1, Status.AMENDED, 2, SETTLED)]
    assert amended[0].parts[A].state is State.LATE
    assert amended[0].parts[A].reason == "arrived after the window was final"
    assert amended[0].parts[A].coverage == 1.0
    assert (aligner.counters().windows, aligner.counters().revisions) == (5, 2)
    aligner.check()


def test_a_provisional_window_is_final_when_its_source_goes_idle() -> None:
    aligner = aligner_for(A, spec=LATE)
    for t_ns in (200 * MS, 300 * MS, 400 * MS):
        aligner.push(sound(0, 100), t_ns)
    aligner.advance(500 * MS)
    assert aligner.next_wake_ns() == 400 * MS + SPEC.idle_ns
    (window,) = windows(aligner.advance(550 * MS))[:1]
    assert told(window) == (1, Status.FINAL, 1, 550 * MS)
    assert window.parts[A].state is State.IDLE


def test_a_provisional_window_is_final_when_a_picture_after_its_end_says_that_it_is_complete() -> (
    None
):
    aligner = aligner_for(V, spec=LATE)
    for n, arrived_ns in enumerate((200 * MS, 300 * MS, 400 * MS)):
        aligner.push(frame(n * 10 * MS, n), arrived_ns)
    aligner.advance(500 * MS)
    aligner.push(frame(260 * MS, 3), 510 * MS)
    assert [told(window) for window in windows(aligner.advance(510 * MS))] == [
        (1, Status.FINAL, 1, 510 * MS)
    ]


def test_a_final_window_whose_content_stays_is_not_amended() -> None:
    aligner = aligner_for(A, spec=LATE)
    for t_ns in (200 * MS, 300 * MS, 400 * MS):
        aligner.push(sound(0, 100), t_ns)
    aligner.advance(500 * MS)
    aligner.push(sound(100 * MS, 150), 510 * MS)  # new, and named by the final one
    assert [told(window)[:2] for window in windows(aligner.advance(510 * MS))] == [
        (1, Status.FINAL)
    ]
    aligner.check()
    aligner.push(sound(0, 200, 0.75), 520 * MS)  # nothing new
    given = windows(aligner.advance(SETTLED)) + windows(aligner.finish(0))
    assert [window.revision for window in given if window.index == 1] == []


def test_a_cell_is_settled_at_its_instant_though_nothing_was_to_be_given_then() -> None:
    aligner = aligner_for(V, spec=replace(SPEC, lateness_ns=900 * MS))
    aligner.push(bound(V, 10 * HOP), HOP)
    aligner.advance(1300 * MS)
    assert aligner.next_wake_ns() == 1500 * MS
    aligner.push(frame(10 * MS), 1400 * MS + 1)
    assert aligner.counters().items[V].late == 1


def test_a_late_picture_stands_in_for_the_instants_to_come_as_far_as_the_tolerance_goes() -> None:
    aligner = aligner_for(V, spec=replace(LATE, video_tolerance_ns=3 * HOP))
    aligner.push(bound(V, HOP), HOP)
    assert pictures(aligner.advance(HOP)) == [(1, None)]
    aligner.push(frame(200 * MS, 1), 300 * MS)
    aligner.push(bound(V, 2 * HOP), 2 * HOP)
    assert dict(pictures(aligner.advance(2 * HOP))) == {1: 1, 2: 1}


def test_a_provisional_window_is_final_at_the_latest_when_it_is_settled() -> None:
    aligner = aligner_for(A, spec=LATE)
    outputs: list[Output] = []
    for t_ns in range(0, 2 * S, 100 * MS):
        aligner.push(sound(0, 1), t_ns)  # alive, and never beyond the first millisecond
        outputs += aligner.advance(t_ns)
    first = [told(window) for window in windows(outputs) if window.index == 1]
    assert first == [
        (1, Status.PROVISIONAL, 0, 500 * MS),
        (1, Status.FINAL, 1, SETTLED),
    ]


def test_a_hole_of_audio_is_filled_and_what_was_given_stays_as_it_was() -> None:
    aligner = aligner_for(A, spec=LATE)
    aligner.push(sound(0, 100, 0.25), 200 * MS)
    aligner.push(sound(150 * MS, 100, 0.25), HOP)
    before = sounds(aligner.advance(HOP))[0]
    aligner.push(sound(80 * MS, 90, 0.75), 300 * MS)
    assert sounds(aligner.advance(300 * MS)) == []
    tally = aligner.counters().items[A]
    assert (tally.used, tally.in_flight) == (2, 1)
    assert aligner.counters().audio_samples.in_flight == 50
    outputs = aligner.finish(0)
    (after,) = sounds(outputs)
    assert (after.index, after.revision) == (1, 1)
    assert after.samples.tolist() == [0.25] * 100 + [0.75] * 50 + [0.25] * 100
    assert after.valid.all()
    assert before.valid.tolist() == [True] * 100 + [False] * 50 + [True] * 100
    assert not before.samples[100:150].any()
    assert windows(outputs)[0].parts[A].state is State.LATE
    assert aligner.counters().items[A].used == 3
    assert aligner.counters().audio_samples.duplicate == 40


def test_a_changed_cell_is_given_again_before_the_next_window_that_can_name_it_and_once() -> None:
    aligner = aligner_for(A, spec=LATE)
    aligner.push(sound(0, 100, 0.25), 200 * MS)
    aligner.push(sound(150 * MS, 100, 0.25), HOP)
    aligner.advance(HOP)
    aligner.push(sound(100 * MS, 25, 0.75), 300 * MS)
    aligner.push(sound(125 * MS, 25, 0.75), 310 * MS)
    aligner.push(sound(250 * MS, 250), 2 * HOP)
    outputs = aligner.advance(2 * HOP)
    assert sorted((cell.index, cell.revision) for cell in sounds(outputs)) == [(1, 1), (2, 0)]
    (cell,) = [cell for cell in sounds(outputs) if cell.index == 1]
    assert cell.revision == 1
    assert cell.samples.tolist() == [0.25] * 100 + [0.75] * 50 + [0.25] * 100
    (window,) = windows(outputs)
    assert window.parts[A].state is State.PRESENT  # the second window never was without it
    last = aligner.finish(0)
    assert [told(window)[:3] for window in windows(last)] == [(1, Status.AMENDED, 1)]
    assert sounds(last) == []


def test_a_late_picture_replaces_an_older_one_and_an_older_one_is_passed_over() -> None:
    aligner = aligner_for(V, spec=LATE)
    aligner.push(frame(100 * MS, 0), 100 * MS)
    aligner.push(frame(HOP, 3), HOP)
    assert pictures(aligner.advance(HOP)) == [(1, 0)]
    for t_ns, sequence in [(50 * MS, 9), (200 * MS, 1), (240 * MS, 2), (240 * MS, 2)]:
        aligner.push(frame(t_ns, sequence), 300 * MS)
    tally = aligner.counters().items[V]
    assert (tally.used, tally.late, tally.duplicate, tally.not_sampled) == (1, 0, 1, 2)
    outputs = aligner.finish(0)
    assert pictures(outputs) == [(1, 2)]
    assert [told(window)[1:3] for window in windows(outputs)] == [(Status.AMENDED, 1)]
    assert windows(outputs)[0].parts[V].state is State.LATE
    assert aligner.counters().items[V].used == 2
    aligner.check()


def test_with_a_long_tolerance_a_late_picture_changes_the_instants_after_it_too() -> None:
    aligner = aligner_for(V, spec=replace(LATE, video_tolerance_ns=3 * HOP))
    aligner.push(frame(100 * MS, 0), 100 * MS)
    aligner.push(frame(2 * HOP + 1, 2), 2 * HOP + 1)
    assert pictures(aligner.advance(2 * HOP + 1)) == [(1, 0), (2, 0)]
    aligner.push(frame(200 * MS, 1), 600 * MS)
    aligner.push(bound(V, 3 * HOP), 3 * HOP)
    outputs = aligner.advance(3 * HOP)
    cells = [(cell.index, cell.revision) for cell in outputs if isinstance(cell, VideoCell)]
    assert sorted(cells) == [(1, 1), (2, 1), (3, 0)]
    assert dict(pictures(outputs)) == {1: 1, 2: 1, 3: 2}
    assert aligner.counters().items[V].used == 3


def test_what_arrives_after_its_cell_is_settled_is_late() -> None:
    aligner = aligner_for(V, A, spec=LATE)
    aligner.push(bound(V, 2 * HOP), HOP)
    aligner.push(bound(A, 2 * HOP), HOP)
    aligner.push(frame(10 * MS, 0), SETTLED)
    aligner.push(frame(20 * MS, 1), SETTLED + 1)
    aligner.push(sound(200 * MS, 100), SETTLED + 1)
    counters = aligner.counters()
    assert (counters.items[V].late, counters.items[V].used) == (1, 1)
    assert (counters.audio_samples.late, counters.audio_samples.in_flight) == (50, 50)
    assert [
        told(window) for window in windows(aligner.advance(SETTLED + 1)) if window.revision
    ] == [(1, Status.AMENDED, 1, SETTLED)]
    aligner.check()


def test_a_late_line_of_chat_amends_the_windows_that_would_have_held_it() -> None:
    aligner = aligner_for(C, spec=replace(LATE, chat_context_ns=2 * HOP))
    assert all(not window.chat_lines for window in windows(aligner.advance(4 * HOP)))
    aligner.push(line(HOP, 3), 4 * HOP + 1)  # would have been in the second and the third
    assert aligner.counters().items[C].in_flight == 1
    assert aligner.next_wake_ns() == 4 * HOP + 1  # the line itself
    outputs = aligner.advance(4 * HOP + 1)
    assert [type(output) for output in outputs] == [Line]
    given = [window for window in windows(aligner.advance(SETTLED + 2 * HOP)) if window.revision]
    assert [(window.index, window.status, window.chat_lines) for window in given] == [
        (2, Status.AMENDED, (3,)),
        (3, Status.AMENDED, (3,)),
    ]
    assert given[0].parts[C].state is State.LATE
    assert aligner.counters().items[C].used == 1


def test_a_late_line_older_than_the_newest_of_its_windows_changes_none_of_them() -> None:
    aligner = aligner_for(C, spec=replace(LATE, chat_max_lines=2))
    for n in (1, 2):
        aligner.push(line(n * 10 * MS, n), 50 * MS)
    aligner.advance(HOP)
    aligner.push(line(5 * MS, 0), HOP + 1)
    assert aligner.counters().items[C].not_sampled == 1
    assert aligner.advance(2 * HOP - 1) == []
    assert all(window.revision == 0 for window in windows(aligner.finish(2 * HOP)))


def test_a_line_joins_the_windows_not_settled_and_is_late_when_all_are() -> None:
    aligner = aligner_for(C, spec=replace(LATE, chat_context_ns=2 * HOP))
    now_ns = SETTLED + HOP + 1  # just after the second was settled
    aligner.advance(now_ns - 1)
    aligner.push(line(HOP - 1, 0), now_ns)
    aligner.push(line(HOP, 1), now_ns)
    tally = aligner.counters().items[C]
    assert (tally.in_flight, tally.late) == (1, 1)
    given = [window for window in windows(aligner.finish(0)) if window.revision]
    assert [(window.index, window.chat_lines) for window in given] == [(3, (1,))]


def lines(outputs: Sequence[Output]) -> list[tuple[int, int, list[int]]]:
    """Number, revision, and the numbers of the lines before it."""
    return [
        (output.line.sequence, output.revision, [other.sequence for other in output.before])
        for output in outputs
        if isinstance(output, Line)
    ]


def test_a_line_is_given_with_the_newest_lines_before_it_that_are_not_too_old() -> None:
    spec = replace(SPEC, chat_before_lines=2, chat_before_ns=50 * MS, chat_context_ns=HOP)
    aligner = aligner_for(C, spec=spec)
    aligner.push(line(-1, 0), 0)  # from before the session: in no window, but said
    for n, t_ns in ((1, 10 * MS), (2, 20 * MS), (3, 30 * MS), (4, 80 * MS), (5, 200 * MS)):
        aligner.push(line(t_ns, n), 200 * MS)
    given = aligner.advance(HOP)
    assert lines(given) == [
        (1, 0, [0]), (2, 0, [0, 1]), (3, 0, [1, 2]), (4, 0, [3]), (5, 0, []),
    ]  # fmt: skip
    assert windows(given)[0].chat_lines == (1, 2, 3, 4, 5)
    assert aligner.counters().items[C].out_of_range == 1


def test_a_line_that_is_late_for_all_windows_is_still_before_the_next_one() -> None:
    aligner = aligner_for(C, spec=replace(SPEC, chat_before_lines=1, chat_context_ns=HOP))
    aligner.advance(4 * HOP)
    aligner.push(line(HOP, 0), 4 * HOP + 1)
    aligner.push(line(4 * HOP, 1), 4 * HOP + 1)
    assert aligner.counters().items[C].late == 1
    assert lines(aligner.advance(4 * HOP + 1)) == [(1, 0, [0])]


def test_a_line_in_between_gives_those_after_it_again_once_before_the_next_window() -> None:
    aligner = aligner_for(C, spec=replace(SPEC, chat_before_lines=1))
    aligner.push(line(90 * MS, 9), 100 * MS)
    assert lines(aligner.advance(100 * MS)) == [(9, 0, [])]
    for n in (1, 5, 7):
        aligner.push(line(n * 10 * MS, n), 110 * MS)
    assert lines(aligner.advance(110 * MS)) == [(1, 0, []), (5, 0, [1]), (7, 0, [5])]
    given = aligner.advance(HOP)
    assert lines(given) == [(9, 1, [7])]
    assert isinstance(given[-1], Window)
    # Given: without a lateness nothing is read anew, whatever comes in between.
    aligner.push(line(85 * MS, 8), HOP + 1)
    assert lines(aligner.advance(2 * HOP)) == [(8, 0, [7])]


def test_with_a_lateness_a_late_line_amends_the_windows_of_those_it_comes_before() -> None:
    spec = replace(LATE, chat_before_lines=1, chat_context_ns=HOP)
    aligner = aligner_for(C, spec=spec)
    aligner.push(line(HOP, 1), HOP + 1)
    aligner.advance(3 * HOP)
    # Far too late for a window of its own, but said before the other.
    aligner.push(line(0, 0), 3 * HOP + 1)
    assert lines(aligner.advance(3 * HOP + 1)) == [(0, 0, [])]
    given = aligner.advance(SETTLED + 2 * HOP)
    assert (1, 1, [0]) in lines(given)
    amended = [(w.index, w.chat_lines) for w in windows(given) if w.status is Status.AMENDED]
    assert amended == [(1, (0,)), (2, (1,))]


def test_what_was_said_too_long_ago_is_forgotten_though_nothing_follows() -> None:
    spec = replace(SPEC, chat_before_lines=3, chat_before_ns=S)
    aligner = aligner_for(C, spec=spec)
    aligner.push(line(100 * MS), 100 * MS)
    aligner.advance(spec.chat_context_ns)
    assert len(aligner._chat._heard) == 1
    aligner.advance(spec.chat_context_ns + S + 3 * HOP)
    assert len(aligner._chat._heard) == 0


def test_what_was_said_before_is_kept_within_bounds() -> None:
    spec = replace(LATE, chat_before_lines=3, chat_max_lines=4)
    aligner = aligner_for(C, spec=spec)
    sizes = []
    for n in range(20_000):
        t_ns = n * 5 * MS
        aligner.push(line(max(0, t_ns - n * 7 % 3_000 * MS), n), t_ns)
        aligner.advance(t_ns)
        sizes.append(len(aligner._chat._heard) + len(aligner._chat._revised))
    hops = (spec.chat_context_ns + SETTLED) // HOP + 2
    assert max(sizes) <= hops * (spec.chat_max_lines + 3) + 3 + 200
    assert max(sizes) == max(sizes[: len(sizes) // 4])


def test_a_window_is_amended_in_the_modality_that_changed_and_keeps_its_epoch() -> None:
    aligner = aligner_for(V, A, spec=LATE)
    aligner.push(frame(200 * MS), 200 * MS)
    aligner.push(bound(V, HOP), HOP)
    aligner.push(bound(A, HOP), HOP)
    (window,) = windows(aligner.advance(HOP))
    assert window.parts[A].state is State.SILENT
    aligner.push(clock(A, epoch=1, tier=Tier.ARRIVAL), 300 * MS)
    aligner.push(sound(0, 250), 310 * MS)
    (window,) = windows(aligner.finish(0))
    assert (window.status, window.epoch, window.tier) == (Status.AMENDED, 0, Tier.ARRIVAL)
    assert window.parts[A].state is State.LATE
    assert window.parts[V].state is State.PRESENT


def test_next_wake_tells_when_a_window_is_settled_only_where_there_is_something_to_give() -> None:
    aligner = aligner_for(
        C, spec=replace(LATE, hop_ns=2 * S, video_context_ns=2 * S, audio_context_ns=2 * S)
    )
    aligner.advance(2 * S)
    assert aligner.next_wake_ns() == 4 * S
    aligner.push(line(S), 2 * S + 1)
    aligner.advance(2 * S + 1)
    assert aligner.next_wake_ns() == 2 * S + SPEC.deadline_ns + S
    aligner.advance(2 * S + SPEC.deadline_ns + S)
    assert aligner.next_wake_ns() == 4 * S


def test_at_the_end_provisional_windows_are_final_and_changed_ones_amended_in_order() -> None:
    aligner = aligner_for(A, spec=LATE)
    aligner.push(sound(0, 100), 200 * MS)
    aligner.push(sound(150 * MS, 110), HOP)
    (first,) = windows(aligner.advance(HOP))
    for t_ns in (400 * MS, 500 * MS, 600 * MS, 700 * MS):
        aligner.push(sound(260 * MS, 10), t_ns)
    aligner.push(sound(100 * MS, 50), 740 * MS)
    assert [told(window)[:3] for window in windows(aligner.advance(750 * MS))] == [
        (2, Status.PROVISIONAL, 0)
    ]
    assert first.status is Status.FINAL
    assert [told(window)[:3] for window in windows(aligner.finish(3 * HOP))] == [
        (1, Status.AMENDED, 1),
        (2, Status.FINAL, 1),
        (3, Status.FINAL, 0),
    ]
    assert aligner.counters().revisions == 2
    assert aligner.next_wake_ns() is None
    aligner.check()


def test_with_a_lateness_memory_does_not_grow_with_the_session_either() -> None:
    aligner = aligner_for(V, A, C, spec=LATE)
    sizes = []
    for n in range(6_000):
        t_ns = n * 50 * MS
        late_ns = max(0, t_ns - (n * 7 % 30) * 50 * MS)
        aligner.push(frame(t_ns, n), t_ns)
        aligner.push(frame(late_ns + 1, n), t_ns)
        if n % 3:
            aligner.push(sound(t_ns, 50), t_ns)
        aligner.push(sound(late_ns, 50), t_ns)
        aligner.push(line(late_ns, n), t_ns)
        aligner.advance(t_ns)
        aligner.check()
        tracks = (aligner._video, aligner._audio, aligner._chat)
        names = ("_buckets", "_open", "_kept", "_pictures", "_revisions", "_changed", "_fresh")
        held = [len(getattr(track, name, ())) for track in tracks for name in names]
        ledgers = [len(track.ledger.totals) for track in (aligner._video, aligner._audio)]
        sizes.append(sum(held) + sum(ledgers) + len(aligner._chat._recent))
    assert aligner.counters().revisions > 1_000
    assert max(sizes) == max(sizes[: len(sizes) // 10])


# Bookkeeping


def test_memory_does_not_grow_with_the_session() -> None:
    aligner = aligner_for(V, A, C)
    sizes = []
    for t_ns in range(0, 600 * S, 50 * MS):
        aligner.push(frame(t_ns, t_ns), t_ns)
        aligner.push(sound(t_ns, 50), t_ns + 50 * MS)
        aligner.push(line(t_ns, t_ns), t_ns + 50 * MS)
        aligner.advance(t_ns + 50 * MS)
        held = [aligner._video, aligner._audio, aligner._chat, aligner._outputs]
        sizes.append(
            sum(
                len(getattr(track, "_buckets", ())) + len(getattr(track, "_open", ()))
                for track in held
            )
            + len(aligner._video.ledger.totals)
            + len(aligner._audio.ledger.totals)
            + len(aligner._chat._recent)
        )
    assert max(sizes) == max(sizes[: len(sizes) // 20])


def test_check_finds_an_item_that_was_lost() -> None:
    aligner = aligner_for(V)
    aligner.push(frame(0), 0)
    aligner.check()
    aligner._video._buckets.clear()
    with pytest.raises(AssertionError, match="video: Tally"):
        aligner.check()


def test_strangers_and_other_rates_are_refused() -> None:
    aligner = aligner_for(A)
    with pytest.raises(ValueError, match="'camera' is not the source of video"):
        aligner.push(frame(0), 0)
    with pytest.raises(ValueError, match="audio at 16000 Hz, not at 1000 Hz"):
        aligner.push(sound(0, 10, rate_hz=16_000), 0)
    with pytest.raises(ValueError, match="'else' is not the source of audio"):
        aligner.push(replace(bound(A, 0), source="else"), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop_ns": 0}, "hop_ns must be positive"),
        ({"deadline_ns": -1}, "deadline_ns must not be negative"),
        ({"video_context_ns": HOP + 1}, "video_context_ns must be whole hops"),
        ({"chat_context_ns": HOP - 1}, "less than a hop"),
        ({"audio_rate_hz": 16_001}, "no whole number of samples"),
        ({"stalled_ns": 1}, "must not be less than idle_ns"),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **changes)
