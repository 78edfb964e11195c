"""Reads one session's stream, page by page: what is there, and what is not.

The reader remembers where it is; `subscribe` gives it a link whenever there is one.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from counterpoint.engine.outbox import PUBLISH_DROPS, Lifecycle
from counterpoint.engine.prediction import Prediction, PredictionFormatError, from_json
from counterpoint.engine.redis_client import (
    DATA_FIELD,
    EVENTS_KEY,
    ORIGIN,
    Command,
    ErrorReply,
    Link,
    RedisLostError,
    StreamId,
    format_stream_id,
    last_generated_id,
    parse_stream_id,
    predictions_key,
)
from counterpoint.streams.errors import UsageError

logger = logging.getLogger(__name__)

BLOCK_MS = 2_000
PAGE_SIZE = 256
IDS_REMEMBERED = 20_000


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
    dropped (some of) them. ``gone``: the stream does not hold them any more, being cut to its
    length or lost by Redis. ``unknown``: nobody says.
    """

    SKIPPED = "skipped"
    DROPPED = "dropped"
    GONE = "gone"
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

_Found: TypeAlias = tuple[StreamId, Followed]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SessionEvent:
    kind: Lifecycle
    reason: str
    behind: StreamId
    stream_id: str


class ReadRefusedError(Exception):
    """Redis refuses a read for good."""


class StreamReader:
    """Where one follower is in the session's stream and in the stream of events."""

    def __init__(self, session: str, since: str) -> None:
        self._session = session
        self._key = predictions_key(session)
        self._now = since == "now"
        self._from_start = since == "start"
        self._positions = {self._key: ORIGIN, EVENTS_KEY: ORIGIN}
        if since not in ("start", "now"):
            try:
                self._positions[self._key] = parse_stream_id(since)
            except ValueError as error:
                raise UsageError(f"since: {error}, and neither start nor now") from error
        self._given: OrderedDict[tuple[str, StreamId], None] = OrderedDict()
        self._events: deque[_SessionEvent] = (
            deque()
        )  # of one session, from a stream of bounded length
        self._begun = False
        self._last: Prediction | None = None
        self._ended = False
        self._drained = False

    @property
    def over(self) -> bool:
        """The session has ended and everything up to its end was given."""
        return self._ended and self._drained and not self._events

    def change(
        self, kind: StateKind, detail: str = "", stream_id: str | None = None
    ) -> StateChange:
        return StateChange(session=self._session, kind=kind, detail=detail, stream_id=stream_id)

    async def begin(self, link: Link) -> None:
        """Take up the positions on a new connection."""
        self._drained = False  # So the first read does not wait, and looks at the streams' ends.
        if self._begun:
            return
        place = self._positions[self._key]
        recall = format_stream_id(place)
        predictions, events, recalled = await link.execute(
            [
                ("XINFO", "STREAM", self._key),
                ("XINFO", "STREAM", EVENTS_KEY),
                ("XRANGE", self._key, recall, recall),
            ]
        )
        if self._now:
            self._positions = {
                self._key: _StreamInfo.read(predictions).end,
                EVENTS_KEY: _StreamInfo.read(events).end,
            }
        # The entry behind which we start says which window comes next.
        for _, fields in _checked(recalled):
            with contextlib.suppress(PredictionFormatError):
                self._last = _prediction_of(fields, self._session)
        self._begun = True

    async def read(self, link: Link) -> list[_Found]:
        """The next page; waits up to `BLOCK_MS` for it once all that is there has been given."""
        block = self._drained and not self._events
        waiting: Command = ("BLOCK", BLOCK_MS) if block else ()
        places = (format_stream_id(place) for place in self._positions.values())
        # XREAD last: its answer is of use even if Redis goes away right behind it.
        replies = await link.execute(
            [
                ("XINFO", "STREAM", self._key),
                ("XINFO", "STREAM", EVENTS_KEY),
                ("XREAD", "COUNT", PAGE_SIZE, *waiting, "STREAMS", *self._positions, *places),
            ],
            block_s=BLOCK_MS / 1_000 if block else 0.0,
        )
        info, events_info = (_StreamInfo.read(reply) for reply in replies[:2])
        pages: dict[str, list[Any]] = dict(_checked(replies[2]) or ())
        # Nothing awaits from here on, so a lost connection cannot lose what was read.
        place = self._positions[self._key]
        if place > info.end or self._positions[EVENTS_KEY] > events_info.end:
            return self._rewind(info, events_info)
        self._drained = self._key not in pages
        found: list[_Found] = []
        for stream_id, fields in self._new(EVENTS_KEY, pages):
            if (event := self._session_event(stream_id, fields)) is not None:
                self._events.append(event)
        self._release(found)
        # The entry we read last has left the stream, and others behind it may have too: those
        # before the page's first entry.
        gone = info.first > place
        for stream_id, fields in self._new(self._key, pages):
            found += [(stream_id, said) for said in self._entry(stream_id, fields, gone)]
            gone = False
            self._release(found)
        return found

    def _rewind(self, info: _StreamInfo, events_info: _StreamInfo) -> list[_Found]:
        """Read a stream from its beginning that ends before what was read of it."""
        self._drained = False
        if self._positions[EVENTS_KEY] > events_info.end:
            self._positions[EVENTS_KEY] = ORIGIN
        place = self._positions[self._key]
        if place <= info.end:
            return []
        self._positions[self._key] = ORIGIN
        detail = f"read to {format_stream_id(place)}, ends at {format_stream_id(info.end)}"
        return [(ORIGIN, self.change(StateKind.REWOUND, detail))]

    def _new(self, key: str, pages: dict[str, list[Any]]) -> Iterator[tuple[StreamId, list[str]]]:
        """Entries of a page that were not given before; the position moves along."""
        for text, fields in pages.get(key, ()):
            stream_id = parse_stream_id(text)
            self._positions[key] = stream_id
            # Only after a rewind can an entry come a second time.
            if (key, stream_id) in self._given:
                continue
            self._given[key, stream_id] = None
            if len(self._given) > IDS_REMEMBERED:
                self._given.popitem(last=False)
            yield stream_id, fields

    def _release(self, found: list[_Found]) -> None:
        """Give the session's events whose turn has come: behind the predictions before them."""
        while self._events:
            event = self._events[0]
            if event.behind > self._positions[self._key] and not self._drained:
                return
            self._events.popleft()
            self._ended = event.kind is Lifecycle.ENDED
            kind = StateKind.ENDED if self._ended else StateKind.STARTED
            found.append((ORIGIN, self.change(kind, event.reason, event.stream_id)))

    def _session_event(self, stream_id: StreamId, fields: list[str]) -> _SessionEvent | None:
        try:
            document = json.loads(_data(fields))
            if document["session"] != self._session:
                return None
            return _SessionEvent(
                kind=Lifecycle(document["event"]),
                reason=document["reason"] or "",
                behind=parse_stream_id(document.get("last_id") or "0-0"),
                stream_id=format_stream_id(stream_id),
            )
        except (KeyError, TypeError, ValueError) as error:
            # It may be of any session, so no one session's followers are told.
            logger.warning("redis: %s %s is malformed: %s", EVENTS_KEY, stream_id, error)
            return None

    def _entry(self, stream_id: StreamId, fields: list[str], gone: bool) -> Iterator[Followed]:
        try:
            prediction = _prediction_of(fields, self._session)
        except PredictionFormatError as error:
            yield self.change(StateKind.MALFORMED, str(error), format_stream_id(stream_id))
            return
        last = self._last
        if last is None:
            expected = 1 if self._from_start and prediction.epoch == 0 else None
        elif (
            prediction.revision > 0
            and prediction.epoch <= last.epoch
            and prediction.window <= last.window
        ):
            yield prediction  # Of a window that was given, whatever epoch has begun since.
            return
        elif prediction.epoch != last.epoch:
            expected = None  # What a new epoch begins with is not told by the old one.
        elif prediction.window > last.window:
            expected = last.window + 1
        else:
            expected = 1  # The session began anew.
        if expected is not None and expected < prediction.window:
            yield self._gap(prediction, expected, gone)
        self._last = prediction
        yield prediction

    def _gap(self, prediction: Prediction, expected: int, gone: bool) -> Gap:
        missing = prediction.window - expected
        unpublished = sum(prediction.dropped.get(reason, 0) for reason in PUBLISH_DROPS)
        if missing <= prediction.skipped_windows:
            cause = GapCause.SKIPPED
        elif missing <= prediction.skipped_windows + unpublished:
            cause = GapCause.DROPPED
        else:
            cause = GapCause.GONE if gone else GapCause.UNKNOWN
        return Gap(
            session=self._session,
            epoch=prediction.epoch,
            first_window=expected,
            last_window=prediction.window - 1,
            cause=cause,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _StreamInfo:
    """What XINFO STREAM says; zeros for a stream that is not there.

    Fields:
        end: the ID that the next entry must exceed.
        first: ID of the first entry.
    """

    end: StreamId = ORIGIN
    first: StreamId = ORIGIN

    @staticmethod
    def read(reply: Any) -> _StreamInfo:
        if isinstance(reply, ErrorReply) and "no such key" in reply.message:
            return _StreamInfo()
        info = _checked(reply)
        first = info[info.index("first-entry") + 1]
        return _StreamInfo(
            end=last_generated_id(info),
            first=parse_stream_id(first[0]) if first else ORIGIN,
        )


def _checked(reply: Any) -> Any:
    if not isinstance(reply, ErrorReply):
        return reply
    if reply.transient:
        raise RedisLostError(reply.message)
    raise ReadRefusedError(reply.message)


def _data(fields: list[str]) -> str:
    return dict(zip(fields[::2], fields[1::2], strict=True))[DATA_FIELD]


def _prediction_of(fields: list[str], session: str) -> Prediction:
    try:
        prediction = from_json(_data(fields))
    except KeyError as error:
        raise PredictionFormatError(f"no field {DATA_FIELD!r}") from error
    if prediction.session != session:
        raise PredictionFormatError(f"is of session {prediction.session!r}")
    return prediction
