"""Drives a source into a mailbox: at the pace of a live one, or as fast as it is taken."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final, Protocol

from counterpoint.streams.errors import SourceError
from counterpoint.streams.feed import Feed
from counterpoint.streams.merge import OpenModalities
from counterpoint.streams.runtime import Lane, Runtime
from counterpoint.streams.types import NS_PER_S, DropCounter, Item, Modality, Source, Step

log = logging.getLogger(__name__)

LOOK_AHEAD_NS: Final = NS_PER_S // 4
"""How much of a recording is decoded ahead of its release."""
STEP_TIMEOUT_S: Final = 30.0
"""A recording that gives nothing for so long hangs (a dead network file system)."""


class Intake(Protocol):
    """Where `pump` puts items; see `streams.mailbox.Mailbox`."""

    def put(self, arrived_ns: int, item: Item, /) -> None: ...
    async def put_wait(self, arrived_ns: int, item: Item, /) -> None: ...


async def pump(
    source: Source,
    mailbox: Intake,
    runtime: Runtime,
    *,
    speed: float | None,
    origin_ns: int,
    exact: bool = False,
    lane: str = "replay",
    look_ahead_ns: int = LOOK_AHEAD_NS,
    step_timeout_s: float = STEP_TIMEOUT_S,
) -> None:
    """Put all items of ``source`` into ``mailbox``, then close the source.

    Flat out (``speed`` None) an item's arrival is its release instant, and the mailbox's room is
    waited for: nothing is dropped, and no clock is read. At a pace, items arrive when they are
    due, stamped with the session's clock, and what the mailbox has no room for is dropped.

    A source that fails or hangs never ends the session: what it still owes ends with
    `SourceEnded.error`. A thread that hangs in a source cannot be stopped; such a source is left
    open, since closing it under a running step could crash the process.

    Args:
        speed: session seconds for each second of the clock; None is flat out.
        origin_ns: the clock's instant at which the session's time is 0.
        exact: at a pace, too, an item's arrival is its release instant, and room is waited for.
        lane: the lane in which the source is stepped and closed.
        look_ahead_ns: how far ahead of its release an item is decoded; 0 for a live source.
        step_timeout_s: how long one step may take.
    """
    if speed is not None and not 0 < speed < float("inf"):
        raise ValueError(f"speed must be positive, not {speed}; None is flat out")
    stepper = _Stepper(source, runtime.lane(lane), step_timeout_s)
    try:
        async with asyncio.TaskGroup() as group:
            step = await stepper.step(0)
            while step.items or step.next_wake_ns is not None:
                # The next items are decoded while these are waiting for their instants.
                ahead = None
                if step.next_wake_ns is not None:
                    horizon_ns = step.next_wake_ns + look_ahead_ns
                    ahead = runtime.spawn(group, f"{lane}-step", stepper.step(horizon_ns))
                for release_ns, item in step.items:
                    if speed is not None:
                        await runtime.sleep_until(origin_ns + -int(-release_ns // speed))
                    if speed is None or exact:
                        await mailbox.put_wait(release_ns, item)
                    else:
                        arrived_ns = int((runtime.now_ns() - origin_ns) * speed)
                        mailbox.put(max(arrived_ns, release_ns), item)
                if ahead is None:
                    break
                step = await ahead
    finally:
        await stepper.close()


class PacedSource:
    """A recording as a live source: from where its session is when it begins, in real time.

    Args:
        source: what is played; closed when it has been run.
        lane: the lane in which it is stepped.
    """

    def __init__(self, name: str, source: Source, runtime: Runtime, *, lane: str) -> None:
        self._name = name
        self._source = source
        self._runtime = runtime
        self._lane = lane
        self._drops = DropCounter()

    @property
    def name(self) -> str:
        return self._name

    @property
    def modalities(self) -> frozenset[Modality]:
        return self._source.modalities

    @property
    def drops(self) -> DropCounter:
        return self._drops

    async def run(self, feed: Feed) -> None:
        """Play it once; what breaks off in it is told to the log, and its modality ends."""
        origin_ns = self._runtime.now_ns()
        await pump(
            self._source,
            _Shifted(feed, feed.session_ns(origin_ns)),
            self._runtime,
            speed=1.0,
            origin_ns=origin_ns,
            lane=self._lane,
        )


class _Shifted:
    """A feed for items whose zero is the instant at which their recording began."""

    def __init__(self, feed: Feed, by_ns: int) -> None:
        self._feed = feed
        self._by_ns = by_ns

    def put(self, _release_ns: int, item: Item, /) -> None:
        self._feed.put(replace(item, t_ns=item.t_ns + self._by_ns))

    async def put_wait(self, release_ns: int, item: Item, /) -> None:
        self.put(release_ns, item)


class _Stepper:
    """Steps a source in its lane, and turns its failures into ends."""

    def __init__(self, source: Source, lane: Lane, timeout_s: float) -> None:
        self._source = source
        self._lane = lane
        self._timeout_s = timeout_s
        self._open = OpenModalities(source.modalities)
        self._hangs = False

    async def step(self, now_ns: int) -> Step:
        try:
            async with asyncio.timeout(self._timeout_s):
                step = await self._lane.submit(lambda: self._source.step(now_ns))
        except TimeoutError:
            self._hangs = True
            return self._lost(f"the source gave nothing for {self._timeout_s:g} s")
        except SourceError as error:
            return self._lost(str(error))
        for release_ns, item in step.items:
            self._open.see(release_ns, item)
        return step

    def _lost(self, error: str) -> Step:
        log.warning("source lost: %s", error)
        items: list[tuple[int, Item]] = list(self._open.end_all(error))
        return Step(items=tuple(items), next_wake_ns=None)

    async def close(self) -> None:
        if self._hangs:
            return
        try:
            # In the lane, so behind a step that is still under way when the pump is cancelled.
            async with asyncio.timeout(self._timeout_s):
                await self._lane.submit(self._source.close)
        except TimeoutError:
            log.warning("a source could not be closed within %g s", self._timeout_s)
