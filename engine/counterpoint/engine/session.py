"""One live session: source → mailbox → aligner → models → predictions.

Three tasks, none of which waits for a later one in a live session: the pump fills the mailbox,
ingest drives the aligner, inference encodes and fuses in a lane. What cannot keep up is dropped or
skipped where it stands, and counted. In flat-out replay each waits for the next instead
(docs/decisions/0004-time-in-replay.md).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from counterpoint.engine.adapt.adapter import open_adapter
from counterpoint.engine.align import Aligner, AlignSpec, Counters, Output, Window
from counterpoint.engine.background import unwrapped
from counterpoint.engine.config import NS_PER_MS, Config
from counterpoint.engine.encode import Counts, Encoder, SessionEncoder
from counterpoint.engine.fuse import Fused
from counterpoint.engine.manifest import Manifest
from counterpoint.engine.models import Models
from counterpoint.engine.placing import Placing
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.readout import Readout
from counterpoint.engine.report import Reporter
from counterpoint.engine.tap import Tap
from counterpoint.engine.work import Batch, Due, Work, WorkQueue
from counterpoint.streams.errors import FailedError
from counterpoint.streams.feed import LiveSource, MailboxFeed
from counterpoint.streams.mailbox import Mailbox, MailboxStats
from counterpoint.streams.pump import pump
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import (
    Item,
    Modality,
    Source,
    SourceEnded,
)

log = logging.getLogger(__name__)

INFERENCE_LANE = "inference-"
"""The beginning of the names of the lanes in which models run."""

INFERENCE_TIMEOUT_S = 60.0
"""A model that takes longer has hung; the session ends and says so."""

READOUT_SIZE = 256
"""Predictions that wait for a slow reader of `Session.predictions` before the oldest is dropped."""

PLACING_NS = 10_000_000
"""Sound is brought onto the grid by less than this."""

MAX_CELLS = 128
"""Cells and lines that wait for the models: more than one context of every modality."""


class Sink(Protocol):
    """Where predictions go beside the session's own readers; Redis in production."""

    def offer(self, prediction: Prediction) -> None:
        """Take a prediction; never waits, never fails."""
        ...

    async def wait_room(self) -> None:
        """Wait while taking one more would mean dropping one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What became of a session.

    Fields:
        windows: windows that got a prediction.
        revisions: further predictions of such windows.
        skipped: windows that got none because the models could not keep up.
        errors: by modality, why its source broke off.
        counters: what the aligner did with every item.
        mailbox: what the mailbox did.
        encoded: how often each encoder ran.
        dropped: items lost on purpose on their way to a window, by "modality: reason".
        unread: predictions that a slow reader of `Session.predictions` did not get.
    """

    windows: int
    revisions: int
    skipped: int
    errors: Mapping[Modality, str]
    counters: Counters
    mailbox: MailboxStats
    encoded: Counts
    dropped: Mapping[str, int]
    unread: int


def align_spec(config: Config, manifest: Manifest) -> AlignSpec:
    """The aligner's terms: contexts from the bundle, patience from the configuration."""
    return AlignSpec(
        hop_ns=manifest.hop_ns,
        video_context_ns=manifest.modalities.video.context_ns,
        audio_context_ns=manifest.modalities.audio.context_ns,
        chat_context_ns=manifest.modalities.chat.context_ns,
        video_tolerance_ns=manifest.modalities.video.tolerance_ns,
        audio_rate_hz=manifest.modalities.audio.rate_hz,
        chat_max_lines=manifest.modalities.chat.max_lines,
        chat_before_lines=manifest.modalities.chat.before_lines,
        chat_before_ns=manifest.modalities.chat.before_ns,
        deadline_ns=config.time.deadline_ms * NS_PER_MS,
        idle_ns=config.time.idle_ms * NS_PER_MS,
        stalled_ns=config.time.stalled_ms * NS_PER_MS,
        chat_delay_ns=config.time.chat_delay_ms * NS_PER_MS,
        lateness_ns=config.time.lateness_ms * NS_PER_MS,
        required=config.time.required_modalities(),
    )


def unsettled_windows(spec: AlignSpec) -> int:
    """How many windows at most may still be given again; so how far the encoders look back."""
    if not spec.lateness_ns:
        return 0
    return -(-(spec.deadline_ns + spec.lateness_ns) // spec.hop_ns) + 1


class Session:
    """One session, from its start to its end. Run it once.

    Args:
        name: what subscribers call it.
        source: where items come from; closed when the session ends. A live one needs the speed 1.
        sources: the name that items of each modality carry.
        models: shared by all sessions.
        runtime: clock, waiting, threads.
        config: resolved configuration.
        sink: where predictions go.
        speed: 1.0 is real time; None is flat out, losing nothing.
        duration_ns: how long the source says it lasts; windows go on to there if it breaks off.
        origin_ns: the runtime's instant at which session time is 0; by default when it is run.
        worker: which of the process's workers (a thread for its source, one for its models) it
            shares with other sessions.
        exact: whatever the speed, items arrive when the source says, as flat out: for recordings
            of a session.
        encoder: in place of the bundle's encoders.
        work: in place of what waits for the models.
        tap: a recorder.

    Raises:
        ConfigError: the configured hop is no multiple of the bundle's.
        UnavailableError: drift is to be watched, and river is not installed.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Source | LiveSource,
        sources: Mapping[Modality, str],
        models: Models,
        runtime: Runtime,
        config: Config,
        sink: Sink,
        speed: float | None = 1.0,
        duration_ns: int | None = None,
        origin_ns: int | None = None,
        worker: int = 0,
        exact: bool = False,
        encoder: Encoder | None = None,
        work: Work | None = None,
        tap: Tap | None = None,
    ) -> None:
        self.name = name
        self._source = source
        self._models = models
        self._runtime = runtime
        self._sink = sink
        self._speed = speed
        self._duration_ns = duration_ns
        self._stride = config.time.stride(models.bundle.manifest.hop_ns)
        if isinstance(source, LiveSource) and (speed != 1.0 or exact):
            raise ValueError(f"a live source runs at the speed 1, not {speed}")
        # Whether arrivals drive the session's time; else the clock does.
        self._by_arrivals = exact or speed is None
        self._exact = exact
        self._tap = tap
        spec = align_spec(config, models.bundle.manifest)
        self._aligner = Aligner(spec, sources)
        self._reached_ns = 0  # by arrivals and by closings
        self._closed_ns = -1
        self._encoder: Encoder = encoder or SessionEncoder(
            models,
            runtime.now_ns,
            unsettled=unsettled_windows(spec),
            keep_features=tap is not None and tap.wants_features,
        )
        self._placing = Placing(spec.audio_rate_hz)
        self._has_sound = Modality.AUDIO in sources
        self._mailbox = Mailbox(
            {
                Modality.VIDEO: config.queues.video_frames,
                Modality.AUDIO: config.queues.audio_chunks,
                Modality.CHAT: config.queues.chat_lines,
            }
        )
        self._work: Work = work or WorkQueue(max_cells=MAX_CELLS)
        self._worker = worker
        self._lane = runtime.lane(f"{INFERENCE_LANE}{worker}")
        self._readout = Readout(READOUT_SIZE)
        self._reporter = Reporter(
            session=name,
            bundle=models.bundle,
            stride=self._stride,
            # Sound that is this close to contiguous is taken as contiguous.
            wall_ns=self._wall_ns,
            heads=config.purpose.allowed_heads(models.bundle.manifest.tasks),
            adapter=open_adapter(name, config.adaptation, models),
        )
        self._given_origin_ns = origin_ns
        self._origin_ns = 0
        self._origin_wall_ns = 0
        self._end_ns = 0
        self._errors: dict[Modality, str] = {}
        self._windows = 0
        self._revisions = 0
        self._finished = False

    # -- outside -------------------------------------------------------------------------------

    async def run(self) -> Summary:
        """Play the source to its end; every prediction has been offered when this returns.

        Raises:
            CounterpointError: the session could not go on; the message says why.
        """
        now_ns = self._runtime.now_ns()
        self._origin_ns = now_ns if self._given_origin_ns is None else self._given_origin_ns
        self._origin_wall_ns = self._runtime.wall_ns() - (now_ns - self._origin_ns)
        try:
            async with asyncio.TaskGroup() as group:
                self._runtime.spawn(group, f"{self.name}/pump", self._pump())
                self._runtime.spawn(group, f"{self.name}/ingest", self._ingest())
                self._runtime.spawn(group, f"{self.name}/infer", self._infer())
        except BaseExceptionGroup as failed:
            raise unwrapped(failed) from None
        finally:
            self._finished = True
            self._readout.close()
        return self.summary()

    def predictions(self) -> AsyncIterator[Prediction]:
        """Predictions as they are made, until the session ends. One reader.

        A reader that falls more than `READOUT_SIZE` behind a live session loses the oldest;
        flat-out replay waits for it.
        """
        return self._readout

    @property
    def finished(self) -> bool:
        """Whether `run` has come to its end."""
        return self._finished

    def summary(self) -> Summary:
        """What became of everything so far."""
        counters = self._aligner.counters()
        return Summary(
            windows=self._windows,
            revisions=self._revisions,
            skipped=self._work.skipped_total,
            errors=dict(self._errors),
            counters=counters,
            mailbox=self._mailbox.stats(),
            encoded=self._encoder.counts,
            dropped=self._lost(counters),
            unread=self._readout.dropped,
        )

    # -- the three tasks -----------------------------------------------------------------------

    async def _pump(self) -> None:
        try:
            if isinstance(self._source, LiveSource):
                await self._source.run(MailboxFeed(self._mailbox, self._runtime, self._origin_ns))
                return
            await pump(
                self._source,
                self._mailbox,
                self._runtime,
                speed=self._speed,
                origin_ns=self._origin_ns,
                exact=self._exact,
                lane=f"replay-{self._worker}",
            )
        finally:
            self._mailbox.close()

    async def _ingest(self) -> None:
        while True:
            batch = await self._next_batch()
            for arrived_ns, item in batch:
                # Strictly before this arrival: items that share an instant belong together.
                await self._advance(arrived_ns - 1)
                # What was closed up to an instant was closed without this item: a recording that
                # said "at that instant" would put it before the closing.
                self._reached_ns = max(self._reached_ns, arrived_ns, self._closed_ns + 1)
                if self._tap is not None:
                    self._tap.arrived(self._reached_ns, item)
                if isinstance(item, SourceEnded):
                    self._note_end(item)
                for placed in self._placing.place(item):
                    self._aligner.push(placed, self._reached_ns)
            if not self._by_arrivals:
                await self._advance(self._session_ns())
            if not batch and self._mailbox.closed:
                break
        if self._errors and self._duration_ns is not None:
            self._end_ns = max(self._end_ns, self._duration_ns)
        await self._play_out()
        if self._tap is not None:
            self._tap.finished(self._end_ns)
        await self._hand_over(self._aligner.finish(self._end_ns))
        self._work.close()

    async def _play_out(self) -> None:
        """What has no source any more still takes its time, so that no window has to be skipped."""
        if self._by_arrivals:
            return
        while (wake_ns := self._aligner.next_wake_ns()) is not None and wake_ns <= self._end_ns:
            await self._runtime.sleep_until(self._clock_ns(wake_ns))
            await self._advance(self._session_ns())

    async def _advance(self, now_ns: int) -> None:
        self._reached_ns = max(self._reached_ns, now_ns)
        self._closed_ns = max(self._closed_ns, now_ns)
        await self._hand_over(self._aligner.advance(now_ns))

    async def _next_batch(self) -> list[tuple[int, Item]]:
        wake_ns = self._aligner.next_wake_ns()
        if self._by_arrivals or wake_ns is None:
            return await self._mailbox.get()
        self._mailbox.be_patient(
            {m: end_ns - PLACING_NS for m, end_ns in self._aligner.closes_ns().items()}
        )
        timer = self._runtime.call_at(self._clock_ns(wake_ns), self._mailbox.wake)
        try:
            return await self._mailbox.get()
        finally:
            timer.cancel()

    def _note_end(self, ended: SourceEnded) -> None:
        self._end_ns = max(self._end_ns, ended.t_ns)
        if ended.error is not None:
            self._errors[ended.modality] = ended.error
            log.warning("session %s: %s ended early: %s", self.name, ended.modality, ended.error)

    async def _hand_over(self, outputs: list[Output]) -> None:
        for output in outputs:
            if self._by_arrivals:
                await self._work.room()
            if not isinstance(output, Window):
                self._work.put_cell(output)
            elif output.index % self._stride == 0:
                self._work.put_window(
                    Due(
                        window=output,
                        counters=self._aligner.counters(),
                        ready_ns=self._runtime.now_ns(),
                        placing_error_ns=self._placing.error_ns if self._has_sound else 0,
                    )
                )

    async def _infer(self) -> None:
        while (batch := await self._work.take()) is not None:
            started_ns = self._runtime.now_ns()
            counters = self._aligner.counters() if batch.due is None else batch.due.counters
            lost = self._lost(counters) if batch.lost is None else batch.lost
            if self._tap is not None:
                self._tap.batch(batch, lost)
            fused = await self._compute(batch)
            if self._tap is not None and self._tap.wants_features:
                self._tap.encoded(self._encoder.take_features())
            if batch.due is not None and fused is not None:
                await self._publish(batch, batch.due, fused, lost, started_ns)

    async def _compute(self, batch: Batch) -> Fused | None:
        def compute() -> Fused | None:
            self._encoder.encode(batch.cells)
            return None if batch.due is None else self._encoder.fuse(batch.due.window)

        try:
            async with asyncio.timeout(INFERENCE_TIMEOUT_S):
                return await self._lane.submit(compute)
        except TimeoutError as error:
            raise FailedError(
                f"session {self.name}: the models gave nothing for {INFERENCE_TIMEOUT_S:g} s; "
                "the session is ended"
            ) from error

    # -- a window becomes a prediction ---------------------------------------------------------

    async def _publish(
        self, batch: Batch, due: Due, fused: Fused, lost: Mapping[str, int], started_ns: int
    ) -> None:
        now_ns = self._runtime.now_ns()
        prediction = self._reporter.report(
            due,
            fused,
            skipped=batch.skipped,
            lost=lost,
            stages_ms={
                "align": (due.window.emitted_ns - due.window.end_ns) / 1e6,
                "wait": (started_ns - due.ready_ns) / 1e6,
                **self._encoder.stages.take(),
                "models": (now_ns - started_ns) / 1e6,
            },
            emitted_wall_ns=self._runtime.wall_ns(),
        )
        if due.window.revision:
            self._revisions += 1
        else:
            self._windows += 1
        if self._tap is not None:
            self._tap.predicted(prediction)
        self._sink.offer(prediction)
        if self._by_arrivals:
            await self._sink.wait_room()
            await self._readout.room()
        self._readout.put(prediction)

    def _lost(self, counters: Counters) -> dict[str, int]:
        """Items lost on purpose on their way to a window so far, by "modality: reason"."""
        lost = {
            f"{modality}: {reason}": count
            for modality, reasons in self._mailbox.stats().dropped.items()
            for reason, count in reasons.items()
        }
        for modality, tally in counters.items.items():
            lost[f"{modality}: late"] = tally.late
            lost[f"{modality}: out of range"] = tally.out_of_range
        for reason, count in self._work.drops.by_reason.items():
            lost[f"models: {reason}"] = count
        return {reason: count for reason, count in lost.items() if count}

    # -- clocks --------------------------------------------------------------------------------

    def _session_ns(self) -> int:
        """Session time of a paced session, now."""
        assert self._speed is not None
        return int((self._runtime.now_ns() - self._origin_ns) * self._speed)

    def _clock_ns(self, session_ns: int) -> int:
        """The runtime's instant by which a paced session has reached ``session_ns``."""
        assert self._speed is not None
        # One more, so that rounding the product back never falls short of it.
        return self._origin_ns + math.ceil(session_ns / self._speed) + 1

    def _wall_ns(self, session_ns: int) -> int:
        return self._origin_wall_ns + int(session_ns / (self._speed or 1.0))
