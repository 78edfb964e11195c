"""The runtime port of a simulation: one clock, seeded chance, lanes that take their time."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from counterpoint.streams.runtime import Lane, Timer
from tests.simulation.loop import SimulatedLoop

T = TypeVar("T")

WALL_NS = 1_700_000_000 * 1_000_000_000
ENDLESS = None

ServiceTime = Callable[[str, int], int | None]
"""(lane, now) -> nanoseconds that the next call takes there, or `ENDLESS`."""


class SimulatedLane:
    """One worker. A call happens at the start or the end of its service time, by a coin.

    Cancelling who waits does not free the worker, and a call may take for ever.
    """

    def __init__(
        self, name: str, loop: SimulatedLoop, service_ns: ServiceTime, rng: random.Random
    ) -> None:
        self._name = name
        self._loop = loop
        self._service_ns = service_ns
        self._rng = rng
        self._jobs: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._busy = False

    async def submit(self, fn: Callable[[], T]) -> T:
        done: asyncio.Future[T] = self._loop.create_future()
        self._jobs.append((fn, done))
        self._next()
        return await done

    def _next(self) -> None:
        while not self._busy and self._jobs:
            fn, done = self._jobs.popleft()
            if done.cancelled():
                continue  # an executor does not start what was cancelled while it waited
            self._busy = True
            service_ns = self._service_ns(self._name, self._loop.now_ns)
            early = _call(fn) if self._rng.random() < 0.5 else None
            if service_ns is ENDLESS:
                return
            self._loop.call_at_ns(self._loop.now_ns + service_ns, self._finish, fn, early, done)

    def _finish(
        self,
        fn: Callable[[], Any],
        early: tuple[Any, BaseException | None] | None,
        done: asyncio.Future[Any],
    ) -> None:
        result, error = early or _call(fn)
        self._busy = False
        if not done.done():
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)
        self._next()


def _call(fn: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return fn(), None
    except Exception as error:  # noqa: BLE001 - raised where the call was asked for
        return None, error


class SimulatedRuntime:
    """Implements `counterpoint.streams.runtime.Runtime` on a `SimulatedLoop`."""

    def __init__(self, loop: SimulatedLoop, seed: int, service_ns: ServiceTime) -> None:
        self.loop = loop
        self.wall_offset_ns = 0
        self._seed = seed
        self._service_ns = service_ns
        self._ids = 0
        self._lanes: dict[str, SimulatedLane] = {}

    def now_ns(self) -> int:
        return self.loop.now_ns

    def wall_ns(self) -> int:
        return WALL_NS + self.loop.now_ns + self.wall_offset_ns

    async def sleep_until(self, t_ns: int) -> None:
        while self.loop.now_ns < t_ns:
            woken = self.loop.create_future()
            timer = self.loop.call_at_ns(t_ns, _wake, woken)
            try:
                await woken
            finally:
                timer.cancel()

    def call_at(self, t_ns: int, callback: Callable[[], None]) -> Timer:
        return self.loop.call_at_ns(t_ns, callback)

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
        if name not in self._lanes:
            rng = self.rng(f"lane/{name}")
            self._lanes[name] = SimulatedLane(name, self.loop, self._service_ns, rng)
        return self._lanes[name]


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
