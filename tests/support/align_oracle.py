"""What an aligner must give, worked out the slow way: from the whole history, for every instant.

Nothing here is shared with the aligner but its data types. Each answer is found by looking at all
arrivals again: the emission of a window by trying every instant at which anything could change,
the picture of an instant by asking every frame, sound by one dictionary entry for each sample.
`sampled_by_merge_asof` finds the pictures by yet another way, with pandas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import pandas as pd

from counterpoint.engine.align import AlignSpec, Tally
from counterpoint.streams.types import (
    NS_PER_S,
    AudioChunk,
    Bound,
    ChatLine,
    Item,
    Modality,
    SourceEnded,
    VideoFrame,
    modality_of,
)

NEVER = 1 << 62
Key: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ExpectedPart:
    start_ns: int
    state: str
    reason: str | None
    coverage: float
    age_ns: int | None
    complete: bool


@dataclass(frozen=True, slots=True)
class ExpectedWindow:
    index: int
    end_ns: int
    emitted_ns: int
    complete: bool
    video_cells: list[int]
    audio_cells: list[int]
    chat_lines: list[int]
    parts: dict[Modality, ExpectedPart]


class Oracle:
    """Expected outputs for ``arrivals`` (sorted by instant), then `finish(end)` at ``last_ns``."""

    def __init__(
        self,
        spec: AlignSpec,
        sources: Mapping[Modality, str],
        arrivals: Sequence[tuple[int, Item]],
        *,
        last_ns: int,
        end_ns: int,
    ) -> None:
        self.spec = spec
        self.sources = sources
        self.last_ns = last_ns
        self.of: dict[Modality, list[tuple[int, Item]]] = {m: [] for m in Modality}
        for arrived, item in arrivals:
            self.of[modality_of(item)].append((arrived, item))
        self.ended: dict[Modality, tuple[int, str | None]] = {}
        self.live: dict[Modality, list[tuple[int, Item]]] = {}
        for modality, pairs in self.of.items():
            ends = [n for n, (_, item) in enumerate(pairs) if isinstance(item, SourceEnded)]
            self.live[modality] = pairs[: ends[0]] if ends else pairs
            if ends:
                arrived, item = pairs[ends[0]]
                assert isinstance(item, SourceEnded)
                self.ended[modality] = (arrived, item.error)
        self.bounds = {m: self._bound_steps(m) for m in (Modality.VIDEO, Modality.AUDIO)}
        self.awaited = [m for m in (Modality.VIDEO, Modality.AUDIO) if m in sources]
        self.emissions = self._emissions(end_ns)
        self.sealed = {m: cache(lambda cell, m=m: self._sealed(m, cell)) for m in self.awaited}
        self.frames = self._eligible_frames()
        self.sound, self._chunk_fates, self.sample_tally = self._place_sound()

    # Bounds, arrivals and ends at an instant

    def _in_range(self, arrived: int, t_ns: int) -> bool:
        return 0 <= t_ns <= arrived + self.spec.max_ahead_ns

    def _bound_steps(self, modality: Modality) -> list[tuple[int, int]]:
        """(arrival, what this arrival says the bound is); the bound is the maximum so far."""
        steps = []
        seen: list[int] = []
        gaps: list[int] = []
        for arrived, item in self.live[modality]:
            limit = arrived + self.spec.max_ahead_ns
            if isinstance(item, Bound):
                steps.append((arrived, min(item.t_ns, limit)))
            elif isinstance(item, AudioChunk) and item.t_ns <= limit:
                stop = self._first_sample(item) + len(item.samples)
                first_beyond = limit * item.rate_hz // NS_PER_S
                if stop > 0 and self._first_sample(item) < first_beyond:
                    steps.append((arrived, min(stop * NS_PER_S // item.rate_hz, limit)))
            elif isinstance(item, VideoFrame) and self._in_range(arrived, item.t_ns):
                if seen and item.t_ns != max(seen):
                    gaps.append(abs(item.t_ns - max(seen)))
                if not seen or item.t_ns > max(seen):
                    block = (len(gaps) - 1) // 64
                    known = gaps[max(0, (block - 1) * 64) :] if len(gaps) >= 8 else [0]
                    steps.append((arrived, item.t_ns + min(*known, self.spec.max_ahead_ns)))
                seen.append(item.t_ns)
        return steps

    def bound_at(self, modality: Modality, now: int) -> int:
        return max([0] + [b for arrived, b in self.bounds[modality] if arrived <= now])

    def ended_at(self, modality: Modality, now: int) -> bool:
        return modality in self.ended and self.ended[modality][0] <= now

    def quiet_at(self, modality: Modality, now: int) -> int:
        return now - max([0] + [arrived for arrived, _ in self.of[modality] if arrived <= now])

    def complete_at(self, modality: Modality, end: int, now: int) -> bool:
        return self.bound_at(modality, now) >= end or self.ended_at(modality, now)

    # When windows and cells are closed

    def _emissions(self, end_ns: int) -> list[int]:
        """Instant of each window, by trying every instant at which anything can change."""
        hop, spec = self.spec.hop_ns, self.spec
        moments = {spec.idle_ns}
        for modality in self.awaited:
            for arrived, _ in self.of[modality]:
                moments |= {arrived, arrived + spec.idle_ns}
        emissions: list[int] = []
        while True:
            end = (len(emissions) + 1) * hop
            floor = max([end, *emissions[-1:]])
            tries = sorted({floor, end + spec.deadline_ns} | moments)
            when = next(
                now
                for now in tries
                if now >= floor
                and (
                    now >= end + spec.deadline_ns
                    or all(
                        self.complete_at(m, end, now) or self.quiet_at(m, now) >= spec.idle_ns
                        for m in self.awaited
                    )
                )
            )
            if when > self.last_ns:
                break
            emissions.append(when)
        self.flushed_from = len(emissions) + 1
        while (len(emissions) + 1) * hop <= end_ns + hop / 2:
            emissions.append(self.last_ns)
        return emissions

    def _sealed(self, modality: Modality, cell: int) -> int:
        """Instant at which a cell is closed, or NEVER."""
        steps = self.bounds[modality]
        by_bound = [arrived for arrived, b in steps if b >= cell * self.spec.hop_ns]
        by_window = self.emissions[cell - 1 : cell]
        return min([NEVER, *by_bound, *by_window])

    def cells(self, modality: Modality) -> int:
        """How many cells are ever closed."""
        count = 0
        while modality in self.sources and self.sealed[modality](count + 1) < NEVER:
            count += 1
        return count

    # Video

    def _eligible_frames(self) -> list[tuple[int, VideoFrame]]:
        """Frames in range and not late."""
        return [
            (arrived, item)
            for arrived, item in self.live[Modality.VIDEO]
            if isinstance(item, VideoFrame)
            and self._in_range(arrived, item.t_ns)
            and arrived <= self.sealed[Modality.VIDEO](item.t_ns // self.spec.hop_ns + 1)
        ]

    def frame(self, cell: int) -> VideoFrame | None:
        """The picture of an instant."""
        instant = cell * self.spec.hop_ns
        reach = [
            frame
            for _, frame in self.frames
            if instant - self.spec.video_tolerance_ns <= frame.t_ns < instant
        ]
        return max(reach, key=lambda frame: (frame.t_ns, frame.sequence), default=None)

    def sampled_by_merge_asof(self) -> list[int | None]:
        """Sequence number of the picture of each closed cell, found by pandas."""
        count = self.cells(Modality.VIDEO)
        frames = sorted((frame.t_ns, frame.sequence) for _, frame in self.frames)
        right = pd.DataFrame(
            {
                "t": np.array([t for t, _ in frames], np.int64),
                "sequence": np.array([n for _, n in frames], np.int64),
            }
        )
        left = pd.DataFrame({"t": self.spec.hop_ns * np.arange(1, count + 1, dtype=np.int64)})
        merged = pd.merge_asof(
            left,
            right,
            on="t",
            direction="backward",
            allow_exact_matches=False,
            tolerance=self.spec.video_tolerance_ns,
        )
        return [None if pd.isna(value) else int(value) for value in merged["sequence"]]

    def video_tally(self) -> Tally:
        pairs = [p for p in self.of[Modality.VIDEO] if isinstance(p[1], VideoFrame)]
        live = [p for p in self.live[Modality.VIDEO] if isinstance(p[1], VideoFrame)]
        in_range = [frame for arrived, frame in live if self._in_range(arrived, frame.t_ns)]
        out_of_range = len(pairs) - len(in_range)
        late = len(in_range) - len(self.frames)
        count = self.cells(Modality.VIDEO)
        chosen = {(f.t_ns, f.sequence) for f in map(self.frame, range(1, count + 1)) if f}
        duplicate = not_sampled = 0
        best: dict[int, Key] = {}
        for _, frame in self.frames:
            cell, key = frame.t_ns // self.spec.hop_ns + 1, (frame.t_ns, frame.sequence)
            if cell not in best:
                best[cell] = key
            elif key == best[cell]:
                duplicate += 1
            else:
                best[cell] = max(best[cell], key)
                not_sampled += 1
        out_of_range += sum(cell > count for cell in best)
        not_sampled += sum(cell <= count and key not in chosen for cell, key in best.items())
        return Tally(
            received=len(pairs),
            used=len(chosen),
            late=late,
            duplicate=duplicate,
            not_sampled=not_sampled,
            out_of_range=out_of_range,
        )

    # Audio

    def _first_sample(self, chunk: AudioChunk) -> int:
        return int((2 * chunk.t_ns * chunk.rate_hz + NS_PER_S) // (2 * NS_PER_S))

    def _place_sound(self) -> tuple[dict[int, float], dict[str, int], Tally]:
        """Value of each valid sample by its number, fates of chunks, tally of samples."""
        hop = self.spec.samples_per_hop
        rate = self.spec.audio_rate_hz
        live = len(self.live[Modality.AUDIO])
        sound: dict[int, float] = {}
        chunks = {"received": 0, "late": 0, "duplicate": 0, "out_of_range": 0, "used": 0}
        samples = dict(chunks)
        closed = self.cells(Modality.AUDIO)
        for place, (arrived, item) in enumerate(self.of[Modality.AUDIO]):
            if not isinstance(item, AudioChunk):
                continue
            limit = arrived + self.spec.max_ahead_ns
            refused = place >= live or item.t_ns > limit
            fates = []
            for n, value in enumerate(item.samples.tolist(), start=self._first_sample(item)):
                if refused or n < 0 or n >= limit * rate // NS_PER_S:
                    fates.append("out_of_range")
                elif arrived > self.sealed[Modality.AUDIO](n // hop + 1):
                    fates.append("late")
                elif n in sound:
                    fates.append("duplicate")
                else:
                    sound[n] = value
                    fates.append("used" if n // hop < closed else "beyond")
            stored = {"used", "beyond"} & set(fates)
            if stored:
                fate = "used" if "used" in stored else "out_of_range"
            else:
                # What the last of its samples met: first the range is cut, then what is late.
                fate = next(f for f in ("duplicate", "late", "out_of_range") if f in fates)
            chunks[fate] += 1
            chunks["received"] += 1
            samples["received"] += len(fates)
            for each in fates:
                samples["out_of_range" if each == "beyond" else each] += 1
        return sound, chunks, Tally(**samples)

    def audio_tally(self) -> Tally:
        return Tally(**self._chunk_fates)

    # Chat

    def _accepted_lines(self) -> list[tuple[int, ChatLine]]:
        """(the first window that can hold it, line) for lines in range and not late."""
        accepted = []
        for arrived, item in self.live[Modality.CHAT]:
            if isinstance(item, ChatLine) and self._in_range(arrived, item.t_ns):
                given = sum(when < arrived for when in self.emissions)
                window = max(given + 1, item.t_ns // self.spec.hop_ns + 1)
                if item.t_ns >= (given + 1) * self.spec.hop_ns - self.spec.chat_context_ns:
                    accepted.append((window, item))
        return accepted

    def lines(self, index: int) -> list[ChatLine]:
        """The newest lines of a window that had arrived."""
        end = index * self.spec.hop_ns
        held = {
            (line.t_ns, line.sequence): line
            for arrived, line in self.live[Modality.CHAT]
            if isinstance(line, ChatLine)
            and arrived <= self.emissions[index - 1]
            and self._in_range(arrived, line.t_ns)
            and end - self.spec.chat_context_ns <= line.t_ns < end
        }
        return [held[key] for key in sorted(held)][-self.spec.chat_max_lines :]

    def chat_tally(self) -> Tally:
        """As `Tally`, with duplicates counted among `not_sampled`."""
        pairs = [p for p in self.of[Modality.CHAT] if isinstance(p[1], ChatLine)]
        live = [p for p in self.live[Modality.CHAT] if isinstance(p[1], ChatLine)]
        in_range = [line for arrived, line in live if self._in_range(arrived, line.t_ns)]
        accepted = self._accepted_lines()
        windows = range(1, len(self.emissions) + 1)
        used = {(line.t_ns, line.sequence) for index in windows for line in self.lines(index)}
        beyond = 0
        waiting: dict[int, set[Key]] = {}
        for window, line in accepted:
            if window > len(self.emissions):
                waiting.setdefault(window, set()).add((line.t_ns, line.sequence))
        for keys in waiting.values():
            beyond += len(sorted(keys - used)[-self.spec.chat_max_lines :])
        late = len(in_range) - len(accepted)
        return Tally(
            received=len(pairs),
            used=len(used),
            late=late,
            not_sampled=len(accepted) - len(used) - beyond,
            out_of_range=len(pairs) - len(in_range) + beyond,
        )

    # Windows

    def windows(self) -> list[ExpectedWindow]:
        return [self._window(index) for index in range(1, len(self.emissions) + 1)]

    def _window(self, index: int) -> ExpectedWindow:
        spec, end, now = self.spec, index * self.spec.hop_ns, self.emissions[index - 1]
        flushed = index >= self.flushed_from
        cells = {
            m: [
                cell
                for cell in range(index - context // spec.hop_ns + 1, index + 1)
                if cell >= 1 and m in self.sources
            ]
            for m, context in (
                (Modality.VIDEO, spec.video_context_ns),
                (Modality.AUDIO, spec.audio_context_ns),
            )
        }
        lines = self.lines(index)
        return ExpectedWindow(
            index=index,
            end_ns=end,
            emitted_ns=now,
            complete=flushed or all(self.complete_at(m, end, now) for m in self.awaited),
            video_cells=cells[Modality.VIDEO],
            audio_cells=cells[Modality.AUDIO],
            chat_lines=[line.sequence for line in lines],
            parts={
                Modality.VIDEO: self._video_part(end, now, flushed, cells[Modality.VIDEO]),
                Modality.AUDIO: self._audio_part(end, now, flushed, cells[Modality.AUDIO]),
                Modality.CHAT: self._chat_part(end, now, flushed, lines),
            },
        )

    def _ended_reason(self, modality: Modality, now: int) -> str:
        error = self.ended[modality][1] if self.ended_at(modality, now) else None
        return "ended" if error is None else f"ended: {error}"

    def _video_part(self, end: int, now: int, flushed: bool, cells: list[int]) -> ExpectedPart:
        frames = [self.frame(cell) for cell in cells]
        times = [frame.t_ns for frame in frames if frame is not None]
        return self._cell_part(
            Modality.VIDEO,
            (end, now, flushed),
            context_ns=self.spec.video_context_ns,
            coverage=len(times) / max(1, len(frames)),
            newest_ns=max(times, default=None),
            satisfied=bool(frames) and frames[-1] is not None,
        )

    def _audio_part(self, end: int, now: int, flushed: bool, cells: list[int]) -> ExpectedPart:
        hop = self.spec.samples_per_hop
        numbers = range((cells[0] - 1) * hop, cells[-1] * hop) if cells else range(0)
        valid = [n for n in numbers if n in self.sound]
        newest = (valid[-1] + 1) * NS_PER_S // self.spec.audio_rate_hz if valid else None
        return self._cell_part(
            Modality.AUDIO,
            (end, now, flushed),
            context_ns=self.spec.audio_context_ns,
            coverage=len(valid) / max(1, len(numbers)),
            newest_ns=newest,
            satisfied=len(valid) == len(numbers),
        )

    def _cell_part(
        self,
        modality: Modality,
        when: tuple[int, int, bool],
        *,
        context_ns: int,
        coverage: float,
        newest_ns: int | None,
        satisfied: bool,
    ) -> ExpectedPart:
        end, now, flushed = when
        quiet = self.quiet_at(modality, now)
        silence = f"nothing arrived for {quiet // 1_000_000} ms"
        ended = flushed or self.ended_at(modality, now)
        complete = ended or self.bound_at(modality, now) >= end
        empty = newest_ns is None
        table = [
            (modality not in self.sources, "missing", "no source"),
            (ended and empty, "missing", self._ended_reason(modality, now)),
            (not complete and quiet >= self.spec.stalled_ns, "stalled", silence),
            (not complete and quiet >= self.spec.idle_ns, "idle", silence),
            (not complete, "partial", "incomplete at the deadline"),
            (empty, "silent", "nothing in the context"),
            (satisfied, "present", None),
            (ended, "partial", self._ended_reason(modality, now)),
            (True, "partial", "gaps"),
        ]
        state, reason = next((state, reason) for holds, state, reason in table if holds)
        return ExpectedPart(
            start_ns=max(0, end - context_ns),
            state=state,
            reason=reason,
            coverage=coverage,
            age_ns=None if newest_ns is None else end - newest_ns,
            complete=complete and modality in self.sources,
        )

    def _chat_part(self, end: int, now: int, flushed: bool, lines: list[ChatLine]) -> ExpectedPart:
        modality = Modality.CHAT
        start = max(0, end - self.spec.chat_context_ns)
        ended = flushed or self.ended_at(modality, now)
        beats = [
            min(item.t_ns, arrived + self.spec.max_ahead_ns)
            for arrived, item in self.live[modality]
            if isinstance(item, Bound) and arrived <= now
        ]
        quiet = self.quiet_at(modality, now)
        sent_bounds = any(isinstance(i, Bound) and at <= now for at, i in self.of[modality])
        # Who sends heartbeats and stops is not silent: what is known ends with the last arrival.
        stalled = sent_bounds and not ended and not lines and quiet >= self.spec.stalled_ns
        bound = end if ended else max([0, now - self.spec.chat_delay_ns, *beats])
        heard = now - quiet - self.spec.chat_delay_ns if stalled else bound
        known = min(max(heard, start), end) - start
        silence = f"nothing arrived for {quiet // 1_000_000} ms"
        table = [
            (modality not in self.sources, "missing", "no source", 0.0),
            (bool(lines), "present", None, known / (end - start)),
            (ended, "missing", self._ended_reason(modality, now), 0.0),
            (stalled, "stalled", silence, known / (end - start)),
            (True, "silent", "no lines", known / (end - start)),
        ]
        state, reason, coverage = next(rest for holds, *rest in table if holds)
        return ExpectedPart(
            start_ns=start,
            state=str(state),
            reason=None if reason is None else str(reason),
            coverage=float(str(coverage)),
            age_ns=end - lines[-1].t_ns if lines else None,
            complete=bound >= end and modality in self.sources,
        )
