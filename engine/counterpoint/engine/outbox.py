"""What waits for Redis: a bounded queue, and what of it is in flight. Pure: no tasks, no I/O.

Conservation: put = confirmed + dropped by reason + waiting + in flight, at every instant. What a
dropped prediction had to state (skipped windows, drops before it) and the drop itself are stated
by the session's next document.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from counterpoint.engine.prediction import Prediction, encode, iso_wall, to_json
from counterpoint.engine.redis_client import (
    EVENTS_KEY,
    ORIGIN,
    StreamId,
    format_stream_id,
    predictions_key,
)

EVENT_SCHEMA_VERSION = 1
BATCH_SIZE = 64

DROP_QUEUE_FULL = "publish_queue_full"
"""Redis was slow or gone for so long that the queue ran over."""
DROP_REFUSED = "publish_refused"
"""Redis refused the write for good: no permission, or the key holds something else."""
DROP_UNENCODABLE = "publish_unencodable"
"""JSON cannot say it: a number that is not finite, or half of a surrogate pair."""
PUBLISH_DROPS = frozenset({DROP_QUEUE_FULL, DROP_REFUSED, DROP_UNENCODABLE})
"""Every reason for which a prediction was made but not published."""


class Lifecycle(enum.StrEnum):
    """What happened to a session."""

    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleEvent:
    """A session began or ended.

    Fields:
        session: name of the session.
        kind: what happened.
        reason: why it ended; None for a start.
        wall_ns: when, in nanoseconds since the Unix epoch.
        event_id: tells this event from every other.
    """

    session: str
    kind: Lifecycle
    reason: str | None
    wall_ns: int
    event_id: str


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One document on its way.

    Fields:
        content: what it says; a prediction also takes up what those dropped before it had to say.
        offered_ns: when it was put in, on the runtime's clock.
        data: the JSON document; set once, when it is first taken.
        stream_id: where in its stream it goes; set when it is first taken, and anew if other
            entries are there already.
    """

    content: Prediction | LifecycleEvent
    offered_ns: int
    data: str = ""
    stream_id: StreamId = ORIGIN

    @property
    def key(self) -> str:
        """Stream and channel it goes to."""
        if isinstance(self.content, Prediction):
            return predictions_key(self.content.session)
        return EVENTS_KEY


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


class Outbox:
    """Entries waiting and in flight, at most ``capacity`` of them together.

    Attributes:
        in_flight: what was taken and is not yet confirmed or dropped, in order.
        dropped: entries not published, by reason.
        peak: the most entries that were ever held.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2, not {capacity}")
        self.capacity = capacity
        # One place at least is not in flight, so that there is always something to drop.
        self._batch_size = min(BATCH_SIZE, capacity - 1)
        self._queue: deque[Entry] = deque()  # at most queue_size
        self.in_flight: list[Entry] = []
        self.dropped: Counter[str] = Counter()
        self.peak = 0
        self._owed: dict[str, _Owed] = {}
        self._last_ids: dict[str, StreamId] = {}

    def __len__(self) -> int:
        return len(self._queue) + len(self.in_flight)

    def put(self, content: Prediction | LifecycleEvent, now_ns: int) -> None:
        """Add one; where all is full, the oldest prediction that waits makes room for it."""
        if len(self) >= self.capacity:
            self._drop_oldest()
        self._queue.append(Entry(content=content, offered_ns=now_ns))
        self.peak = max(self.peak, len(self))

    def take(self, wall_ns: int) -> None:
        """Move what waits into flight, serialised and numbered: its bytes never change again."""
        while self._queue and len(self.in_flight) < self._batch_size:
            entry = self._queue.popleft()
            try:
                entry.data = self._serialise(entry)
            except ValueError:
                self._drop(entry, DROP_UNENCODABLE)
                continue
            self._number(entry, wall_ns)
            self.in_flight.append(entry)

    def confirm(self, entry: Entry) -> None:
        """It is in Redis."""
        self.in_flight.remove(entry)
        content = entry.content
        if isinstance(content, LifecycleEvent) and content.kind is Lifecycle.ENDED:
            self._last_ids.pop(predictions_key(content.session), None)

    def refuse(self, entry: Entry) -> None:
        """Redis will never take it."""
        self.in_flight.remove(entry)
        self._drop(entry, DROP_REFUSED)

    def settle(
        self, key: str, there: Mapping[StreamId, str], top: StreamId, wall_ns: int
    ) -> list[Entry]:
        """After a lost answer or a refused ID: what was applied; the rest is numbered anew.

        Args:
            key: the stream.
            there: ID -> document of what the stream holds in the range of what is in flight.
            top: the ID that the stream's next entry must exceed.
            wall_ns: the wall clock.

        Returns:
            The entries that turned out to be applied, still to be confirmed.
        """
        self._last_ids[key] = max(top, self._last_ids.get(key, ORIGIN))
        applied: list[Entry] = []
        overtaken = False
        for entry in self.in_flight:
            if entry.key != key:
                continue
            if there.get(entry.stream_id) == entry.data:
                applied.append(entry)
                continue
            # One that is numbered anew takes all behind it along: their order stays.
            overtaken = overtaken or entry.stream_id <= top
            if overtaken:
                self._number(entry, wall_ns)
        return applied

    def _drop_oldest(self) -> None:
        # An event says more than a prediction, so it goes only where there is nothing else.
        index = next(
            (i for i, entry in enumerate(self._queue) if isinstance(entry.content, Prediction)), 0
        )
        entry = self._queue[index]
        del self._queue[index]
        self._drop(entry, DROP_QUEUE_FULL)

    def _drop(self, entry: Entry, reason: str) -> None:
        self.dropped[reason] += 1
        if isinstance(entry.content, Prediction):
            self._owed.setdefault(entry.content.session, _Owed()).add(entry.content, reason)

    def _number(self, entry: Entry, wall_ns: int) -> None:
        ms, sequence = self._last_ids.get(entry.key, ORIGIN)
        now_ms = wall_ns // 1_000_000
        # Where the wall clock stands still or goes back, the sequence number goes on.
        entry.stream_id = (now_ms, 0) if now_ms > ms else (ms, sequence + 1)
        self._last_ids[entry.key] = entry.stream_id

    def _serialise(self, entry: Entry) -> str:
        content = entry.content
        owed = self._owed.get(content.session)
        if isinstance(content, Prediction):
            if owed is not None:
                # Kept in the entry too: if it is refused, all of this is unsaid again.
                content = entry.content = replace(
                    content,
                    skipped_windows=content.skipped_windows + owed.skipped_windows,
                    dropped=owed.dropped + Counter(content.dropped),
                )
                del self._owed[content.session]
            data = to_json(content)
        else:
            data = encode(self._event_document(content, owed or _Owed()))
            # A start states no drops, so they stay owed.
            if content.kind is Lifecycle.ENDED:
                self._owed.pop(content.session, None)
        data.encode()  # Half a surrogate pair fails here, not on the wire.
        return data

    def _event_document(self, event: LifecycleEvent, owed: _Owed) -> dict[str, Any]:
        document: dict[str, Any] = {
            "schema_version": EVENT_SCHEMA_VERSION,
            "event": event.kind.value,
            "session": event.session,
            "reason": event.reason,
            "wall": iso_wall(event.wall_ns),
            "id": event.event_id,
        }
        if event.kind is Lifecycle.ENDED:
            last = self._last_ids.get(predictions_key(event.session))
            document["last_id"] = None if last is None else format_stream_id(last)
            document["skipped_windows"] = owed.skipped_windows
            document["dropped"] = dict(sorted(owed.dropped.items()))
        return document
