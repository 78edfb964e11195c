"""`pump`: at the pace of the session's clock, or as fast as the mailbox is emptied."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from counterpoint.streams.mailbox import DROPPED_OLDEST, Mailbox
from counterpoint.streams.pump import LOOK_AHEAD_NS, pump
from counterpoint.streams.replay import MediaFileSource
from counterpoint.streams.runtime import SystemRuntime
from counterpoint.streams.types import NS_PER_S, Item, Modality, SourceEnded, Step
from tests.support.sources import ScriptedSource, chunk, ended, frame
from tests.support.virtual import VirtualRuntime

GRID_CLIP = Path(__file__).parents[1] / "data" / "grid_clip.mp4"
MS = 1_000_000
T = TypeVar("T")


def camera(count: int = 25, period_ns: int = 40 * MS) -> ScriptedSource:
    script: list[tuple[int, Item]] = [
        (i * period_ns, frame(i * period_ns, i)) for i in range(count)
    ]
    end_ns = count * period_ns
    return ScriptedSource([*script, (end_ns, ended(Modality.VIDEO, end_ns))])


async def collect(
    runtime: VirtualRuntime, source: ScriptedSource, speed: float | None
) -> list[tuple[int, int, Item]]:
    """(clock since the start, arrival, item) of all that comes."""
    mailbox, origin_ns = Mailbox(), runtime.now_ns()
    got: list[tuple[int, int, Item]] = []

    async def feed() -> None:
        await pump(source, mailbox, runtime, speed=speed, origin_ns=origin_ns)
        mailbox.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        while not (mailbox.closed and mailbox.stats().waiting_total == 0):
            got += [(runtime.now_ns() - origin_ns, *pair) for pair in await mailbox.get()]
    return got


@pytest.mark.parametrize("speed", [1.0, 0.5, 4.0])
def test_at_a_pace_items_arrive_when_they_are_due(speed: float) -> None:
    runtime, source = VirtualRuntime(), camera()
    got = runtime.run(collect(runtime, source, speed))
    assert len(got) == 26
    for clock_ns, arrived_ns, item in got:
        assert arrived_ns == item.t_ns
        assert clock_ns == pytest.approx(item.t_ns / speed, abs=1)
    assert source.closed == 1


def test_an_arrival_is_never_before_its_release_at_an_awkward_speed() -> None:
    runtime = VirtualRuntime()
    for _, arrived_ns, item in runtime.run(collect(runtime, camera(), 3.0000001)):
        assert 0 <= arrived_ns - item.t_ns < 10


def test_flat_out_no_time_passes_and_arrival_is_release() -> None:
    runtime, source = VirtualRuntime(), camera(500)
    got = runtime.run(collect(runtime, source, None))
    assert [(clock_ns, arrived_ns) for clock_ns, arrived_ns, _ in got] == [
        (0, item.t_ns) for _, _, item in got
    ]
    assert len(got) == 501
    assert source.closed == 1


def test_flat_out_a_slow_consumer_holds_the_source_back() -> None:
    async def main() -> None:
        source, mailbox = camera(500), Mailbox({Modality.VIDEO: 2})
        feeding = asyncio.create_task(pump(source, mailbox, runtime, speed=None, origin_ns=0))
        await runtime.settle()
        # In the box, in hand, and decoded ahead.
        assert source.given <= 2 + 2 * (LOOK_AHEAD_NS // (40 * MS) + 1)
        taken = 0
        while not feeding.done() or mailbox.stats().waiting_total:
            taken += len(mailbox.get_nowait())
            await runtime.settle()
        assert taken == 501
        assert mailbox.stats().dropped_total == 0

    runtime = VirtualRuntime()
    asyncio.run(main())


def test_at_a_pace_a_slow_consumer_loses_the_oldest_and_the_source_is_not_held_back() -> None:
    async def main() -> None:
        mailbox = Mailbox({Modality.VIDEO: 2})
        feeding = asyncio.create_task(
            pump(camera(), mailbox, runtime, speed=1.0, origin_ns=runtime.now_ns())
        )
        await runtime.advance_to(runtime.now_ns() + 2 * NS_PER_S)
        assert feeding.done()
        assert mailbox.stats().dropped[Modality.VIDEO] == {DROPPED_OLDEST: 23}
        assert [i.t_ns for _, i in mailbox.get_nowait()] == [920 * MS, 960 * MS, NS_PER_S]

    runtime = VirtualRuntime()
    asyncio.run(main())


def test_a_recording_is_decoded_ahead_but_not_far() -> None:
    async def main() -> None:
        source, mailbox = camera(), Mailbox()
        start_ns = runtime.now_ns()
        feeding = asyncio.create_task(pump(source, mailbox, runtime, speed=1.0, origin_ns=start_ns))
        for elapsed_ns in range(0, NS_PER_S, 10 * MS):
            await runtime.advance_to(start_ns + elapsed_ns)
            due = min(elapsed_ns // (40 * MS) + 1, 25)
            assert source.given >= due
            assert source.given <= due + 2 * (LOOK_AHEAD_NS // (40 * MS) + 1)
        await runtime.drive(feeding)

    runtime = VirtualRuntime()
    asyncio.run(main())


def test_a_source_that_fails_ends_what_it_owes_with_the_error() -> None:
    script: list[tuple[int, Item]] = [(0, frame(0)), (20 * MS, chunk(0)), (40 * MS, frame(40 * MS))]
    source = ScriptedSource(script, fails_ns=60 * MS)
    runtime = VirtualRuntime()
    got = runtime.run(collect(runtime, source, 1.0))
    ends = [item for _, _, item in got if isinstance(item, SourceEnded)]
    assert [(end.modality, end.source) for end in ends] == [
        (Modality.VIDEO, "cam"),
        (Modality.AUDIO, "mic"),
    ]
    assert {end.error for end in ends} == {"cable pulled at 0.06 s; plug it in"}
    assert source.closed == 1


def test_a_source_that_fails_at_once_still_ends() -> None:
    source = ScriptedSource([], fails_ns=0, modalities=frozenset({Modality.AUDIO}))
    runtime = VirtualRuntime()
    [(_, _, item)] = runtime.run(collect(runtime, source, None))
    assert isinstance(item, SourceEnded)
    assert item.source == "audio"


def test_a_source_that_hangs_is_given_up_and_not_closed_under_its_step() -> None:
    class StuckLane:
        async def submit(self, fn: Callable[[], T]) -> T:
            await asyncio.get_running_loop().create_future()
            return fn()

    class StuckRuntime(VirtualRuntime):
        def lane(self, name: str) -> StuckLane:
            return StuckLane()

    async def main() -> None:
        source, mailbox = camera(), Mailbox()
        await pump(source, mailbox, StuckRuntime(), speed=None, origin_ns=0, step_timeout_s=0.001)
        [(_, end)] = mailbox.get_nowait()
        assert isinstance(end, SourceEnded)
        assert end.error == "the source gave nothing for 0.001 s"
        assert source.closed == 0

    asyncio.run(main())


def test_a_programming_error_is_not_swallowed() -> None:
    class Broken(ScriptedSource):
        def step(self, now_ns: int) -> Step:
            raise ZeroDivisionError

    runtime = VirtualRuntime()
    with pytest.raises(ExceptionGroup) as caught:
        runtime.run(collect(runtime, Broken([(0, frame(0))]), None))
    assert caught.group_contains(ZeroDivisionError)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_speed_is_refused(speed: float) -> None:
    runtime = VirtualRuntime()
    with pytest.raises(ValueError, match="speed must be positive"):
        runtime.run(pump(camera(), Mailbox(), runtime, speed=speed, origin_ns=0))


def test_a_cancelled_pump_closes_its_source_behind_the_step_under_way() -> None:
    in_step, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    class Slow(ScriptedSource):
        def step(self, now_ns: int) -> Step:
            in_step.set()
            assert go_on.wait(10)
            order.append("stepped")
            return super().step(now_ns)

        def close(self) -> None:
            order.append("closed")
            super().close()

    async def main() -> None:
        with SystemRuntime() as runtime:
            source = Slow([(0, frame(0))])
            task = asyncio.create_task(pump(source, Mailbox(), runtime, speed=None, origin_ns=0))
            async with asyncio.timeout(10):
                assert await asyncio.to_thread(in_step.wait, 10)
                task.cancel()
                await asyncio.sleep(0)
                go_on.set()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert order == ["stepped", "closed"]

    asyncio.run(main())


def test_the_grid_clip_flat_out_through_real_lanes_is_what_the_source_gives() -> None:
    async def main() -> list[tuple[int, Item]]:
        mailbox, got = Mailbox(), list[tuple[int, Item]]()
        with SystemRuntime() as runtime:

            async def feed() -> None:
                source = MediaFileSource(GRID_CLIP)
                await pump(source, mailbox, runtime, speed=None, origin_ns=runtime.now_ns())
                mailbox.close()

            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(feed())
                while not (mailbox.closed and mailbox.stats().waiting_total == 0):
                    got += await mailbox.get()
        assert mailbox.stats().dropped_total == 0
        return got

    got = asyncio.run(main())
    source, expected, now_ns = MediaFileSource(GRID_CLIP), list[tuple[int, Item]](), 0
    while (step := source.step(now_ns)).next_wake_ns is not None:
        expected += step.items
        now_ns = step.next_wake_ns
    expected += step.items
    assert [(t, repr(item)) for t, item in got] == [(t, repr(item)) for t, item in expected]
    assert len(got) == 75 + 94 + 2
