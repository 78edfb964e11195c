"""A runtime with a clock of its own: nothing waits for real, and lanes run inline."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from counterpoint.streams.runtime import Lane

T = TypeVar("T")

EPOCH_NS = 1_700_000_000 * 1_000_000_000


@dataclass(order=True, slots=True)
class _Alarm:
    t_ns: int
    order: int
    callback: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        self.callback = None


class _InlineLane:
    async def submit(self, fn: Callable[[], T]) -> T:
        await asyncio.sleep(0)  # a lane always lets others run first
        return fn()


class VirtualRuntime:
    """Implements `counterpoint.streams.runtime.Runtime` for tests.

    Time stands still while any task can run. It goes on by `advance_to`, or, within `run` and
    `drive`, by itself to the next alarm as soon as all tasks wait. What waits for the real world
    (a socket, a thread) is not seen: such a test needs the system runtime.

    Args:
        seed: of all generators.
        start_ns: what the clock shows first; not 0, so that a forgotten origin shows.
    """

    def __init__(self, *, seed: int = 0, start_ns: int = 5_000_000_000) -> None:
        self._seed = seed
        self._now_ns = start_ns
        self._start_ns = start_ns
        self._alarms: list[_Alarm] = []
        self._order = 0
        self._ids = 0
        self._lanes: dict[str, _InlineLane] = {}

    # -- the port ------------------------------------------------------------------------------

    def now_ns(self) -> int:
        return self._now_ns

    def wall_ns(self) -> int:
        return EPOCH_NS + self._now_ns - self._start_ns

    async def sleep_until(self, t_ns: int) -> None:
        if t_ns <= self._now_ns:
            return
        woken = asyncio.get_running_loop().create_future()
        alarm = self.call_at(t_ns, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            alarm.cancel()

    def call_at(self, t_ns: int, callback: Callable[[], None]) -> _Alarm:
        self._order += 1
        alarm = _Alarm(max(t_ns, self._now_ns), self._order, callback)
        heapq.heappush(self._alarms, alarm)
        return alarm

    def rng(self, name: str) -> random.Random:
        return random.Random(f"{self._seed}/{name}")

    def new_id(self) -> str:
        self._ids += 1
        return f"{self._seed:016x}{self._ids:016x}"

    def spawn(
        self, group: asyncio.TaskGroup, name: str, coro: Coroutine[Any, Any, T]
    ) -> asyncio.Task[T]:
        return group.create_task(coro, name=name)

    def lane(self, name: str) -> Lane:
        return self._lanes.setdefault(name, _InlineLane())

    # -- the test's side -----------------------------------------------------------------------

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run ``coro`` to its end on a new loop, time going on by itself."""
        return asyncio.run(self.drive(coro))

    async def drive(self, awaitable: Awaitable[T]) -> T:
        """Await, time going on by itself.

        Raises:
            RuntimeError: everything waits and no alarm is set, so that it would wait for ever.
        """
        task = asyncio.ensure_future(awaitable)
        try:
            await self.settle()
            while not task.done() and self._fire_next():
                await self.settle()
            if task.done():
                return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        raise RuntimeError("all tasks wait, and no alarm is set that could end it")

    async def advance_to(self, t_ns: int) -> None:
        """Let time go on to ``t_ns``; every alarm on the way fires at its own instant."""
        await self.settle()
        while self._next_alarm_ns() is not None and self._alarms[0].t_ns <= t_ns:
            self._fire_next()
            await self.settle()
        self._now_ns = max(self._now_ns, t_ns)

    async def settle(self) -> None:
        """Return once every other task waits."""
        ready: deque[Any] = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        # Twice empty in a row: what one round made ready, through a future, is in the next one.
        idle = 0
        while idle < 2:
            await asyncio.sleep(0)
            idle = 0 if ready else idle + 1

    def _next_alarm_ns(self) -> int | None:
        while self._alarms and self._alarms[0].callback is None:
            heapq.heappop(self._alarms)
        return self._alarms[0].t_ns if self._alarms else None

    def _fire_next(self) -> bool:
        if self._next_alarm_ns() is None:
            return False
        alarm = heapq.heappop(self._alarms)
        self._now_ns = max(self._now_ns, alarm.t_ns)
        if alarm.callback is not None:
            alarm.callback()
        return True
