"""The one port through which everything waits, reads a clock, draws or hands work to a thread.

Production code never calls ``time``, ``random``, ``uuid`` or ``threading`` itself: it is handed a
`Runtime`. So the whole engine can run under a virtual clock, from one seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeVar

T = TypeVar("T")


class Lane(Protocol):
    """A worker that runs one blocking call at a time, in order, outside the event loop."""

    async def submit(self, fn: Callable[[], T]) -> T:
        """Run ``fn`` and give its result; its exception is raised here."""
        ...


class Timer(Protocol):
    """A callback that was asked for."""

    def cancel(self) -> None:
        """Do not call it any more. Harmless when it was called."""
        ...


class Runtime(Protocol):
    """Clock, waiting, chance, tasks and threads."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds; only differences mean anything."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch. Only for what is published."""
        ...

    async def sleep_until(self, t_ns: int) -> None:
        """Return once ``now_ns() >= t_ns``."""
        ...

    def call_at(self, t_ns: int, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` on the loop once ``now_ns() >= t_ns``, give or take the loop's tick."""
        ...

    def rng(self, name: str) -> random.Random:
        """A generator of its own for each component."""
        ...

    def new_id(self) -> str:
        """An identifier that no other process draws."""
        ...

    def spawn(
        self, group: asyncio.TaskGroup, name: str, coro: Coroutine[Any, Any, T]
    ) -> asyncio.Task[T]:
        """Start a named task owned by ``group``."""
        ...

    def lane(self, name: str) -> Lane:
        """The lane of that name; made on first use."""
        ...


GIVES_WAY = 10
"""Niceness, relative to the process, of lanes that give way."""


def _give_way() -> None:
    # Only Linux gives a thread a niceness of its own; elsewhere it would be the whole process's.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + GIVES_WAY)


class _ThreadLane:
    def __init__(self, name: str, *, gives_way: bool) -> None:
        self._executor = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix=name, initializer=_give_way if gives_way else None
        )

    async def submit(self, fn: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, fn)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


class SystemRuntime:
    """The real thing: ``CLOCK_MONOTONIC``, asyncio and one thread a lane.

    Args:
        seed: of what `rng` draws.
        giving_way: beginnings of names of lanes that compute for long and let all others go first
            where the cores do not suffice. What waits for them can wait; what comes in cannot.
    """

    def __init__(self, *, seed: int | None = None, giving_way: tuple[str, ...] = ()) -> None:
        self._seed = seed
        self._giving_way = giving_way
        self._lanes: dict[str, _ThreadLane] = {}

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    async def sleep_until(self, t_ns: int) -> None:
        # The loop's own clock may be coarse (uvloop: 1 ms), so look again after each sleep.
        while (left_ns := t_ns - time.monotonic_ns()) > 0:  # noqa: ASYNC110 - nothing to wait on but time
            await asyncio.sleep(left_ns / 1e9)

    def call_at(self, t_ns: int, callback: Callable[[], None]) -> Timer:
        delay_ns = max(0, t_ns - time.monotonic_ns())
        return asyncio.get_running_loop().call_later(delay_ns / 1e9, callback)

    def rng(self, name: str) -> random.Random:
        # Jitter, never secrets.
        return random.Random(None if self._seed is None else f"{self._seed}/{name}")  # noqa: S311

    def new_id(self) -> str:
        return uuid.uuid4().hex

    def spawn(
        self, group: asyncio.TaskGroup, name: str, coro: Coroutine[Any, Any, T]
    ) -> asyncio.Task[T]:
        return group.create_task(coro, name=name)

    def lane(self, name: str) -> Lane:
        if name not in self._lanes:
            self._lanes[name] = _ThreadLane(name, gives_way=name.startswith(self._giving_way))
        return self._lanes[name]

    def close(self) -> None:
        """End all lanes; waits for the call each one is in."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
