"""`Mailbox`: bounded, newest wins, nothing unaccounted for, also under true pre-emption."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.mailbox import (
    DROPPED_CLOSED,
    DROPPED_OLDEST,
    Mailbox,
    MailboxStats,
)
from counterpoint.streams.types import Bound, Item, Modality, SourceEnded, modality_of
from tests.support.sources import chunk, ended, frame, line, sample

SMALL = {Modality.VIDEO: 2, Modality.AUDIO: 3, Modality.CHAT: 4}


def bound(t_ns: int, source: str = "chat") -> Bound:
    return Bound(source=source, modality=Modality.CHAT, t_ns=t_ns)


def assert_conserved(stats: MailboxStats) -> None:
    accounted = stats.got + stats.dropped_total + stats.superseded + stats.waiting_total
    assert stats.put == accounted


def test_items_come_out_in_the_order_they_were_put_over_all_modalities() -> None:
    mailbox = Mailbox()
    items: tuple[Item, ...] = (
        frame(0),
        line(1),
        bound(1),
        chunk(2),
        frame(3),
        ended(Modality.VIDEO, 4),
    )
    for arrived_ns, item in enumerate(items):
        mailbox.put(arrived_ns, item)
    assert asyncio.run(mailbox.get()) == list(enumerate(items))
    assert mailbox.get_nowait() == []


def test_the_newest_samples_win_and_drops_are_counted_by_modality_and_reason() -> None:
    mailbox = Mailbox(SMALL)
    frames = [frame(t) for t in range(5)]
    for item in frames:
        mailbox.put(0, item)
    mailbox.put(0, chunk(0))
    stats = mailbox.stats()
    assert stats.dropped[Modality.VIDEO] == {DROPPED_OLDEST: 3}
    assert stats.dropped[Modality.AUDIO] == {}
    assert stats.peak[Modality.VIDEO] == stats.capacity[Modality.VIDEO] == 2
    assert [item for _, item in mailbox.get_nowait()][:2] == frames[3:]


def test_bounds_and_ends_are_not_dropped_and_a_newer_bound_supersedes() -> None:
    mailbox = Mailbox(SMALL)
    mailbox.put(0, ended(Modality.VIDEO, 0))
    for t_ns in range(10):
        mailbox.put(t_ns, bound(t_ns))
        mailbox.put(t_ns, bound(t_ns, source="other"))
        mailbox.put(t_ns, frame(t_ns))
    taken = [item for _, item in mailbox.get_nowait()]
    assert [i for i in taken if isinstance(i, SourceEnded)] == [ended(Modality.VIDEO, 0)]
    assert [i for i in taken if isinstance(i, Bound)] == [bound(9), bound(9, source="other")]
    assert mailbox.stats().superseded == 18
    assert_conserved(mailbox.stats())


def test_a_bound_never_overtakes_a_sample() -> None:
    mailbox = Mailbox()
    items: tuple[Item, ...] = (bound(1), line(1), bound(2))
    for item in items:
        mailbox.put(0, item)
    assert [item for _, item in mailbox.get_nowait()] == [line(1), bound(2)]


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Mailbox({Modality.VIDEO: 0})


def test_get_waits_for_a_put_from_another_thread() -> None:
    async def main() -> list[tuple[int, Item]]:
        mailbox = Mailbox()
        getting = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        assert not getting.done()
        thread = threading.Thread(target=mailbox.put, args=(7, frame(5)))
        thread.start()
        async with asyncio.timeout(10):
            got = await getting
        thread.join()
        return got

    [(arrived_ns, item)] = asyncio.run(main())
    assert (arrived_ns, item.t_ns) == (7, 5)


def test_wake_ends_a_waiting_get_with_nothing_and_once() -> None:
    async def main() -> None:
        mailbox = Mailbox()
        getting = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        mailbox.wake()
        assert await getting == []
        mailbox.wake()  # nobody waits: the next one
        assert await mailbox.get() == []
        waiting = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        mailbox.put(0, frame(0))  # a cancelled get leaves the box in order
        assert len(await mailbox.get()) == 1

    asyncio.run(main())


def test_what_cannot_matter_yet_wakes_nobody_until_something_does_or_half_the_room_is_gone() -> (
    None
):
    async def main() -> None:
        mailbox = Mailbox({Modality.VIDEO: 4})
        mailbox.be_patient({Modality.VIDEO: 1_000})

        async def wakes(*items: Item) -> bool:
            getting = asyncio.create_task(mailbox.get())
            await asyncio.sleep(0)
            for item in items:
                mailbox.put(0, item)
            for _ in range(3):  # the call from any thread, the future, the task
                await asyncio.sleep(0)
            woken = getting.done()
            if not woken:
                mailbox.wake()
            assert [item for _, item in await getting] == list(items)
            return woken

        assert not await wakes(frame(998), frame(999))
        assert await wakes(frame(998), frame(1_000))
        assert await wakes(frame(1), frame(2), frame(3))
        assert await wakes(frame(998), chunk(0))
        assert await wakes(frame(998), line(0))
        assert await wakes(ended(Modality.VIDEO, 0))
        mailbox.be_patient({})
        assert await wakes(frame(998))

    asyncio.run(main())


def test_a_second_consumer_is_refused() -> None:
    async def main() -> None:
        mailbox = Mailbox()
        first = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer"):
            await mailbox.get()
        mailbox.close()
        assert await first == []

    asyncio.run(main())


def test_what_is_put_after_close_is_dropped_and_what_was_before_is_still_taken() -> None:
    async def main() -> None:
        mailbox = Mailbox()
        mailbox.put(0, frame(0))
        mailbox.close()
        mailbox.put(1, frame(1))
        await mailbox.put_wait(2, chunk(2))
        assert mailbox.closed
        assert [arrived_ns for arrived_ns, _ in await mailbox.get()] == [0]
        assert await mailbox.get() == []
        stats = mailbox.stats()
        assert stats.dropped[Modality.VIDEO] == {DROPPED_CLOSED: 1}
        assert stats.dropped[Modality.AUDIO] == {DROPPED_CLOSED: 1}
        assert_conserved(stats)

    asyncio.run(main())


def test_put_wait_holds_its_producer_back_and_loses_nothing() -> None:
    async def main() -> None:
        mailbox = Mailbox(SMALL)
        items: list[Item] = [
            item for i in range(50) for item in (frame(i, i), chunk(i, i), line(i, i), bound(i))
        ]

        async def produce() -> None:
            for item in items:
                await mailbox.put_wait(item.t_ns, item)
            mailbox.close()

        taken: list[Item] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            while not (mailbox.closed and mailbox.stats().waiting_total == 0):
                taken += [item for _, item in await mailbox.get()]
        assert taken == items
        stats = mailbox.stats()
        assert stats.dropped_total == stats.superseded == 0
        assert stats.peak[Modality.VIDEO] == SMALL[Modality.VIDEO]
        assert_conserved(stats)

    asyncio.run(main())


def test_close_releases_a_producer_that_waits_for_room() -> None:
    async def main() -> None:
        mailbox = Mailbox(SMALL)
        for i in range(2):
            await mailbox.put_wait(i, frame(i))
        waiting = asyncio.create_task(mailbox.put_wait(2, frame(2)))
        await asyncio.sleep(0)
        assert not waiting.done()
        mailbox.close()
        await waiting
        assert mailbox.stats().dropped[Modality.VIDEO] == {DROPPED_CLOSED: 1}

    asyncio.run(main())


def test_a_cancelled_producer_put_nothing() -> None:
    async def main() -> None:
        mailbox = Mailbox(SMALL)
        for i in range(2):
            await mailbox.put_wait(i, frame(i))
        waiting = asyncio.create_task(mailbox.put_wait(2, frame(2)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(await mailbox.get()) == 2
        assert_conserved(mailbox.stats())
        assert mailbox.stats().put == 2

    asyncio.run(main())


_ITEMS = st.one_of(
    st.builds(frame, st.integers(0, 99)),
    st.builds(chunk, st.integers(0, 99)),
    st.builds(line, st.integers(0, 99)),
    st.builds(bound, st.integers(0, 99), st.sampled_from(["chat", "other"])),
    st.builds(ended, st.sampled_from(list(Modality)), st.integers(0, 99)),
)


@given(st.lists(st.one_of(_ITEMS, st.sampled_from(["get", "close"])), max_size=60))
def test_put_is_got_and_dropped_and_superseded_and_waiting_at_every_instant(
    operations: list[Item | str],
) -> None:
    mailbox = Mailbox(SMALL)
    kept: list[Item] = []  # an oracle: a plain list that forgets by the written rules
    closed = False
    for operation in operations:
        match operation:
            case "get":
                taken = [item for _, item in mailbox.get_nowait()]
                assert all(a is b for a, b in zip(taken, kept, strict=True))
                kept = []
            case "close":
                mailbox.close()
                closed = True
            case str():
                raise AssertionError(operation)
            case item:
                mailbox.put(0, item)
                if not closed:
                    kept = [*_without_what_gives_way(kept, item), item]
        stats = mailbox.stats()
        assert_conserved(stats)
        assert Counter({m: n for m, n in stats.waiting.items() if n}) == Counter(
            modality_of(item) for item in kept
        )
        assert all(stats.peak[m] <= stats.capacity[m] for m in Modality)


def _without_what_gives_way(kept: list[Item], new: Item) -> list[Item]:
    if isinstance(new, SourceEnded):
        return kept
    gone: list[Item]
    if isinstance(new, Bound):
        gone = [
            old
            for old in kept
            if isinstance(old, Bound) and (old.source, old.modality) == (new.source, new.modality)
        ]
    else:
        same = [
            old
            for old in kept
            if not isinstance(old, Bound | SourceEnded) and modality_of(old) is modality_of(new)
        ]
        gone = list(same[: max(0, len(same) + 1 - SMALL[modality_of(new)])])
    return [old for old in kept if not any(old is one for one in gone)]


@pytest.fixture
def tiny_switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("tiny_switch_interval")
def test_threads_that_preempt_each_other_lose_nothing_unaccounted() -> None:
    each = 3_000

    async def main() -> None:
        mailbox = Mailbox(SMALL)
        start = threading.Barrier(7)

        def produce(modality: Modality) -> None:
            name = threading.current_thread().name
            start.wait(10)
            for i in range(each):
                mailbox.put(i, sample(modality, i, i, name))
                if i % 7 == 0:
                    mailbox.put(i, bound(i, name))

        threads = [
            threading.Thread(target=produce, args=(modality,), name=f"{modality}-{n}")
            for modality in Modality
            for n in range(2)
        ]
        for thread in threads:
            thread.start()

        def end() -> None:
            for thread in threads:
                thread.join()
            mailbox.close()

        ender = threading.Thread(target=end)
        start.wait(10)
        ender.start()
        got: list[Item] = []
        last: dict[tuple[str, bool], int] = {}
        async with asyncio.timeout(60):
            while not mailbox.closed or mailbox.stats().waiting_total:
                batch = await mailbox.get()
                assert_conserved(mailbox.stats())
                got += [item for _, item in batch]
        ender.join()
        for item in got:
            key = (item.source, isinstance(item, Bound))
            assert item.t_ns > last.get(key, -1)  # in order within each source
            last[key] = item.t_ns
        stats = mailbox.stats()
        assert stats.put == 6 * (each + len(range(0, each, 7)))
        assert stats.got == len(got)
        assert stats.waiting_total == 0
        assert_conserved(stats)
        # The newest of each modality is never the one to go.
        for modality in Modality:
            newest = [i for i in got if modality_of(i) is modality and not isinstance(i, Bound)]
            assert newest[-1].t_ns == each - 1

    asyncio.run(main())


@pytest.mark.usefixtures("tiny_switch_interval")
def test_a_wake_from_a_thread_is_never_lost() -> None:
    async def main() -> None:
        mailbox = Mailbox()
        asked = threading.Semaphore(0)
        count = 500

        def wake() -> None:
            for _ in range(count):
                asked.acquire(timeout=10)
                mailbox.wake()

        thread = threading.Thread(target=wake)
        thread.start()
        async with asyncio.timeout(60):
            for _ in range(count):
                asked.release()
                assert await mailbox.get() == []
        thread.join()

    asyncio.run(main())
