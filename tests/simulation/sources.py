"""Simulated sources: each item with the instant of its capture and that of its release."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator

import numpy as np

from counterpoint.streams.errors import SourceError
from counterpoint.streams.types import (
    AudioChunk,
    ChatLine,
    ClockUpdate,
    Item,
    Modality,
    SourceEnded,
    Step,
    Tier,
    VideoFrame,
)
from tests.simulation.coverage import Coverage
from tests.simulation.plan import Plan, S, active

MS = 1_000_000
RATE_HZ = 16_000
FRAME_NS = 200 * MS
"""5 frames a second and chunks of 200 ms: fewer than a camera's, so that hours pass in seconds."""
CHUNK_NS = 200 * MS

Draft = tuple[int, int, Item]  # release, order, item


class SimulatedSource:
    """A `Source` over drafts that are made as they are needed.

    Args:
        dies_ns: raises `SourceError` when stepped to there.
    """

    def __init__(
        self, modality: Modality, drafts: Iterator[Draft], *, dies_ns: int | None, died: str
    ) -> None:
        self._modality = modality
        self._drafts = drafts
        self._next: Draft | None = next(drafts, None)
        self._dies_ns = dies_ns
        self._died = died
        self.closed = False

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset({self._modality})

    def step(self, now_ns: int) -> Step:
        items: list[tuple[int, Item]] = []
        while self._next is not None and self._next[0] <= now_ns and not self._dead(self._next[0]):
            items.append((self._next[0], self._next[2]))
            self._next = next(self._drafts, None)
        wake_ns = None if self._next is None else self._next[0]
        if self._dies_ns is not None and wake_ns is not None and wake_ns >= self._dies_ns:
            if not items and now_ns >= self._dies_ns:
                raise SourceError(self._died)
            wake_ns = self._dies_ns
        return Step(items=tuple(items), next_wake_ns=wake_ns)

    def _dead(self, release_ns: int) -> bool:
        return self._dies_ns is not None and release_ns >= self._dies_ns

    def close(self) -> None:
        self.closed = True


def in_release_order(drafts: Iterator[Draft], horizon_ns: int) -> Iterator[Draft]:
    """Drafts come in capture order and are released up to ``horizon_ns`` later."""
    waiting: list[Draft] = []
    for draft in drafts:
        heapq.heappush(waiting, draft)
        while waiting and waiting[0][0] < draft[0] - horizon_ns:
            yield heapq.heappop(waiting)
    while waiting:
        yield heapq.heappop(waiting)


class SourceMaker:
    """Makes the sources of one session.

    Args:
        session: number of the session, part of every draw's name.
    """

    def __init__(self, plan: Plan, coverage: Coverage, session: int) -> None:
        self._plan = plan
        self._coverage = coverage
        self._session = session
        self._end_ns = int(plan.seconds * S)

    def names(self) -> dict[Modality, str]:
        return {m: f"{m.value}-{self._session}" for m in Modality}

    def make(self) -> list[SimulatedSource]:
        return [self._make(modality) for modality in Modality]

    def _make(self, modality: Modality) -> SimulatedSource:
        plan, name = self._plan, modality.value
        rng = plan.rng(f"source/{self._session}/{name}")
        drafts: dict[Modality, Callable[[random.Random], Iterator[Draft]]] = {
            Modality.VIDEO: self._video,
            Modality.AUDIO: self._audio,
            Modality.CHAT: self._chat,
        }
        dies_ns = None
        if f"{name} death" in plan.faults and rng.random() < 0.7:
            dies_ns = int(rng.uniform(0.3, 0.9) * self._end_ns)
            self._coverage.saw(f"{name} death")
        ordered = in_release_order(drafts[modality](rng), 2 * S)
        return SimulatedSource(
            modality, ordered, dies_ns=dies_ns, died=f"{name} cable pulled; plug it in"
        )

    def _ended(self, modality: Modality) -> Draft:
        name = self.names()[modality]
        end_ns = self._end_ns
        item = SourceEnded(source=name, modality=modality, t_ns=end_ns)
        return end_ns + 3 * S, 1 << 60, item

    def _spells(self, fault: str, every_s: float, longest_s: float) -> list[tuple[int, int]]:
        return self._plan.spells(fault, every_s=every_s, longest_s=longest_s)

    def _delay_ns(self, fault: str, rng: random.Random) -> int:
        """From an item being there to its release."""
        delay_ns = 5 * MS
        if fault in self._plan.faults:
            delay_ns += int(abs(rng.gauss(0, 15)) * MS)
            if rng.random() < 0.01:
                delay_ns += int(rng.uniform(0.1, 1.5) * S)
            self._coverage.saw(fault)
        return delay_ns

    def _video(self, rng: random.Random) -> Iterator[Draft]:
        name = self.names()[Modality.VIDEO]
        faults = self._plan.faults
        stalls = self._spells("video stall", 20, 4)
        breaks = [start for start, _ in self._spells("video clock break", 30, 1)]
        lags = self._spells("video lag", 15, 8)
        sequence = epoch = offset_ns = 0
        for t_ns in range(0, self._end_ns, FRAME_NS):
            if active(stalls, t_ns):
                self._coverage.saw("video stall")
                continue
            if "video loss" in faults and rng.random() < 0.03:
                self._coverage.saw("video loss")
                continue
            release_ns = t_ns + self._delay_ns("video jitter", rng)
            if active(lags, t_ns):
                release_ns += 500 * MS
                self._coverage.saw("video lag")
            if "video reordering" in faults and rng.random() < 0.05:
                release_ns += int(rng.uniform(0.05, 0.4) * S)
                self._coverage.saw("video reordering")
            if breaks and t_ns >= breaks[0]:
                breaks.pop(0)
                epoch += 1
                offset_ns = int(rng.uniform(-1, 1) * S)
                self._coverage.saw("video clock break")
                update = ClockUpdate(
                    source=name,
                    modality=Modality.VIDEO,
                    t_ns=max(0, t_ns + offset_ns),
                    tier=Tier.ARRIVAL,
                    error_ns=10 * MS,
                    epoch=epoch,
                )
                yield release_ns, 2 * sequence, update
            stamp_ns = max(0, t_ns + offset_ns)
            if "video wild stamps" in faults and rng.random() < 0.01:
                stamp_ns = rng.choice([-5 * S, t_ns + 3_600 * S, 1 << 61])
                self._coverage.saw("video wild stamps")
            pixels = np.full((1, 1), sequence % 256, np.uint8)
            frame = VideoFrame(source=name, t_ns=stamp_ns, y=pixels, sequence=sequence)
            yield max(release_ns, 0), 2 * sequence + 1, frame
            sequence += 1
        yield self._ended(Modality.VIDEO)

    def _audio(self, rng: random.Random) -> Iterator[Draft]:
        name = self.names()[Modality.AUDIO]
        faults = self._plan.faults
        stalls = self._spells("audio stall", 25, 3)
        ppm = rng.choice([-500, -100, 100, 500]) if "audio drift" in faults else 0
        sequence = 0
        if ppm:
            self._coverage.saw("audio drift")
            update = ClockUpdate(
                source=name, modality=Modality.AUDIO, t_ns=0, tier=Tier.DEVICE, error_ns=MS
            )
            yield 0, -1, update
        for t_ns in range(0, self._end_ns, CHUNK_NS):
            if active(stalls, t_ns):
                self._coverage.saw("audio stall")
                continue
            if "audio loss" in faults and rng.random() < 0.02:
                self._coverage.saw("audio loss")
                continue
            stamp_ns = t_ns + t_ns * ppm // 1_000_000
            samples = np.full(RATE_HZ * CHUNK_NS // S, (sequence % 100 + 1) / 200, np.float32)
            chunk = AudioChunk(
                source=name, t_ns=stamp_ns, samples=samples, rate_hz=RATE_HZ, sequence=sequence
            )
            release_ns = stamp_ns + CHUNK_NS + self._delay_ns("audio jitter", rng)
            yield release_ns, sequence, chunk
            sequence += 1
        yield self._ended(Modality.AUDIO)

    def _chat(self, rng: random.Random) -> Iterator[Draft]:
        name = self.names()[Modality.CHAT]
        silences = self._spells("chat silence", 15, 15)
        bursts = self._spells("chat burst", 20, 1)
        sequence = t_ns = 0
        while t_ns < self._end_ns:
            bursting = active(bursts, t_ns)
            t_ns += int(rng.uniform(1, 20) * MS) if bursting else int(rng.expovariate(0.4) * S)
            if t_ns >= self._end_ns:
                break
            if active(silences, t_ns):
                self._coverage.saw("chat silence")
                continue
            self._coverage.saw("chat burst", int(bursting))
            line = ChatLine(
                source=name, t_ns=t_ns, author="ann", text=f"line {sequence}", sequence=sequence
            )
            release_ns = t_ns + 10 * MS + (int(rng.uniform(0, 2) * S) if rng.random() < 0.1 else 0)
            yield release_ns, sequence, line
            sequence += 1
        yield self._ended(Modality.CHAT)
