"""A feed that keeps what is put, and lets a test wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from counterpoint.streams.runtime import Runtime
from counterpoint.streams.types import Item, Modality

T = TypeVar("T", bound=Item)


class KeepingFeed:
    """`counterpoint.streams.feed.Feed`, from any thread.

    Args:
        runtime: whose clock is the session's, from where it stands now.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.origin_ns = runtime.now_ns()
        self._lock = threading.Lock()
        self._items: list[tuple[int, Item]] = []
        self._came: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def now_ns(self) -> int:
        return self._runtime.now_ns() - self.origin_ns

    def session_ns(self, monotonic_ns: int) -> int:
        return monotonic_ns - self.origin_ns

    def wanted_ns(self, modality: Modality) -> int:
        return 0

    def put(self, item: Item) -> None:
        with self._lock:
            self._items.append((self.now_ns(), item))
            loop, came = self._loop, self._came
        if loop is not None and came is not None:
            loop.call_soon_threadsafe(came.set)

    @property
    def arrivals(self) -> list[tuple[int, Item]]:
        """Pairs (arrival, item) of all that was put so far."""
        with self._lock:
            return list(self._items)

    def of(self, kind: type[T]) -> list[T]:
        """All items of one kind so far."""
        return [item for _, item in self.arrivals if isinstance(item, kind)]

    async def until(self, enough: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Return once ``enough()``, which is asked whenever something was put."""
        came = asyncio.Event()
        with self._lock:
            self._loop, self._came = asyncio.get_running_loop(), came
        try:
            async with asyncio.timeout(timeout_s):
                while not enough():
                    await came.wait()
                    came.clear()
        finally:
            with self._lock:
                self._loop = self._came = None
