"""The tests' own clock: it goes on only when nothing else can."""

from __future__ import annotations

import asyncio

import pytest

from counterpoint.streams.runtime import Runtime
from tests.support.virtual import VirtualRuntime


def test_it_is_a_runtime() -> None:
    runtime: Runtime = VirtualRuntime()
    assert runtime.rng("a").random() == VirtualRuntime().rng("a").random()
    assert runtime.rng("a").random() != runtime.rng("b").random()
    assert runtime.new_id() != runtime.new_id()


def test_time_stands_still_while_a_task_can_run_and_then_jumps_to_the_next_alarm() -> None:
    runtime = VirtualRuntime(start_ns=0)
    seen: list[tuple[str, int]] = []

    async def sleeper(name: str, *instants: int) -> None:
        for t_ns in instants:
            await runtime.sleep_until(t_ns)
            for _ in range(5):  # busy: no time passes meanwhile
                await asyncio.sleep(0)
            seen.append((name, runtime.now_ns()))

    async def main() -> str:
        runtime.call_at(15, lambda: seen.append(("alarm", runtime.now_ns())))
        runtime.call_at(16, lambda: seen.append(("never", 0))).cancel()
        async with asyncio.TaskGroup() as group:
            runtime.spawn(group, "a", sleeper("a", 10, 30))
            runtime.spawn(group, "b", sleeper("b", 10, 20))
        return "done"

    assert runtime.run(main()) == "done"
    assert seen == [("a", 10), ("b", 10), ("alarm", 15), ("b", 20), ("a", 30)]


def test_advance_to_fires_what_is_due_and_no_more() -> None:
    async def main() -> None:
        runtime = VirtualRuntime(start_ns=0)
        task = asyncio.create_task(runtime.sleep_until(100))
        await runtime.advance_to(99)
        assert not task.done()
        await runtime.advance_to(100)
        assert task.done()
        assert runtime.now_ns() == 100

    asyncio.run(main())


def test_waiting_for_ever_is_an_error() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="all tasks wait"):
        VirtualRuntime().run(main())


def test_a_lane_gives_results_and_errors() -> None:
    runtime = VirtualRuntime()

    async def main() -> None:
        assert await runtime.lane("x").submit(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await runtime.lane("x").submit(lambda: 1 // 0)

    runtime.run(main())
