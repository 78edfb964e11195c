"""An event loop whose time is a number: it jumps to the next timer as soon as nothing can run.

Every callback costs a little virtual time, and some steps of tasks are held back for a while, drawn
from the seed. At a frozen clock, races hide: two tasks that are ready together always run in the
same order.
"""

from __future__ import annotations

import asyncio
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


class _NoSelector:
    """Stands where a real loop waits for sockets: waiting is moving the clock."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks(self._loop))
            raise DeadlockError(f"all wait and no timer is set: {', '.join(waiting)}")
        if timeout > 0:
            self._loop.now_ns += max(1, round(timeout * 1e9))
        return []

    def close(self) -> None:
        """Nothing is held."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """Virtual time, from 0.

    Args:
        rng: draws which steps are held back; None holds none back.
        watch: called between rounds of callbacks, with everything at rest.
    """

    def __init__(self, rng: random.Random | None, watch: Callable[[], None]) -> None:
        super().__init__()
        self.now_ns = 0
        self.steps = 0
        self._rng = rng
        self._watch = watch
        self._selector = _NoSelector(self)
        self._clock_resolution = 1e-9
        SimulatedTask._numbers = 0
        self.set_task_factory(lambda loop, coro, **kwargs: SimulatedTask(coro, loop=loop, **kwargs))

    def time(self) -> float:
        return self.now_ns / 1e9

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        rng = self._rng
        if rng is not None and _steps_a_task(callback) and rng.random() < DELAYED_SHARE:
            delay_s = rng.random() * LONGEST_DELAY_S
            return self.call_later(delay_s, callback, *args, context=context)
        return super().call_soon(callback, *args, context=context)

    # One thread: whoever calls this is on the loop already.
    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def _run_once(self) -> None:
        ready = len(self._ready)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]
        self.steps += ready
        self.now_ns += STEP_COST_NS * ready
        self._watch()

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""


def _steps_a_task(callback: Any) -> bool:
    owner = getattr(callback, "__self__", None)
    return isinstance(owner, asyncio.Task) or type(callback).__name__ == "TaskStepMethWrapper"
