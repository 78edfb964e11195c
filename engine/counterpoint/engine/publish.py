"""Predictions and lifecycle events into Redis, through a bounded queue.

`Publisher.offer` never waits and never fails, whatever Redis does: when the queue is full its
oldest prediction is dropped, and the next one that does get out says how many were.

Each document is one entry of a stream, under an ID that is chosen here and only ever grows. So a
write whose answer was lost can be settled: an entry of that ID with those bytes is there, or the
write did not happen. The stream therefore holds every published prediction once and in order. The
channel of the same name is a mirror, best effort: around a lost connection it may miss one.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from counterpoint.engine.outbox import Entry, Lifecycle, LifecycleEvent, Outbox
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.redis_client import (
    DATA_FIELD,
    EVENTS_KEY,
    Backoff,
    Command,
    Connect,
    ErrorReply,
    Link,
    RedisLostError,
    RedisTimeoutError,
    format_stream_id,
    last_generated_id,
    parse_stream_id,
)
from counterpoint.streams.runtime import Runtime

logger = logging.getLogger(__name__)

EVENTS_MAXLEN = 10_000
LATENCIES_KEPT = 1_024


class LinkState(enum.StrEnum):
    """How the publisher stands with Redis."""

    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherStats:
    """Counters since the start, at one instant.

    Fields:
        link: how the publisher stands with Redis.
        published: predictions that Redis has confirmed.
        events: lifecycle events that Redis has confirmed.
        backlog: predictions and events not yet confirmed.
        peak_backlog: the most there have ever been.
        dropped: predictions and events not published, by reason.
        reconnects: connections made after the first.
        last_error: why the link was last lost or a write refused; None if that never happened.
        latency_ms: percentile -> milliseconds from `offer` to Redis's confirmation, over the
            last predictions (at most `LATENCIES_KEPT`); empty before the first.
    """

    link: LinkState
    published: int
    events: int
    backlog: int
    peak_backlog: int
    dropped: Mapping[str, int]
    reconnects: int
    last_error: str | None
    latency_ms: Mapping[str, float]


class Publisher:
    """Publishes the predictions of any number of sessions over one connection.

    Args:
        connect: opens a link to Redis, e.g. `redis_client.connector(url)`.
        runtime: clock, chance and identifiers.
        stream_maxlen: entries a session's stream keeps, approximately (XADD MAXLEN ~).
        queue_size: predictions and events that may wait for Redis, those in flight included.
    """

    def __init__(
        self,
        connect: Connect,
        runtime: Runtime,
        *,
        stream_maxlen: int = 10_000,
        queue_size: int = 1_024,
    ) -> None:
        if stream_maxlen < 1:
            raise ValueError(f"stream_maxlen must be positive, not {stream_maxlen}")
        self._connect = connect
        self._runtime = runtime
        self._stream_maxlen = stream_maxlen
        self._outbox = Outbox(queue_size)
        # Half full is where flat-out replay begins to wait: the other half takes what sessions
        # that do not wait offer in the meantime.
        self._high_water = queue_size // 2
        self._backoff = Backoff(runtime.rng("publisher").random)
        self._link_state = LinkState.CONNECTING
        self._work = asyncio.Event()
        self._moved = asyncio.Event()
        self._published = 0
        self._events = 0
        self._connections = 0
        self._last_error: str | None = None
        self._latencies_ns: deque[int] = deque(maxlen=LATENCIES_KEPT)

    def offer(self, prediction: Prediction) -> None:
        """Queue a prediction. Never waits, never raises for Redis's sake."""
        self._put(prediction)

    def session_started(self, session: str) -> None:
        """Queue the event that a session has begun."""
        self._put_event(session, Lifecycle.STARTED, None)

    def session_ended(self, session: str, reason: str) -> None:
        """Queue the event that a session is over and why, behind its last prediction."""
        self._put_event(session, Lifecycle.ENDED, reason)

    async def wait_room(self) -> None:
        """Hold back a producer that needs no pace, as replay at full speed.

        Returns at once while less than half of the queue is taken, and whenever Redis cannot be
        reached: a Redis that is gone must not stop the engine. Needs `run` to be running.
        """
        while self.backlog >= self._high_water and self._reachable:
            await self._wait_for_movement()

    async def drain(self, timeout_s: float) -> int:
        """Wait until all is published, for at most ``timeout_s``; returns how many are left."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.backlog and self._link_state is not LinkState.CLOSED:
                    await self._wait_for_movement()
        except TimeoutError:
            pass  # What is left is said below, whatever ended the wait.
        if self.backlog:
            logger.warning("redis: %d documents were left unsent", self.backlog)
        return self.backlog

    async def run(self) -> None:
        """Publish until cancelled. What is queued then stays unsent: `drain` comes first."""
        try:
            while True:
                try:
                    await self._serve_connection()
                except RedisLostError as error:
                    await self._lost(error)
        finally:
            self._set_link(LinkState.CLOSED)

    @property
    def backlog(self) -> int:
        """Predictions and events that Redis has not yet confirmed."""
        return len(self._outbox)

    def stats(self) -> PublisherStats:
        """The counters now."""
        latencies = sorted(self._latencies_ns)
        last = len(latencies) - 1
        percentiles = {"p50": 50, "p90": 90, "p99": 99, "max": 100} if latencies else {}
        return PublisherStats(
            link=self._link_state,
            published=self._published,
            events=self._events,
            backlog=self.backlog,
            peak_backlog=self._outbox.peak,
            dropped=dict(self._outbox.dropped),
            reconnects=max(0, self._connections - 1),
            last_error=self._last_error,
            # Nearest rank, rounded up: the figure is one that was measured.
            latency_ms={
                name: latencies[-(-last * percent // 100)] / 1e6
                for name, percent in percentiles.items()
            },
        )

    @property
    def _reachable(self) -> bool:
        return self._link_state in (LinkState.CONNECTING, LinkState.UP)

    def _put_event(self, session: str, kind: Lifecycle, reason: str | None) -> None:
        self._put(
            LifecycleEvent(
                session=session,
                kind=kind,
                reason=reason,
                wall_ns=self._runtime.wall_ns(),
                event_id=self._runtime.new_id(),
            )
        )

    def _put(self, content: Prediction | LifecycleEvent) -> None:
        self._outbox.put(content, self._runtime.now_ns())
        self._work.set()

    async def _wait_for_movement(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _set_link(self, state: LinkState) -> None:
        self._link_state = state
        self._moved.set()

    async def _lost(self, error: RedisLostError) -> None:
        self._last_error = str(error)
        wait_ns = self._backoff.next_ns()
        # A broken connection is a hiccup until a second attempt fails; silence is an outage.
        if wait_ns or isinstance(error, RedisTimeoutError):
            if self._link_state is not LinkState.DOWN:
                logger.warning("redis: lost (%s); %d documents wait", error, self.backlog)
            self._set_link(LinkState.DOWN)
        await self._runtime.sleep_until(self._runtime.now_ns() + wait_ns)

    async def _serve_connection(self) -> None:
        link = await self._connect()
        try:
            await self._settle(link)
            self._connections += 1
            if self._link_state is LinkState.DOWN:
                logger.warning("redis: back; %d documents wait", self.backlog)
            self._set_link(LinkState.UP)
            while True:
                if not self.backlog:
                    self._work.clear()
                    await self._work.wait()
                await self._send(link)
                self._backoff.reset()
        finally:
            await link.close()

    async def _send(self, link: Link) -> None:
        """Send one batch; entries that Redis did not confirm stay in flight."""
        if not self._outbox.in_flight:
            self._outbox.take(self._runtime.wall_ns())
            self._moved.set()
        entries = list(self._outbox.in_flight)
        if not entries:
            return
        commands: list[Command] = []
        for entry in entries:
            maxlen = EVENTS_MAXLEN if entry.key == EVENTS_KEY else self._stream_maxlen
            stream_id = format_stream_id(entry.stream_id)
            commands.append(
                ("XADD", entry.key, "MAXLEN", "~", maxlen, stream_id, DATA_FIELD, entry.data)
            )
            commands.append(("PUBLISH", entry.key, entry.data))
        replies = await link.execute(commands)
        transient: str | None = None
        unsettled = False
        for entry, written, mirrored in zip(entries, replies[::2], replies[1::2], strict=True):
            if isinstance(mirrored, ErrorReply):
                self._last_error = f"channel {entry.key}: {mirrored.message}"
            if not isinstance(written, ErrorReply):
                self._confirmed(entry)
            elif written.transient:
                transient = written.message
            elif "equal or smaller" in written.message:
                unsettled = True
            else:
                self._refused(entry, written.message)
        self._moved.set()
        if transient is not None:
            raise RedisLostError(transient)
        if unsettled:
            await self._settle(link)

    def _confirmed(self, entry: Entry) -> None:
        self._outbox.confirm(entry)
        if isinstance(entry.content, Prediction):
            self._published += 1
            self._latencies_ns.append(self._runtime.now_ns() - entry.offered_ns)
        else:
            self._events += 1

    def _refused(self, entry: Entry, why: str) -> None:
        error = f"{entry.key}: {why}"
        if error != self._last_error:
            logger.error("redis: write refused: %s", error)
        self._last_error = error
        self._outbox.refuse(entry)

    async def _settle(self, link: Link) -> None:
        """Find out what of the batch in flight was applied, so that nothing is written twice.

        Also proves a new connection: a server that accepts but does not answer is not up.
        """
        spans: dict[str, tuple[str, str]] = {}
        for entry in self._outbox.in_flight:
            stream_id = format_stream_id(entry.stream_id)
            spans[entry.key] = (spans.get(entry.key, (stream_id,))[0], stream_id)
        commands: list[Command] = [("PING",)]
        for key, (first, last) in spans.items():
            commands += [("XRANGE", key, first, last), ("XINFO", "STREAM", key)]
        replies = await link.execute(commands)
        for reply in replies:
            if isinstance(reply, ErrorReply) and reply.transient:
                raise RedisLostError(reply.message)
        for key, held, info in zip(spans, replies[1::2], replies[2::2], strict=True):
            if isinstance(held, ErrorReply) or isinstance(info, ErrorReply):
                continue  # No such stream, or not ours to read: the next write will say so.
            there = {parse_stream_id(i): fields[1] for i, fields in held if fields[0] == DATA_FIELD}
            top = last_generated_id(info)
            for entry in self._outbox.settle(key, there, top, self._runtime.wall_ns()):
                self._confirmed(entry)
        self._moved.set()
