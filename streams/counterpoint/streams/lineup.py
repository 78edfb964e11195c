"""The live sources of one session: added and removed while it runs, retried when they break off.

A session knows one source of each modality by one name, its *slot*. What feeds a slot may change:
a camera is unplugged, a browser reconnects, a chat is added. So names, sequence numbers and epochs
of items are those of their slot from here on. A slot that nothing feeds has ended; the next source
that feeds it brings it back with a new epoch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from counterpoint.streams.errors import SourceError, UnavailableError, UsageError
from counterpoint.streams.feed import Feed, LiveSource
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import (
    NS_PER_S,
    Bound,
    ClockUpdate,
    DropCounter,
    Item,
    Modality,
    SourceEnded,
    Tier,
    modality_of,
)

log = logging.getLogger(__name__)

FIRST_RETRY_NS: Final = NS_PER_S // 2
LONGEST_RETRY_NS: Final = 10 * NS_PER_S
STEADY_NS: Final = 30 * NS_PER_S
"""A source that ran for so long begins its retries anew."""

_TRUST: Final = {tier: rank for rank, tier in enumerate(Tier)}


@dataclass(slots=True)
class _Slot:
    """What was said of one modality so far. ``epoch``: the newest that was told, -1 for none."""

    name: str
    epoch: int = -1
    sequence: int = 0
    fed: bool = False
    seats: list[Seat] = field(default_factory=list)


class Seat:
    """A source's place in a lineup. Made by `Lineup.add`.

    Attributes:
        source: what sits here.
        modalities: what it feeds.
        error: why it broke off last; None if it never did.
        runs: how often it was begun.
        done: set once it has ended for good.
    """

    def __init__(self, source: LiveSource, modalities: frozenset[Modality], *, retry: bool) -> None:
        self.source = source
        self.modalities = modalities
        self.retry = retry
        self.error: str | None = None
        self.runs = 0
        self.done = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.open = True
        # Whether the session is nothing without it: it was there before the session began.
        self.essential = False
        # By modality, of the present run: what the slot's epoch was when it began; bounds and
        # clocks of a chat, of which several may share a slot.
        self.bases: dict[Modality, int] = {}
        self.bound_ns: int | None = None
        self.clock: ClockUpdate | None = None


class Lineup:
    """Itself a `LiveSource`: all of its sources as one. Run it once.

    Video and sound have one source at a time, chat any number.

    Args:
        name: of the session, for messages.
        slots: modality -> the name its items carry.
        lasting: whether it goes on when no source is left; else it ends with the last one.
    """

    def __init__(
        self, name: str, slots: Mapping[Modality, str], runtime: Runtime, *, lasting: bool
    ) -> None:
        self._name = name
        self._runtime = runtime
        self._rng = runtime.rng(f"lineup/{name}")
        self._slots = {
            modality: _Slot(slots[modality]) for modality in Modality if modality in slots
        }
        self._lasting = lasting
        self._seats: list[Seat] = []
        self._drops = DropCounter()
        self._feed: Feed | None = None
        self._spawn: Callable[[Seat], asyncio.Task[None]] | None = None
        self._closing = asyncio.Event()

    @property
    def name(self) -> str:
        return self._name

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset(self._slots)

    @property
    def drops(self) -> DropCounter:
        """Items of sources that were gone already, by reason."""
        return self._drops

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The sources that are there, in the order in which they came."""
        return tuple(self._seats)

    @property
    def closing(self) -> bool:
        """Whether it is over, or about to be: nothing can be added any more."""
        return self._closing.is_set()

    def feeding(self, modality: Modality) -> bool:
        """Whether some source feeds this modality."""
        slot = self._slots.get(modality)
        return slot is not None and bool(slot.seats)

    def add(
        self,
        source: LiveSource,
        *,
        modalities: Iterable[Modality] | None = None,
        retry: bool = True,
    ) -> Seat:
        """Seat a source; it runs as soon as the lineup does.

        Args:
            modalities: what it is to feed; all that it has by default.
            retry: whether it is run again when it breaks off.

        Raises:
            UsageError: another source feeds that modality, or the session has none of the kind.
        """
        if self._closing.is_set():
            raise UsageError(f"session {self._name} is over: {source.name} cannot be added")
        wanted = source.modalities if modalities is None else frozenset(modalities)
        for modality in wanted:
            if modality not in self._slots:
                raise UsageError(f"session {self._name} takes no {modality}")
            if modality is not Modality.CHAT and self.feeding(modality):
                other = self._slots[modality].seats[0].source.name
                raise UsageError(f"session {self._name} has its {modality} from {other} already")
        seat = Seat(source, wanted, retry=retry)
        seat.essential = self._feed is None
        self._seats.append(seat)
        for modality in wanted:
            self._slots[modality].seats.append(seat)
        if self._spawn is not None:
            seat.task = self._spawn(seat)
        return seat

    async def remove(self, seat: Seat) -> None:
        """End a source, and wait until it has closed what it holds. Harmless when it has ended."""
        if seat.task is not None:
            seat.task.cancel()
            await seat.done.wait()
        elif seat in self._seats:
            self._leave(seat, None)

    def close(self) -> None:
        """End all sources, and the lineup with them."""
        self._closing.set()

    async def run(self, feed: Feed) -> None:
        """Until `close`, or the last source's end where it is not lasting.

        Raises:
            UnavailableError: a source that was there from the start could not be begun.
        """
        self._feed = feed
        for modality, slot in self._slots.items():
            if not slot.seats:
                self._end(modality, slot, None)
        try:
            async with asyncio.TaskGroup() as group:

                def spawn(seat: Seat) -> asyncio.Task[None]:
                    return self._runtime.spawn(
                        group, f"{self._name}/{seat.source.name}", self._keep(seat)
                    )

                self._spawn = spawn
                for seat in list(self._seats):
                    seat.task = spawn(seat)
                if not self._seats and not self._lasting:
                    self._closing.set()
                await self._closing.wait()
                for seat in list(self._seats):
                    if seat.task is not None:
                        seat.task.cancel()
        finally:
            self._closing.set()
            self._spawn = None
            for modality, slot in self._slots.items():
                # The session's end is now, also where nothing was to be heard at the end.
                self._end(modality, slot, None)

    async def _keep(self, seat: Seat) -> None:
        """Run one source, again and again where that is asked for."""
        error: str | None = None
        try:
            error = await self._retry(seat)
        finally:
            self._leave(seat, error)

    async def _retry(self, seat: Seat) -> str | None:
        assert self._feed is not None
        pause_ns = FIRST_RETRY_NS
        while True:
            seat.runs += 1
            seat.bases.clear()
            began_ns = self._runtime.now_ns()
            try:
                await seat.source.run(_SeatFeed(self, seat, self._feed))
                return None
            except (SourceError, UnavailableError) as error:
                if isinstance(error, UnavailableError) and seat.essential and seat.runs == 1:
                    raise
                seat.error = str(error)
                log.warning("session %s: %s", self._name, _named(seat.source.name, seat.error))
                if not seat.retry:
                    return seat.error
            if self._runtime.now_ns() - began_ns >= STEADY_NS:
                pause_ns = FIRST_RETRY_NS
            # Spread, so that many that lost the same server do not all come back at one instant.
            wait_ns = int(pause_ns * (0.75 + 0.5 * self._rng.random()))
            await self._runtime.sleep_until(self._runtime.now_ns() + wait_ns)
            pause_ns = min(2 * pause_ns, LONGEST_RETRY_NS)

    def _leave(self, seat: Seat, error: str | None) -> None:
        seat.open = False
        self._seats.remove(seat)
        for modality in seat.modalities:
            slot = self._slots[modality]
            slot.seats.remove(seat)
            if not slot.seats and self._feed is not None:
                self._end(modality, slot, error)
        seat.done.set()
        if not self._seats and not self._lasting:
            self._closing.set()

    def _end(self, modality: Modality, slot: _Slot, error: str | None) -> None:
        assert self._feed is not None
        slot.fed = False
        slot.epoch = max(slot.epoch, 0)
        self._feed.put(
            SourceEnded(
                source=slot.name, modality=modality, t_ns=max(0, self._feed.now_ns()), error=error
            )
        )

    # -- items on their way; from any thread -----------------------------------------------------

    def put(self, seat: Seat, feed: Feed, item: Item) -> None:
        """Hand on an item of a seat under its slot's name, number and epoch."""
        modality = modality_of(item)
        if not seat.open or modality not in seat.modalities:
            self._drops.add("source gone" if not seat.open else "modality not wanted")
            return
        slot = self._slots[modality]
        if modality not in seat.bases:
            self._begin(seat, modality, slot, feed, item)
        if isinstance(item, ClockUpdate):
            self._clock(seat, slot, feed, item)
        elif isinstance(item, Bound):
            self._bound(seat, slot, feed, item)
        elif not isinstance(item, SourceEnded):  # ends are for `_leave` to say
            feed.put(replace(item, source=slot.name, sequence=slot.sequence))
            slot.sequence += 1

    def _begin(self, seat: Seat, modality: Modality, slot: _Slot, feed: Feed, item: Item) -> None:
        """The first item of a run: a new epoch, but for the very first and for a second chat."""
        if slot.fed and modality is Modality.CHAT and len(slot.seats) > 1:
            seat.bases[modality] = slot.epoch
            return
        slot.epoch += 1
        seat.bases[modality] = slot.epoch
        slot.fed = True
        if not isinstance(item, ClockUpdate):
            # A source that has no more to say of its clock than that its items are as they come.
            feed.put(
                ClockUpdate(
                    source=slot.name,
                    modality=modality,
                    t_ns=max(0, feed.now_ns()),
                    tier=Tier.ARRIVAL,
                    error_ns=0,
                    epoch=slot.epoch,
                )
            )

    def _clock(self, seat: Seat, slot: _Slot, feed: Feed, update: ClockUpdate) -> None:
        seat.clock = update
        if update.modality is Modality.CHAT:
            # The least trusted of several chats speaks for all of them.
            clocks = [other.clock for other in slot.seats if other.clock is not None]
            worst = max(clocks, key=lambda clock: (_TRUST[clock.tier], clock.error_ns))
            feed.put(replace(worst, source=slot.name, t_ns=update.t_ns, epoch=slot.epoch))
            return
        epoch = seat.bases[update.modality] + update.epoch
        slot.epoch = max(slot.epoch, epoch)
        feed.put(replace(update, source=slot.name, epoch=epoch))

    def _bound(self, seat: Seat, slot: _Slot, feed: Feed, bound: Bound) -> None:
        seat.bound_ns = bound.t_ns
        others = [other.bound_ns for other in slot.seats if other.bound_ns is not None]
        feed.put(replace(bound, source=slot.name, t_ns=min(others)))


def _named(name: str, error: str) -> str:
    """The message with the source's name, once."""
    return error if name in error else f"{name}: {error}"


class _SeatFeed:
    def __init__(self, lineup: Lineup, seat: Seat, feed: Feed) -> None:
        self._lineup = lineup
        self._seat = seat
        self._feed = feed

    def now_ns(self) -> int:
        return self._feed.now_ns()

    def session_ns(self, monotonic_ns: int) -> int:
        return self._feed.session_ns(monotonic_ns)

    def wanted_ns(self, modality: Modality) -> int:
        return self._feed.wanted_ns(modality)

    def put(self, item: Item) -> None:
        self._lineup.put(self._seat, self._feed, item)
