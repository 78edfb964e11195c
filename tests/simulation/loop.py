"""An event loop whose time is a number: it jumps to the next timer as soon as nothing can run.

Every callback costs a little virtual time, and some steps of tasks are held back for a while, drawn
from the seed. At a frozen clock, races hide: two tasks that are ready together always run in the
same order.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from typing import Any

STEP_COST_NS = 20_000
DELAYED_SHARE = 0.02
LONGEST_DELAY_S = 0.005


class DeadlockError(AssertionError):
    """Everything waits, and no timer is set that could end it."""


class SimulatedTask(asyncio.Task[Any]):
    """A task that hashes by its number: sets of tasks are then the same in every run."""

    _numbers = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        SimulatedTask._numbers += 1
        self.number = SimulatedTask._numbers
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(asyncio.BaseEventLoop):
    """Virtual time, from 0.

    Args:
        rng: draws which steps are held back; None holds none back.
        watch: called between rounds of callbacks, with everything at rest; gives the instant
            before which it need not be called again.
    """

    def __init__(self, rng: random.Random | None, watch: Callable[[], int]) -> None:
        super().__init__()
        self.now_ns = 0
        self.steps = 0
        self._rng = rng
        self._watch = watch
        self._watch_at_ns = 0
        self._until_delay = 0
        # (instant, order, handle): tuples of integers compare faster than handles do.
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._timers_set = 0
        self._timers_cancelled = 0
        SimulatedTask._numbers = 0
        self.set_task_factory(lambda loop, coro, **kwargs: SimulatedTask(coro, loop=loop, **kwargs))

    def time(self) -> float:
        return self.now_ns / 1e9

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        rng = self._rng
        if rng is not None:
            self._until_delay -= 1
            if self._until_delay < 0 and _steps_a_task(callback):
                # The same as a draw for each step, with one draw for each that is held back.
                self._until_delay = int(rng.expovariate(DELAYED_SHARE))
                delay_s = rng.random() * LONGEST_DELAY_S
                return self.call_later(delay_s, callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    # One thread: whoever calls this is on the loop already.
    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at_ns(self.now_ns + round(delay * 1e9), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at_ns(round(when * 1e9), callback, *args, context=context)

    def call_at_ns(
        self, when_ns: int, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """`call_at` in whole nanoseconds."""
        timer = asyncio.TimerHandle(when_ns / 1e9, callback, args, self, context)
        self._timers_set += 1
        heapq.heappush(self._timers, (when_ns, self._timers_set, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timers_cancelled += 1
        if 2 * self._timers_cancelled > len(self._timers) > 64:
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
            self._timers_cancelled -= 1
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not self._timers:
                waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
                raise DeadlockError(f"all wait and no timer is set: {', '.join(waiting)}")
            self.now_ns = max(self.now_ns, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self.now_ns:
            ready.append(heapq.heappop(self._timers)[2])
        count = len(ready)
        for _ in range(count):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
            elif isinstance(handle, asyncio.TimerHandle):
                self._timers_cancelled -= 1
        self.steps += count
        self.now_ns += STEP_COST_NS * count
        if self.now_ns >= self._watch_at_ns:
            self._watch_at_ns = self._watch()

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""


def _steps_a_task(callback: Any) -> bool:
    owner = getattr(callback, "__self__", None)
    return isinstance(owner, asyncio.Task) or type(callback).__name__ == "TaskStepMethWrapper"
