"""The guarantees of the aligner, for sessions in which anything goes wrong, under a virtual clock.

- G1 a window's content is exactly what the oracle says for what had arrived at its emission.
- G2 window ends strictly increase, hop by hop.
- G3 emission no later than end + deadline, even if every source dies.
- G5 conservation: every item received is accounted for, per source, at every instant.
- G6 bounds are monotone.
- G7 any arrival order within the bounds gives identical windows.
- G8 chat, silent or not, changes neither emission times nor the content of other modalities.
- G9 a stalled source holds a window for at most the idle time.
- G10 (its part here) outputs follow from the arrivals alone.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from counterpoint.engine.align import (
    Aligner,
    AlignSpec,
    AudioCell,
    Line,
    Output,
    State,
    VideoCell,
    Window,
)
from counterpoint.streams.types import (
    AudioChunk,
    ChatLine,
    Item,
    Modality,
    VideoFrame,
    modality_of,
)
from tests.support.align_oracle import Oracle
from tests.support.align_sessions import (
    MS,
    NAMES,
    Arrival,
    S,
    Scenario,
    audio_items,
    chat_items,
    drive,
    drive_lazily,
    frame,
    scenarios,
    specs,
)


def thorough(examples: int) -> settings:
    return settings(
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def oracle_of(scenario: Scenario) -> Oracle:
    return Oracle(
        scenario.spec,
        scenario.sources,
        scenario.arrivals,
        last_ns=scenario.last_ns,
        end_ns=scenario.end_ns,
    )


def windows_of(outputs: list[Output]) -> list[Window]:
    return [output for output in outputs if isinstance(output, Window)]


def told(output: Output) -> tuple[object, ...]:
    """An output by its content, comparable."""
    match output:
        case VideoCell():
            frame = output.frame
            return "video", output.index, None if frame is None else (frame.t_ns, frame.sequence)
        case AudioCell():
            return "audio", output.index, output.samples.tobytes(), output.valid.tobytes()
        case Line():
            return "line", output.line, output.before, output.revision
        case Window():
            return "window", output


@given(scenarios())
@thorough(225)
def test_g1_a_window_holds_exactly_what_had_arrived_when_it_was_emitted(
    scenario: Scenario,
) -> None:
    outputs, _ = drive(scenario)
    oracle = oracle_of(scenario)
    windows = windows_of(outputs)
    assert [window.emitted_ns for window in windows] == oracle.emissions
    for window, expected in zip(windows, oracle.windows(), strict=True):
        for name in ("index", "end_ns", "emitted_ns", "complete"):
            assert getattr(window, name) == getattr(expected, name)
        assert list(window.video_cells) == expected.video_cells
        assert list(window.audio_cells) == expected.audio_cells
        assert list(window.chat_lines) == expected.chat_lines
        for modality, part in window.parts.items():
            event(f"{modality} {part.state}")
            for field in part.__slots__:
                assert getattr(part, field) == getattr(expected.parts[modality], field), (
                    window.index,
                    modality,
                    field,
                )


@given(scenarios())
@thorough(225)
def test_g1_cells_hold_exactly_what_had_arrived_when_they_were_closed(
    scenario: Scenario,
) -> None:
    outputs, _ = drive(scenario)
    oracle = oracle_of(scenario)
    pictures = [output for output in outputs if isinstance(output, VideoCell)]
    sounds = [output for output in outputs if isinstance(output, AudioCell)]
    if Modality.VIDEO in scenario.sources:
        assert len(pictures) == oracle.cells(Modality.VIDEO)
        given = [None if cell.frame is None else cell.frame.sequence for cell in pictures]
        frames = [oracle.frame(cell.index) for cell in pictures]
        assert given == [None if frame is None else frame.sequence for frame in frames]
        assert given == oracle.sampled_by_merge_asof()
    if Modality.AUDIO in scenario.sources:
        assert len(sounds) == oracle.cells(Modality.AUDIO)
        hop = scenario.spec.samples_per_hop
        for cell in sounds:
            numbers = range((cell.index - 1) * hop, cell.index * hop)
            assert cell.valid.tolist() == [n in oracle.sound for n in numbers]
            expected = np.array([oracle.sound.get(n, 0.0) for n in numbers], np.float32)
            np.testing.assert_array_equal(cell.samples, expected)
            assert not cell.samples.flags.writeable
            assert not cell.valid.flags.writeable


@given(scenarios())
@thorough(90)
def test_g2_window_ends_rise_hop_by_hop_and_what_a_window_names_was_given_once_before_it(
    scenario: Scenario,
) -> None:
    outputs, _ = drive(scenario)
    cells: dict[str, list[int]] = {"video": [], "audio": []}
    lines: set[tuple[int, int]] = set()
    windows = 0
    emitted_ns = 0
    for output in outputs:
        match output:
            case VideoCell() | AudioCell():
                mine = cells["video" if isinstance(output, VideoCell) else "audio"]
                mine.append(output.index)
                assert mine[-1] == len(mine)
            case Line():
                lines.add((output.line.t_ns, output.line.sequence))
            case Window():
                windows += 1
                assert output.index == windows
                assert output.end_ns == windows * scenario.spec.hop_ns
                assert output.emitted_ns >= emitted_ns
                emitted_ns = output.emitted_ns
                assert set(output.video_cells) <= set(cells["video"])
                assert set(output.audio_cells) <= set(cells["audio"])
                assert set(output.chat_lines) <= {sequence for _, sequence in lines}
    assert windows * scenario.spec.hop_ns >= scenario.end_ns - scenario.spec.hop_ns / 2


@given(scenarios())
@thorough(90)
def test_g3_a_window_is_emitted_by_its_deadline_whatever_dies(scenario: Scenario) -> None:
    # `drive` asserts that emitted_ns is the instant of the `advance` that gave the window.
    outputs, _ = drive(replace(scenario, last_ns=scenario.last_ns + 2 * S))
    for window in windows_of(outputs):
        assert window.emitted_ns <= window.end_ns + scenario.spec.deadline_ns
        if window.emitted_ns < window.end_ns:
            assert window.emitted_ns == scenario.last_ns + 2 * S  # only the end is early


@given(scenarios())
@thorough(90)
def test_g5_at_every_instant_each_item_received_is_accounted_for_once(scenario: Scenario) -> None:
    def conserve(aligner: Aligner, now_ns: int) -> None:
        aligner.check()
        for tally in [*aligner.counters().items.values(), aligner.counters().audio_samples]:
            fates = [getattr(tally, name) for name in tally.__slots__ if name != "received"]
            assert min(fates) >= 0
            assert tally.received == sum(fates)

    _, aligner = drive(scenario, conserve)
    pushed = [modality_of(i) for _, i in scenario.arrivals if hasattr(i, "sequence")]
    counters = aligner.counters()
    assert set(counters.items) == set(scenario.sources)
    for modality, tally in counters.items.items():
        assert tally.received == pushed.count(modality)
        assert tally.in_flight == 0


@given(scenarios())
@thorough(150)
def test_g5_every_item_meets_the_fate_that_its_arrival_gives_it(scenario: Scenario) -> None:
    _, aligner = drive(scenario)
    oracle = oracle_of(scenario)
    counters = aligner.counters()
    if Modality.VIDEO in scenario.sources:
        assert counters.items[Modality.VIDEO] == oracle.video_tally()
    if Modality.AUDIO in scenario.sources:
        assert counters.items[Modality.AUDIO] == oracle.audio_tally()
        assert counters.audio_samples == oracle.sample_tally
    if Modality.CHAT in scenario.sources:
        tally = counters.items[Modality.CHAT]
        tally = replace(tally, duplicate=0, not_sampled=tally.not_sampled + tally.duplicate)
        assert tally == oracle.chat_tally()
    for tally in counters.items.values():
        for fate in tally.__slots__:
            if getattr(tally, fate):
                event(f"{fate} happened")


@given(scenarios())
@thorough(90)
def test_g6_bounds_never_go_back(scenario: Scenario) -> None:
    before = dict.fromkeys(scenario.sources, 0)

    def look(aligner: Aligner, now_ns: int) -> None:
        bounds = aligner.bounds()
        assert set(bounds) == set(before)
        for modality, bound_ns in bounds.items():
            assert bound_ns >= before[modality]
            before[modality] = bound_ns

    drive(scenario, look)


@st.composite
def orderly(draw: st.DrawFn) -> tuple[Scenario, Scenario]:
    """A session that arrives in order, and the same one in another order within the bounds.

    Within the bounds: a hop's items of a source come together, in any order, after any delay, and
    chat comes before its window can be emitted. Nobody is impatient.
    """
    spec = replace(draw(specs()), deadline_ns=60 * S, idle_ns=50 * S, stalled_ns=50 * S)
    spec = replace(spec, max_ahead_ns=60 * S)
    chance = random.Random(draw(st.integers(0, 2**32)))
    length_ns = draw(st.integers(3, 14)) * spec.hop_ns
    period = draw(st.sampled_from([7, 20, 33, 40])) * MS
    start = draw(st.integers(0, 10)) * MS
    video: list[Item] = [frame(t_ns, n) for n, t_ns in enumerate(range(start, length_ns, period))]
    audio = audio_items(chance, length_ns, spec.audio_rate_hz)
    chat = chat_items(chance, length_ns)
    in_order: list[Arrival] = []
    shuffled: list[Arrival] = []
    for items in (video, audio):
        together: dict[int, list[Item]] = {}
        for item in items:
            assert isinstance(item, VideoFrame | AudioChunk)
            in_order.append((item.t_ns + S, item))
            together.setdefault(item.t_ns // spec.hop_ns, []).append(item)
        at = 0
        for cell, batch in together.items():
            at = max(at, (cell + 1) * spec.hop_ns + chance.choice([0, 100, 500]) * MS)
            shuffled += [(at, item) for item in batch]
    for item in chat:
        assert isinstance(item, ChatLine)
        in_order.append((item.t_ns, item))
        cell_end = (item.t_ns // spec.hop_ns + 1) * spec.hop_ns
        shuffled.append((chance.randint(item.t_ns, cell_end), item))
    last_ns = length_ns + 20 * S

    def session(arrivals: list[Arrival]) -> Scenario:
        # Of what arrives at one instant, any order.
        chance.shuffle(arrivals)
        arrivals.sort(key=lambda arrival: arrival[0])
        return Scenario(
            spec=spec,
            sources=NAMES,
            arrivals=tuple(arrivals),
            last_ns=last_ns,
            end_ns=length_ns,
        )

    return session(in_order), session(shuffled)


@given(orderly())
@thorough(150)
def test_g7_any_arrival_order_within_the_bounds_gives_identical_windows(
    pair: tuple[Scenario, Scenario],
) -> None:
    contents = []
    # What the end of the session closes is left out: whether a bound or the end comes first is
    # part of what a window says.
    windows = pair[0].end_ns // pair[0].spec.hop_ns - 2
    for scenario in pair:
        outputs, aligner = drive(scenario)
        for tally in aligner.counters().items.values():
            assert tally.late == 0
        contents.append(
            [
                (
                    window.index,
                    window.video_cells,
                    window.audio_cells,
                    window.chat_lines,
                    window.parts[Modality.VIDEO],
                    window.parts[Modality.AUDIO],
                    window.parts[Modality.CHAT].state,
                    window.parts[Modality.CHAT].age_ns,
                )
                for window in windows_of(outputs)[:windows]
            ]
            + sorted(
                told(output)
                for output in outputs
                if isinstance(output, VideoCell | AudioCell) and output.index <= windows
            )
        )
    assert contents[0] == contents[1]


@given(scenarios())
@thorough(120)
def test_g8_chat_changes_neither_emission_times_nor_other_content(scenario: Scenario) -> None:
    def others(outputs: list[Output]) -> list[object]:
        return [
            (
                output.index,
                output.emitted_ns,
                output.complete,
                output.video_cells,
                output.audio_cells,
                output.parts[Modality.VIDEO],
                output.parts[Modality.AUDIO],
            )
            if isinstance(output, Window)
            else told(output)
            for output in outputs
            if not isinstance(output, Line)
        ]

    talking = replace(scenario, sources={**scenario.sources, Modality.CHAT: "room"})
    silent = talking.without(Modality.CHAT, keep_source=True)
    absent = talking.without(Modality.CHAT, keep_source=False)
    expected = others(drive(absent)[0])
    assert others(drive(silent)[0]) == expected
    assert others(drive(talking)[0]) == expected


@given(scenarios())
@thorough(120)
def test_g9_a_quiet_source_holds_a_window_for_at_most_the_idle_time(scenario: Scenario) -> None:
    outputs, _ = drive(scenario)
    oracle = oracle_of(scenario)
    floor_ns = 0
    for window in windows_of(outputs):
        if window.emitted_ns == scenario.last_ns:
            break
        # Each source holds it until it is complete, or until idle_ns after its last sign of life.
        releases = [window.end_ns, floor_ns]
        for modality in oracle.awaited:
            pairs = [at for at, _ in oracle.of[modality] if at <= window.emitted_ns]
            if not oracle.complete_at(modality, window.end_ns, window.emitted_ns):
                releases.append(max([0, *pairs]) + scenario.spec.idle_ns)
            else:
                releases += pairs[-1:] if pairs else []
        assert window.emitted_ns <= max(releases)
        floor_ns = window.emitted_ns


@given(st.integers(0, 2**32), st.integers(1, 30), st.sampled_from(["video", "audio"]))
@thorough(60)
def test_g9_when_one_source_stalls_the_others_go_on(seed: int, last_hop: int, dies: str) -> None:
    chance = random.Random(seed)
    spec = AlignSpec(audio_rate_hz=1_000, deadline_ns=5 * S)
    died_ns = last_hop * 100 * MS
    arrivals: list[Arrival] = []
    for n, t_ns in enumerate(range(0, 6 * S, 40 * MS)):
        if dies != "video" or t_ns < died_ns:
            arrivals.append((t_ns + 10 * MS, frame(t_ns, n)))
    for item in audio_items(chance, 6 * S, 1_000):
        assert isinstance(item, AudioChunk)
        if dies != "audio" or item.end_ns < died_ns:
            arrivals.append((item.end_ns + 10 * MS, item))
    arrivals.sort(key=lambda arrival: arrival[0])
    scenario = Scenario(
        spec=spec,
        sources={m: NAMES[m] for m in (Modality.VIDEO, Modality.AUDIO)},
        arrivals=tuple(arrivals),
        last_ns=6 * S,
        end_ns=5 * S,
    )
    last_arrival_ns = max(
        [0, *(at for at, item in arrivals if modality_of(item) == Modality(dies))]
    )
    states = []
    for window in windows_of(drive(scenario)[0]):
        own_pace_ns = window.end_ns + 10 * MS + 709 * MS  # the longest chunk, and its delay
        assert window.emitted_ns <= max(own_pace_ns, last_arrival_ns + spec.idle_ns)
        states.append(window.parts[Modality(dies)].state)
    assert State.STALLED in states


@given(scenarios(), st.integers(0, 2**32))
@thorough(120)
def test_g10_what_comes_out_depends_on_arrivals_alone_not_on_when_advance_is_called(
    scenario: Scenario, seed: int
) -> None:
    punctual = [told(output) for output in drive(scenario)[0]]
    assert [told(output) for output in drive_lazily(scenario)[0]] == punctual
    assert [told(output) for output in drive_lazily(scenario, seed)[0]] == punctual


@given(scenarios())
@thorough(150)
def test_what_reaches_no_cells_end_closes_nothing(scenario: Scenario) -> None:
    aligner = Aligner(scenario.spec, scenario.sources)
    waited = 0
    for arrived_ns, item in scenario.arrivals:
        aligner.advance(arrived_ns)
        end_ns = item.end_ns if isinstance(item, AudioChunk) else item.t_ns
        has_cells = isinstance(item, VideoFrame | AudioChunk)
        can_wait = has_cells and end_ns < aligner.closes_ns().get(modality_of(item), 0)
        aligner.push(item, arrived_ns)
        if can_wait:
            waited += 1
            assert aligner.advance(arrived_ns) == []
    event(f"some waited: {waited > 0}, lateness: {scenario.spec.lateness_ns > 0}")
    assert not (waited and scenario.spec.lateness_ns)
