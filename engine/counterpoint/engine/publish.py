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
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from counterpoint.engine.prediction import Prediction, encode, iso_wall, to_json
from counterpoint.engine.redis_client import (
    DATA_FIELD,
    EVENTS_KEY,
    Backoff,
    Command,
    Connect,
    ErrorReply,
    Link,
    RedisLostError,
    StreamId,
    format_stream_id,
    last_generated_id,
    parse_stream_id,
    predictions_key,
)
from counterpoint.streams.runtime import Runtime

logger = logging.getLogger(__name__)

EVENT_SCHEMA_VERSION = 1
EVENTS_MAXLEN = 10_000
BATCH_SIZE = 64
LATENCIES_KEPT = 1_024

DROP_QUEUE_FULL = "publish_queue_full"
"""Redis was slow or gone for so long that the queue ran over."""
DROP_REFUSED = "publish_refused"
"""Redis refused the write for good: no permission, or the key holds something else."""
DROP_NOT_FINITE = "publish_not_finite"
"""A number of the prediction was not finite, which JSON cannot say."""
PUBLISH_DROPS = frozenset({DROP_QUEUE_FULL, DROP_REFUSED, DROP_NOT_FINITE})
"""Every reason for which a prediction was made but not published."""


class Lifecycle(enum.StrEnum):
    """What happened to a session."""

    STARTED = "started"
    ENDED = "ended"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    session: str
    kind: Lifecycle
    reason: str | None
    wall_ns: int
    event_id: str


@dataclass(slots=True, kw_only=True)
class _Entry:
    """One document on its way; ``stream_id`` and ``data`` are set when it is first sent."""

    key: str
    content: Prediction | _Event
    offered_ns: int
    data: str = ""
    stream_id: StreamId = (0, 0)

    @property
    def session(self) -> str:
        return self.content.session


@dataclass(slots=True)
class _Owed:
    """What a session's next document has to state for the predictions dropped before it."""

    skipped_windows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, prediction: Prediction, reason: str) -> None:
        # What the dropped prediction itself had to state is still unsaid.
        self.skipped_windows += prediction.skipped_windows
        self.dropped.update(prediction.dropped)
        self.dropped[reason] += 1


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
        if stream_maxlen < 1 or queue_size < 2:
            raise ValueError("stream_maxlen must be at least 1, queue_size at least 2")
        self._connect = connect
        self._runtime = runtime
        self._stream_maxlen = stream_maxlen
        self._queue_size = queue_size
        # Half full is where flat-out replay begins to wait: the other half takes what sessions
        # that do not wait offer in the meantime.
        self._high_water = queue_size // 2
        # One place at least is not in flight, so that there is always something to drop.
        self._batch_size = min(BATCH_SIZE, queue_size - 1)
        self._backoff = Backoff(runtime.rng("publisher"))
        self._queue: deque[_Entry] = deque()
        self._in_flight: list[_Entry] = []
        self._owed: dict[str, _Owed] = {}
        self._last_ids: dict[str, StreamId] = {}
        self._link_state = LinkState.CONNECTING
        self._work = asyncio.Event()
        self._moved = asyncio.Event()
        self._published = 0
        self._events = 0
        self._peak = 0
        self._connections = 0
        self._dropped: Counter[str] = Counter()
        self._last_error: str | None = None
        self._latencies_ns: deque[int] = deque(maxlen=LATENCIES_KEPT)

    def offer(self, prediction: Prediction) -> None:
        """Queue a prediction. Never waits, never raises for Redis's sake."""
        self._put(predictions_key(prediction.session), prediction)

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
                    await self._lost(str(error))
        finally:
            self._set_link(LinkState.CLOSED)

    @property
    def backlog(self) -> int:
        """Predictions and events that Redis has not yet confirmed."""
        return len(self._queue) + len(self._in_flight)

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
            peak_backlog=self._peak,
            dropped=dict(self._dropped),
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

    # Queue

    def _put_event(self, session: str, kind: Lifecycle, reason: str | None) -> None:
        event = _Event(
            session=session,
            kind=kind,
            reason=reason,
            wall_ns=self._runtime.wall_ns(),
            event_id=self._runtime.new_id(),
        )
        self._put(EVENTS_KEY, event)

    def _put(self, key: str, content: Prediction | _Event) -> None:
        if self.backlog >= self._queue_size:
            self._drop_oldest()
        self._queue.append(_Entry(key=key, content=content, offered_ns=self._runtime.now_ns()))
        self._peak = max(self._peak, self.backlog)
        self._work.set()

    def _drop_oldest(self) -> None:
        """Make room: the oldest prediction goes, or the oldest event where there is none."""
        index = next(
            (i for i, entry in enumerate(self._queue) if isinstance(entry.content, Prediction)), 0
        )
        entry = self._queue[index]
        del self._queue[index]
        self._drop(entry, DROP_QUEUE_FULL)

    def _drop(self, entry: _Entry, reason: str) -> None:
        self._dropped[reason] += 1
        if isinstance(entry.content, Prediction):
            self._owed.setdefault(entry.session, _Owed()).add(entry.content, reason)

    async def _wait_for_movement(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    # Connection

    def _set_link(self, state: LinkState) -> None:
        self._link_state = state
        self._moved.set()

    async def _lost(self, why: str) -> None:
        self._last_error = why
        wait_ns = self._backoff.next_ns()
        if wait_ns:
            # The immediate second attempt has failed too: this is an outage, not a hiccup.
            if self._link_state is not LinkState.DOWN:
                logger.warning("redis: lost (%s); %d documents wait", why, self.backlog)
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
        if not self._in_flight:
            self._take_batch()
        commands: list[Command] = []
        for entry in self._in_flight:
            maxlen = EVENTS_MAXLEN if entry.key == EVENTS_KEY else self._stream_maxlen
            stream_id = format_stream_id(entry.stream_id)
            commands.append(
                ("XADD", entry.key, "MAXLEN", "~", maxlen, stream_id, DATA_FIELD, entry.data)
            )
            commands.append(("PUBLISH", entry.key, entry.data))
        if not commands:
            return
        replies = await link.execute(commands)
        transient: str | None = None
        unsettled = False
        for entry, reply, mirrored in zip(
            list(self._in_flight), replies[::2], replies[1::2], strict=True
        ):
            if isinstance(mirrored, ErrorReply):
                self._last_error = f"channel {entry.key}: {mirrored.message}"
            if not isinstance(reply, ErrorReply):
                self._confirm(entry)
            elif reply.transient:
                transient = reply.message
            elif "equal or smaller" in reply.message:
                unsettled = True
            else:
                self._refuse(entry, reply.message)
        self._moved.set()
        if transient is not None:
            raise RedisLostError(transient)
        if unsettled:
            await self._settle(link)

    def _take_batch(self) -> None:
        """Move what waits into flight, serialised and numbered: its bytes never change again."""
        now_ms = self._runtime.wall_ns() // 1_000_000
        while self._queue and len(self._in_flight) < self._batch_size:
            entry = self._queue.popleft()
            try:
                entry.data = self._serialise(entry)
            except ValueError as error:
                self._last_error = f"{entry.key}: {error}"
                self._drop(entry, DROP_NOT_FINITE)
                continue
            self._number(entry, now_ms)
            self._in_flight.append(entry)
        self._moved.set()

    def _number(self, entry: _Entry, now_ms: int) -> None:
        ms, sequence = self._last_ids.get(entry.key, (0, 0))
        # Where the wall clock stands still or goes back, the sequence number goes on.
        entry.stream_id = (now_ms, 0) if now_ms > ms else (ms, sequence + 1)
        self._last_ids[entry.key] = entry.stream_id

    def _serialise(self, entry: _Entry) -> str:
        content = entry.content
        owed = self._owed.get(entry.session, _Owed())
        if isinstance(content, Prediction):
            if owed.dropped:
                content = replace(
                    content,
                    skipped_windows=content.skipped_windows + owed.skipped_windows,
                    dropped=owed.dropped + Counter(content.dropped),
                )
            data = to_json(content)
            self._owed.pop(entry.session, None)
            return data
        document: dict[str, Any] = {
            "schema_version": EVENT_SCHEMA_VERSION,
            "event": content.kind.value,
            "session": content.session,
            "reason": content.reason,
            "wall": iso_wall(content.wall_ns),
            "id": content.event_id,
        }
        if content.kind is Lifecycle.ENDED:
            last = self._last_ids.get(predictions_key(content.session))
            document["last_id"] = None if last is None else format_stream_id(last)
            document["skipped_windows"] = owed.skipped_windows
            document["dropped"] = dict(sorted(owed.dropped.items()))
            self._owed.pop(content.session, None)
        return encode(document)

    def _confirm(self, entry: _Entry) -> None:
        self._in_flight.remove(entry)
        if isinstance(entry.content, Prediction):
            self._published += 1
            self._latencies_ns.append(self._runtime.now_ns() - entry.offered_ns)
        else:
            self._events += 1
            if entry.content.kind is Lifecycle.ENDED:
                self._last_ids.pop(predictions_key(entry.session), None)

    def _refuse(self, entry: _Entry, why: str) -> None:
        if self._dropped[DROP_REFUSED] == 0:
            logger.error("redis: write to %s refused: %s", entry.key, why)
        self._last_error = f"{entry.key}: {why}"
        self._in_flight.remove(entry)
        self._drop(entry, DROP_REFUSED)

    async def _settle(self, link: Link) -> None:
        """Find out which entries in flight were applied; number the others behind the stream's last.

        After this, what is still in flight can be sent again without doubling anything.
        """
        by_key: dict[str, list[_Entry]] = {}
        for entry in self._in_flight:
            by_key.setdefault(entry.key, []).append(entry)
        commands: list[Command] = [("PING",)]
        for key, entries in by_key.items():
            first, last = (format_stream_id(entries[i].stream_id) for i in (0, -1))
            commands.append(("XRANGE", key, first, last))
            commands.append(("XINFO", "STREAM", key))
        replies = await link.execute(commands)
        for reply in replies:
            if isinstance(reply, ErrorReply) and reply.transient:
                raise RedisLostError(reply.message)
        now_ms = self._runtime.wall_ns() // 1_000_000
        for (key, entries), applied, info in zip(
            by_key.items(), replies[1::2], replies[2::2], strict=True
        ):
            if isinstance(applied, ErrorReply) or isinstance(info, ErrorReply):
                continue  # Not ours to read, or no stream: the write itself will say so.
            there = {(parse_stream_id(i), *fields) for i, fields in applied}
            top = last_generated_id(info)
            self._last_ids[key] = max(top, self._last_ids.get(key, (0, 0)))
            overtaken = False
            for entry in entries:
                if (entry.stream_id, DATA_FIELD, entry.data) in there:
                    self._confirm(entry)
                    continue
                overtaken = overtaken or entry.stream_id <= top
                if overtaken:
                    self._number(entry, now_ms)
        self._moved.set()
