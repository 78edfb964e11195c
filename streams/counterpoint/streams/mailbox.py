"""Bounded hand-off from device threads and replay tasks to the session's loop.

Two ways in. `Mailbox.put` never waits: where a modality is full its oldest sample is dropped and
counted, so the newest wins and no delay can build up. `Mailbox.put_wait` loses nothing and waits
for room instead: for replay at full speed, where the source can be held back.
"""

from __future__ import annotations

import asyncio
import threading  # the one hand-off between threads; true pre-emption is tested on its own
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from counterpoint.streams.types import (
    AudioChunk,
    Bound,
    ClockUpdate,
    DropCounter,
    Item,
    Modality,
    SourceEnded,
    VideoFrame,
    modality_of,
)

# About a quarter of a second of pictures, and two to four seconds of sound.
DEFAULT_CAPACITY: Mapping[Modality, int] = {
    Modality.VIDEO: 8,
    Modality.AUDIO: 128,
    Modality.CHAT: 256,
}
DROPPED_OLDEST = "mailbox full"
DROPPED_CLOSED = "mailbox closed"
_MAX_BOUNDS = 256  # for `put_wait`, which keeps every bound


class _Entry(NamedTuple):
    order: int
    arrived_ns: int
    item: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxStats:
    """What went through, at one instant: put = got + dropped + superseded + waiting.

    Fields:
        put: items handed in, dropped ones included.
        got: items taken out.
        dropped: items lost, by modality and reason.
        superseded: bounds and clock updates replaced by a newer one before they were taken.
        waiting: items in the box now, by modality (samples, bounds and ends).
        peak: the most samples that were ever in the box, by modality.
        capacity: the most samples that fit, by modality.
    """

    put: int
    got: int
    dropped: Mapping[Modality, Mapping[str, int]]
    superseded: int
    waiting: Mapping[Modality, int]
    peak: Mapping[Modality, int]
    capacity: Mapping[Modality, int]

    @property
    def dropped_total(self) -> int:
        return sum(sum(reasons.values()) for reasons in self.dropped.values())

    @property
    def waiting_total(self) -> int:
        return sum(self.waiting.values())


class Mailbox:
    """Items of one session between its sources and its loop. One consumer.

    Samples are bounded by modality; `SourceEnded` is never dropped (a source gives one for each
    modality) and neither are `Bound` and `ClockUpdate`, but `put` lets a newer one of the same
    source and modality take the place of one that still waits, since it says all that the older
    one said.

    Args:
        capacity: the most samples of each modality that wait; what is left out has its default.
    """

    def __init__(self, capacity: Mapping[Modality, int] | None = None) -> None:
        self._capacity = {**DEFAULT_CAPACITY, **(capacity or {})}
        if any(size < 1 for size in self._capacity.values()):
            raise ValueError(f"every capacity must be at least 1, not {self._capacity}")
        # A plain lock, held for a few microseconds: neither side ever waits while holding it.
        self._lock = threading.Lock()
        self._samples: dict[Modality, deque[_Entry]] = {
            m: deque(maxlen=size) for m, size in self._capacity.items()
        }
        self._control: dict[int, _Entry] = {}  # bounds and ends by order number
        # Kind, source, modality -> order number in _control, of what a newer one may replace.
        self._last_told: dict[tuple[type, str, Modality], int] = {}
        self._order = 0
        self._put = 0
        self._got = 0
        self._superseded = 0
        self._dropped = {m: DropCounter() for m in Modality}
        self._peak = dict.fromkeys(Modality, 0)
        self._closed = False
        self._woken = False
        self._patience: Mapping[Modality, int] = {}
        self._consumer: asyncio.Future[None] | None = None
        self._producers: deque[asyncio.Future[None]] = deque()  # one for each that waits

    # -- in ------------------------------------------------------------------------------------

    def put(self, arrived_ns: int, item: Item) -> None:
        """Hand an item in from any thread. Never waits; the newest wins.

        Args:
            arrived_ns: session time at which the item arrived.
        """
        with self._lock:
            self._put += 1
            modality = modality_of(item)
            if self._closed:
                self._dropped[modality].add(DROPPED_CLOSED)
                return
            if isinstance(item, Bound | ClockUpdate):
                older = self._last_told.get((type(item), item.source, modality))
                if older is not None:
                    del self._control[older]
                    self._superseded += 1
            elif (
                not isinstance(item, SourceEnded)
                and len(self._samples[modality]) == self._capacity[modality]
            ):
                self._samples[modality].popleft()
                self._dropped[modality].add(DROPPED_OLDEST)
            self._append(arrived_ns, item, modality)
            if not self._can_wait(item, modality):
                self._notify_consumer()

    async def put_wait(self, arrived_ns: int, item: Item) -> None:
        """Hand an item in from the consumer's loop; waits for room, and loses nothing.

        Returns at once, the item counted as dropped, when the mailbox is closed.
        """
        modality = modality_of(item)
        while True:
            with self._lock:
                if self._closed:
                    self._put += 1
                    self._dropped[modality].add(DROPPED_CLOSED)
                    return
                if self._has_room(item, modality):
                    self._put += 1
                    self._append(arrived_ns, item, modality)
                    self._notify_consumer()
                    return
                room = asyncio.get_running_loop().create_future()
                self._producers.append(room)
            try:
                await room
            finally:
                with self._lock:
                    if room in self._producers:
                        self._producers.remove(room)

    def close(self) -> None:
        """No more items: what is put from now on is dropped and counted. From any thread."""
        with self._lock:
            self._closed = True
            self._notify_consumer()
            self._notify_producers()

    # -- out -----------------------------------------------------------------------------------

    async def get(self) -> list[tuple[int, Item]]:
        """Take all that is there, in the order it was put; waits until there is something.

        Returns:
            Pairs (arrived_ns, item). Empty after `wake`, and always empty, at once, when the
            mailbox is closed and drained: check `closed`.

        Raises:
            RuntimeError: somebody else is waiting already; there is one consumer.
        """
        while True:
            with self._lock:
                if self._consumer is not None:
                    raise RuntimeError("a mailbox has one consumer; another get() is waiting")
                taken = self._take()
                if taken or self._woken or self._closed:
                    self._woken = False
                    return taken
                waiting = asyncio.get_running_loop().create_future()
                self._consumer = waiting
            try:
                await waiting
            finally:
                with self._lock:
                    self._consumer = None

    def get_nowait(self) -> list[tuple[int, Item]]:
        """Take all that is there now, maybe nothing. In the consumer's loop."""
        with self._lock:
            return self._take()

    def wake(self) -> None:
        """Let a waiting `get`, or else the next one, return though nothing came. Any thread."""
        with self._lock:
            self._woken = True
            self._notify_consumer()

    def be_patient(self, until: Mapping[Modality, int]) -> None:
        """From now on a picture or sound that ends before ``until`` of its modality, session time,
        wakes nobody by itself: it is taken with the next that does, or after `wake`.

        Most of what comes is of no consequence by itself, and to be woken costs more than to take
        it in. Nothing is lost by it: from the moment that it is half full, all wakes.
        """
        with self._lock:
            self._patience = until

    def patience_ns(self, modality: Modality) -> int:
        """What `be_patient` said last; 0 where it did not."""
        return self._patience.get(modality, 0)

    @property
    def closed(self) -> bool:
        return self._closed

    def stats(self) -> MailboxStats:
        """Counts of one instant, consistent with each other."""
        with self._lock:
            waiting = {m: len(entries) for m, entries in self._samples.items()}
            for entry in self._control.values():
                waiting[modality_of(entry.item)] += 1
            return MailboxStats(
                put=self._put,
                got=self._got,
                dropped={m: dict(counter.by_reason) for m, counter in self._dropped.items()},
                superseded=self._superseded,
                waiting=waiting,
                peak=dict(self._peak),
                capacity=dict(self._capacity),
            )

    # -- with the lock held --------------------------------------------------------------------

    def _has_room(self, item: Item, modality: Modality) -> bool:
        if isinstance(item, SourceEnded):
            return True
        if isinstance(item, Bound | ClockUpdate):
            return len(self._control) < _MAX_BOUNDS
        return len(self._samples[modality]) < self._capacity[modality]

    def _can_wait(self, item: Item, modality: Modality) -> bool:
        until_ns = self._patience.get(modality, 0)
        if 2 * len(self._samples[modality]) > self._capacity[modality]:
            return False
        if isinstance(item, VideoFrame):
            return item.t_ns < until_ns
        return isinstance(item, AudioChunk) and item.end_ns < until_ns

    def _append(self, arrived_ns: int, item: Item, modality: Modality) -> None:
        entry = _Entry(self._order, arrived_ns, item)
        self._order += 1
        if isinstance(item, Bound | ClockUpdate | SourceEnded):
            self._control[entry.order] = entry
            if not isinstance(item, SourceEnded):
                self._last_told[type(item), item.source, modality] = entry.order
            return
        samples = self._samples[modality]
        samples.append(entry)
        self._peak[modality] = max(self._peak[modality], len(samples))

    def _take(self) -> list[tuple[int, Item]]:
        entries = sorted(chain(self._control.values(), *self._samples.values()))
        for samples in self._samples.values():
            samples.clear()
        self._control.clear()
        self._last_told.clear()
        self._got += len(entries)
        if entries:
            self._notify_producers()
        return [(entry.arrived_ns, entry.item) for entry in entries]

    def _notify_consumer(self) -> None:
        if self._consumer is not None:
            _resolve(self._consumer)

    def _notify_producers(self) -> None:
        for room in self._producers:
            _resolve(room)


def _resolve(future: asyncio.Future[None]) -> None:
    """Complete ``future`` from any thread; harmless when it is done or its loop is closed."""

    def complete() -> None:
        if not future.done():
            future.set_result(None)

    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(complete)
