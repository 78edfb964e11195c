"""Random sessions for the aligner, and ways to drive it under a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from hypothesis import strategies as st

from counterpoint.engine.align import Aligner, AlignSpec, Output, Window
from counterpoint.streams.types import (
    AudioChunk,
    Bound,
    ChatLine,
    ClockUpdate,
    Item,
    Modality,
    SourceEnded,
    Tier,
    VideoFrame,
    modality_of,
)

MS = 1_000_000
S = 1_000 * MS
NAMES = {Modality.VIDEO: "camera", Modality.AUDIO: "microphone", Modality.CHAT: "room"}
ROOMY = AlignSpec().max_ahead_ns

Arrival = tuple[int, Item]


def frame(t_ns: int, sequence: int = 0) -> VideoFrame:
    return VideoFrame(source="camera", t_ns=t_ns, y=np.zeros((1, 1), np.uint8), sequence=sequence)


def chunk(t_ns: int, samples: Sequence[float], *, rate_hz: int, sequence: int = 0) -> AudioChunk:
    return AudioChunk(
        source="microphone",
        t_ns=t_ns,
        samples=np.array(samples, np.float32),
        rate_hz=rate_hz,
        sequence=sequence,
    )


def line(t_ns: int, sequence: int = 0) -> ChatLine:
    return ChatLine(source="room", t_ns=t_ns, author="ann", text=f"#{sequence}", sequence=sequence)


def bound(modality: Modality, t_ns: int) -> Bound:
    return Bound(source=NAMES[modality], modality=modality, t_ns=t_ns)


def ended(modality: Modality, t_ns: int, error: str | None = None) -> SourceEnded:
    return SourceEnded(source=NAMES[modality], modality=modality, t_ns=t_ns, error=error)


def clock(
    modality: Modality, t_ns: int, *, tier: Tier = Tier.ARRIVAL, error_ns: int = 0, epoch: int = 0
) -> ClockUpdate:
    return ClockUpdate(
        source=NAMES[modality],
        modality=modality,
        t_ns=t_ns,
        tier=tier,
        error_ns=error_ns,
        epoch=epoch,
    )


@dataclass(frozen=True, slots=True, repr=False)
class Scenario:
    """A session as it happened: what arrived when, sorted, and how it was ended."""

    spec: AlignSpec
    sources: Mapping[Modality, str]
    arrivals: tuple[Arrival, ...]
    last_ns: int
    end_ns: int

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """How Hypothesis prints a failing example: no samples, no pixels."""
        printer.text(repr(self))

    def __repr__(self) -> str:
        arrivals = "".join(f"\n  {at:>12} {item!r}" for at, item in self.arrivals)
        return (
            f"Scenario({self.spec}, {[str(m) for m in self.sources]}, "
            f"last_ns={self.last_ns}, end_ns={self.end_ns}){arrivals}"
        )

    def without(self, modality: Modality, *, keep_source: bool) -> Scenario:
        """The same session in which a modality stays silent, or has no source."""
        return replace(
            self,
            sources={m: name for m, name in self.sources.items() if keep_source or m != modality},
            arrivals=tuple(a for a in self.arrivals if a[1].source != NAMES[modality]),
        )


def drive(
    scenario: Scenario, at_each_step: Callable[[Aligner, int], None] = lambda *_: None
) -> tuple[list[Output], Aligner]:
    """As a punctual session does it: advance at every arrival and at every wake.

    ``at_each_step`` is called after each `advance` and after each `push` with the instant.
    Asserts that no window comes at another instant than it says.
    """
    aligner = Aligner(scenario.spec, scenario.sources)
    outputs: list[Output] = []

    def advance(now_ns: int) -> None:
        given = aligner.advance(now_ns)
        assert all(o.emitted_ns == now_ns for o in given if isinstance(o, Window))
        outputs.extend(given)
        at_each_step(aligner, now_ns)

    def wake_until(limit_ns: int) -> None:
        while (wake := aligner.next_wake_ns()) is not None and wake < limit_ns:
            advance(wake)

    for arrived_ns, together in groupby(scenario.arrivals, key=lambda arrival: arrival[0]):
        wake_until(arrived_ns)
        for _, item in together:
            aligner.push(item, arrived_ns)
            at_each_step(aligner, arrived_ns)
        advance(arrived_ns)
    wake_until(scenario.last_ns)
    advance(scenario.last_ns)
    outputs += aligner.finish(scenario.end_ns)
    at_each_step(aligner, scenario.last_ns)
    return outputs, aligner


def drive_lazily(scenario: Scenario, seed: int | None = None) -> tuple[list[Output], Aligner]:
    """As a session does that hardly finds time: advance only now and then, or never."""
    chance = random.Random(seed)
    aligner = Aligner(scenario.spec, scenario.sources)
    outputs: list[Output] = []
    for arrived_ns, together in groupby(scenario.arrivals, key=lambda arrival: arrival[0]):
        for _, item in together:
            aligner.push(item, arrived_ns)
        if seed is not None and chance.random() < 0.1:
            outputs += aligner.advance(arrived_ns)
    outputs += aligner.advance(scenario.last_ns)
    outputs += aligner.finish(scenario.end_ns)
    return outputs, aligner


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong with one source. Spans in ns, chances 0..1."""

    capture_jitter_ns: int
    delay_ns: int
    delay_jitter_ns: int
    ahead_ns: int
    loss: float
    again: float
    wild: float
    stall: tuple[int, int]
    ends: str


def _ms(most: int) -> st.SearchStrategy[int]:
    return st.integers(0, most).map(lambda ms: ms * MS)


TROUBLES = st.builds(
    Trouble,
    capture_jitter_ns=st.sampled_from([0, 0, 1 * MS, 15 * MS]),
    delay_ns=st.sampled_from([0, 0, 20 * MS, 120 * MS, 400 * MS]),
    delay_jitter_ns=st.sampled_from([0, 0, 10 * MS, 60 * MS, 500 * MS]),
    ahead_ns=st.sampled_from([0, 0, 0, 30 * MS, 600 * MS]),
    loss=st.sampled_from([0.0, 0.0, 0.1, 0.5]),
    again=st.sampled_from([0.0, 0.0, 0.1]),
    wild=st.sampled_from([0.0, 0.0, 0.05]),
    stall=st.tuples(_ms(2_000), st.sampled_from([0, 0, 300 * MS, 2_500 * MS])),
    ends=st.sampled_from(["never", "never", "regularly", "early", "broken"]),
)


@st.composite
def specs(draw: st.DrawFn) -> AlignSpec:
    hop = draw(st.sampled_from([50, 100, 250, 500])) * MS
    idle = draw(st.sampled_from([30, 150, 400])) * MS
    return AlignSpec(
        hop_ns=hop,
        video_context_ns=hop * draw(st.integers(1, 8)),
        audio_context_ns=hop * draw(st.integers(1, 8)),
        chat_context_ns=hop + draw(st.sampled_from([0, 70, 1_000, 10_000])) * MS,
        video_tolerance_ns=draw(st.sampled_from([hop // 3, hop, hop, hop + 1, 2 * hop + hop // 2])),
        audio_rate_hz=1_000,
        chat_max_lines=draw(st.integers(1, 4)),
        chat_before_lines=draw(st.integers(0, 3)),
        chat_before_ns=draw(st.sampled_from([0, 300, 60_000])) * MS,
        deadline_ns=draw(st.sampled_from([0, 60, 250, 1_000])) * MS,
        idle_ns=idle,
        stalled_ns=idle * draw(st.integers(1, 4)),
        chat_delay_ns=draw(st.sampled_from([0, 100])) * MS,
        max_ahead_ns=draw(st.sampled_from([300 * MS, ROOMY])),
    )


def video_items(chance: random.Random, length_ns: int) -> list[Item]:
    period = chance.choice([7 * MS, 33_333_333, 40 * MS, 40 * MS, 100 * MS, 600 * MS])
    start = chance.choice([0, 0, 11 * MS])
    times = range(start, length_ns, period)
    return [frame(t_ns, n) for n, t_ns in enumerate(times)]


def audio_items(chance: random.Random, length_ns: int, rate_hz: int) -> list[Item]:
    """Chunks of different lengths; the value of a sample is drawn, so that each can be told."""
    items: list[Item] = []
    t_ns = chance.choice([0, 0, 11 * MS, -4 * MS])
    size = chance.choice([10, 20, 20, 37, 700])
    while t_ns < length_ns:
        count = max(1, size + chance.choice([0, 0, 0, -3, 9]))
        samples = [chance.uniform(-1, 1) for _ in range(count)]
        items.append(chunk(t_ns, samples, rate_hz=rate_hz, sequence=len(items)))
        t_ns += count * S // rate_hz
    return items


def chat_items(chance: random.Random, length_ns: int) -> list[Item]:
    times: list[int] = []
    for _ in range(chance.choice([0, 1, 3, 10, 25])):
        again = times and chance.random() < 0.2
        step = chance.choice([1, 50]) * MS  # edges of windows are met, too
        times.append(times[-1] if again else chance.randrange(length_ns // step) * step)
    return [line(t_ns, n) for n, t_ns in enumerate(sorted(times))]


def afflict(
    items: list[Item], modality: Modality, trouble: Trouble, length_ns: int, chance: random.Random
) -> list[Arrival]:
    """Items as they arrive: displaced, lost, doubled, held back, cut off."""
    arrivals: list[Arrival] = []
    stop_ns = length_ns
    if trouble.ends in ("early", "broken"):
        stop_ns = chance.randrange(length_ns // MS) * MS
    stall_from, stall_for = trouble.stall
    for item in items:
        assert isinstance(item, VideoFrame | AudioChunk | ChatLine)
        if item.t_ns >= stop_ns or chance.random() < trouble.loss:
            continue
        span = len(item.samples) * S // item.rate_hz if isinstance(item, AudioChunk) else 0
        t_ns = item.t_ns + chance.randint(-trouble.capture_jitter_ns, trouble.capture_jitter_ns)
        if chance.random() < trouble.wild:
            t_ns += chance.choice([-20, -1, 1, 20]) * S
        moved = replace(item, t_ns=t_ns)
        arrived = item.t_ns + span - trouble.ahead_ns + trouble.delay_ns
        if trouble.delay_jitter_ns:
            arrived += chance.randrange(trouble.delay_jitter_ns // MS) * MS
        if stall_from <= arrived < stall_from + stall_for:
            if chance.random() < 0.5:
                continue
            arrived = stall_from + stall_for
        for _ in range(1 + (chance.random() < trouble.again)):
            arrivals.append((max(0, arrived), moved))
            arrived += chance.choice([0, 5 * MS, 200 * MS])
        if chance.random() < 0.03:
            arrivals.append((max(0, arrived), bound(modality, t_ns + chance.choice([0, S]))))
    if trouble.ends != "never":
        at = stop_ns + trouble.delay_ns + trouble.delay_jitter_ns
        error = "cable pulled" if trouble.ends == "broken" else None
        arrivals.append((at, ended(modality, stop_ns, error)))
        if chance.random() < 0.1:
            arrivals.append((at + 50 * MS, ended(modality, stop_ns, "again")))
    return arrivals


@st.composite
def scenarios(draw: st.DrawFn, spec: st.SearchStrategy[AlignSpec] | None = None) -> Scenario:
    """Sessions of a few seconds with anything going wrong."""
    terms = draw(specs() if spec is None else spec)
    length_ns = draw(st.integers(4, 40)) * 100 * MS
    chance = random.Random(draw(st.integers(0, 2**32)))
    absent = draw(st.sets(st.sampled_from(list(Modality)), max_size=draw(st.integers(0, 3))))
    present = set(Modality) - absent
    arrivals: list[Arrival] = []
    for modality in sorted(present):
        trouble = draw(TROUBLES)
        if modality is Modality.VIDEO:
            items = video_items(chance, length_ns)
        elif modality is Modality.AUDIO:
            items = audio_items(chance, length_ns, terms.audio_rate_hz)
        else:
            items = chat_items(chance, length_ns)
        arrivals += afflict(items, modality, trouble, length_ns, chance)
    arrivals.sort(key=lambda arrival: arrival[0])
    last_ns = max([length_ns, *(at for at, _ in arrivals)]) + draw(_ms(300))
    return Scenario(
        spec=terms,
        sources={modality: NAMES[modality] for modality in present},
        arrivals=tuple(arrivals),
        last_ns=last_ns,
        end_ns=draw(st.sampled_from([length_ns, last_ns, length_ns - 20 * MS])),
    )


@st.composite
def revised_specs(draw: st.DrawFn) -> AlignSpec:
    """Any lateness, any required modalities."""
    spec = draw(specs())
    return replace(
        spec,
        lateness_ns=draw(st.sampled_from([0, spec.hop_ns // 2, 1 * S, 3 * S])),
        required=frozenset(draw(st.sets(st.sampled_from(list(Modality))))),
    )


def unsettle(arrivals: list[Arrival], modality: Modality, chance: random.Random) -> list[Arrival]:
    """The same arrivals (sorted) when the source's clock drifts, is spoken of, steps, comes back.

    A step, as of NTP: from one arrival on all capture times lie elsewhere, and a `ClockUpdate` of
    a higher epoch says so. A source that comes back has ended in between.
    """
    drift = chance.choice([0, 0, 0, 10_000, -10_000])  # ppm; seconds must do for hours
    out: list[Arrival] = []
    epoch = shift_ns = 0
    tiers = list(Tier)
    told = chance.choice([0.0, 0.0, 0.02])
    breaks = sorted(
        chance.randrange(4_000) * MS for _ in range(chance.choice([0, 0, 0, 1, 1, 2, 3]))
    )
    if chance.random() < 0.5:
        tier, error_ns = chance.choice(tiers), chance.randrange(20) * MS
        out.append(
            (chance.choice([0, 0, 500 * MS]), clock(modality, 0, tier=tier, error_ns=error_ns))
        )
    for at, item in arrivals:
        while breaks and breaks[0] <= at:
            when = breaks.pop(0)
            epoch += chance.choice([1, 1, 1, 3])
            shift_ns += chance.choice([0, 0, -1, 1]) * chance.choice([260, 900, 2_000]) * MS
            if chance.random() < 0.4:
                error = chance.choice([None, "cable pulled"])
                out.append(
                    (max(0, when - chance.choice([0, 80, 700]) * MS), ended(modality, when, error))
                )
            out.append(
                (when, clock(modality, when, tier=chance.choice(tiers), epoch=epoch, error_ns=1))
            )
        if chance.random() < told:
            lower = chance.choice([0, 0, 1])
            update = clock(
                modality,
                at,
                tier=chance.choice(tiers),
                error_ns=chance.randrange(20) * MS,
                epoch=max(0, epoch - lower),
            )
            out.append((at, update))
        if isinstance(item, VideoFrame | AudioChunk | ChatLine):
            t_ns = item.t_ns + item.t_ns * drift // 1_000_000 + shift_ns
            item = replace(item, t_ns=t_ns)
        out.append((at, item))
    return out


@st.composite
def revised_scenarios(draw: st.DrawFn) -> Scenario:
    """As `scenarios`, with revisions, required modalities and clocks that break."""
    scenario = draw(scenarios(revised_specs()))
    chance = random.Random(draw(st.integers(0, 2**32)))
    arrivals: list[Arrival] = []
    for modality in sorted(scenario.sources):
        mine = [pair for pair in scenario.arrivals if modality_of(pair[1]) is modality]
        mine = unsettle(mine, modality, chance)
        if modality is Modality.CHAT and chance.random() < 0.3:
            # A server's heartbeats, up to some instant.
            until_ns = chance.choice([0, 1_000, 10_000]) * MS
            beats = range(0, min(until_ns, scenario.last_ns), 500 * MS)
            mine += [(at, bound(modality, at - 50 * MS)) for at in beats]
        arrivals += mine
    arrivals.sort(key=lambda arrival: arrival[0])
    last_ns = max([scenario.last_ns, *(at for at, _ in arrivals)])
    return replace(scenario, arrivals=tuple(arrivals), last_ns=last_ns)
