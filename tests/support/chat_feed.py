"""A session's feed that keeps what it is given, and a source that runs on it while a test looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from counterpoint.streams.feed import LiveSource
from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import Bound, ChatLine, ClockUpdate, Item, Modality


class KeepingFeed:
    """A `Feed`. Session time is 0 when it is made, unless told otherwise."""

    def __init__(self, runtime: Runtime, origin_ns: int | None = None) -> None:
        self._runtime = runtime
        self._origin_ns = runtime.now_ns() if origin_ns is None else origin_ns
        self.items: list[Item] = []
        self._more = asyncio.Event()

    def now_ns(self) -> int:
        return self._runtime.now_ns() - self._origin_ns

    def session_ns(self, monotonic_ns: int) -> int:
        return monotonic_ns - self._origin_ns

    def wanted_ns(self, modality: Modality) -> int:
        return 0

    def put(self, item: Item) -> None:
        self.items.append(item)
        self._more.set()

    @property
    def lines(self) -> list[ChatLine]:
        return [item for item in self.items if isinstance(item, ChatLine)]

    @property
    def said(self) -> list[tuple[str, str]]:
        """Authors and texts."""
        return [(line.author, line.text) for line in self.lines]

    @property
    def bounds(self) -> list[int]:
        return [item.t_ns for item in self.items if isinstance(item, Bound)]

    @property
    def clocks(self) -> list[ClockUpdate]:
        return [item for item in self.items if isinstance(item, ClockUpdate)]

    async def until(self, condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
        """Return once ``condition`` holds, which is looked at after each item."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._more.clear()
                await self._more.wait()

    async def until_lines(self, count: int) -> list[tuple[str, str]]:
        """The authors and texts once there are ``count`` of them."""
        await self.until(lambda: len(self.lines) >= count)
        return self.said

    async def until_bounds(self, count: int) -> list[int]:
        """Return once ``count`` more bounds have come."""
        count += len(self.bounds)
        await self.until(lambda: len(self.bounds) >= count)
        return self.bounds


@asynccontextmanager
async def running(source: LiveSource, feed: KeepingFeed) -> AsyncIterator[asyncio.Task[None]]:
    """The source runs; it is cancelled at the end, and its own error is raised if it had one."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(source.run(feed))
        yield task
        task.cancel()


def check_items(feed: KeepingFeed, name: str) -> None:
    """What holds for the items of every chat."""
    assert isinstance(feed.items[0], ClockUpdate)
    assert [line.sequence for line in feed.lines] == list(range(len(feed.lines)))
    times = [line.t_ns for line in feed.lines]
    assert times == sorted(times)
    assert feed.bounds == sorted(feed.bounds)
    assert all(item.source == name for item in feed.items)
    assert all(item.t_ns >= 0 for item in feed.items)
