"""Following a session's predictions in Redis, across lost connections and restarts.

A follower reads the session's stream behind the last entry it has seen, so nothing is lost while
it is away, and each entry comes once. What is not there is named: see `Gap` and `StateChange`.
"""

from __future__ import annotations

import enum
import json
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from counterpoint.engine.outbox import PUBLISH_DROPS, Lifecycle
from counterpoint.engine.prediction import Prediction, PredictionFormatError, from_json
from counterpoint.engine.redis_client import (
    DATA_FIELD,
    EVENTS_KEY,
    Backoff,
    Command,
    ErrorReply,
    Link,
    RedisLostError,
    StreamId,
    connector,
    format_stream_id,
    last_generated_id,
    parse_stream_id,
    predictions_key,
    redact,
)
from counterpoint.streams.errors import FailedError, UsageError
from counterpoint.streams.runtime import Runtime, SystemRuntime

BLOCK_MS = 2_000
PAGE_SIZE = 256
IDS_REMEMBERED = 20_000

_ORIGIN: StreamId = (0, 0)


class StateKind(enum.StrEnum):
    """What changed for a follower."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    STARTED = "started"
    ENDED = "ended"
    REWOUND = "rewound"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """Something other than a prediction happened.

    Fields:
        session: name of the session.
        kind: ``connected`` and ``disconnected``: the connection to Redis, once an outage;
            ``started`` and ``ended``: the session; ``rewound``: the stream's end lies before what
            was already read (deleted, or restored from an older copy), so it is read from its
            beginning, leaving out entries that were delivered before; ``malformed``: an entry is
            not a prediction and was passed over.
        detail: why, in a few words; empty where there is no more to say.
        stream_id: the entry in question; None where there is none.
    """

    session: str
    kind: StateKind
    detail: str = ""
    stream_id: str | None = None


class GapCause(enum.StrEnum):
    """Why windows are missing.

    ``skipped``: the engine says that it skipped them. ``dropped``: the publisher says that it
    dropped (some of) them. ``trimmed``: the stream was cut to its length before we read them.
    ``unknown``: nobody says.
    """

    SKIPPED = "skipped"
    DROPPED = "dropped"
    TRIMMED = "trimmed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Windows that have no prediction in the stream. Comes before the prediction that shows it.

    Fields:
        session, epoch: where.
        first_window, last_window: the missing windows, both included.
        cause: see `GapCause`.
    """

    session: str
    epoch: int
    first_window: int
    last_window: int
    cause: GapCause

    @property
    def missing(self) -> int:
        """Number of missing windows."""
        return self.last_window - self.first_window + 1


Followed: TypeAlias = Prediction | Gap | StateChange


@dataclass(frozen=True, slots=True, kw_only=True)
class _SessionEvent:
    kind: Lifecycle
    reason: str
    behind: StreamId
    stream_id: str


class Subscriber:
    """Reads predictions from the Redis at ``url``; any number of sessions, one `follow` each.

    Raises:
        UsageError: not a Redis URL.
    """

    def __init__(self, url: str, runtime: Runtime | None = None) -> None:
        self._url = url
        self._connect = connector(url)
        self._runtime = runtime or SystemRuntime()

    async def follow(
        self, session: str, *, since: str = "start", until_end: bool = False
    ) -> AsyncGenerator[Followed, None]:
        """Predictions of a session in stream order, with gaps and changes of state in between.

        Lost connections are made anew for as long as it takes. The session need not exist yet.

        Args:
            session: name of the session.
            since: ``start`` (all that the stream holds), ``now`` (what comes from here on) or a
                stream ID such as ``1700000000000-0`` (what comes behind that entry).
            until_end: return once the session has ended and all its predictions were given.

        Raises:
            UsageError: ``since`` is none of these.
            FailedError: Redis refuses the reading for good: no permission, or the key holds
                something else.
        """
        reader = _Reader(session, since, self._url)
        backoff = Backoff(self._runtime.rng(f"subscriber/{session}"))
        connected: bool | None = None
        while True:
            try:
                link = await self._connect()
                try:
                    for change in await reader.begin(link):
                        yield change
                    if connected is not True:
                        connected = True
                        yield reader.change(StateKind.CONNECTED)
                    while True:
                        for followed in await reader.read(link):
                            yield followed
                        backoff.reset()
                        if until_end and reader.over:
                            return
                finally:
                    await link.close()
            except RedisLostError as error:
                wait_ns = backoff.next_ns()
                if wait_ns and connected is not False:
                    connected = False
                    yield reader.change(StateKind.DISCONNECTED, str(error))
                await self._runtime.sleep_until(self._runtime.now_ns() + wait_ns)


class _Reader:
    """Where one follower is in the session's stream and in the stream of events."""

    def __init__(self, session: str, since: str, url: str) -> None:
        self._session = session
        self._url = url
        self._key = predictions_key(session)
        # None: the end of the stream as it is when first seen.
        self._position: StreamId | None = _ORIGIN
        self._events_position: StreamId | None = _ORIGIN
        if since == "now":
            self._position = self._events_position = None
        elif since != "start":
            try:
                self._position = parse_stream_id(since)
            except ValueError as error:
                raise UsageError(f"since: {error}, and neither start nor now") from error
        self._delivered: OrderedDict[StreamId, None] = OrderedDict()
        self._pending: deque[_SessionEvent] = deque()
        self._last: Prediction | None = None
        self._ended = False
        self._drained = False

    @property
    def over(self) -> bool:
        """The session has ended and everything up to its end was given."""
        return self._ended and self._drained and not self._pending

    def change(
        self, kind: StateKind, detail: str = "", stream_id: str | None = None
    ) -> StateChange:
        return StateChange(session=self._session, kind=kind, detail=detail, stream_id=stream_id)

    async def begin(self, link: Link) -> list[StateChange]:
        """Take up the position on a new connection; says so if the stream was rewound."""
        first = self._position is None
        predictions_end, events_end = await self._ends(link)
        if self._position is None:
            self._position = predictions_end
        if self._events_position is None or self._events_position > events_end:
            self._events_position = events_end if first else _ORIGIN
        if first or self._position == _ORIGIN:
            return []
        return await self._resume(link, predictions_end)

    async def _resume(self, link: Link, end: StreamId) -> list[StateChange]:
        assert self._position is not None
        if self._position > end:
            detail = f"was at {format_stream_id(self._position)}, ends at {format_stream_id(end)}"
            self._position = _ORIGIN
            return [self.change(StateKind.REWOUND, detail)]
        return []

    async def _ends(self, link: Link) -> tuple[StreamId, StreamId]:
        """The IDs that the next entries of predictions and events must exceed."""
        replies = await link.execute(
            [("XINFO", "STREAM", self._key), ("XINFO", "STREAM", EVENTS_KEY)]
        )
        return self._end(replies[0]), self._end(replies[1])

    def _end(self, reply: Any) -> StreamId:
        if isinstance(reply, ErrorReply):
            if "no such key" in reply.message:
                return _ORIGIN
            raise self._failure(reply)
        return last_generated_id(reply)

    def _failure(self, reply: ErrorReply) -> Exception:
        if reply.transient:
            return RedisLostError(reply.message)
        return FailedError(
            f"Redis at {redact(self._url)} does not let {self._key} be read: {reply.message}"
        )
