"""What an aligner must give when windows wait for `required` modalities, are revised, and clocks
break: worked out the slow way, from the rules as they are written.

Nothing here is shared with the aligner but its data types. The oracle walks through every instant
at which anything could change; the content of a cell is asked of dictionaries of everything ever
taken, and every cell up to a window is looked at for each output of it. `Oracle` in
`align_oracle` answers the same for a window given once, by yet another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeAlias

import numpy as np
import pandas as pd

from counterpoint.engine.align import AlignSpec, Tally
from counterpoint.streams.types import (
    NS_PER_S,
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
from tests.support.align_oracle import ExpectedPart

Key: TypeAlias = tuple[int, int]
Picture: TypeAlias = Key | None
Sound: TypeAlias = tuple[tuple[int, float], ...]
Content: TypeAlias = Picture | Sound
CELLS = (Modality.VIDEO, Modality.AUDIO)


@dataclass(frozen=True, slots=True)
class ExpectedCell:
    modality: Modality
    index: int
    revision: int
    content: Content


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """One output of a window, and what it held when it was given."""

    index: int
    status: str
    revision: int
    emitted_ns: int
    complete: bool
    epoch: int
    tier: Tier
    align_error_ns: int
    video_cells: list[int]
    audio_cells: list[int]
    chat_lines: list[int]
    parts: dict[Modality, ExpectedPart]
    content: dict[Modality, tuple[object, ...]]


@dataclass(slots=True)
class _Voice:
    """What is known of one source."""

    arrivals: list[int] = field(default_factory=list)
    bound: int = 0
    over: bool = False
    error: str | None = None
    epoch: int = 0
    tier: Tier = Tier.MEDIA
    error_ns: int = 0
    sent_bounds: bool = False
    # Video: the newest frame time since the last break; the gaps of all epochs.
    newest: int | None = None
    gaps: list[int] = field(default_factory=list)


class RevisionOracle:
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
        self.voices = {m: _Voice() for m in Modality if m in sources}
        self.required = [m for m in Modality if m in sources and m in spec.required]
        self.outputs: list[ExpectedCell | ExpectedOutput] = []
        self.of_window: dict[int, list[ExpectedOutput]] = {}
        self.given: dict[tuple[Modality, int], ExpectedCell] = {}
        self.sealed = dict.fromkeys(CELLS, 0)
        # Everything ever taken: (arrival, frame) by bucket; value of each sample by cell; lines.
        self.frames: dict[int, list[tuple[int, Key]]] = {}
        self.samples: dict[int, dict[int, float]] = {}
        self.lines: dict[Key, int] = {}
        # The window a line is first for; when each line was heard, those for no window, too.
        self.first: dict[Key, int] = {}
        self.heard: dict[Key, int] = {}
        self.fates: dict[Modality, list[str]] = {m: [] for m in self.voices}
        self.sample_fates: list[list[tuple[int, str]]] = []
        # (instant, modality, cells given by then) of each break.
        self.broke: list[tuple[int, Modality, int]] = []
        self._walk(arrivals, last_ns)
        self._finish(last_ns, end_ns)

    # -- the walk ------------------------------------------------------------------------------

    def _walk(self, arrivals: Sequence[tuple[int, Item]], last_ns: int) -> None:
        spec = self.spec
        ends = range(spec.hop_ns, last_ns + spec.hop_ns, spec.hop_ns)
        moments = {spec.idle_ns, last_ns} | {at for at, _ in arrivals}
        moments |= {at + spec.idle_ns for at, _ in arrivals}
        for after in (0, spec.deadline_ns, spec.deadline_ns + spec.lateness_ns, spec.chat_delay_ns):
            moments |= {end + after for end in ends}
        at_instant = {
            at: [item for _, item in pairs] for at, pairs in groupby(arrivals, key=lambda a: a[0])
        }
        for now in sorted(m for m in moments if m <= last_ns):
            for item in at_instant.get(now, []):
                self._arrive(item, now)
            self._close(now)

    def _settles(self, index: int) -> int:
        return index * self.spec.hop_ns + self.spec.deadline_ns + self.spec.lateness_ns

    def _close(self, now: int) -> None:
        spec = self.spec
        for modality in CELLS:
            while modality in self.voices and (
                self.voices[modality].bound >= (self.sealed[modality] + 1) * spec.hop_ns
            ):
                self._give_cell_first(modality)
        for index in sorted(self.of_window):
            last = self.of_window[index][-1]
            if last.status == "provisional":
                if self._ready(index, now) or now == self._settles(index):
                    self._give(index, "final", now)
            elif last.status == "final" and now == self._settles(index) and self._differs(index):
                self._give(index, "amended", now)
        while True:
            index = len(self.of_window) + 1
            end = index * spec.hop_ns
            if now < end:
                break
            ready = self._ready(index, now)
            if not ready and now < end + spec.deadline_ns:
                break
            waits = spec.lateness_ns > 0 and not ready
            self._give(index, "provisional" if waits else "final", now)

    def _finish(self, now: int, end_ns: int) -> None:
        for voice in self.voices.values():
            if not voice.over:
                voice.over, voice.error = True, None
        for index in sorted(self.of_window):
            if self._settles(index) < now:
                continue
            last = self.of_window[index][-1]
            if last.status == "provisional":
                self._give(index, "final", now)
            elif last.status == "final" and self._differs(index):
                self._give(index, "amended", now)
        while 2 * (len(self.of_window) + 1) * self.spec.hop_ns <= 2 * end_ns + self.spec.hop_ns:
            self._give(len(self.of_window) + 1, "final", now)

    # -- arrivals ------------------------------------------------------------------------------

    def _arrive(self, item: Item, now: int) -> None:
        modality = modality_of(item)
        voice = self.voices[modality]
        voice.arrivals.append(now)
        limit = now + self.spec.max_ahead_ns
        if isinstance(item, SourceEnded):
            if not voice.over:
                voice.over, voice.error = True, item.error
        elif isinstance(item, ClockUpdate):
            self._clock(voice, modality, item, now)
        elif isinstance(item, Bound):
            voice.sent_bounds = True
            if not voice.over:
                voice.bound = max(voice.bound, min(item.t_ns, limit))
        elif isinstance(item, VideoFrame):
            self._take_frame(voice, item, now, limit)
        elif isinstance(item, AudioChunk):
            self._take_chunk(voice, item, now, limit)
        else:
            self._take_line(voice, item, now, limit)

    def _clock(self, voice: _Voice, modality: Modality, item: ClockUpdate, now: int) -> None:
        if item.epoch < voice.epoch:
            return
        voice.tier, voice.error_ns = item.tier, item.error_ns
        if item.epoch == voice.epoch:
            return
        voice.epoch = item.epoch
        # Chat has no cells: the end of the last window given stands for them.
        cells = self.sealed[modality] if modality in CELLS else len(self.of_window)
        voice.bound = min(voice.bound, cells * self.spec.hop_ns)
        self.broke.append((now, modality, cells))
        voice.newest = None
        voice.over, voice.error = False, None

    def _closed(self, modality: Modality, cell: int, now: int) -> bool:
        """Whether what arrives now for a cell is late."""
        if cell > self.sealed[modality]:
            return False
        return self.spec.lateness_ns == 0 or now > self._settles(cell)

    def _take_frame(self, voice: _Voice, frame: VideoFrame, now: int, limit: int) -> None:
        fates = self.fates[Modality.VIDEO]
        if voice.over or not 0 <= frame.t_ns <= limit:
            fates.append("out_of_range")
            return
        if voice.newest is not None and frame.t_ns != voice.newest:
            voice.gaps.append(abs(frame.t_ns - voice.newest))
        if voice.newest is None or frame.t_ns > voice.newest:
            block = (len(voice.gaps) - 1) // 64
            known = voice.gaps[max(0, (block - 1) * 64) :] if len(voice.gaps) >= 8 else [0]
            # The first frame of an epoch bounds by itself; from the second on, with the gap.
            step = 0 if voice.newest is None else min(*known, self.spec.max_ahead_ns)
            voice.bound = max(voice.bound, frame.t_ns + step)
            voice.newest = frame.t_ns
        cell = frame.t_ns // self.spec.hop_ns + 1
        key = (frame.t_ns, frame.sequence)
        bucket = [k for _, k in self.frames.get(cell, [])]
        if self._closed(Modality.VIDEO, cell, now):
            fates.append("late")
        elif bucket and key == max(bucket):
            fates.append("duplicate")
        elif bucket and key < max(bucket):
            fates.append("not_sampled")
        else:
            fates.append("taken")
            self.frames.setdefault(cell, []).append((now, key))

    def _take_chunk(self, voice: _Voice, chunk: AudioChunk, now: int, limit: int) -> None:
        rate = chunk.rate_hz
        first = (2 * chunk.t_ns * rate + NS_PER_S) // (2 * NS_PER_S)
        stop, beyond = first + len(chunk.samples), limit * rate // NS_PER_S
        refused = voice.over or chunk.t_ns > limit
        if not refused and stop > 0 and first < beyond:
            voice.bound = max(voice.bound, min(stop * NS_PER_S // rate, limit))
        fates = []
        for n, value in enumerate(chunk.samples.tolist(), start=first):
            cell = n // self.spec.samples_per_hop + 1
            held = self.samples.setdefault(cell, {})
            if refused or not 0 <= n < beyond:
                fates.append((n, "out_of_range"))
            elif self._closed(Modality.AUDIO, cell, now):
                fates.append((n, "late"))
            elif n in held:
                fates.append((n, "duplicate"))
            else:
                held[n] = value
                fates.append((n, "taken"))
        self.sample_fates.append(fates)

    def _take_line(self, voice: _Voice, line: ChatLine, now: int, limit: int) -> None:
        spec = self.spec
        if not voice.over and line.t_ns <= limit:
            self.heard.setdefault((line.t_ns, line.sequence), now)
        if voice.over or not 0 <= line.t_ns <= limit:
            self.fates[Modality.CHAT].append("out_of_range")
            return
        if spec.lateness_ns:
            settled = sum(self._settles(index) < now for index in self.of_window)
        else:
            settled = len(self.of_window)
        if line.t_ns < (settled + 1) * spec.hop_ns - spec.chat_context_ns:
            self.fates[Modality.CHAT].append("late")
            return
        self.fates[Modality.CHAT].append("taken")
        self.lines.setdefault((line.t_ns, line.sequence), now)
        first = max(settled + 1, line.t_ns // spec.hop_ns + 1)
        self.first.setdefault((line.t_ns, line.sequence), first)

    # -- completeness --------------------------------------------------------------------------

    def _complete(self, modality: Modality, end: int, now: int) -> bool:
        voice = self.voices[modality]
        bound = voice.bound
        if modality is Modality.CHAT:
            bound = max(bound, now - self.spec.chat_delay_ns)
        return bound >= end or voice.over

    def _quiet(self, modality: Modality, now: int) -> int:
        return now - max([0, *self.voices[modality].arrivals])

    def _ready(self, index: int, now: int) -> bool:
        return all(
            self._complete(m, index * self.spec.hop_ns, now)
            or (m is not Modality.CHAT and self._quiet(m, now) >= self.spec.idle_ns)
            for m in self.required
        )

    # -- content -------------------------------------------------------------------------------

    def _cell(self, modality: Modality, cell: int) -> Content:
        """What a cell holds now."""
        if modality is Modality.AUDIO:
            return tuple(sorted(self.samples.get(cell, {}).items()))
        instant, spec = cell * self.spec.hop_ns, self.spec
        buckets = range(max(0, instant - spec.video_tolerance_ns) // spec.hop_ns + 1, cell + 1)
        reach = [
            key
            for bucket in buckets
            for _, key in self.frames.get(bucket, [])
            if instant - spec.video_tolerance_ns <= key[0] < instant
        ]
        return max(reach, default=None)

    def _span(self, modality: Modality, index: int) -> list[int]:
        if modality not in self.voices:
            return []
        context = {
            Modality.VIDEO: self.spec.video_context_ns,
            Modality.AUDIO: self.spec.audio_context_ns,
        }[modality]
        return [c for c in range(index - context // self.spec.hop_ns + 1, index + 1) if c >= 1]

    def _held(self, index: int) -> list[Key]:
        end = index * self.spec.hop_ns
        held = [k for k in self.lines if end - self.spec.chat_context_ns <= k[0] < end]
        return sorted(held)[-self.spec.chat_max_lines :]

    def _before(self, key: Key) -> tuple[Key, ...]:
        """The lines read with a line: those heard by when its first window was settled."""
        spec, first = self.spec, self.first[key]
        given = self.of_window.get(first)
        until = given[-1].emitted_ns if given and not spec.lateness_ns else None
        if spec.lateness_ns:
            until = self._settles(first)
        earlier = sorted(
            other
            for other, at in self.heard.items()
            if other < key and (until is None or at <= until)
        )
        count = spec.chat_before_lines
        nearest = earlier[-count:] if count else []
        return tuple(k for k in nearest if key[0] - k[0] <= spec.chat_before_ns)

    def _content(self, index: int) -> dict[Modality, tuple[object, ...]]:
        content: dict[Modality, tuple[object, ...]] = {
            m: tuple(self._cell(m, c) for c in self._span(m, index)) for m in CELLS
        }
        content[Modality.CHAT] = tuple((key, self._before(key)) for key in self._held(index))
        return content

    def _differs(self, index: int) -> bool:
        """Whether a window would now hold something else than when it was last given."""
        last = self.of_window[index][-1]
        return self.spec.lateness_ns > 0 and self._content(index) != last.content

    # -- outputs -------------------------------------------------------------------------------

    def _give_cell(self, modality: Modality, cell: int, revision: int) -> None:
        given = ExpectedCell(modality, cell, revision, self._cell(modality, cell))
        self.given[modality, cell] = given
        self.outputs.append(given)

    def _give_cell_first(self, modality: Modality) -> None:
        self.sealed[modality] += 1
        self._give_cell(modality, self.sealed[modality], 0)

    def _give(self, index: int, status: str, now: int) -> None:
        before = self.of_window.get(index, [])
        for modality in CELLS:
            for cell in range(1, min(index, self.sealed[modality]) + 1):
                if self._cell(modality, cell) != self.given[modality, cell].content:
                    self._give_cell(modality, cell, self.given[modality, cell].revision + 1)
            while modality in self.voices and self.sealed[modality] < index:
                self._give_cell_first(modality)
        content = self._content(index)
        late = {m for m in Modality if status == "amended" and content[m] != before[-1].content[m]}
        speaks = [m for m in CELLS if m in self.voices] or list(self.voices)
        output = ExpectedOutput(
            index=index,
            status=status,
            revision=len(before),
            emitted_ns=now,
            complete=all(self._complete(m, index * self.spec.hop_ns, now) for m in self.required),
            epoch=before[0].epoch if before else len(self.broke),
            tier=max(
                (self.voices[m].tier for m in speaks), key=list(Tier).index, default=Tier.MEDIA
            ),
            align_error_ns=sum(self.voices[m].error_ns for m in speaks),
            video_cells=self._span(Modality.VIDEO, index),
            audio_cells=self._span(Modality.AUDIO, index),
            chat_lines=[sequence for _, sequence in self._held(index)],
            parts={m: self._part(m, index, now, m in late) for m in Modality},
            content=content,
        )
        self.of_window.setdefault(index, []).append(output)
        self.outputs.append(output)

    # -- parts ---------------------------------------------------------------------------------

    def _part(self, modality: Modality, index: int, now: int, late: bool) -> ExpectedPart:
        end = index * self.spec.hop_ns
        context, coverage, newest, satisfied = self._measure(modality, index, now)
        present = modality in self.voices
        over = present and self.voices[modality].over
        error = self.voices[modality].error if over else None
        end_reason = "ended" if error is None else f"ended: {error}"
        complete = present and self._complete(modality, end, now)
        quiet = self._quiet(modality, now) if present else 0
        silence = f"nothing arrived for {quiet // 1_000_000} ms"
        empty = newest is None
        at = "at the deadline" if modality in self.spec.required else "when the window was given"
        chat = modality is Modality.CHAT
        stalled = chat and self._chat_stalled(index, now)
        table = [
            (not present, "missing", "no source"),
            (late, "late", "arrived after the window was final"),
            (over and empty, "missing", end_reason),
            (chat and not empty, "present", None),
            (stalled, "stalled", silence),
            (chat, "silent", "no lines"),
            (not complete and quiet >= self.spec.stalled_ns, "stalled", silence),
            (not complete and quiet >= self.spec.idle_ns, "idle", silence),
            (not complete, "partial", f"incomplete {at}"),
            (empty, "silent", "nothing in the context"),
            (satisfied, "present", None),
            (over, "partial", end_reason),
            (True, "partial", "gaps"),
        ]
        state, reason = next((state, reason) for holds, state, reason in table if holds)
        if state == "missing":
            coverage = 0.0
        return ExpectedPart(
            start_ns=max(0, end - context),
            state=state,
            reason=reason,
            coverage=coverage,
            age_ns=None if newest is None else end - newest,
            complete=complete,
        )

    def _chat_stalled(self, index: int, now: int) -> bool:
        voice = self.voices.get(Modality.CHAT)
        return (
            voice is not None
            and voice.sent_bounds
            and not voice.over
            and not self._held(index)
            and self._quiet(Modality.CHAT, now) >= self.spec.stalled_ns
        )

    def _measure(
        self, modality: Modality, index: int, now: int
    ) -> tuple[int, float, int | None, bool]:
        """(context, coverage, newest content, whether it is all there)."""
        spec, end = self.spec, index * self.spec.hop_ns
        if modality is Modality.CHAT:
            start = max(0, end - spec.chat_context_ns)
            voice = self.voices.get(modality)
            if voice is None or voice.over:
                bound = end
            elif self._chat_stalled(index, now):
                bound = max([0, *voice.arrivals]) - spec.chat_delay_ns
            else:
                bound = max(voice.bound, now - spec.chat_delay_ns)
            held = self._held(index)
            coverage = (min(max(bound, start), end) - start) / (end - start)
            return spec.chat_context_ns, coverage, held[-1][0] if held else None, True
        content = [self._cell(modality, c) for c in self._span(modality, index)]
        if modality is Modality.VIDEO:
            pictures = [p for p in content if p is not None]
            times = [p[0] for p in pictures if isinstance(p[0], int)]
            return (
                spec.video_context_ns,
                len(times) / max(1, len(content)),
                max(times, default=None),
                bool(content) and content[-1] is not None,
            )
        numbers = [n for cell in content if cell for n, _ in cell]  # type: ignore[misc]
        total = len(content) * spec.samples_per_hop
        newest = (max(numbers) + 1) * NS_PER_S // spec.audio_rate_hz if numbers else None
        coverage = len(numbers) / max(1, total)
        return spec.audio_context_ns, coverage, newest, len(numbers) == total

    # -- by another way, and the fates ---------------------------------------------------------

    def pictures_by_merge_asof(self, output: ExpectedOutput) -> list[Picture]:
        """The pictures of one output of a window, found by pandas among what had been taken."""
        taken = [pair for pairs in self.frames.values() for pair in pairs]
        keys = sorted(key for at, key in taken if at <= output.emitted_ns)
        right = pd.DataFrame(
            {
                "t": np.array([t for t, _ in keys], np.int64),
                "sequence": np.array([n for _, n in keys], np.int64),
                "when": np.array([t for t, _ in keys], np.int64),
            }
        )
        left = pd.DataFrame(
            {"t": self.spec.hop_ns * np.array(output.video_cells, np.int64).reshape(-1)}
        )
        merged = pd.merge_asof(
            left,
            right,
            on="t",
            direction="backward",
            allow_exact_matches=False,
            tolerance=self.spec.video_tolerance_ns,
        )
        return [
            None if pd.isna(n) else (int(t), int(n))
            for t, n in zip(merged["when"], merged["sequence"], strict=True)
        ]

    def video_tally(self) -> Tally:
        fates = self.fates[Modality.VIDEO]
        given = [o for o in self.outputs if isinstance(o, ExpectedCell)]
        used = {o.content for o in given if o.modality is Modality.VIDEO and o.content is not None}
        beyond = passed = 0
        for cell, pairs in self.frames.items():
            newest = max(key for _, key in pairs)
            for _, key in pairs:
                if key in used:
                    continue
                # Taken for a cell that was not given (again) any more, or passed over.
                last = self.given.get((Modality.VIDEO, cell))
                waits = last is None or last.content != self._cell(Modality.VIDEO, cell)
                if key == newest and waits:
                    beyond += 1
                else:
                    passed += 1
        return Tally(
            received=len(fates),
            used=len(used),
            late=fates.count("late"),
            duplicate=fates.count("duplicate"),
            not_sampled=fates.count("not_sampled") + passed,
            out_of_range=fates.count("out_of_range") + beyond,
        )

    def audio_tallies(self) -> tuple[Tally, Tally]:
        """Of chunks, and of samples."""
        heard: set[int] = set()
        for (modality, _), cell in self.given.items():
            if modality is Modality.AUDIO and cell.content is not None:
                heard |= {n for n, _ in cell.content}  # type: ignore[misc]
        names = ("received", "used", "late", "duplicate", "out_of_range")
        chunks, samples = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        for fates in self.sample_fates:
            met = [
                fate if fate != "taken" else "used" if n in heard else "beyond" for n, fate in fates
            ]
            order = ("used", "beyond", "duplicate", "late", "out_of_range")
            fate = next(f for f in order if f in met)
            for tally, each in [(chunks, fate), *((samples, f) for f in met)]:
                tally["received"] += 1
                tally["out_of_range" if each == "beyond" else each] += 1
        return Tally(**chunks), Tally(**samples)

    def chat_tally(self) -> tuple[int, int, int, int]:
        """(received, used, late, all else)."""
        fates = self.fates[Modality.CHAT]
        windows = [o for o in self.outputs if isinstance(o, ExpectedOutput)]
        used = {
            pair[0]  # type: ignore[index]
            for window in windows
            for pair in window.content[Modality.CHAT]
        }
        late = fates.count("late")
        return len(fates), len(used), late, len(fates) - len(used) - late
