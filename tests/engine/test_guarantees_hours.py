"""Eight simulated hours of one session in seconds: nothing grows, nothing is lost, all is in time.

G2 to G6 again along the way, and the part of G11 that is the aligner's: its memory is bounded. The
mapping of drifting clocks is tested with the clocks; what reaches the aligner is their residue, a
few milliseconds, and now and then a break. What an event costs is counted in lines of Python
executed, not in time. The rates are below a camera's, 5 pictures and 5 chunks of sound a second,
so that it takes seconds; no rule depends on the rate.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from heapq import heappop, heappush
from types import FrameType
from typing import Any

import numpy as np

from counterpoint.engine.align import Aligner, AlignSpec, AudioCell, Output, Status, Window
from counterpoint.streams.types import AudioChunk, ChatLine, Item, Modality, Tier, VideoFrame
from tests.support.align_sessions import MS, NAMES, Arrival, S, bound, clock, ended

HOUR = 3_600 * S
PERIOD = 200 * MS
RATE_HZ = 100
SPEC = AlignSpec(hop_ns=500 * MS, audio_rate_hz=RATE_HZ, lateness_ns=1 * S)
PIXEL = np.zeros((1, 1), np.uint8)
SOUND = np.ones(RATE_HZ * PERIOD // S, np.float32)


class Sender:
    """One source: what it sends at each instant of capture, and when that arrives."""

    def __init__(self, modality: Modality, seed: int) -> None:
        self.modality = modality
        self.chance = random.Random(f"{seed}/{modality}")
        self.sequence = self.epoch = self.shift_ns = self.dead_until_ns = 0
        self.dead = False
        self.told: list[str] = []

    def at(self, t_ns: int) -> Iterator[Arrival]:
        chance = self.chance
        if t_ns < self.dead_until_ns:
            return
        if self.dead:
            self.dead = False
            yield t_ns, clock(self.modality, t_ns, tier=Tier.DEVICE, error_ns=MS, epoch=self.epoch)
        if self.modality is Modality.CHAT:
            if t_ns % (5 * S):
                return
            yield t_ns + 5 * MS, bound(self.modality, t_ns - 100 * MS)
        fate = chance.random()
        if fate < 0.0002:
            # It stalls, or dies and comes back; or its clock steps.
            self.dead = True
            self.epoch += 1
            self.dead_until_ns = t_ns + chance.choice([1, 300, 2_000, 10_000]) * MS
            self.shift_ns = chance.choice([0, -300, 300]) * MS
            if chance.random() < 0.5:
                yield t_ns, ended(self.modality, t_ns, "unplugged")
            return
        if fate < 0.01:
            return  # lost
        delay_ns = 20 * MS + chance.randrange(30) * MS
        if fate > 0.995:
            delay_ns += chance.choice([400 * MS, 900 * MS, 5 * S])
        item = self.item(t_ns + self.shift_ns + chance.randint(-2, 2) * MS)
        delay_ns += PERIOD if isinstance(item, AudioChunk) else 0
        yield t_ns + delay_ns, item
        if 0.99 < fate < 0.992:
            yield t_ns + delay_ns + 30 * MS, item

    def item(self, t_ns: int) -> Item:
        self.sequence += 1
        source = NAMES[self.modality]
        if self.modality is Modality.VIDEO:
            return VideoFrame(source=source, t_ns=t_ns, y=PIXEL, sequence=self.sequence)
        if self.modality is Modality.CHAT:
            return ChatLine(
                source=source, t_ns=t_ns, author="ann", text="hm", sequence=self.sequence
            )
        return AudioChunk(
            source=source, t_ns=t_ns, samples=SOUND, rate_hz=RATE_HZ, sequence=self.sequence
        )


def arrivals(seed: int, length_ns: int) -> Iterator[Arrival]:
    """What arrives, in order, made as it is needed."""
    senders = [Sender(modality, seed) for modality in Modality]
    waiting: list[tuple[int, int, Item]] = []
    count = 0
    for t_ns in range(0, length_ns, PERIOD):
        while waiting and waiting[0][0] < t_ns:  # nothing sent from here on can overtake it
            at, _, item = heappop(waiting)
            yield at, item
        for sender in senders:
            for at, item in sender.at(t_ns):
                count += 1
                heappush(waiting, (at, count, item))
    while waiting:
        at, _, item = heappop(waiting)
        yield at, item


def held(thing: Any, seen: set[int] | None = None) -> int:
    """How many entries all containers within ``thing`` have, those of arrays included."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return int(thing.size)
    if isinstance(thing, str | bytes | int | float | type) or thing is None or callable(thing):
        return 0
    inside: list[Any] = []
    entries = 0
    if isinstance(thing, dict):
        inside, entries = [*thing, *thing.values()], len(thing)
    elif hasattr(thing, "__iter__") and hasattr(thing, "__len__"):
        entries = len(thing)
        inside = [] if isinstance(thing, range) else list(thing)
    else:
        for kind in type(thing).__mro__:
            inside += [getattr(thing, name, None) for name in getattr(kind, "__slots__", ())]
        inside += list(getattr(thing, "__dict__", {}).values())
    return entries + sum(held(each, seen) for each in inside)


class Watch:
    """The guarantees, looked at as the outputs come. Keeps nothing of what is settled."""

    def __init__(self, spec: AlignSpec) -> None:
        self.spec = spec
        self.windows = self.revisions = 0
        self.open: dict[int, Window] = {}
        self.seen: dict[str, int] = {}

    def look(self, outputs: list[Output], now_ns: int) -> None:
        spec = self.spec
        for output in outputs:
            if not isinstance(output, Window):
                continue
            assert output.emitted_ns == now_ns
            deadline_ns = output.end_ns + spec.deadline_ns
            before = self.open.get(output.index)
            if before is None:
                self.windows += 1
                assert (output.index, output.revision) == (self.windows, 0)
                assert output.end_ns <= now_ns <= deadline_ns
                assert output.status is not Status.AMENDED
                settled = self.open.pop(output.index - 100, output)
                assert settled is output or settled.status is not Status.PROVISIONAL
            else:
                self.revisions += 1
                assert output.revision == before.revision + 1
                assert now_ns <= deadline_ns + spec.lateness_ns
                wanted = Status.FINAL if before.status is Status.PROVISIONAL else Status.AMENDED
                assert output.status is wanted
            self.open[output.index] = output
            names = [str(output.status), *(f"{m} {p.state}" for m, p in output.parts.items())]
            for name in names:
                self.seen[name] = self.seen.get(name, 0) + 1


def step(aligner: Aligner, item: Item, at_ns: int, watch: Watch) -> None:
    """As a punctual session does it."""
    while (wake_ns := aligner.next_wake_ns()) is not None and wake_ns < at_ns:
        watch.look(aligner.advance(wake_ns), wake_ns)
    aligner.push(item, at_ns)


def test_eight_hours_lose_nothing_hold_no_more_than_one_hour_and_keep_every_promise() -> None:
    aligner, watch = Aligner(SPEC, NAMES), Watch(SPEC)
    most = [0] * 9
    received = dict.fromkeys(Modality, 0)
    bounds = dict.fromkeys(Modality, 0)
    last_ns = tens = 0
    for at_ns, item in arrivals(1, 8 * HOUR):
        step(aligner, item, at_ns, watch)
        last_ns = at_ns
        if isinstance(item, VideoFrame | AudioChunk | ChatLine):
            received[Modality(next(m for m in NAMES if NAMES[m] == item.source))] += 1
        if at_ns // (10 * S) > tens:
            tens = at_ns // (10 * S)
            aligner.check()
            hour = at_ns // HOUR
            if tens % 3 == 0:
                most[hour] = max(most[hour], held(aligner))
            assert {m: t.received for m, t in aligner.counters().items.items()} == received
            for modality, bound_ns in aligner.bounds().items():
                # Breaks lie far less than ten seconds back; the bound goes on all the same.
                assert bound_ns >= bounds[modality] - 400 * MS
                bounds[modality] = bound_ns
    aligner.advance(last_ns)
    aligner.finish(last_ns)
    aligner.check()
    counters = aligner.counters()
    assert counters.windows >= 8 * HOUR // SPEC.hop_ns
    assert all(tally.in_flight == 0 for tally in counters.items.values())
    # The sessions were not tame: all of this happened.
    assert watch.revisions > 100
    for name in (
        "provisional",
        "amended",
        "video idle",
        "audio stalled",
        "video late",
        "chat late",
    ):
        assert watch.seen.get(name), name
    assert watch.windows * 0.9 < watch.seen["final"]
    for fate in ("used", "late", "duplicate", "not_sampled", "out_of_range"):
        assert any(getattr(tally, fate) for tally in counters.items.values()), fate
    assert max(most[1:8]) <= 1.5 * most[0]


def lines_executed(aligner: Aligner, some: list[Arrival], watch: Watch) -> float:
    """Lines of the aligner's Python executed for each arrival."""
    count = 0

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal count
        if "align" not in frame.f_code.co_filename:
            return None
        count += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for at_ns, item in some:
            step(aligner, item, at_ns, watch)
    finally:
        sys.settrace(before)
    return count / len(some)


def cost(spec: AlignSpec, *, from_ns: int) -> float:
    """Of an arrival in the two minutes from an instant of the session on."""
    aligner, watch = Aligner(spec, NAMES), Watch(spec)
    some: list[Arrival] = []
    for at_ns, item in arrivals(2, from_ns + 120 * S):
        if at_ns < from_ns:
            step(aligner, item, at_ns, watch)
        else:
            some.append((at_ns, item))
    return lines_executed(aligner, some, watch)


def test_an_event_costs_in_the_second_hour_what_it_cost_in_the_first_minutes() -> None:
    early, late = cost(SPEC, from_ns=60 * S), cost(SPEC, from_ns=2 * HOUR)
    assert early > 5
    assert late <= 1.25 * early


def test_an_event_costs_the_same_however_long_the_contexts_are() -> None:
    long = replace(SPEC, video_context_ns=80 * S, audio_context_ns=120 * S, chat_context_ns=400 * S)
    assert cost(long, from_ns=600 * S) <= 1.25 * cost(SPEC, from_ns=600 * S)


def test_held_counts_what_grows() -> None:
    class Thing:
        def __init__(self) -> None:
            self.kept = {1: [1, 2, 3], 2: (np.zeros(5), {"a"})}

    assert held(Thing()) == 2 + 3 + 2 + 5 + 1
    assert held([AudioCell(index=1, samples=SOUND, valid=SOUND > 0)]) == 1 + 2 * len(SOUND)
